"""A network cut from a larger one gives its logits if the rest of the larger one is dead."""

import dataclasses

import numpy as np
import pytest

from ghostnas.errors import InputError
from ghostnas.ir.graph import BatchNorm, Narrow, weight_shapes
from ghostnas.ir.random_weights import random_weights
from ghostnas.ir.reference import run
from ghostnas.networks import zoo
from ghostnas.networks.arch import Arch, Head, Stage, Stem, lower
from ghostnas.networks.blocks import GhostBlock, MBConv
from ghostnas.training.weight_transfer import Fitted, fit


def ghosts(width, depths=(1, 3, 2), ratio=2, kernel=3, classes=10):
    """A small GhostNet; odd widths make its Ghost modules drop maps."""
    stages = []
    for number, depth in enumerate(depths):
        blocks = [
            GhostBlock(
                hidden_channels=width * (2 + number),
                out_channels=width * (1 + number),
                stride=2 if number and not place else 1,
                se_ratio=0.25 if number else 0.0,
                ghost_ratio=ratio,
                cheap_kernel=kernel,
            )
            for place in range(depth)
        ]
        stages.append(Stage(blocks=tuple(blocks)))
    head = Head(channels=4 * width, features=2 * width)
    return Arch(
        stem=Stem(channels=width), stages=tuple(stages), head=head, classes=classes, resolution=16
    )


def inverted(width):
    first = MBConv(hidden_channels=width, out_channels=width)
    blocks = (
        MBConv(hidden_channels=3 * width, out_channels=2 * width, stride=2, se_channels=width),
        MBConv(hidden_channels=4 * width, out_channels=2 * width, se_channels=width),
    )
    return Arch(
        stem=Stem(channels=width, activation="hard_swish"),
        stages=(Stage(blocks=(first,)), Stage(blocks=blocks)),
        head=Head(channels=4 * width, features=2 * width, activation="hard_swish"),
        classes=10,
        resolution=16,
    )


def living(small, large, name, shapes, theirs):
    """Which channels of the large network's batch norm the small one has, worked out by hand."""
    count, full = shapes[f"{name}.weight"][0], theirs[f"{name}.weight"][0]
    alive = np.arange(full) < count
    module, _, last = name.rpartition(".")
    if module.endswith("cheap_operation"):
        ghost = module.removesuffix(".cheap_operation")
        narrow = [n.op for n in small.nodes if n.name == f"{ghost}.narrow"]
        if narrow:
            primary = shapes[f"{ghost}.primary_conv.1.weight"][0]
            alive = np.arange(full) < narrow[0].channels - primary
    ghost = f"{module.removesuffix('.shortcut') or 'blocks.0.0'}.ghost2.primary_conv.1.weight"
    if ghost in shapes and (name == "bn1" or (module.endswith("shortcut") and last == "3")):
        primary, their_primary = shapes[ghost][0], theirs[ghost][0]
        place = np.arange(full)
        alive = (place < primary) | (
            (place >= their_primary) & (place < their_primary + count - primary)
        )
    return alive


def killed(small, large):
    """Weights of the large network, with all channels beyond the small one's at 0."""
    values = random_weights(large, 0)
    shapes = {k: s for node in small.nodes for k, s in weight_shapes(node).items()}
    theirs = {k: array.shape for k, array in values.items()}
    for node in large.nodes:
        name = node.name
        if name.endswith(("bn_dw", "shortcut.1")):  # nothing in, nothing out
            values[f"{name}.bias"] = np.zeros(theirs[f"{name}.bias"], np.float32)
            values[f"{name}.running_mean"] = np.zeros(theirs[f"{name}.bias"], np.float32)
        elif isinstance(node.op, BatchNorm):
            alive = living(small, large, name, shapes, theirs)
            for key in ("weight", "bias"):
                values[f"{name}.{key}"] = values[f"{name}.{key}"] * alive
        elif name == "conv_head" or name.endswith("conv_reduce"):
            alive = np.arange(theirs[f"{name}.bias"][0]) < shapes[f"{name}.bias"][0]
            values[f"{name}.weight"] = values[f"{name}.weight"] * alive[:, None, None, None]
            values[f"{name}.bias"] = values[f"{name}.bias"] * alive
    return values


