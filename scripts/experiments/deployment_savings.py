"""What each cleanup of a deployed graph saves: whole networks in TFLite, with and without it.

A row compares a network as `ghostnas.backends.tflite_writer` writes it with the same one without a
cleanup, or with nearly the same one at other widths. All models are in one process, one thread,
XNNPACK, and take turns in random order. Rounds are grouped into blocks; a block gives each model
its 10th percentile, and each row a saving of time per multiply-accumulate. The median of the blocks
is printed, with the lowest and the highest. Two copies of one file differ too, by their place in
memory: the first row says by how much, and a saving no larger than that is not proven.

    python deployment_savings.py [--rounds 120] [--blocks 5] [--dtypes fp32 int8]
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any, NamedTuple

import flatbuffers
import numpy as np

from ghostnas.arrays import Array
from ghostnas.backends import tflite_writer
from ghostnas.backends.quantization import quantize
from ghostnas.devices import runner
from ghostnas.ir import cost
from ghostnas.ir.fusion import fold, fold_norms
from ghostnas.ir.graph import (
    Activation,
    Add,
    Affine,
    BatchNorm,
    Concat,
    Conv,
    Graph,
    Narrow,
    Node,
    Op,
    Weights,
)
from ghostnas.ir.random_weights import random_weights
from ghostnas.networks import space, zoo
from ghostnas.networks.arch import Arch, Stage, lower
from ghostnas.networks.blocks import GhostBlock

LOW = 10  # percentile
WARM_UP_ROUNDS = 3
ALPHAS = (0.7, 0.9, 1.15)  # with round_to = 4 most widths are then not multiples of 8
Written = tuple[Graph, Weights]  # the contents of a .tflite, op for op


def untouched(model: Any) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Variant:
    """A network and how it is written; `edit` changes the parsed, finished file."""

    network: Graph
    written: Callable[[Graph], Written]
    edit: Callable[[Any], None] = untouched

    def model(self, dtype: str) -> bytes:
        graph, weights = self.written(self.network)
        writer = tflite_writer._Writer(weights, half=False)  # `write` would clean the graph
        for node in graph.nodes:
            writer.values.append(writer.op(node, [writer.values[at] for at in node.inputs]))
        model = writer.model()
        if dtype == "int8":
            size = (1, *graph.input_shape[1:], graph.input_shape[0])
            sample = np.random.default_rng(0).normal(size=size).astype(np.float32)
            model = quantize(model, [[sample]])
        parsed = tflite_writer.schema.ModelT.InitFromPackedBuf(model)
        self.edit(parsed)
        builder = flatbuffers.Builder(len(model))
        builder.Finish(parsed.Pack(builder), b"TFL3")
        return bytes(builder.Output())


class Row(NamedTuple):
    """A comparison: the mean of one or more networks, with and without a cleanup."""

    network: str
    what: str
    clean: list[Variant]
    other: list[Variant]


class Found(NamedTuple):
    """The results of one row: one number per block."""

    clean_ms: Array
    other_ms: Array
    saving: Array


# Ways of writing a network


def clean(graph: Graph) -> Written:
    return fold(graph, random_weights(graph, 0))


def clean_again(graph: Graph) -> Written:
    return clean(graph)


def gates_apart(graph: Graph) -> Written:
    written, weights = fold_norms(graph, random_weights(graph, 0))
    return written, {key: array.astype(np.float32) for key, array in weights.items()}


def norms_apart(graph: Graph) -> Written:
    """Each batch norm is a separate scale and shift, which has the ReLU."""
    return clean(rewritten(graph, norm_apart))


def relus_apart(graph: Graph) -> Written:
    written, weights = clean(graph)
    return rewritten(written, relu_apart), weights


def slices_everywhere(graph: Graph) -> Written:
    """A slice in each Ghost module, as in published code, even where s divides the width."""
    written, weights = clean(graph)
    return rewritten(written, sliced), weights


def nothing_done(graph: Graph) -> Written:
    """Batch norms, ReLUs, gates and slices all as separate ops."""
    written, weights = gates_apart(rewritten(graph, norm_apart))
    return rewritten(rewritten(written, relu_apart), sliced), weights


def one_map_each(graph: Graph) -> Written:
    """Each depthwise convolution that makes m maps per input map as m that make one, side by side.

    Their maps come in a different order, which a file used for more than timing would have to undo.
    """
    nodes: list[Node] = []
    moved: list[tuple[int, ...]] = []
    for name, op, inputs, shape in clean(graph)[0].nodes:
        sources = tuple(at for source in inputs for at in moved[source])
        count = op.out_channels // op.in_channels if isinstance(op, Conv) and op.depthwise else 1
        if count > 1:
            op = replace(op, out_channels=op.in_channels)
            shape = (op.in_channels, *shape[1:])
        first = len(nodes)
        nodes += [Node(f"{name}.{index}", op, sources, shape) for index in range(count)]
        moved.append(tuple(range(first, first + count)))
    split = Graph(tuple(nodes))
    return split, random_weights(split, 0)


def norm_apart(node: Node) -> list[Op]:
    is_norm = isinstance(node.op, BatchNorm)
    return [Affine(channels=node.op.channels)] if is_norm else [node.op]


def relu_apart(node: Node) -> list[Op]:
    kind = getattr(node.op, "activation", "none")
    if kind == "none":
        return [node.op]
    alone = Add() if isinstance(node.op, Add) else replace(node.op, activation="none")
    return [alone, Activation(kind=kind)]


def sliced(node: Node) -> list[Op]:
    whole = Narrow(channels=node.shape[0])
    return [node.op, whole] if isinstance(node.op, Concat) else [node.op]


def rewritten(graph: Graph, ops_for: Callable[[Node], list[Op]]) -> Graph:
    """Each node as a sequence of nodes that keep its shape; the first keeps its name."""
    nodes: list[Node] = []
    moved: list[int] = []
    for node in graph.nodes:
        inputs = tuple(moved[source] for source in node.inputs)
        for index, op in enumerate(ops_for(node)):
            name = f"{node.name}.{index}" if index else node.name
            nodes.append(Node(name, op, inputs, node.shape))
            inputs = (len(nodes) - 1,)
        moved.append(len(nodes) - 1)
    return Graph(tuple(nodes))


# Changes to a file


def show_padded(model: Any) -> None:
    """Make each padded map an output of the model, so that its PAD cannot be fused."""
    graph = model.subgraphs[0]
    shown = [op.outputs[0] for op in graph.operators if is_pad(model, op)]
    graph.outputs = np.array([*graph.outputs, *shown], np.int32)


def pad_as_same(model: Any) -> None:
    """SAME instead of each PAD: the same work on a map shifted by a pixel."""
    graph = model.subgraphs[0]
    sources = {op.outputs[0]: op.inputs[0] for op in graph.operators if is_pad(model, op)}
    graph.operators = [op for op in graph.operators if not is_pad(model, op)]
    for op in graph.operators:
        if (source := sources.get(op.inputs[0])) is not None:
            op.inputs = np.array([source, *op.inputs[1:]], np.int32)
            op.builtinOptions.padding = tflite_writer.schema.Padding.SAME


def is_pad(model: Any, op: Any) -> bool:
    code = model.operatorCodes[op.opcodeIndex].builtinCode
    return code == tflite_writer.schema.BuiltinOperator.PAD


# Networks


def thirds(alpha: float) -> Arch:
    """GhostNet's space with s = 3 throughout."""
    ratios = {f"group{index}.ghost_ratio": 3 for index in range(1, 8)}
    return space.load("ghostnet").pin(alpha=alpha, resolution=224, round_to=4, **ratios).decode({})


