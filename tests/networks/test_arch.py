import json
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ghostnas.errors import InputError
from ghostnas.ir.graph import Flatten, weight_shapes
from ghostnas.networks import arch as arch_module
from ghostnas.networks import space, zoo
from ghostnas.networks.arch import (
    Arch,
    Head,
    Part,
    Stage,
    Stem,
    fit_to,
    from_json,
    lower,
    lower_part,
    parts,
    to_json,
)
from ghostnas.networks.blocks import GhostBlock, MBConv

GHOST = GhostBlock(hidden_channels=24, out_channels=12, stride=2, se_ratio=0.25)
MBCONV = MBConv(hidden_channels=24, out_channels=12, se_channels=8)
SMALL = Arch(
    stem=Stem(channels=8),
    stages=(Stage(blocks=(GHOST, MBCONV)), Stage(blocks=(replace(MBCONV, stride=2),))),
    head=Head(channels=32, features=48),
    classes=10,
    resolution=32,
)


def weights(graph):
    return {key: shape for node in graph.nodes for key, shape in weight_shapes(node).items()}


def with_block(block, *, in_channels=12):
    """A network whose only searched block follows a stem of `in_channels`."""
    stage = Stage(blocks=(block,))
    return replace(SMALL, stem=Stem(channels=in_channels), stages=(stage,))


# JSON


@pytest.mark.parametrize(
    "arch",
    [
        SMALL,
        zoo.ghostnet(1.3, 96, 7),
        zoo.mobilenetv3_large(),
        fit_to(zoo.ghostnet(), resolution=32, classes=10),
    ],
    ids=["small", "g", "m", "dropped"],
)
def test_json_round_trip(arch):
    text = json.dumps(to_json(arch))
    again = from_json(json.loads(text))
    assert again == arch
    assert again.id == arch.id


@pytest.mark.parametrize("name", space.names())
def test_networks_of_the_shipped_spaces_survive_json(name):
    searched = space.load(name)
    for seed in range(40):
        arch = searched.decode(searched.sample(random.Random(seed)))
        assert from_json(json.loads(json.dumps(to_json(arch)))) == arch


@pytest.mark.parametrize("width", [0.5, 1.0])
@pytest.mark.parametrize("named", [zoo.ghostnetv2, zoo.ghostnetv3, zoo.repghostnet])
def test_later_networks_survive_json(named, width):
    arch = named(width)
    assert from_json(json.loads(json.dumps(to_json(arch)))) == arch


def test_values_with_defaults_may_be_left_out_of_json():
    document = to_json(SMALL)
    for key in ("classes", "resolution", "dropped_strides"):
        del document[key]
    del document["stem"]["stride"]
    assert from_json(document) == replace(SMALL, classes=1000, resolution=224)


def test_from_json_leaves_the_document_unchanged():
    document = to_json(SMALL)
    from_json(document)
    assert document == to_json(SMALL)


