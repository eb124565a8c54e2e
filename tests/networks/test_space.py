import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostnas.errors import InputError
from ghostnas.ir import cost
from ghostnas.networks import space, zoo
from ghostnas.networks.arch import Head, Stem, lower, lower_part, parts
from ghostnas.networks.blocks import GhostBlock, MBConv, SkipBlock
from ghostnas.networks.space import SpacePart

GHOSTNET = space.load("ghostnet")
WIDE = space.load("ghostnet-wide")
FILE = """
name = "small"
block = "ghost"
alpha = [1.0, 0.5]
resolution = 32
round_to = 4

[stem]
channels = 8

[head]
channels = 16
features = 32

[[group]]
stride = 1
depth = [1, 2]
width = 8
expansion = 2
se = [0, 0.25]
ghost_ratio = [2, 1]
cheap_kernel = [3, 5]
kernel = [3, 5]

[[group]]
stride = 2
depth = 2
width = [16, 24]
expansion = 3
se = 0
ghost_ratio = 2
cheap_kernel = 3
kernel = [5, 3]
"""
SMALL = space.parse(FILE, "small", "small.toml")
MBCONV = """
block = "mbconv"
alpha = 1
resolution = 32
round_to = 8
stem = {channels = 16}
head = {channels = 64, features = 32}
group = [
    {stride = 2, depth = [1, 2], width = 24, expansion = [4, 1], se = 0.25, kernel = [3, 5]},
    {stride = 1, depth = 1, width = 32, expansion = 3, se = 0, kernel = 5},
]
"""
MIXED = """
block = ["ghost", {type = "mbconv", kernel = 3, expansion = 3}, "skip"]
alpha = [1, 0.5]
resolution = 32
round_to = 4
stem = {channels = 8, stride = 1, activation = "hard_swish"}
head = {channels = 64, features = 0, activation = "relu6"}

[[group]]
stride = 2
depth = [1, 3]
width = [16, 24]
expansion = [2, 4]
se = [0, 0.25]
ghost_ratio = [2, 1]
cheap_kernel = 3
kernel = [5, 7]
activation = ["relu", "hard_swish"]

[[group]]
block = {type = "mbconv", kernel = 5}
stride = 1
depth = [2, 1]
width = 16
expansion = [1.5, 3]
se = 0

[[group]]
block = ["mbconv", "skip"]
stride = 2
depth = 2
width = 32
expansion = 2
se = 0
kernel = [3, 5]
"""
MIX = space.parse(MIXED, "mixed", "mixed.toml")
SEEDS = st.integers(0, 2**32)


def walk(asked, seed=0):
    """A `pick` that answers uniformly at random and appends each question to `asked`."""
    rng = random.Random(seed)

    def pick(name, options):
        asked.append((name, options))
        return rng.choice(options)

    return pick


def asked_names(searched, **answers):
    """What is asked given these answers, with everything else at its first option."""
    names = []

    def pick(name, options):
        names.append(name)
        return answers.get(name, options[0])

    searched.build(pick)
    return names


# The walk


def test_the_first_options_are_nearly_the_published_network():
    macs = cost.count(lower(GHOSTNET.decode({}))).macs
    assert macs == pytest.approx(cost.count(lower(zoo.ghostnet())).macs, rel=0.02)
    assert GHOSTNET.decode({}) == GHOSTNET.build(lambda _, options: options[0])


@pytest.mark.parametrize(
    "searched", [GHOSTNET, WIDE, SMALL, MIX], ids=["ghostnet", "wide", "small", "mixed"]
)
@given(seed=SEEDS)
def test_a_walk_asks_only_choices_and_each_at_most_once(searched, seed):
    asked = []
    searched.build(walk(asked, seed))
    assert all(searched.choices[name] == tuple(options) for name, options in asked)
    assert len({name for name, _ in asked}) == len(asked)


