"""A graph and its weights as a .pt2 file: a program of torch.export that loads with torch alone."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.passes import move_to_device_pass
from torch.func import functional_call

from ghostnas.backends.torch_module import Net, net_of
from ghostnas.ir.branches import merge_weights
from ghostnas.ir.fusion import fold
from ghostnas.ir.graph import Graph, Weights

EXTRA = "/extra/"  # where torch.export.save puts the extra files
BATCH_OF_EXAMPLE = 2  # torch.export would treat 1 as a constant


def write(
    graph: Graph,
    weights: Weights,
    *,
    half: bool = False,
    texts: Mapping[str, str] | None = None,
) -> bytes:
    """The program: ``image`` (N, 3, height, width), any N, to logits (N, classes).

    Parallel branches are one convolution (`ghostnas.ir.branches`). With `half`, batch norms are
    folded and all weights are kept as float16. The program converts them to float32 whenever it
    runs and computes in that, which every CPU can; inputs and outputs are float32 too. `texts`
    become the file's extra files.

    Raises:
        InputError: `weights` do not fit `graph`.
    """
    net = net_of(*fold(graph, weights)) if half else net_of(*merge_weights(graph, weights))
    module = _HalfStored(net) if half else net
    example = torch.zeros(BATCH_OF_EXAMPLE, *graph.input_shape)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.export's own deprecations
        program = torch.export.export(
            module, (example,), dynamic_shapes=({0: torch.export.Dim("batch", min=1)},)
        )
        buffer = io.BytesIO()
        torch.export.save(program, buffer, extra_files=dict(texts or {}))
    return buffer.getvalue()


def load(model: bytes, device: str) -> ExportedProgram:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.load(io.BytesIO(model))
        return program if device == "cpu" else move_to_device_pass(program, device)


def shapes(program: ExportedProgram) -> tuple[tuple[int | None, ...], int]:
    """The shape of a program's one input, None for any batch, and its number of outputs.

    Raises:
        ValueError: it has other inputs or outputs.
    """
    signature = program.graph_signature
    [source], [target] = signature.user_inputs, signature.user_outputs
    maps = {node.name: node.meta["val"] for node in program.graph.nodes if "val" in node.meta}
    sizes = [size if isinstance(size, int) else None for size in maps[source].shape]
    return tuple(sizes), int(maps[target].shape[-1])


def texts_of(model: bytes) -> dict[str, str]:
    """The extra files of a program."""
    with zipfile.ZipFile(io.BytesIO(model)) as archive:
        return {
            name.partition(EXTRA)[2]: archive.read(name).decode()
            for name in archive.namelist()
            if EXTRA in name
        }


class _HalfStored(nn.Module):
    """A network whose parameters are float16 and whose computation is float32."""

    def __init__(self, net: Net) -> None:
        super().__init__()
        self.net = net.half()

    def forward(self, images: Tensor) -> Tensor:
        values = {name: each.float() for name, each in self.net.named_parameters()}
        logits: Tensor = functional_call(self.net, values, (images,))
        return logits
