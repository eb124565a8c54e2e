"""Several processes that train one network: which one this is, and sums over all of them.

`torchrun` starts them and describes them in the environment; without it there is one.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from ghostnas.errors import InputError

TORCHRUN_SETS = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """This process among all those training: its rank out of `size`, and its device."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def total(self, *values: float) -> list[float]:
        """Each value summed over all processes."""
        if self.size == 1:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(sums)
        return [float(each) for each in sums]

    def from_first(self, content: bytes | None) -> bytes | None:
        """The first process's `content`, in all processes."""
        if self.size == 1:
            return content
        box: list[Any] = [content]
        dist.broadcast_object_list(box, src=0, device=self.device)
        given: bytes | None = box[0]
        return given


@contextmanager
def join(device: str = "auto") -> Iterator[World]:
    """The processes that ``torchrun`` started, or this one alone, until the block ends.

    Args:
        device: ``cpu``, ``cuda`` or ``auto``, which is CUDA if available.

    Raises:
        InputError: CUDA is requested but missing, or there are too few GPUs; or the environment
            sets several processes but not where they meet.
    """
    cuda = on_cuda(device)
    if os.environ.get("WORLD_SIZE", "1") == "1":
        yield World(device=torch.device("cuda" if cuda else "cpu"))
        return
    if missing := [name for name in TORCHRUN_SETS if not os.environ.get(name)]:
        raise InputError(
            f"WORLD_SIZE is set but {missing[0]} is not: start several processes with torchrun"
        )
    local = torch.device("cpu")
    if cuda:
        number = int(os.environ["LOCAL_RANK"])
        if number >= torch.cuda.device_count():
            raise InputError(
                f"process {number} has no GPU of its own: there are {torch.cuda.device_count()}; "
                "start fewer with --nproc-per-node"
            )
        local = torch.device("cuda", number)
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield World(device=local, rank=dist.get_rank(), size=dist.get_world_size())
        dist.barrier()  # torchrun kills all if one fails: let the first write its files
    finally:
        gc.collect()  # a network that still holds the group keeps threads alive that abort at exit
        dist.destroy_process_group()


def on_cuda(device: str) -> bool:
    """Whether ``cpu``, ``cuda`` or ``auto``, which is CUDA if available, means CUDA here.

    Raises:
        InputError: CUDA is requested but not available.
    """
    found = torch.cuda.is_available()
    if device == "cuda" and not found:
        raise InputError("device cuda: PyTorch finds none here; use --device cpu")
    return found and device != "cpu"


class _Sum(torch.autograd.Function):
    """The sum over all processes; its gradient is the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone()
        dist.all_reduce(total)
        return total


class SyncBatchNorm(nn.BatchNorm2d):
    """Batch norm over the batches of all processes, on any device; PyTorch's own needs CUDA.

    In training, each process must hold the same number of values. Statistics are in float32.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return self._normalised(x.float()).to(x.dtype)

    def _normalised(self, x: Tensor) -> Tensor:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        mean = _mean_of_all(x.mean((0, 2, 3)))
        centred = x - mean[:, None, None]
        variance = _mean_of_all(centred.square().mean((0, 2, 3)))
        with torch.no_grad():
            count = dist.get_world_size() * x.numel() / x.shape[1]
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
            self.num_batches_tracked += 1
        scale = self.weight * (variance + self.eps).rsqrt()
        return torch.addcmul(self.bias[:, None, None], centred, scale[:, None, None])


def _mean_of_all(values: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(values)  # type: ignore[no-untyped-call]
    return total / dist.get_world_size()


def synchronise(net: nn.Module) -> None:
    """Make every batch norm of `net` span the batches of all processes.

    The modules stay the same objects, since the network also refers to them by node.
    """
    for module in net.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = SyncBatchNorm