def test_the_space_has_at_least_1e15_architectures():
    # A walk of uniformly drawn answers reaches its end with probability 1 / the product of its
    # option counts. These sum to 1, so there are at least as many ends as the smallest product.
    products = []
    for seed in range(200):
        asked = []
        GHOSTNET.build(walk(asked, seed))
        products.append(math.prod(len(options) for _, options in asked))
    assert min(products) >= 1e15
    always = [name for name in GHOSTNET.choices if not name.endswith(".kernel")]
    assert math.prod(len(GHOSTNET.choices[name]) for name in always) >= 1e15
    assert set(always) <= set(asked_names(GHOSTNET))


def test_samples_are_different_networks():
    rng = random.Random(0)
    ids = {GHOSTNET.decode(GHOSTNET.sample(rng)).id for _ in range(100)}
    assert len(ids) == 100


@given(seed=SEEDS)
def test_sample_build_and_decode_agree(seed):
    params = GHOSTNET.sample(random.Random(seed))
    asked = []
    built = GHOSTNET.build(walk(asked, seed))
    assert [name for name, _ in asked] == list(params)
    assert GHOSTNET.decode(params) == built
    assert GHOSTNET.sample(random.Random(seed)) == params


@pytest.mark.parametrize("searched", [SMALL, MIX], ids=["small", "mixed"])
@given(seed=SEEDS)
def test_what_a_walk_asks_changes_the_network(searched, seed):
    params = searched.sample(random.Random(seed))
    arch = searched.decode(params)
    for name, value in params.items():
        for other in set(searched.choices[name]) - {value}:
            assert searched.decode(params | {name: other}).id != arch.id, name


def test_numbers_that_change_no_op_are_not_asked():
    first = asked_names(SMALL)
    assert "group1.kernel" not in first  # 8 channels in and out at stride 1
    assert "group2.kernel" in first
    assert "group1.cheap_kernel" in first
    assert "group1.cheap_kernel" not in asked_names(SMALL, **{"group1.ghost_ratio": 1})


def test_classes_are_set_by_the_caller():
    assert replace(SMALL, classes=7).decode({}).classes == 7
    assert SMALL.decode({}).classes == 1000


def test_a_walk_builds_what_the_file_says():
    arch = SMALL.decode({"alpha": 0.5, "group1.depth": 2, "group1.se": 0.25, "group2.width": 24})
    assert (arch.resolution, arch.stem.channels, arch.stem.stride) == (32, 4, 2)
    assert (arch.head.channels, arch.head.features) == (8, 32)
    first, second = arch.stages
    assert [block.stride for block in first.blocks] == [1, 1]
    assert [block.se_ratio for block in first.blocks] == [0.25, 0.25]
    assert [block.stride for block in second.blocks] == [2, 1]
    assert [block.hidden_channels for block in second.blocks] == [12, 36]  # 3 x the width before
    assert [block.out_channels for block in second.blocks] == [12, 12]
    assert [block.kernel for block in second.blocks] == [5, 5]


def test_an_mbconv_space_builds_mbconvs():
    searched = space.parse(MBCONV, "m", "m.toml")
    (stage,) = searched.decode({"group1.depth": 2, "group1.kernel": 5}).stages
    assert [block.hidden_channels for block in stage.blocks] == [64, 96, 72]
    assert [block.out_channels for block in stage.blocks] == [24, 24, 32]
    assert [block.se_channels for block in stage.blocks] == [16, 24, 0]
    assert [block.kernel for block in stage.blocks] == [5, 5, 5]
    assert [block.stride for block in stage.blocks] == [2, 1, 1]


# Blocks that are searched


