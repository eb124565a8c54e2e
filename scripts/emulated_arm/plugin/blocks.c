/* SPDX-License-Identifier: GPL-2.0-or-later
 *
 * A QEMU plugin: what one region of an aarch64 program executes. It is no timing model.
 *
 * The guest marks a region with syscall(MARK, STEP, index): EMPTY_CACHES, after which it may bring
 * into the caches what is to be there, COUNT and STOP. For what lies between these two this writes, to the file given as `out=`,
 *
 *     region INDEX L1_MISSES L2_MISSES L3_MISSES BYTES_READ BYTES_WRITTEN
 *     block EXECUTIONS WORDS        one line a translated block; WORDS: 8 hex digits an instruction
 *     end INDEX
 *
 * Arguments: out=FILE, and l1=KIB:WAYS, l2=KIB:WAYS, l3=KIB:WAYS. The guest must have one thread.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "qemu-plugin.h"

#define MARK 0x6763 /* a number that no Linux system call has; the same in runner.c */
enum { STOP, EMPTY_CACHES, COUNT }; /* the same in runner.c */
#define LINE_SHIFT 6
#define LEVELS 3

QEMU_PLUGIN_EXPORT int qemu_plugin_version = QEMU_PLUGIN_VERSION;

struct block {
    struct block *next;
    uint64_t executions;
    size_t length;
    uint32_t words[];
};

/* The lines of a set lie from the most to the least recently used, so a set needs no clock. */
struct cache {
    unsigned kib, ways;
    size_t sets;
    uint64_t *lines;
    uint64_t misses;
};

static struct block *blocks;
static struct cache caches[LEVELS] = {
    {.kib = 64, .ways = 4}, {.kib = 512, .ways = 8}, {.kib = 2048, .ways = 16}};
static uint64_t bytes_read, bytes_written;
static bool in_region;
static unsigned threads;
static FILE *out;

static size_t line_count(const struct cache *cache)
{
    return cache->sets * cache->ways;
}

/* What a region misses does not depend on what ran before it. */
static void cache_clear(struct cache *cache)
{
    memset(cache->lines, 0xff, line_count(cache) * sizeof *cache->lines);
}

static bool cache_create(struct cache *cache)
{
    cache->sets = cache->ways ? ((size_t)cache->kib << (10 - LINE_SHIFT)) / cache->ways : 0;
    if (cache->sets == 0 || cache->sets & (cache->sets - 1))
        return false;
    cache->lines = malloc(line_count(cache) * sizeof *cache->lines);
    return cache->lines != NULL;
}

static bool cache_hit(struct cache *cache, uint64_t line)
{
    uint64_t *set = cache->lines + (line & (cache->sets - 1)) * cache->ways;
    uint64_t moved = line;
    for (unsigned way = 0; way < cache->ways; way++) {
        uint64_t found = set[way];
        set[way] = moved;
        if (found == line)
            return true;
        moved = found;
    }
    cache->misses++;
    return false;
}

static void on_memory(unsigned vcpu, qemu_plugin_meminfo_t info, uint64_t address, void *unused)
{
    if (!in_region)
        return;
    unsigned size = 1u << qemu_plugin_mem_size_shift(info);
    *(qemu_plugin_mem_is_store(info) ? &bytes_written : &bytes_read) += size;
    uint64_t last = (address + size - 1) >> LINE_SHIFT;
    for (uint64_t line = address >> LINE_SHIFT; line <= last; line++)
        for (int level = 0; level < LEVELS && !cache_hit(&caches[level], line); level++)
            ;
}

static void on_translate(qemu_plugin_id_t id, struct qemu_plugin_tb *tb)
{
    size_t length = qemu_plugin_tb_n_insns(tb);
    struct block *block = calloc(1, sizeof *block + length * sizeof *block->words);
    if (!block)
        abort();
    block->length = length;
    block->next = blocks;
    blocks = block;
    for (size_t i = 0; i < length; i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
        memcpy(&block->words[i], qemu_plugin_insn_data(insn), sizeof *block->words);
        qemu_plugin_register_vcpu_mem_cb(insn, on_memory, QEMU_PLUGIN_CB_NO_REGS,
                                         QEMU_PLUGIN_MEM_RW, NULL);
    }
    /* An addition in the translated code, not a call. It also counts outside the regions, so a
     * region's start sets every count to zero. */
    qemu_plugin_register_vcpu_tb_exec_inline(tb, QEMU_PLUGIN_INLINE_ADD_U64, &block->executions, 1);
}

static void empty_caches(void)
{
    for (int level = 0; level < LEVELS; level++)
        cache_clear(&caches[level]);
    in_region = true;
}

static void start_counting(void)
{
    for (struct block *block = blocks; block; block = block->next)
        block->executions = 0;
    for (int level = 0; level < LEVELS; level++)
        caches[level].misses = 0;
    bytes_read = bytes_written = 0;
}

static void end_region(uint64_t index)
{
    in_region = false;
    fprintf(out, "region %" PRIu64, index);
    for (int level = 0; level < LEVELS; level++)
        fprintf(out, " %" PRIu64, caches[level].misses);
    fprintf(out, " %" PRIu64 " %" PRIu64 "\n", bytes_read, bytes_written);
    for (struct block *block = blocks; block; block = block->next) {
        if (block->executions == 0)
            continue;
        fprintf(out, "block %" PRIu64 " ", block->executions);
        for (size_t i = 0; i < block->length; i++)
            fprintf(out, "%08" PRIx32, block->words[i]);
        fputc('\n', out);
    }
    fprintf(out, "end %" PRIu64 "\n", index);
    fflush(out); /* the guest forks: what stays in the buffer would be written twice */
}

static void on_syscall(qemu_plugin_id_t id, unsigned vcpu, int64_t number, uint64_t step,
                       uint64_t index, uint64_t a3, uint64_t a4, uint64_t a5, uint64_t a6,
                       uint64_t a7, uint64_t a8)
{
    if (number != MARK)
        return;
    if (threads != 1) {
        fprintf(stderr, "blocks: the guest has %u threads, not one\n", threads);
        exit(2);
    }
    if (step == EMPTY_CACHES)
        empty_caches();
    else if (step == COUNT)
        start_counting();
    else
        end_region(index);
}

static void on_thread(qemu_plugin_id_t id, unsigned vcpu)
{
    threads++;
}

static bool parse(const char *argument)
{
    int level;
    struct cache read;
    if (sscanf(argument, "l%d=%u:%u", &level, &read.kib, &read.ways) == 3 && level >= 1 &&
        level <= LEVELS) {
        caches[level - 1].kib = read.kib;
        caches[level - 1].ways = read.ways;
        return true;
    }
    if (strncmp(argument, "out=", 4) == 0)
        out = fopen(argument + 4, "a");
    return out != NULL;
}

QEMU_PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc,
                                           char **argv)
{
    bool valid = true;
    for (int i = 0; i < argc; i++)
        valid = valid && parse(argv[i]);
    for (int level = 0; level < LEVELS; level++)
        valid = valid && cache_create(&caches[level]);
    if (!valid || !out) {
        fprintf(stderr, "blocks: needs out=FILE, takes l1=KIB:WAYS, l2= and l3= "
                        "(a power of two of sets)\n");
        return -1;
    }
    qemu_plugin_register_vcpu_init_cb(id, on_thread);
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translate);
    qemu_plugin_register_vcpu_syscall_cb(id, on_syscall);
    return 0;
}