ABSENT = object()
BAD_VALUES = [
    ("format", ABSENT, "format"),
    ("format", 2, "format is 2.*reads 1"),
    ("colour", 3, "unknown key 'colour'.*resolution"),
    ("stem.kernel", 3, "stem: unknown key 'kernel'"),
    ("head.width", 3, "head: unknown key 'width'"),
    ("stages.0.0.se_channels", 8, r"stages\[0\]\[0\]: unknown key 'se_channels'"),
    ("stages", ABSENT, "stages"),
    ("stages", [], "stages"),
    ("stages", [[]], "stages"),
    ("stages.1", {}, "stages"),
    ("stages.1", 5, r"stages\[1\]"),
    ("stages.0.1", 5, r"stages\[0\]\[1\].*object"),
    ("stem", ABSENT, "stem"),
    ("head", None, "head"),
    ("stem.channels", ABSENT, "stem: channels is missing"),
    ("head.features", ABSENT, "head: features is missing"),
    ("stages.0.0.out_channels", ABSENT, r"stages\[0\]\[0\]: out_channels is missing"),
    ("stages.0.0.type", ABSENT, r"stages\[0\]\[0\]: type is None.*ghost, .*mbconv"),
    ("stages.0.0.type", "gost", r"stages\[0\]\[0\]: type is 'gost'.*ghost, .*mbconv"),
    ("stages.0.0.type", ["ghost"], r"stages\[0\]\[0\]: type is \['ghost'\]"),
    ("stages.0.1.stride", 2, r"stages\[0\]\[1\].*stride"),
    ("stem.activation", "swish", 'stem: activation = "swish".*hard_swish'),
    ("stem.activation", "none", 'stem: activation = "none".*relu'),
    ("head.activation", "none", 'head: activation = "none".*relu'),
    ("stages.0.1.activation", "none", r'stages\[0\]\[1\]: activation = "none".*relu'),
    ("stages.0.1.activation", 3, r"stages\[0\]\[1\]: activation = 3"),
    ("resolution", "32", 'resolution = "32"'),
    ("resolution", 32.0, "resolution = 32.0"),
    ("classes", True, "classes = true"),
    ("classes", 0, "classes = 0"),
    ("stem.channels", True, "stem: channels = true"),
    ("stem.channels", -8, "stem: channels = -8"),
    ("dropped_strides", -1, "dropped_strides = -1"),
    ("dropped_strides", True, "dropped_strides = true"),
    ("dropped_strides", 1.0, "dropped_strides = 1.0"),
    ("stem.stride", 0, "stem: stride = 0"),
    ("stem.stride", 3, "stem: stride = 3"),
    ("stages.0.0.stride", 3, r"stages\[0\]\[0\]: stride = 3"),
    ("head.features", None, "head: features = None"),
    ("stages.0.0.se_ratio", True, r"stages\[0\]\[0\]: se_ratio = true"),
    ("stages.0.0.se_ratio", -0.25, r"stages\[0\]\[0\]: se_ratio = -0.25"),
    ("stages.0.0.se_ratio", 1.5, r"stages\[0\]\[0\]: se_ratio = 1.5"),
    ("stages.0.0.se_ratio", float("nan"), r"stages\[0\]\[0\]: se_ratio = nan"),
    ("stages.0.0.ghost_ratio", 0, r"stages\[0\]\[0\]: ghost_ratio = 0"),
    ("stages.0.0.hidden_channels", [24], r"stages\[0\]\[0\]: hidden_channels = \[24\]"),
    ("stages.0.1.se_channels", -1, r"stages\[0\]\[1\]: se_channels = -1"),
    ("stages.0.0.kernel", 4, r"stages\[0\]\[0\]: kernel = 4"),
    ("stages.0.0.cheap_kernel", 2, r"stages\[0\]\[0\]: cheap_kernel = 2"),
]


@pytest.mark.parametrize(
    ("path", "value", "message"),
    BAD_VALUES,
    ids=[f"{path}={'' if value is ABSENT else value}" for path, value, _ in BAD_VALUES],
)
def test_bad_json_is_refused_in_one_line_that_names_the_key(path, value, message):
    document = to_json(SMALL)
    *parents, key = (int(part) if part.isdigit() else part for part in path.split("."))
    target = document
    for parent in parents:
        target = target[parent]
    if value is ABSENT:
        del target[key]
    else:
        target[key] = value
    with pytest.raises(InputError, match=message) as caught:
        from_json(document)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("document", [None, 3, "ghostnet", [1]])