def test_a_block_that_is_searched_is_a_number_of_its_group():
    mbconv = "mbconv kernel=3 expansion=3"
    assert MIX.choices["group1.block"] == ("ghost", mbconv, "skip")
    assert MIX.numbers["group2.block"] == "mbconv kernel=5"
    assert MIX.choices["group3.block"] == ("mbconv", "skip")
    asked = [name.removeprefix("group1.") for name in asked_names(MIX) if "group1" in name]
    assert asked == ["block", "width", "expansion", "se", "depth", "ghost_ratio", "kernel"]
    asked = [n for n in asked_names(MIX, **{"group1.block": mbconv}) if "group1" in n]
    assert [name.removeprefix("group1.") for name in asked] == [
        *("block", "width", "se", "depth", "activation")
    ]
    asked = [n for n in asked_names(MIX, **{"group1.block": "skip"}) if "group1" in n]
    assert asked == ["group1.block", "group1.width"]


def test_blocks_are_built_with_their_own_numbers_and_else_the_groups():
    arch = MIX.decode({"group1.block": "mbconv kernel=3 expansion=3", "group3.block": "skip"})
    first, second = arch.stages
    mbconv = MBConv(hidden_channels=24, out_channels=16, stride=2, activation="relu")
    assert first.blocks == (
        mbconv,
        *[MBConv(hidden_channels=24, out_channels=16, kernel=5)] * 2,
    )
    assert second.blocks == (SkipBlock(out_channels=32, stride=2),)
    assert isinstance(MIX.decode({}).stages[0].blocks[0], GhostBlock)


def test_stem_and_head_take_what_the_file_says_and_else_the_published():
    arch = MIX.decode({})
    assert arch.stem == Stem(channels=8, stride=1, activation="hard_swish")
    assert arch.head == Head(channels=64, features=0, activation="relu6")
    assert (SMALL.decode({}).stem.stride, SMALL.decode({}).stem.activation) == (2, "relu")
    assert SMALL.decode({}).head.activation == "relu"


def test_a_block_that_is_pinned_is_not_asked():
    pinned = MIX.pin(**{"group1.block": "skip"})
    assert "group1.block" not in asked_names(pinned)
    assert pinned.decode({}).stages[0].blocks[0] == SkipBlock(out_channels=16, stride=2)


def test_a_key_that_no_block_of_the_group_needs_may_be_left_out_or_is_refused():
    text = MIXED.replace("expansion = 2\nse = 0\nkernel = [3, 5]", "expansion = 2\nse = 0")
    with pytest.raises(InputError, match=r"group3\.kernel: is missing"):
        space.parse(text, "m", "m.toml")
    given = text.replace('block = ["mbconv", "skip"]', 'block = [{type = "mbconv", kernel = 3}]')
    assert space.parse(given, "m", "m.toml").decode({}).stages[-1].blocks[0].kernel == 3
    with pytest.raises(InputError, match=r"group2\.kernel: unknown key"):
        space.parse(
            MIXED.replace("expansion = [1.5, 3]", "expansion = 3\nkernel = 3"), "m", "m.toml"
        )


@pytest.mark.parametrize(
    ("block", "message"),
    {
        '[{type = "mbconv", kernel = 4}, "skip"]': "group3.block: kernel: 4 is not an odd",
        '[{type = "mbconv", width = 4}]': "group3.block: width is not a number of.* kernel",
        '[{type = "skip", kernel = 3}]': "group3.block: kernel is not.*it has nothing",
        '[{type = "mbconv", kernel = [3, 5]}]': r"group3.block: kernel: \[3, 5\]",
        "{kernel = 3}": "group3.block is None",
        '["skip", "skip"]': "group3.block: needs a list of different blocks",
        "[]": "group3.block: needs a list of different blocks",
        '[{type = "mbconv", activation = "swish"}]': "group3.block: activation: 'swish' is not",
        '["mbconv", 3]': "group3.block is 3; known: ghost",
    }.items(),
)
def test_a_bad_choice_of_blocks_is_refused_by_name(block, message):
    text = MIXED.replace('["mbconv", "skip"]', block)
    with pytest.raises(InputError, match=rf"m\.toml: {message}"):
        space.parse(text, "m", "m.toml")


