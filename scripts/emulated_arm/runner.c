/* Runs .tflite models, on one thread through XNNPACK, and marks one invoke of each; it times nothing.
 *
 * Reads one path a line from stdin. Every model runs in a child process of its own, forked from the
 * same state, so its addresses, and with them its cache misses, do not depend on the other models.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MARK 0x6763 /* the same in plugin/blocks.c */
#define LINE 64
#define WARM_UPS 2  /* the first invoke still plans and packs */

enum { STOP, EMPTY_CACHES, COUNT }; /* the same in plugin/blocks.c */

/* The part of the TensorFlow Lite C API in use, as declared in its c_api.h and common.h. */
typedef struct TfLiteModel TfLiteModel;
typedef struct TfLiteInterpreter TfLiteInterpreter;
typedef struct TfLiteInterpreterOptions TfLiteInterpreterOptions;
typedef struct TfLiteTensor TfLiteTensor;
typedef enum { kTfLiteOk = 0 } TfLiteStatus;
typedef enum { kTfLiteFloat32 = 1 } TfLiteType;
enum { kTfLiteBuiltinDelegate = 51 };

typedef struct {
    int size;
    int data[];
} TfLiteIntArray;

/* Only the first fields, those up to the last one read here. */
typedef struct {
    void *init, *free, *prepare, *invoke, *profiling_string;
    int32_t builtin_code;
} TfLiteRegistration;

typedef struct TfLiteContext {
    size_t tensors_size;
    TfLiteStatus (*GetExecutionPlan)(struct TfLiteContext *, TfLiteIntArray **);
    void *tensors, *impl, *ResizeTensor, *ReportError, *AddTensors;
    TfLiteStatus (*GetNodeAndRegistration)(struct TfLiteContext *, int, void **,
                                           TfLiteRegistration **);
} TfLiteContext;

typedef struct TfLiteDelegate {
    void *data;
    TfLiteStatus (*Prepare)(TfLiteContext *, struct TfLiteDelegate *);
} TfLiteDelegate;

/* The library owns this struct's layout: only the first field is set here, and the size has room. */
typedef struct {
    int32_t num_threads;
    char rest[508];
} TfLiteXNNPackDelegateOptions;

TfLiteModel *TfLiteModelCreateFromFile(const char *);
TfLiteInterpreterOptions *TfLiteInterpreterOptionsCreate(void);
void TfLiteInterpreterOptionsSetNumThreads(TfLiteInterpreterOptions *, int32_t);
void TfLiteInterpreterOptionsAddDelegate(TfLiteInterpreterOptions *, TfLiteDelegate *);
TfLiteInterpreter *TfLiteInterpreterCreate(const TfLiteModel *, const TfLiteInterpreterOptions *);
TfLiteStatus TfLiteInterpreterAllocateTensors(TfLiteInterpreter *);
TfLiteStatus TfLiteInterpreterInvoke(TfLiteInterpreter *);
int32_t TfLiteInterpreterGetInputTensorCount(const TfLiteInterpreter *);
TfLiteTensor *TfLiteInterpreterGetInputTensor(const TfLiteInterpreter *, int32_t);
int32_t TfLiteInterpreterGetOutputTensorCount(const TfLiteInterpreter *);
const TfLiteTensor *TfLiteInterpreterGetOutputTensor(const TfLiteInterpreter *, int32_t);
TfLiteType TfLiteTensorType(const TfLiteTensor *);
void *TfLiteTensorData(const TfLiteTensor *);
size_t TfLiteTensorByteSize(const TfLiteTensor *);
TfLiteXNNPackDelegateOptions TfLiteXNNPackDelegateOptionsDefault(void);
TfLiteDelegate *TfLiteXNNPackDelegateCreate(const TfLiteXNNPackDelegateOptions *);

static const char *model_path; /* of this process, for its messages */
static TfLiteStatus (*xnnpack_prepare)(TfLiteContext *, TfLiteDelegate *);
static int delegated_nodes;

static void require(bool condition, const char *failure)
{
    if (condition)
        return;
    fprintf(stderr, "runner: %s: %s\n", model_path, failure);
    exit(2);
}

static bool is_delegated(TfLiteContext *context, int node)
{
    void *ignored;
    TfLiteRegistration *registration;
    return context->GetNodeAndRegistration(context, node, &ignored, &registration) == kTfLiteOk &&
           registration->builtin_code == kTfLiteBuiltinDelegate;
}

/* In place of the delegate's own Prepare: a delegate that takes no node still reports success, and
 * the public API cannot say how many it took. */
