"""Each training-free score against one worked out by hand from the same weights."""

import math
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from ghostnas.backends.torch_module import Net
from ghostnas.errors import InputError, TrainingError
from ghostnas.ir import cost
from ghostnas.ir.graph import Activation, BatchNorm, Builder, Conv, Dense, Flatten, GlobalPool
from ghostnas.nas.zero_cost import SCORERS, ZEN_NOISE, score, synflow, trunk, zen, zico
from ghostnas.networks import space, zoo
from ghostnas.networks.arch import fit_to, lower
from ghostnas.training.initialization import RESIDUAL_SCALE, fresh

PLAIN = {"params", "macs"}
BLIND = {"synflow", "zen", *PLAIN}  # to the images' content
UNTAUGHT = {*BLIND, "naswot", "jacob_cov"}  # to the labels


def chain(*, widths=(4,), size=4, norm=False, activation=None, classes=3):
    """A sequence of 3x3 convolutions and a classifier."""
    graph, x, channels = Builder((3, size, size)), 0, 3
    for index, width in enumerate(widths):
        conv = Conv(in_channels=channels, out_channels=width, kernel=3)
        x = graph.add(f"conv{index}", conv, x)
        if norm:
            x = graph.add(f"norm{index}", BatchNorm(channels=width), x)
        if activation:
            x = graph.add(f"act{index}", Activation(kind=activation), x)
        channels = width
    x = graph.add("flatten", Flatten(), graph.add("pool", GlobalPool(), x))
    graph.add("classifier", Dense(in_features=channels, out_features=classes), x)
    return graph.build()


def batch(graph, count=8, seed=0):
    random_state = torch.Generator().manual_seed(seed)
    images = torch.randn(count, *graph.input_shape, generator=random_state)
    return images, torch.arange(count) % graph.output_shape[0]


SMALL = chain(widths=(4, 6), norm=True, activation="relu")
GHOST = lower(fit_to(zoo.ghostnet(0.3), resolution=32, classes=10))


@pytest.mark.parametrize("name", SCORERS)
def test_a_score_is_repeatable_and_leaves_the_random_state_alone(name):
    images, labels = batch(GHOST)
    before = torch.random.get_rng_state()
    once = score(name, GHOST, images, labels, 1)
    assert score(name, GHOST, images, labels, 1) == once
    assert torch.equal(torch.random.get_rng_state(), before)
    assert (score(name, GHOST, images, labels, 2) == once) == (name in PLAIN)


@pytest.mark.parametrize("name", SCORERS)
def test_what_a_score_depends_on(name):
    images, labels = batch(SMALL, 16)
    once = score(name, SMALL, images, labels, 0)
    of_others = score(name, SMALL, batch(SMALL, 16, seed=1)[0], labels, 0)
    assert (of_others == once) == (name in BLIND)
    assert (score(name, SMALL, images, labels.flip(0), 0) == once) == (name in UNTAUGHT)


@pytest.mark.parametrize("count", [3, pytest.param(10, marks=pytest.mark.slow)])
def test_every_score_of_networks_of_the_space_is_finite(count):
    searched, rng = space.load("ghostnet").pin(alpha=0.2, resolution=224), random.Random(0)
    found = {name: set() for name in SCORERS}
    for _ in range(count):
        arch = searched.decode(searched.sample(rng))
        graph = lower(fit_to(arch, resolution=32, classes=10))
        images, labels = batch(graph)
        for name, values in found.items():
            values.add(score(name, graph, images, labels, 0))
    for name, values in found.items():
        assert len(values) == count, name
        assert all(map(math.isfinite, values)), name


def test_synflow_of_a_linear_net_by_hand():
    # Ones through a 3x3 kernel with padding 1 on a 1x1 map reach only its middle.
    graph = chain(widths=(4, 5), size=1)
    found = {name: value.double() for name, value in fresh(graph, 3).state_dict().items()}
    first, second = (found[f"conv{index}.weight"][:, :, 1, 1].abs() for index in (0, 1))
    last, bias = (found[f"classifier.{key}"].abs() for key in ("weight", "bias"))
    through = torch.ones(3, dtype=torch.float64) @ first.T @ second.T @ last.T
    # The total flow through a layer's kernels is the same for each of the three.
    images, labels = batch(graph)
    expected = math.log(3 * float(through.sum()))
    assert score("synflow", graph, images, labels, 3) == pytest.approx(expected, rel=1e-12)
    assert float(bias.sum()) > 0  # it adds to the output, but not to the kernels' saliency


def test_synflow_ignores_batch_norms_and_is_exact_where_they_have_left_their_start():
    plain, normed = (fresh(chain(norm=norm), 0) for norm in (False, True))
    with torch.no_grad():
        normed.get_submodule("norm0").weight.fill_(7.0)
        normed.get_submodule("norm0").running_mean.fill_(5.0)
        for key in ("conv0", "classifier"):
            for own, other in zip(
                normed.get_submodule(key).parameters(),
                plain.get_submodule(key).parameters(),
                strict=True,
            ):
                own.copy_(other)
    nothing = torch.zeros(0)
    assert synflow(normed, nothing, nothing) == pytest.approx(synflow(plain, nothing, nothing))
    assert (
        float(normed.get_submodule("norm0").weight.detach()[0]) == 7.0
    )  # the net itself is unchanged