def in_multiples(arch: Arch, step: int) -> Arch:
    """The widths of each block's two Ghost modules rounded to the nearest multiples of `step`."""

    def nearest(width: int) -> int:
        return max(1, round(width / step)) * step

    def changed(block: GhostBlock) -> GhostBlock:
        hidden, out = nearest(block.hidden_channels), nearest(block.out_channels)
        return replace(block, hidden_channels=hidden, out_channels=out)

    stages = [Stage(blocks=tuple(map(changed, stage.blocks))) for stage in arch.stages]
    return replace(arch, stages=tuple(stages))


def rounded(round_to: int, macs: int) -> Graph:
    """GhostNet's space with this `round_to`, at the alpha closest to these MACs."""
    spaces = space.load("ghostnet").pin(resolution=224, round_to=round_to)
    tried = [lower(spaces.pin(alpha=alpha).decode({})) for alpha in np.arange(0.5, 1.5, 0.01)]
    return min(tried, key=lambda graph: abs(cost.count(graph).macs - macs))


def rows() -> list[Row]:
    ghostnet, searched = lower(zoo.ghostnet()), lower(thirds(1.0))
    found = []
    for name, graph in (("GhostNet 1.0x", ghostnet), ("s = 3", searched)):
        base = [Variant(graph, clean)]
        for what, other in (
            ("nothing: two copies", Variant(graph, clean_again)),
            ("batch norm folded", Variant(graph, norms_apart)),
            ("ReLU fused", Variant(graph, relus_apart)),
            ("hard sigmoid folded", Variant(graph, gates_apart)),
            ("PAD fused, not separate", Variant(graph, clean, show_padded)),
            ("PAD fused, not SAME", Variant(graph, clean, pad_as_same)),
        ):
            found.append(Row(name, what, base, [other]))
        if graph is ghostnet:
            other = Variant(graph, slices_everywhere)
            found.append(Row(name, "no slice where s divides", base, [other]))
        else:
            split = [Variant(graph, one_map_each)]
            found.append(Row(name, "s - 1 cheap convolutions for one (not done yet)", split, base))
            for step in (3, 12):
                divided = lower(in_multiples(thirds(1.0), step))
                what = f"widths in multiples of {step}: no slice"
                found.append(Row(name, what, [Variant(divided, clean)], base))
        found.append(Row(name, "all but PAD", base, [Variant(graph, nothing_done)]))
    fours = [rounded(4, cost.count(lower(zoo.ghostnet(alpha))).macs) for alpha in ALPHAS]
    for step in (8, 16):
        found.append(
            Row(
                f"{len(ALPHAS)} of the space",
                f"round_to = {step}, not 4",
                [Variant(rounded(step, cost.count(graph).macs), clean) for graph in fours],
                [Variant(graph, clean) for graph in fours],
            )
        )
    return found