# parts and depths


def test_parts_by_hand():
    first = ("group1.se", "group1.ghost_ratio", "group1.cheap_kernel", "group1.kernel")
    assert SMALL.parts() == [
        SpacePart(0, False, ("alpha",)),
        SpacePart(1, False, ("alpha", *first)),
        SpacePart(1, True, ("alpha", *first)),
        SpacePart(2, False, ("alpha", "group2.width", "group2.kernel")),
        SpacePart(2, True, ("alpha", "group2.width", "group2.kernel")),
        SpacePart(3, False, ("alpha", "group2.width")),
    ]


def test_a_part_depends_on_the_width_before_it_and_the_head_on_its_own_numbers():
    found = {(part.group, part.repeated): part.names for part in GHOSTNET.parts()}
    assert len(found) == 2 * GHOSTNET.groups + 2
    assert "group2.width" in found[3, False]
    assert "group2.width" not in found[3, True]
    assert "group3.width" in found[3, True]
    assert found[0, False] == ("alpha", "resolution")
    assert found[8, False] == ("alpha", "resolution", "head.channels", "group7.width")
    assert not [name for names in found.values() for name in names if name.endswith(".depth")]


def placed(searched, params):
    """The ops of each part of the space in an architecture, at the part's first place."""
    arch_parts = [lower_part(part) for part in parts(searched.decode(params))]
    at, found = 1, {(0, False): arch_parts[0]}
    for group in range(1, searched.groups + 1):
        block = params.get(f"group{group}.block", searched.blocks(group)[0])
        depth = params.get(f"group{group}.depth", searched.depths(group)[0])
        depth = 1 if block == "skip" else depth
        found[group, False] = arch_parts[at]
        if depth > 1:
            assert set(arch_parts[at + 1 : at + depth]) == {arch_parts[at + 1]}
            found[group, True] = arch_parts[at + 1]
        at += depth
    assert at == len(arch_parts) - 1
    return found | {(searched.groups + 1, False): arch_parts[-1]}


@pytest.mark.parametrize(
    "searched",
    [GHOSTNET, WIDE, SMALL, space.parse(MBCONV, "m", "m.toml"), MIX],
    ids=["ghostnet", "wide", "small", "mbconv", "mixed"],
)
@settings(max_examples=25)
@given(seed=SEEDS)
def test_a_part_is_decided_by_its_names_alone(searched, seed):
    rng = random.Random(seed)
    one, other = (
        {name: rng.choice(options) for name, options in searched.choices.items()} for _ in range(2)
    )
    expected = placed(searched, one)
    for part in searched.parts():
        mixed = placed(searched, other | {name: one[name] for name in part.names})
        place = part.group, part.repeated
        if place in expected and place in mixed:
            assert mixed[place] == expected[place]


def test_every_name_of_a_part_changes_it():
    for searched in (GHOSTNET, SMALL):
        deepest = {
            f"group{group}.depth": max(searched.depths(group))
            for group in range(1, searched.groups + 1)
        }
        for part in searched.parts():
            place = part.group, part.repeated
            if part.repeated and max(searched.depths(part.group)) == 1:
                continue
            for name in part.names:
                if name.endswith(".kernel"):
                    continue  # only where a block changes the shape
                first, *_, last = searched.choices[name]
                one, other = (placed(searched, deepest | {name: each}) for each in (first, last))
                assert one[place] != other[place], (place, name)


def test_a_space_that_searches_strides_has_no_parts():
    searched = space.parse(FILE.replace("stride = 2", "stride = [2, 1]"), "small", "small.toml")
    with pytest.raises(InputError, match=r"space small searches group2\.stride"):
        searched.parts()
    assert searched.pin(**{"group2.stride": 2}).parts() == SMALL.parts()


