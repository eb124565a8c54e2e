"""1x1 convolutions that train in mixed precision on a CPU that multiplies bfloat16 natively.

There a product of bfloat16 matrices takes half the time of one in float32 (100 against 45 GMAC/s
on one core of a Zen 4), and rounding the operands next to none. Sums are float32 inside a product;
weights, batch norms and depthwise convolutions stay float32, which autocast would change: with it
GhostNet trained at little more than half the speed of float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

NATIVE = ("avx512_bf16", "amx_bf16")  # as PyTorch names what a processor can do


class PointwiseConv2d(nn.Conv2d):
    """A 1x1 convolution with stride 1, in float32 until `use_bfloat16` says otherwise."""

    in_bfloat16 = False

    def forward(self, x: Tensor) -> Tensor:
        learning = self.training and torch.is_grad_enabled()
        if not (self.in_bfloat16 and learning and x.device.type == "cpu"):
            return super().forward(x)
        y: Tensor = _Pointwise.apply(x, self.weight)  # type: ignore[no-untyped-call]
        return y if self.bias is None else y + self.bias[:, None, None]


def native_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 quickly; False where PyTorch cannot tell."""
    capabilities = getattr(torch.cpu, "get_capabilities", None)  # not in PyTorch 2.6
    told = capabilities() if capabilities else {}
    return any(told.get(name, False) for name in NATIVE)


def use_bfloat16(net: nn.Module) -> None:
    """Let the 1x1 convolutions of `net` train in bfloat16 from now on."""
    for module in net.modules():
        if isinstance(module, PointwiseConv2d):
            module.in_bfloat16 = True


class _Pointwise(torch.autograd.Function):
    """A matrix product over the channels; channels-last maps already are such matrices."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        pixels = x.permute(0, 2, 3, 1)
        rows, kernel = _rows(pixels), weight.flatten(1).bfloat16()
        ctx.save_for_backward(rows, kernel)
        ctx.pixels = pixels.shape[:3]
        return _maps(rows @ kernel.t(), ctx.pixels)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        rows, kernel = ctx.saved_tensors
        upstream = _rows(gradients[0].permute(0, 2, 3, 1))
        of_input = _maps(upstream @ kernel, ctx.pixels) if ctx.needs_input_grad[0] else None
        return of_input, (upstream.t() @ rows).float()[:, :, None, None]


def _rows(pixels: Tensor) -> Tensor:
    """(n, height, width, channels) as a bfloat16 matrix with one row per pixel."""
    return pixels.bfloat16().reshape(-1, pixels.shape[3])


def _maps(rows: Tensor, pixels: torch.Size) -> Tensor:
    """The rows of a matrix as float32 (n, channels, height, width), channels last in memory."""
    return rows.float().view(*pixels, rows.shape[1]).permute(0, 3, 1, 2)