# Timing


def ready(content: bytes, name: str) -> runner.Model:
    interpreter_class, _ = runner.find_interpreter(content)
    return runner.Model(name, interpreter_class, content, 1)


def parts_of(model: runner.Model) -> int:
    """The number of parts XNNPACK took it in: lacking a separate int8 RELU, it leaves those out."""
    return [op["op_name"] for op in model.interpreter._get_ops_details()].count("DELEGATE")


def measure(models: list[runner.Model], rounds: int) -> None:
    rng = random.Random(0)
    for round_ in range(WARM_UP_ROUNDS + rounds):
        for model in rng.sample(models, len(models)):
            times_us = model.run(1)
            if round_ >= WARM_UP_ROUNDS:
                model.times_us += times_us


def saving(row: Row, ms: dict[Variant, Array]) -> Found:
    """Savings of time per multiply-accumulate, since few pairs have exactly equal counts."""
    sides = [np.mean([ms[each] for each in side], axis=0) for side in (row.clean, row.other)]
    macs = [
        fmean(cost.count(each.network).macs for each in side) for side in (row.clean, row.other)
    ]
    rates = [time / count for time, count in zip(sides, macs, strict=True)]
    return Found(*sides, 1 - rates[0] / rates[1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=120)
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--dtypes", nargs="+", choices=("fp32", "int8"), default=["fp32", "int8"])
    args = parser.parse_args()
    compared = rows()
    variants = dict.fromkeys(each for row in compared for each in (*row.clean, *row.other))
    print("| network | what | dtype | MMACs, with / without | ms with | ms without | saving |")
    print("|---|---|---|---|---|---|---|")
    for dtype in args.dtypes:
        models = {each: ready(each.model(dtype), dtype) for each in variants}
        measure(list(models.values()), args.rounds)
        ms = {}
        for each, model in models.items():
            blocks = np.array_split(np.array(model.times_us) / 1e3, args.blocks)
            ms[each] = np.array([np.percentile(block, LOW) for block in blocks])
        for row in compared:
            found = saving(row, ms)
            macs = " / ".join(
                f"{fmean(cost.count(each.network).macs for each in side) / 1e6:.1f}"
                for side in (row.clean, row.other)
            )
            notes = [
                f" (in {parts} parts)" if parts > 1 else ""
                for side in (row.clean, row.other)
                for parts in [max(parts_of(models[each]) for each in side)]
            ]
            low, middle, high = 100 * np.percentile(found.saving, [0, 50, 100])
            print(
                f"| {row.network} | {row.what} | {dtype} | {macs} | "
                f"{np.median(found.clean_ms):.2f}{notes[0]} | "
                f"{np.median(found.other_ms):.2f}{notes[1]} | "
                f"{middle:+.1f} % ({low:+.1f} to {high:+.1f}) |",
                flush=True,
            )


if __name__ == "__main__":
    main()