@settings(max_examples=25)
@given(seed=SEEDS)
def test_the_place_of_a_part_is_where_it_is_lowered(seed):
    params = MIX.sample(random.Random(seed))
    arch_parts, found = parts(MIX.decode(params)), placed(MIX, params)
    for part in MIX.parts():
        at = MIX.place(part, params)
        key = part.group, part.repeated
        assert (at is None) == (key not in found)
        assert at is None or lower_part(arch_parts[at]) == found[key]


def test_depths_are_the_searched_or_the_fixed_ones():
    assert SMALL.depths(1) == (1, 2)
    assert SMALL.depths(2) == (2,)
    assert GHOSTNET.depths(7) == (5, 3, 4)
    assert SMALL.pin(**{"group1.depth": 2}).depths(1) == (2,)


# pin and hash


def test_a_pinned_number_is_not_asked_and_holds():
    pinned = GHOSTNET.pin(resolution=160, **{"group3.depth": 3})
    for seed in range(20):
        asked = []
        arch = pinned.build(walk(asked, seed))
        assert not {"resolution", "group3.depth"} & {name for name, _ in asked}
        assert arch.resolution == 160
        assert len(arch.stages[2].blocks) == 3
    assert "resolution" in GHOSTNET.choices


def test_a_pin_of_an_unknown_number_is_refused_by_name():
    with pytest.raises(InputError, match="resolutoin"):
        GHOSTNET.pin(resolutoin=160)


def test_the_hash_depends_on_the_numbers_alone():
    assert space.parse(FILE + "# a comment", "other", "elsewhere.toml").hash == SMALL.hash
    renamed = FILE.replace('name = "small"', 'name = "large"')
    assert space.parse(renamed, "small", "small.toml").hash == SMALL.hash


def test_the_hash_changes_with_any_number():
    changed = [
        replace(SMALL, numbers={**SMALL.numbers, name: value + 2})
        for name, value in SMALL.numbers.items()
    ]
    for name, options in SMALL.choices.items():
        for different in ((options[0] + 2, *options[1:]), options[::-1], options[:1]):
            changed.append(replace(SMALL, choices={**SMALL.choices, name: different}))
    changed.append(replace(SMALL, block="mbconv"))
    assert len({SMALL.hash, *(other.hash for other in changed)}) == len(changed) + 1


def test_the_shipped_space_keeps_the_hash_and_the_networks_of_earlier_studies():
    assert GHOSTNET.hash == "cbaa58b9826ace9a"
    assert GHOSTNET.decode(GHOSTNET.sample(random.Random(3))).id == "7459ae2ee3d6"


# The wide space


def test_the_wide_space_starts_where_the_shipped_one_does():
    assert WIDE.decode({}) == GHOSTNET.decode({})
    for group in range(1, 8):
        assert WIDE.blocks(group) == ("ghost", "mbconv", "ghostv2", "ghostv3", "repghost")
        assert set(WIDE.choices[f"group{group}.ghost_ratio"]) == {1, 2, 3, 4, 5}


def test_attention_is_a_choice_and_se_its_ratio():
    first, *_ = WIDE.decode({"group2.attention": "eca"}).stages[1].blocks
    assert (first.se_ratio, first.eca_kernel) == (0.0, 3)
    for name in WIDE.blocks(2):
        for attention, inside in (("none", ()), ("se", (".se.",)), ("eca", (".eca.",))):
            params = {"group2.block": name, "group2.attention": attention}
            block = lower_part(parts(WIDE.decode(params))[2])
            found = {key for node in block.nodes for key in (".se.", ".eca.") if key in node.name}
            assert found == set(inside), params


# Files


def test_shipped_spaces_are_listed_and_load():
    assert "ghostnet" in space.names()
    for name in space.names():
        assert space.load(name).name == name