def test_json_that_is_not_an_object_is_rejected(document):
    with pytest.raises(InputError, match="must be an object"):
        from_json(document)


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(to_json(SMALL))[:-20].encode(),
        b"",
        b"\xff\xfe",
        b'{"format": 9}',
        b"[" * 100_000,
    ],
    ids=["truncated", "empty", "binary", "format", "nested"],
)
def test_a_bad_file_is_refused_by_name(tmp_path, content):
    path = tmp_path / "arch.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"arch\.json: ") as caught:
        arch_module.load(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused_by_name(tmp_path):
    with pytest.raises(InputError, match=r"none\.json: cannot be read: No such file"):
        arch_module.load(tmp_path / "none.json")


def test_a_file_is_read(tmp_path):
    path = tmp_path / "arch.json"
    path.write_text(json.dumps(to_json(SMALL)))
    assert arch_module.load(path) == SMALL


# Head


def test_a_head_without_features_classifies_the_mean():
    arch = replace(SMALL, head=replace(SMALL.head, features=0))
    *_, mean, flat, classifier = lower(arch).nodes
    assert (mean.name, flat.op, classifier.name) == ("global_pool", Flatten(), "classifier")
    assert classifier.op.in_features == arch.head.channels
    assert from_json(json.loads(json.dumps(to_json(arch)))) == arch


def test_numbers_of_later_versions_are_written_only_where_they_are_not_the_default():
    plain = to_json(with_block(GHOST))["stages"][0][0]
    assert not {"split", "eca_kernel"} & set(plain)
    arch = with_block(replace(GHOST, ghost_ratio=3, split=True, eca_kernel=3))
    written = to_json(arch)
    assert (written["stages"][0][0]["split"], written["stages"][0][0]["eca_kernel"]) == (True, 3)
    assert from_json(json.loads(json.dumps(written))) == arch


# Arch.id


def test_ids_are_short_and_do_not_change():
    assert SMALL.id == replace(SMALL).id
    assert len(SMALL.id) == 12
    assert zoo.ghostnet().id == "cdf1d72d3067"  # stored in studies on disk


SAME_OPS = {
    "the kernel of a block without a k x k convolution": (
        with_block(GhostBlock(hidden_channels=24, out_channels=12, kernel=3)),
        with_block(GhostBlock(hidden_channels=24, out_channels=12, kernel=5)),
    ),
    "the cheap kernel of a block without cheap operations": (
        with_block(replace(GHOST, ghost_ratio=1, cheap_kernel=3)),
        with_block(replace(GHOST, ghost_ratio=1, cheap_kernel=5)),
    ),
    "a ratio that rounds to the same width": (
        with_block(replace(GHOST, se_ratio=0.25)),
        with_block(replace(GHOST, se_ratio=0.26)),
    ),
    "blocks of stride 1 as one stage or as two": (
        replace(SMALL, stages=(Stage(blocks=(GHOST, MBCONV)),)),
        replace(SMALL, stages=(Stage(blocks=(GHOST,)), Stage(blocks=(MBCONV,)))),
    ),
}


@pytest.mark.parametrize(("one", "other"), SAME_OPS.values(), ids=SAME_OPS.keys())
def test_ids_are_equal_where_a_difference_changes_no_op(one, other):
    assert one != other
    assert one.id == other.id


@pytest.mark.parametrize(
    "other",
    [
        replace(SMALL, classes=11),
        replace(SMALL, resolution=33),
        replace(SMALL, dropped_strides=1),
        replace(SMALL, dropped_strides=2),
        replace(SMALL, stem=replace(SMALL.stem, channels=12)),
        replace(SMALL, stem=replace(SMALL.stem, stride=1)),
        replace(SMALL, stem=replace(SMALL.stem, activation="hard_swish")),
        replace(SMALL, head=replace(SMALL.head, channels=36)),
        replace(SMALL, head=replace(SMALL.head, features=52)),
        replace(SMALL, head=replace(SMALL.head, activation="relu6")),
        replace(SMALL, stages=SMALL.stages[:1]),
        *(
            replace(SMALL, stages=(Stage(blocks=(replace(GHOST, **{name: value}), MBCONV)),))
            for name, value in {
                "hidden_channels": 28,
                "out_channels": 16,
                "kernel": 5,
                "stride": 1,
                "se_ratio": 0.0,
                "ghost_ratio": 3,
                "cheap_kernel": 5,
            }.items()
        ),
        *(
            replace(SMALL, stages=(Stage(blocks=(GHOST, replace(MBCONV, **{name: value}))),))
            for name, value in {
                "hidden_channels": 28,
                "out_channels": 16,
                "kernel": 5,
                "se_channels": 0,
                "activation": "hard_swish",
            }.items()
        ),
    ],
)
def test_ids_differ_where_an_op_does(other):
    bases = SMALL, replace(SMALL, stages=SMALL.stages[:1])
    assert other.id not in {base.id for base in bases if base != other}


# lower and fit_to


def test_the_first_block_of_a_stage_is_its_own_group():
    names = [node.name.split(".") for node in lower(SMALL).nodes]
    blocks = {".".join(name[1:3]): name[3] for name in reversed(names) if name[0] == "blocks"}
    assert blocks == {"0.0": "ghost1", "1.0": "conv_pw", "2.0": "conv_pw", "3.0": "conv"}
    names = {".".join(node.name.split(".")[1:3]) for node in lower(zoo.ghostnet()).nodes}
    assert {"5.0", "6.0", "6.4", "7.0", "8.3", "9.0"} <= names


def test_lower_gives_as_many_logits_as_classes():
    graph = lower(SMALL)
    assert (graph.input_shape, graph.output_shape) == ((3, 32, 32), (10,))


def last_map(arch):
    return next(node.shape for node in lower(arch).nodes if node.name.endswith(".0.act"))[1]


def strides(arch):
    """The strides of the stem and of the blocks' depthwise convolutions, as they run."""
    nodes = lower(arch).nodes
    return [node.op.stride for node in nodes if node.name.endswith(("conv_stem", "conv_dw"))]


@pytest.mark.parametrize(
    ("resolution", "expected"),
    [
        (224, [2, 2, 2, 2, 2]),
        (128, [2, 2, 2, 2, 2]),
        (112, [2, 2, 2, 2, 2]),  # the map is 4x4 there: sizes round up
        (64, [1, 2, 2, 2, 2]),
        (32, [1, 1, 2, 2, 2]),
        (28, [1, 1, 2, 2, 2]),
        (16, [1, 1, 1, 2, 2]),
        (3, [1, 1, 1, 1, 1]),
    ],
)
def test_fit_to_drops_strides_from_the_stem_on(resolution, expected):
    fitted = fit_to(zoo.ghostnet(0.5), resolution=resolution, classes=10)
    assert strides(fitted) == expected
    assert fitted.dropped_strides == expected.count(1)
    assert (fitted.resolution, fitted.classes) == (resolution, 10)


@pytest.mark.parametrize("arch", [zoo.ghostnet(0.25), zoo.mobilenetv3_large(0.25)], ids=["g", "m"])
@given(resolution=st.integers(4, 260))
def test_fit_to_drops_as_few_strides_as_keep_the_last_map_at_4x4(arch, resolution):
    fitted = fit_to(arch, resolution=resolution, classes=10)
    assert last_map(fitted) >= 4
    own, running = strides(arch), strides(fitted)
    strided = [index for index, stride in enumerate(own) if stride > 1]
    dropped = [index for index in strided if running[index] == 1]
    assert dropped == strided[: fitted.dropped_strides]
    if dropped:
        assert last_map(replace(fitted, dropped_strides=len(dropped) - 1)) < 4


@pytest.mark.parametrize("resolution", [16, 32, 33, 64, 224])
@pytest.mark.parametrize("arch", [zoo.ghostnet(0.5), zoo.mobilenetv3_large(0.5)], ids=["g", "m"])
def test_fit_to_keeps_every_weight_but_the_classifiers(arch, resolution):
    before = weights(lower(arch))
    assert weights(lower(fit_to(arch, resolution=resolution, classes=1000))) == before
    after = weights(lower(fit_to(arch, resolution=resolution, classes=10)))
    assert after.keys() == before.keys()
    changed = {key for key in before if before[key] != after[key]}
    assert changed == {"classifier.weight", "classifier.bias"}


def test_fit_to_changes_no_block_and_can_be_undone():
    arch = zoo.ghostnet()
    small = fit_to(arch, resolution=32, classes=10)
    assert (small.stem, small.stages, small.head) == (arch.stem, arch.stages, arch.head)
    assert fit_to(small, resolution=224, classes=1000) == arch


def test_fit_to_changes_nothing_where_the_images_are_the_same():
    assert fit_to(SMALL, resolution=32, classes=10) == SMALL


# parts and lower_part


def running_ops(graph):
    """Each op with its input and output shapes."""
    return [(node.op, graph.input_shapes(node), node.shape) for node in graph.nodes[1:]]


def assert_parts_are_the_whole(arch):
    found = parts(arch)
    lowered = [lower_part(part) for part in found]
    together = [op for graph in lowered for op in running_ops(graph)]
    assert together == running_ops(lower(arch))
    for part, graph, before in zip(
        found,
        lowered,
        [(3, arch.resolution, arch.resolution), *(g.output_shape for g in lowered)],
        strict=False,
    ):
        assert part.in_shape == graph.input_shape == before
    assert lowered[-1].output_shape == (arch.classes,)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32), resolution=st.sampled_from([0, 16, 33, 64]))