def assert_same_logits(graph, values, other, others):
    images = np.random.default_rng(2).normal(size=(2, *graph.input_shape)).astype(np.float32)
    expected = run(other, others, images)
    assert expected.std() > 1e-3
    np.testing.assert_allclose(run(graph, values, images), expected, rtol=1e-3, atol=1e-4)


NARROWER = {
    "half": (ghosts(8), ghosts(16)),
    "odd widths": (ghosts(7), ghosts(15)),
    "even from odd": (ghosts(8), ghosts(13)),
    "three maps of one": (ghosts(7, ratio=3), ghosts(11, ratio=3)),
    "no cheap maps": (ghosts(5, ratio=1), ghosts(8, ratio=1)),
    "inverted residuals": (inverted(4), inverted(10)),
    "GhostNet": (zoo.ghostnet(0.5, 32, 10), zoo.ghostnet(1.0, 32, 10)),
    "MobileNetV3": (zoo.mobilenetv3_large(0.5, 32, 10), zoo.mobilenetv3_large(0.75, 32, 10)),
}


@pytest.mark.parametrize("case", NARROWER)
def test_a_narrower_network_takes_the_channels_that_belong_together(case):
    small, large = map(lower, NARROWER[case])
    theirs = killed(small, large)
    values, fitted = fit(small, theirs)
    assert fitted.left == 0
    assert fitted.cut > fitted.whole
    assert_same_logits(small, values, large, theirs)


@pytest.mark.parametrize("depths", [(1, 1, 1), (1, 2, 1), (1, 1, 2)])
def test_a_shallower_network_takes_the_first_blocks_of_each_stage(depths):
    """One block instead of two means one group of blocks fewer, and all later names shift."""
    small, deep = lower(ghosts(8, depths)), lower(ghosts(8, (1, 3, 2)))
    theirs = random_weights(deep, 0)
    firsts = {".".join(node.name.split(".")[:3]) for node in deep.nodes if "bn_dw" in node.name}
    later = {1: 0, 2: 0}
    stage = 0
    for name in dict.fromkeys(".".join(n.name.split(".")[:3]) for n in deep.nodes):
        if name in firsts:
            stage += 1
        elif stage and f"{name}.ghost2.primary_conv.1.bias" in theirs:
            later[stage] += 1
            if later[stage] >= depths[stage]:
                for part in ("primary_conv", "cheap_operation"):
                    for key in ("weight", "bias"):
                        theirs[f"{name}.ghost2.{part}.1.{key}"] *= 0
    values, fitted = fit(small, theirs)
    assert (fitted.cut, fitted.left) == (0, 0)
    assert fitted.unused > 0
    assert_same_logits(small, values, deep, theirs)


@pytest.mark.parametrize("arch", [zoo.ghostnet(0.5), zoo.mobilenetv3_large(0.5), ghosts(7)])
def test_the_same_network_takes_everything(arch):
    graph = lower(arch)
    theirs = random_weights(graph, 0)
    values, fitted = fit(graph, theirs)
    assert fitted == Fitted(whole=len(theirs), cut=0, left=0, unused=0)
    for key, array in theirs.items():
        np.testing.assert_array_equal(values[key], array)


def test_a_larger_kernel_holds_the_smaller_one_in_its_middle_and_gives_it_back():
    small, large = lower(ghosts(8, kernel=3)), lower(ghosts(8, kernel=5))
    theirs = random_weights(small, 0)
    grown, fitted = fit(large, theirs)
    assert fitted.left == 0
    assert_same_logits(large, grown, small, theirs)
    again, _ = fit(small, grown)
    for key, array in theirs.items():
        np.testing.assert_array_equal(again[key], array)