def test_a_file_is_read_by_path(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(FILE.replace('name = "small"', ""))
    assert space.load(str(path)) == replace(SMALL, name="mine")


def test_a_list_of_one_is_a_fixed_number():
    listed = FILE.replace("resolution = 32", "resolution = [32]")
    assert space.parse(listed, "small", "small.toml") == SMALL


BAD_FILES = {
    "not-toml": ("alpha =", "alpha ==", "is not TOML"),
    "no-block": ('block = "ghost"', "", "block is None.*ghost, .*mbconv"),
    "unknown-block": ('block = "ghost"', 'block = "gost"', "block is 'gost'.*ghost, .*mbconv"),
    "list-of-blocks": ('block = "ghost"', 'block = ["ghost", "gost"]', "block is 'gost'"),
    "unknown-key": ("round_to = 4", "round_to = 4\nround = 4", "round: unknown key.*alpha"),
    "unknown-table": ("[stem]", "[tail]\n[stem]", "tail: unknown key"),
    "unknown-stem-key": ("[stem]", "[stem]\nkernel = 3", "stem.kernel: unknown key.*channels"),
    "unknown-head-key": ("[head]", "[head]\nwidth = 3", "head.width: unknown key.*features"),
    "unknown-group-key": ("stride = 2", "stride = 2\nhue = 1", "group2.hue: unknown key.*depth"),
    "missing-key": ("round_to = 4", "", "round_to: is missing"),
    "missing-stem-key": ("channels = 8", "", "stem.channels: is missing"),
    "missing-head-key": ("features = 32", "", "head.features: is missing"),
    "missing-group-key": ("width = [16, 24]", "", "group2.width: is missing"),
    "missing-table": ("[stem]\nchannels = 8", "", "stem.*missing"),
    "string": ("resolution = 32", 'resolution = "32"', "resolution: '32'"),
    "bool": ("resolution = 32", "resolution = true", "resolution: True"),
    "string-option": ("alpha = [1.0, 0.5]", 'alpha = [1.0, "0.5"]', "alpha: '0.5'"),
    "bool-option": ("depth = [1, 2]", "depth = [true, 2]", "group1.depth: True"),
    "list-option": ("depth = [1, 2]", "depth = [[1], 2]", r"group1.depth: \[1\]"),
    "fraction": ("depth = [1, 2]", "depth = [1.5, 2]", "group1.depth: 1.5"),
    "nan": ("alpha = [1.0, 0.5]", "alpha = nan", "alpha: nan"),
    "negative": ("width = 8", "width = -8", "group1.width: -8"),
    "too-large": ("stride = 2", "stride = 3", "group2.stride: 3"),
    "even-kernel": ("kernel = [5, 3]", "kernel = 4", "group2.kernel: 4.*odd"),
    "even-cheap-kernel": ("cheap_kernel = [3, 5]", "cheap_kernel = [3, 4]", "cheap_kernel: 4"),
    "empty-list": ("depth = [1, 2]", "depth = []", "group1.depth"),
    "duplicates": ("depth = [1, 2]", "depth = [1, 2, 1]", "group1.depth"),
    "one-group-table": (FILE[FILE.index("[[group]]") :], "[group]\nstride = 1", r"\[\[group\]\]"),
    "no-group": (FILE[FILE.index("[[group]]") :], "", r"\[\[group\]\]"),
    "empty": (FILE, "", "block"),
}


@pytest.mark.parametrize(("old", "new", "message"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_file_is_refused_in_one_line_that_names_file_and_key(tmp_path, old, new, message):
    assert old in FILE
    path = tmp_path / "mine.toml"
    path.write_text(FILE.replace(old, new, 1))
    with pytest.raises(InputError, match=rf"mine\.toml: .*{message}") as caught:
        space.load(str(path))
    assert "\n" not in str(caught.value)


def test_a_binary_file_is_refused_by_name(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match=r"mine\.toml: is not UTF-8"):
        space.load(str(path))


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match=r"none\.toml: cannot be read: No such file"):
        space.load(str(tmp_path / "none.toml"))


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(InputError, match=r"'ghostnt'.*ghostnet.*\.toml"):
        space.load("ghostnt")