def test_naswot_by_hand():
    graph = chain(widths=(5, 4), size=2, activation="hard_swish")
    images, labels = batch(graph)
    net = fresh(graph, 0)
    with torch.no_grad():
        first = net.get_submodule("conv0")(images)
        second = net.get_submodule("conv1")(F.hardswish(first))
    codes = torch.cat([first.flatten(1), second.flatten(1)], 1).numpy() > 0
    hamming = (codes[:, None] != codes[None]).sum(2)
    _, expected = np.linalg.slogdet((codes.shape[1] - hamming).astype(np.float64))
    assert score("naswot", graph, images, labels, 0) == pytest.approx(expected, rel=1e-9)


def test_naswot_rejects_a_duplicate_image():
    images, labels = batch(SMALL)
    images[1] = images[0]
    with pytest.raises(TrainingError, match="naswot: gives -inf for this network from seed 0"):
        score("naswot", SMALL, images, labels, 0)


def test_gates_have_no_code():
    graph, gated = (
        chain(widths=(4,), size=4, activation=kind) for kind in ("relu", "hard_sigmoid")
    )
    images, labels = batch(graph)
    assert math.isfinite(score("naswot", graph, images, labels, 0))
    with pytest.raises(TrainingError, match="-inf"):
        score("naswot", gated, images, labels, 0)


def by_hand(graph, images, labels, seed):
    """Loss gradients per kernel, from backward() on a net written out here."""
    net = fresh(graph, seed).train()
    x = images
    for index in range(2):
        x = net.get_submodule(f"conv{index}")(x)
        x = F.relu(net.get_submodule(f"norm{index}")(x))
    logits = net.get_submodule("classifier")(x.mean((2, 3)))
    log_p = logits - logits.exp().sum(1, keepdim=True).log()
    (-log_p[torch.arange(len(labels)), labels].mean()).backward()
    kernels = [net.get_submodule(name).weight for name in ("conv0", "conv1", "classifier")]
    return [(each.detach(), each.grad) for each in kernels]


def test_grad_norm_and_snip_by_hand():
    images, labels = batch(SMALL)
    pairs = by_hand(SMALL, images, labels, 5)
    norms = sum(math.sqrt(float((gradient**2).sum())) for _, gradient in pairs)
    salient = sum(float((kernel * gradient).abs().sum()) for kernel, gradient in pairs)
    assert score("grad_norm", SMALL, images, labels, 5) == pytest.approx(norms, rel=1e-5)
    assert score("snip", SMALL, images, labels, 5) == pytest.approx(salient, rel=1e-5)


def test_zico_by_hand():
    images, labels = batch(SMALL, 16)
    parts = [by_hand(SMALL, images[at::4], labels[at::4], 0) for at in range(4)]
    expected = 0.0
    for kernel in range(3):
        sizes = np.abs([part[kernel][1].numpy() for part in parts]).astype(np.float64)
        mean, std = sizes.mean(0), sizes.std(0)
        expected += math.log((mean[std > 0] / std[std > 0]).sum())
    assert score("zico", SMALL, images, labels, 0) == pytest.approx(expected, rel=1e-3)


def test_zico_of_identical_batches_counts_no_kernel():
    images, labels = batch(SMALL, 2)
    net = fresh(SMALL, 0)
    alike = zico(net, images.repeat_interleave(4, 0), labels.repeat_interleave(4))
    assert alike == 0.0
    assert zico(net, *batch(SMALL, 8)) != 0.0


def test_jacob_cov_by_hand():
    graph = chain(widths=(4,), size=3, activation="relu")
    images, labels = batch(graph)
    net = fresh(graph, 0)
    rows = []
    for image in images:  # without batch norms, an image's gradient depends on it alone
        pixels = image[None].clone().requires_grad_()
        net(pixels).sum().backward()
        rows.append(pixels.grad.flatten().numpy().astype(np.float64))
    values = np.linalg.eigvalsh(np.corrcoef(rows)) + 1e-5
    expected = -(np.log(values) + 1 / values).sum()
    assert score("jacob_cov", graph, images, labels, 0) == pytest.approx(expected, rel=1e-2)


def zen_by_hand(graph, seed, count):
    """For a chain with batch norms: their divisors and the distance, in double precision."""
    net = fresh(trunk(graph), seed)
    draw = torch.Generator().manual_seed(seed)
    kernels = [
        torch.randn(net.get_submodule(f"conv{index}").weight.shape, generator=draw).double()
        for index in range(2)
    ]
    noise, more = torch.randn(2, count, *graph.input_shape, generator=draw).double()
    total, maps = 0.0, []
    for x in (noise, noise + ZEN_NOISE * more):
        total = 0.0
        for kernel in kernels:
            x = F.conv2d(x, kernel, padding=1)
            variance = x.var((0, 2, 3), correction=0, keepdim=True)
            x = F.relu((x - x.mean((0, 2, 3), keepdim=True)) / (variance + 1e-5).sqrt())
            total += 0.5 * math.log(float(variance.mean()) + 1e-5)
        maps.append(x)
        if len(maps) == 1:
            first_total = total
    distance = (maps[1] - maps[0]).pow(2).sum((1, 2, 3)).sqrt().mean()
    return math.log(float(distance)) + first_total