static TfLiteStatus prepare_and_count(TfLiteContext *context, TfLiteDelegate *delegate)
{
    TfLiteStatus status = xnnpack_prepare(context, delegate);
    TfLiteIntArray *plan;
    if (status == kTfLiteOk && context->GetExecutionPlan(context, &plan) == kTfLiteOk)
        for (int i = 0; i < plan->size; i++)
            delegated_nodes += is_delegated(context, plan->data[i]);
    return status;
}

static TfLiteDelegate *create_xnnpack(void)
{
    TfLiteXNNPackDelegateOptions options = TfLiteXNNPackDelegateOptionsDefault();
    options.num_threads = 1;
    TfLiteDelegate *delegate = TfLiteXNNPackDelegateCreate(&options);
    require(delegate, "XNNPACK does not start");
    xnnpack_prepare = delegate->Prepare;
    delegate->Prepare = prepare_and_count;
    return delegate;
}

static void fill_inputs(const TfLiteInterpreter *interpreter)
{
    uint32_t random = 1;
    for (int32_t i = 0; i < TfLiteInterpreterGetInputTensorCount(interpreter); i++) {
        TfLiteTensor *tensor = TfLiteInterpreterGetInputTensor(interpreter, i);
        size_t size = TfLiteTensorByteSize(tensor);
        memset(TfLiteTensorData(tensor), 0, size);
        if (TfLiteTensorType(tensor) != kTfLiteFloat32)
            continue; /* zero is a valid value of every other type */
        float *values = TfLiteTensorData(tensor);
        for (size_t k = 0; k < size / sizeof *values; k++) {
            random = random * 1664525u + 1013904223u;
            values[k] = (float)(random >> 8) / 16777216.0f - 0.5f;
        }
    }
}

static void touch(const TfLiteTensor *tensor)
{
    const volatile char *bytes = TfLiteTensorData(tensor);
    for (size_t at = 0; at < TfLiteTensorByteSize(tensor); at += LINE)
        (void)bytes[at];
}

/* In a network the op before has just written the inputs, and the outputs' memory is in use. */
static void warm_maps(const TfLiteInterpreter *interpreter)
{
    for (int32_t i = 0; i < TfLiteInterpreterGetOutputTensorCount(interpreter); i++)
        touch(TfLiteInterpreterGetOutputTensor(interpreter, i));
    for (int32_t i = 0; i < TfLiteInterpreterGetInputTensorCount(interpreter); i++)
        touch(TfLiteInterpreterGetInputTensor(interpreter, i));
}

static void measure(TfLiteDelegate *xnnpack, long index)
{
    TfLiteModel *model = TfLiteModelCreateFromFile(model_path);
    require(model, "not a readable TensorFlow Lite model");
    TfLiteInterpreterOptions *options = TfLiteInterpreterOptionsCreate();
    TfLiteInterpreterOptionsSetNumThreads(options, 1);
    TfLiteInterpreterOptionsAddDelegate(options, xnnpack);
    TfLiteInterpreter *interpreter = TfLiteInterpreterCreate(model, options);
    require(interpreter, "the interpreter refuses the model");
    require(TfLiteInterpreterAllocateTensors(interpreter) == kTfLiteOk, "tensors not allocated");
    require(delegated_nodes > 0, "XNNPACK took none of its operators");
    fill_inputs(interpreter);
    for (int i = 0; i < WARM_UPS; i++)
        require(TfLiteInterpreterInvoke(interpreter) == kTfLiteOk, "the model does not run");
    syscall(MARK, EMPTY_CACHES, index);
    warm_maps(interpreter);
    syscall(MARK, COUNT, index);
    TfLiteStatus status = TfLiteInterpreterInvoke(interpreter);
    syscall(MARK, STOP, index);
    require(status == kTfLiteOk, "the model does not run");
}

int main(void)
{
    static char line[8192]; /* static: a path's length must not move the heap */
    model_path = line;
    TfLiteDelegate *xnnpack = create_xnnpack(); /* before the forks, as it is slow */
    for (long index = 0; fgets(line, sizeof line, stdin); index++) {
        line[strcspn(line, "\n")] = 0;
        pid_t child = fork();
        require(child >= 0, "fork fails");
        if (child == 0) {
            measure(xnnpack, index);
            _exit(0);
        }
        int status;
        require(waitpid(child, &status, 0) == child, "the child is lost");
        require(!WIFSIGNALED(status), "a crash while it ran");
        if (WEXITSTATUS(status))
            return WEXITSTATUS(status);
    }
    return 0;
}