def test_a_wider_network_takes_what_there_is_and_is_initialised_elsewhere():
    small, large = lower(ghosts(8)), lower(ghosts(12))
    theirs = random_weights(small, 0)
    values, fitted = fit(large, theirs)
    assert fitted.left == 0
    taken = [0, 1, 2, 3, 6, 7, 8, 9]  # the stem's channels have Ghost maps added to them
    np.testing.assert_array_equal(values["conv_stem.weight"][taken], theirs["conv_stem.weight"])
    new = values["conv_stem.weight"][[4, 5, 10, 11]]
    assert 0.5 < new.std() / (2 / 27) ** 0.5 < 1.5
    np.testing.assert_array_equal(values["bn1.weight"][[4, 5, 10, 11]], 1)
    np.testing.assert_array_equal(values["bn1.bias"][[4, 5, 10, 11]], 0)
    np.testing.assert_array_equal(values["bn1.running_mean"][[4, 5, 10, 11]], 0)
    np.testing.assert_array_equal(values["bn1.running_var"][[4, 5, 10, 11]], 1)
    # The second block reads the first one's 4 + 4 maps as the first of 6 + 6.
    key = "blocks.1.0.ghost1.primary_conv.0.weight"
    np.testing.assert_array_equal(values[key][:12, [0, 1, 2, 3, 6, 7, 8, 9]], theirs[key])
    same, other = fit(large, theirs)[0], fit(large, theirs, seed=1)[0]
    np.testing.assert_array_equal(same["conv_stem.weight"], values["conv_stem.weight"])
    assert (other["conv_stem.weight"] != values["conv_stem.weight"]).any()
    back, _ = fit(small, values)
    for name, array in theirs.items():
        np.testing.assert_array_equal(back[name], array)


def test_a_classifier_for_other_classes_is_left_out_and_the_rest_taken():
    graph = lower(ghosts(8, classes=3))
    theirs = random_weights(lower(ghosts(8, classes=10)), 0)
    values, fitted = fit(graph, theirs)
    assert theirs.keys() - values.keys() == {"classifier.weight", "classifier.bias"}
    assert fitted == Fitted(whole=len(theirs) - 2, cut=0, left=2, unused=2)
    assert str(fitted) == (
        f"{len(theirs) - 2} of {len(theirs)} arrays taken whole, 0 cut, "
        "2 left at their initial values; 2 unused"
    )


def test_a_network_without_gates_leaves_them_and_vice_versa():
    def without(arch):
        stages = [
            Stage(blocks=tuple(dataclasses.replace(b, se_ratio=0.0) for b in stage.blocks))
            for stage in arch.stages
        ]
        return dataclasses.replace(arch, stages=tuple(stages))

    gated, bare = lower(ghosts(8)), lower(without(ghosts(8)))
    theirs = random_weights(bare, 0)
    values, fitted = fit(gated, theirs)
    assert values.keys() == theirs.keys()
    assert fitted.left == sum(".se." in key for key in random_weights(gated, 0)) > 0
    back, fitted = fit(bare, random_weights(gated, 0))
    assert back.keys() == theirs.keys()
    assert (fitted.cut, fitted.left) == (0, 0)


@pytest.mark.parametrize("ratios", [(2, 3), (3, 2), (2, 4), (1, 2)])
def test_another_number_of_cheap_maps_takes_those_of_the_same_primary_maps(ratios):
    ours, theirs = (lower(ghosts(12, ratio=ratio)) for ratio in ratios)
    other = random_weights(theirs, 0)
    values, fitted = fit(ours, other)
    assert fitted.left == 0
    name = "blocks.0.0.ghost1"
    primary, their_primary = (w[f"{name}.primary_conv.1.bias"] for w in (values, other))
    both = min(len(primary), len(their_primary))
    np.testing.assert_array_equal(primary[:both], their_primary[:both])
    if (key := f"{name}.cheap_operation.0.weight") in values:
        each, their_each = (ratio - 1 for ratio in ratios)
        np.testing.assert_array_equal(
            values[key][: both * each : each], other[key][: both * their_each : their_each]
        )


def test_any_shapes_give_arrays_of_the_networks_shapes_or_none():
    graph = lower(ghosts(6))
    shapes = {k: s for node in graph.nodes for k, s in weight_shapes(node).items()}
    assert any(isinstance(node.op, Narrow) for node in lower(ghosts(7)).nodes)
    rng = np.random.default_rng(0)
    for _ in range(40):
        theirs = {}
        for key, shape in shapes.items():
            rank = len(shape) if rng.random() < 0.8 else int(rng.integers(0, 5))
            theirs[key] = rng.normal(size=rng.integers(0, 9, rank)).astype(np.float32)
        try:
            values, fitted = fit(graph, theirs)
        except InputError:
            continue
        assert fitted.whole + fitted.cut == len(values)
        for key, array in values.items():
            assert (array.shape, array.dtype) == (shapes[key], np.float32)
            assert np.isfinite(array).all()


def test_weights_that_fit_nowhere_are_rejected():
    theirs = {"fc.weight": np.ones((3, 3), np.float32)}
    with pytest.raises(InputError, match="none of the 1 arrays fit any"):
        fit(lower(ghosts(8)), theirs)