def test_zen_by_hand():
    images, labels = batch(SMALL, 16)
    expected = zen_by_hand(SMALL, 4, 16)
    assert score("zen", SMALL, images, labels, 4) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("scale", [0.25, 8.0])
def test_zen_compensates_for_what_a_batch_norm_divides_by(scale):
    """As if there were no batch norm, a kernel `scale` times as large scales the score's number by
    exactly that, though the output map is the same.
    """
    net = Net(trunk(SMALL))
    draw = torch.Generator().manual_seed(0)
    noise, more = torch.randn(2, 16, 3, 4, 4, generator=draw)
    before = zen(net, noise, more)
    with torch.no_grad():
        net.get_submodule("conv0").weight.mul_(scale)
    assert zen(net, noise, more) == pytest.approx(before + math.log(scale), abs=2e-3)


def test_zen_takes_the_map_before_the_last_pooling_without_shortcuts_and_gates():
    whole, bare = lower(zoo.ghostnet(0.3)), trunk(lower(zoo.ghostnet(0.3)))
    assert bare.output_shape == next(
        node.shape for node in whole.nodes if node.name.endswith("9.0.act")
    )
    names = {node.name for node in bare.nodes}
    assert not [name for name in names if "shortcut" in name or ".se." in name]
    assert {"conv_stem", "blocks.9.0.conv"} <= names
    assert "conv_head" not in names
    kinds = {type(node.op).__name__ for node in bare.nodes}
    assert kinds == {"Input", "Conv", "BatchNorm", "Activation", "Concat", "Narrow"} & kinds
    assert Net(bare)(torch.zeros(2, 3, 224, 224)).shape[1:] == bare.output_shape


def test_wider_and_deeper_networks_have_higher_zen_synflow_and_naswot():
    graphs = [chain(widths=widths, norm=True, activation="relu") for widths in ((4,), (8, 8))]
    for name in ("zen", "synflow", "naswot"):
        low, high = (score(name, graph, *batch(graph), 0) for graph in graphs)
        assert low < high, name


def test_params_and_macs_are_those_of_cost():
    counted = cost.count(GHOST)
    assert score("params", GHOST, *batch(GHOST), 0) == counted.params
    assert score("macs", GHOST, *batch(GHOST), 0) == counted.macs


@pytest.mark.parametrize(
    ("name", "count", "size", "labels", "message"),
    [
        ("zenn", 8, 4, None, "unknown scorer 'zenn'; known: synflow, naswot, "),
        ("zen", 7, 4, None, "zen: needs 8 or more images of 3 x 4 x 4, not a batch of 7 x 3"),
        ("zen", 8, 5, None, "zen: needs 8 or more images of 3 x 4 x 4, not a batch of 8 x 3 x 5"),
        ("snip", 8, 4, torch.full((8,), 3), "snip: needs 8 labels from 0 to 2"),
        ("snip", 8, 4, torch.full((8,), -1), "snip: needs 8 labels from 0 to 2"),
        ("snip", 8, 4, torch.zeros(9, dtype=torch.int64), "snip: needs 8 labels from 0 to 2"),
    ],
)
def test_invalid_input_is_rejected_in_one_line(name, count, size, labels, message):
    images = torch.zeros(count, 3, size, size)
    labels = torch.zeros(count, dtype=torch.int64) if labels is None else labels
    with pytest.raises(InputError, match=message):
        score(name, SMALL, images, labels, 0)


def test_non_finite_images_give_no_score():
    images, labels = batch(SMALL)
    images[0, 0, 0, 0] = math.nan
    for name in ("grad_norm", "snip", "jacob_cov"):
        with pytest.raises(TrainingError, match=f"scorer {name}: gives nan"):
            score(name, SMALL, images, labels, 0)


def test_fresh_weights_follow_from_the_seed_and_residual_branches_start_small():
    once, again, other = (fresh(GHOST, seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(once[key], again[key]) for key in once)
    assert not torch.equal(once["conv_stem.weight"], other["conv_stem.weight"])
    ends = {
        key
        for key, value in once.items()
        if value.ndim == 1 and bool(torch.all(value == RESIDUAL_SCALE))
    }
    blocks = {key.split(".ghost2")[0] for key in ends}
    assert len(blocks) == 16  # every block has two batch norms
    assert len(ends) == 32
    he = once["blocks.9.0.conv.weight"]
    assert float(he.std()) == pytest.approx(math.sqrt(2 / he[0].numel()), rel=0.02)


def test_the_nodes_are_watched_in_order_with_their_outputs():
    net, seen = fresh(SMALL, 0).eval(), []
    images, _ = batch(SMALL)
    out = net.run(images, lambda index, value: seen.append((index, tuple(value.shape[1:]))))
    assert seen == [(at, node.shape) for at, node in enumerate(SMALL.nodes)][1:]
    assert torch.equal(out, net(images))
