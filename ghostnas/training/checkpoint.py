"""Everything a training needs to resume, as one .safetensors file, written whole or not at all."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from ghostnas.errors import InputError
from ghostnas.files import write_whole

INTERVAL_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A training between two steps: the steps done, tensors by name, and the epoch's sums.

    Random numbers need no state: each step draws them from the seed and its own number.
    """

    step: int
    tensors: dict[str, Tensor]
    sums: tuple[float, ...] = ()


def to_bytes(state: State) -> bytes:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
    about = json.dumps({"step": state.step, "sums": [value.hex() for value in state.sums]})
    return safetensors.torch.save(tensors, {"training": about})


def from_bytes(content: bytes, where: str) -> State:
    """Read what `to_bytes` wrote; `where` names it in an error.

    Raises:
        InputError: it is damaged, or not a checkpoint.
    """
    try:
        tensors = safetensors.torch.load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        about = json.loads(header["__metadata__"]["training"])
        sums = tuple(float.fromhex(value) for value in about["sums"])
        return State(step=int(about["step"]), tensors=tensors, sums=sums)
    except (safetensors.SafetensorError, KeyError, ValueError, TypeError) as error:
        raise InputError(f"{where}: is not a complete checkpoint: {error}") from error


def gather(
    net: nn.Module, optimizer: torch.optim.Optimizer, average: nn.Module | None
) -> dict[str, Tensor]:
    """All tensors of a training by name."""
    tensors = {f"net.{key}": tensor for key, tensor in net.state_dict().items()}
    if average is not None:
        tensors.update({f"average.{key}": each for key, each in average.state_dict().items()})
    for index, state in optimizer.state_dict()["state"].items():
        for key, value in state.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{index}.{key}"] = value
    return tensors


def restore(
    state: State, net: nn.Module, optimizer: torch.optim.Optimizer, average: nn.Module | None
) -> None:
    """Put a checkpoint's tensors where `gather` found them.

    Raises:
        InputError: they belong to another network or optimizer.
    """
    parts: dict[str, dict[str, Tensor]] = {"net": {}, "average": {}, "optimizer": {}}
    for name, tensor in state.tensors.items():
        part, _, key = name.partition(".")
        parts.setdefault(part, {})[key] = tensor
    slots: dict[int, dict[str, Tensor]] = {}
    for name, tensor in parts["optimizer"].items():
        index, _, key = name.partition(".")
        slots.setdefault(int(index), {})[key] = tensor
    try:
        net.load_state_dict(parts["net"])
        if average is not None:
            average.load_state_dict(parts["average"])
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": slots, "param_groups": groups})
        _lay_out(optimizer)
    except (RuntimeError, ValueError) as error:
        raise InputError(
            f"the checkpoint is from another network or recipe: {str(error).splitlines()[0]}"
        ) from error


def _lay_out(optimizer: torch.optim.Optimizer) -> None:
    """Give its tensors the memory layout of their parameters, which fused steps rely on."""
    for parameter, slots in optimizer.state.items():
        for key, value in slots.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                slots[key] = torch.empty_like(parameter).copy_(value)


class Keeper:
    """Keeps the last good state of a training in a file, at most every `interval_s` seconds."""

    def __init__(self, path: Path, interval_s: float = INTERVAL_S) -> None:
        self.path = path
        self._interval_s = interval_s
        self._last = time.monotonic()

    def read(self) -> bytes | None:
        """The file's content, if there is one."""
        return self.path.read_bytes() if self.path.exists() else None

    def due(self) -> bool:
        return time.monotonic() - self._last >= self._interval_s

    def keep(self, state: State) -> None:
        write_whole(self.path, to_bytes(state))
        self._last = time.monotonic()