def test_the_ops_of_the_parts_together_are_those_of_the_network(seed, resolution):
    searched = space.load("ghostnet")
    arch = searched.decode(searched.sample(random.Random(seed)))
    assert_parts_are_the_whole(
        fit_to(arch, resolution=resolution, classes=7) if resolution else arch
    )


@pytest.mark.parametrize(
    "arch",
    [
        SMALL,
        replace(SMALL, stem=Stem(channels=8, stride=1, activation="hard_swish")),
        replace(SMALL, dropped_strides=2),
        replace(SMALL, resolution=31, dropped_strides=3),
        zoo.ghostnet(1.3),
        zoo.mobilenetv3_large(0.75, 96, 10),
        fit_to(zoo.mobilenetv3_large(), resolution=32, classes=10),
    ],
    ids=["small", "flat", "dropped", "odd", "g", "m", "fitted"],
)
def test_the_parts_of_any_network_together_are_the_network(arch):
    assert_parts_are_the_whole(arch)


def test_parts_by_hand():
    second = replace(MBCONV, stride=2)
    assert parts(SMALL) == [
        Part(SMALL.stem, (3, 32, 32), 2),
        Part(GHOST, (8, 16, 16), 2),
        Part(MBCONV, (12, 8, 8), 1),
        Part(second, (12, 8, 8), 2),
        Part(SMALL.head, (12, 4, 4), 1, 10),
    ]
    assert parts(replace(SMALL, dropped_strides=2)) == [
        Part(SMALL.stem, (3, 32, 32), 1),
        Part(GHOST, (8, 32, 32), 1),
        Part(MBCONV, (12, 32, 32), 1),
        Part(second, (12, 32, 32), 2),
        Part(SMALL.head, (12, 16, 16), 1, 10),
    ]


def test_equal_blocks_at_equal_places_are_equal_parts():
    repeated = replace(SMALL, stages=(Stage(blocks=(GHOST, MBCONV, MBCONV)),))
    found = parts(repeated)
    assert found[2] == found[3]
    assert hash(found[2]) == hash(found[3])
    assert len(set(found)) == len(found) - 1
    elsewhere = parts(replace(repeated, resolution=64))
    assert not set(found) & set(elsewhere)


def test_only_a_head_depends_on_the_classes():
    one, other = (parts(replace(SMALL, classes=classes)) for classes in (10, 100))
    assert one[:-1] == other[:-1]
    assert one[-1] != other[-1]
