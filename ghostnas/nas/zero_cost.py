"""Training-free scores of networks, from random weights and one batch of images.

A measure takes a network with the weights it has; a scorer in `SCORERS` draws them from a seed.
All are higher for networks that should learn better. Nothing here says which of them actually
ranks networks as a training would: scripts/experiments/fidelity.py measures that.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ghostnas.backends.torch_module import Net
from ghostnas.errors import InputError, TrainingError
from ghostnas.ir import cost
from ghostnas.ir.graph import (
    BATCH_NORM_EPS,
    Activation,
    Add,
    BatchNorm,
    GlobalPool,
    Graph,
    Multiply,
    Node,
)
from ghostnas.training.initialization import fresh

Scorer: TypeAlias = Callable[[Graph, Tensor, Tensor, int], float]
Measure: TypeAlias = Callable[[Net, Tensor, Tensor], float]

ZEN_NOISE = 0.01
# The paper uses 2. Then 1 % of a kernel's weights, whose two gradients happen to be alike, make up
# 59 % of its sum (GhostNet 0.5x), with 4 batches 5 %; seeds spread the score by 3.2 and by 0.3.
ZICO_BATCHES = 4
FEWEST_PICTURES = 2 * ZICO_BATCHES
GATES = ("hard_sigmoid", "sigmoid")


def score(name: str, graph: Graph, images: Tensor, labels: Tensor, seed: int) -> float:
    """The score of a network with random weights; higher is better.

    Args:
        images: float (n, 3, height, width), normalised, at the graph's input size.
        labels: integers (n,).
        seed: of the weights.

    Raises:
        InputError: there is no scorer of that name, or the images do not match the graph.
        TrainingError: the score is not a finite number.
    """
    if name not in SCORERS:
        raise InputError(f"unknown scorer {name!r}; known: {', '.join(SCORERS)}")
    count = len(images)
    if tuple(images.shape[1:]) != graph.input_shape or count < FEWEST_PICTURES:
        wanted = " x ".join(map(str, graph.input_shape))
        raise InputError(
            f"scorer {name}: needs {FEWEST_PICTURES} or more images of {wanted}, not a batch of "
            f"{' x '.join(map(str, images.shape))}"
        )
    if (
        tuple(labels.shape) != (count,)
        or not 0 <= int(labels.min()) <= int(labels.max()) < (graph.output_shape[0])
    ):
        raise InputError(
            f"scorer {name}: needs {count} labels from 0 to {graph.output_shape[0] - 1}"
        )
    value = SCORERS[name](graph, images, labels, seed)
    if not math.isfinite(value):
        raise TrainingError(f"scorer {name}: gives {value} for this network from seed {seed}")
    return value


def synflow(net: Net, images: Tensor, labels: Tensor) -> float:
    """The logarithm of synaptic saliency (Tanaka et al., 2020), summed over kernels as Abdelfattah
    et al. (2021) do: the sum itself exceeds 1e100 in deep networks.

    Every weight is made positive and the input is one image of ones, so neither `images` nor
    `labels` matter. Batch norms do nothing, as in Abdelfattah et al. (2021). Hard-swish bends below
    3 and squeeze-and-excitation gates stay as they are (between a half and 1 here): unlike in the
    paper, the flow is not linear in those.
    """
    net = copy.deepcopy(net).double().eval()
    with torch.no_grad():
        for weight in net.parameters():
            weight.abs_()
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
                nn.init.zeros_(module.running_mean)  # type: ignore[arg-type]
                nn.init.constant_(module.running_var, 1 - BATCH_NORM_EPS)  # type: ignore[arg-type]
    kernels = _kernels(net)
    flow = net(torch.ones(1, *net.graph.input_shape, dtype=torch.float64)).sum()
    gradients = torch.autograd.grad(flow, kernels)
    saliency = sum(
        float((kernel.detach() * gradient).sum())
        for kernel, gradient in zip(kernels, gradients, strict=True)
    )
    return math.log(saliency) if saliency > 0 else -math.inf


def naswot(net: Net, images: Tensor, labels: Tensor) -> float:
    """How differently images switch the activations on: the log-determinant of the kernel of
    shared codes (Mellor et al., 2021). `labels` do not matter.

    A code has a bit for each number that an activation outputs: whether it is positive. That is
    the side of 0 that its input was on, for ReLU and hard-swish alike; gates have no bit.
    """
    nodes, count = net.graph.nodes, len(images)
    kernel = torch.zeros(count, count, dtype=torch.float64)

    def add_codes(index: int, value: Tensor) -> None:
        op = nodes[index].op
        if isinstance(op, Activation) and op.kind not in GATES:
            on = (value > 0).flatten(1).float()
            both_on = (on @ on.T).double()
            ones = both_on.diagonal()
            # Bits that are on in both, and those that are on in neither.
            kernel.add_(2 * both_on + on.shape[1] - ones[:, None] - ones)

    with torch.no_grad():
        net.train().run(images, add_codes)
    sign, logarithm = torch.linalg.slogdet(kernel)
    return float(logarithm) if float(sign) > 0 else -math.inf


def grad_norm(net: Net, images: Tensor, labels: Tensor) -> float:
    """Euclidean norms of the loss gradients, summed over kernels (Abdelfattah et al., 2021)."""
    return sum(float(gradient.norm()) for gradient in _gradients(net, images, labels))


def snip(net: Net, images: Tensor, labels: Tensor) -> float:
    """How much the loss would change, to first order, if a weight were removed: ``|weight *
    gradient|`` (Lee et al., 2019, not normalised), summed over kernels as Abdelfattah et al. (2021)
    do.
    """
    pairs = zip(_kernels(net), _gradients(net, images, labels), strict=True)
    return sum(float((kernel.detach() * gradient).abs().sum()) for kernel, gradient in pairs)


def jacob_cov(net: Net, images: Tensor, labels: Tensor) -> float:
    """How uncorrelated the images' gradients are (Mellor et al., 2020, version 1): from the
    eigenvalues v of their correlations, minus the sum of ``log(v + k) + 1 / (v + k)``, k = 1e-5.
    The gradients are of the sum of the outputs with respect to the pixels; `labels` do not matter.
    """
    pixels = images.clone().requires_grad_()
    (gradients,) = torch.autograd.grad(net.train()(pixels).sum(), pixels)
    correlations = torch.corrcoef(gradients.flatten(1).double())
    if not bool(correlations.isfinite().all()):
        return math.nan
    values = torch.linalg.eigvalsh(correlations).clamp_min(0) + 1e-5
    return -float((values.log() + 1 / values).sum())


def zico(net: Net, images: Tensor, labels: Tensor) -> float:
    """How steady gradients are from batch to batch (Li et al., 2023): the logarithm of the sum over
    a kernel of mean / standard deviation of the gradient magnitudes, summed over kernels.

    The batch is split into ZICO_BATCHES. Weights whose gradients do not vary are left out, as are
    kernels made up of such weights.
    """
    batches = [
        _gradients(net, images[first::ZICO_BATCHES], labels[first::ZICO_BATCHES])
        for first in range(ZICO_BATCHES)
    ]
    total = 0.0
    for gradients in zip(*batches, strict=True):
        sizes = torch.stack(gradients).double().abs()
        mean, std = sizes.mean(0), sizes.std(0, correction=0)
        steadiness = float((mean[std > 0] / std[std > 0]).sum())
        total += math.log(steadiness) if steadiness > 0 else 0.0
    return total


def zen(net: Net, noise: Tensor, more_noise: Tensor) -> float:
    """The Zen-score (Lin et al., 2021, algorithm 1) of a `trunk`, whose output is a feature map.

    The logarithm of how far the map moves (Euclidean, averaged over images) when ZEN_NOISE times
    `more_noise` is added to `noise`, plus the logarithms of the batch norms' divisors (root of the
    channels' mean variance), so that a wide layer counts even though a batch norm follows it.
    """
    nodes = net.graph.nodes
    normed = {node.inputs[0] for node in nodes if isinstance(node.op, BatchNorm)}
    logarithms: list[float] = []

    def note_scale(index: int, value: Tensor) -> None:
        if index in normed:
            variance = float(value.var((0, 2, 3), correction=0).mean())
            logarithms.append(0.5 * math.log(variance + BATCH_NORM_EPS))

    net.train()
    with torch.no_grad():
        maps = net.run(noise, note_scale)
        moved = net(noise + ZEN_NOISE * more_noise)
    distance = float((moved - maps).flatten(1).norm(dim=1).mean())
    return math.log(distance) + sum(logarithms) if distance > 0 else -math.inf


def trunk(graph: Graph) -> Graph:
    """The ops up to the last pooled map, without shortcuts and gates, as Lin et al. (2021) score a
    network: a sum is replaced by its first input, a product by its map.
    """
    nodes = graph.nodes
    pools = [node for node in nodes if isinstance(node.op, GlobalPool)]

    def source(index: int) -> int:
        while isinstance(nodes[index].op, Add | Multiply):
            index = nodes[index].inputs[0]
        return index

    last = source(pools[-1].inputs[0] if pools else len(nodes) - 1)
    needed, reached = {0}, [last]
    while reached:
        index = reached.pop()
        if index not in needed:
            needed.add(index)
            reached += [source(each) for each in nodes[index].inputs]
    place = {index: position for position, index in enumerate(sorted(needed))}
    return Graph(
        tuple(
            Node(name, op, tuple(place[source(each)] for each in inputs), shape)
            for name, op, inputs, shape in (nodes[index] for index in place)
        )
    )


def _zen(graph: Graph, images: Tensor, labels: Tensor, seed: int) -> float:
    """On noise of the images' size, with kernels of unit variance: with He's, which equalise the
    layers, the batch-norm terms would say nothing about width.
    """
    net = fresh(trunk(graph), seed)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for kernel in _kernels(net):
            kernel.normal_(generator=random)
    noise, more_noise = torch.randn(2, *images.shape, generator=random)
    return zen(net, noise, more_noise)


def _from_seed(measure: Measure, learned: bool = True) -> Scorer:
    """A measure of a network with weights of a seed, `learned` if it needs their gradients: without
    these, and with channels last, it takes less than half of the time.
    """

    def scored(graph: Graph, images: Tensor, labels: Tensor, seed: int) -> float:
        net = fresh(graph, seed).requires_grad_(learned)
        net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return measure(net, images.contiguous(memory_format=torch.channels_last), labels)

    return scored


def _kernels(net: Net) -> list[Tensor]:
    """The weights of convolutions and dense layers, in order."""
    return [module.weight for module in net.modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def _gradients(net: Net, images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
    """Gradients of the cross-entropy for each kernel, batch norms using the batch's statistics."""
    loss = F.cross_entropy(net.train()(images), labels)
    return torch.autograd.grad(loss, _kernels(net))


SCORERS: dict[str, Scorer] = {
    "synflow": _from_seed(synflow),
    "naswot": _from_seed(naswot, learned=False),
    "grad_norm": _from_seed(grad_norm),
    "snip": _from_seed(snip),
    "jacob_cov": _from_seed(jacob_cov, learned=False),
    "zico": _from_seed(zico),
    "zen": _zen,
    "params": lambda graph, images, labels, seed: float(cost.count(graph).params),
    "macs": lambda graph, images, labels, seed: float(cost.count(graph).macs),
}
