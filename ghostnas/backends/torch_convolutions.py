"""Convolutions that train faster on a CPU than PyTorch's own, and in inference are the same.

For two kinds of depthwise ones PyTorch 2.13 (oneDNN) takes slow paths, on one AVX-512 core and 32
images:

- Those that make several maps of each, as in Ghost modules with a ratio s above 2: 231 groups
  that make 462 maps of 4x4 with 5x5 kernels take 2.9 ms, 462 groups that make 462 take 0.5 (for
  the gradient of the input 3.9 and 0.3).
- The gradient of kernels wider than 3: of 960 maps of 4x4 with 5x5 kernels it takes 7.5 ms. For
  5x3 kernels without padding oneDNN has a faster path, so that two such windows of the kernel,
  over maps padded beforehand, take 2.4.

1x1 convolutions may train in mixed precision where a CPU multiplies bfloat16 natively: a product of
bfloat16 matrices then takes half the time of one in float32 (100 against 45 GMAC/s on one core of a
Zen 4), and rounding the operands next to none. Sums are float32 inside a product;
weights, batch norms and depthwise convolutions stay float32, which autocast would change: with it
GhostNet trained at little more than half the speed of float32.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

WINDOW = 3  # columns of a kernel whose gradient is quick
NATIVE = ("avx512_bf16", "amx_bf16")  # as PyTorch names what a processor can do


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise convolution: the same numbers as `nn.Conv2d`."""

    def forward(self, x: Tensor) -> Tensor:
        slow = self.in_channels < self.out_channels or self.kernel_size[1] > WINDOW
        known = self.kernel_size[1] % 2 == 1
        learning = self.training and torch.is_grad_enabled()
        if not (slow and known and learning and x.device.type == "cpu"):
            return super().forward(x)
        y: Tensor = _Depthwise.apply(x, self.weight, self.stride, self.padding)  # type: ignore[no-untyped-call]
        return y if self.bias is None else y + self.bias[:, None, None]


class _Depthwise(torch.autograd.Function):
    """Each input map is repeated, so that every output has one of its own."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        groups = weight.shape[0]
        return F.conv2d(_repeated(x, groups), weight, None, stride, padding, 1, groups)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, weight = ctx.saved_tensors
        groups, inputs = weight.shape[0], x.shape[1]
        repeated = _repeated(x, groups)
        of_input = None
        if ctx.needs_input_grad[0]:
            of_input = _gradient(gradients[0], repeated, weight, ctx.stride, ctx.padding, "x")
            if groups > inputs:
                copies = (inputs, groups // inputs)
                of_input = of_input.unflatten(1, copies).sum(2)  # type: ignore[no-untyped-call]
        of_weight = _weight_gradient(gradients[0], repeated, weight, ctx.stride, ctx.padding)
        return of_input, of_weight, None, None


def _weight_gradient(
    of_output: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> Tensor:
    """Window by window, so that none is wider than `WINDOW`."""
    rows, width = weight.shape[2:]
    if width <= WINDOW:
        return _gradient(of_output, x, weight, stride, padding, "weight")
    # What all positions of a window see; pixels that none sees are cut off by negative padding.
    seen = [(of_output.shape[at] - 1) * stride[at - 2] + (rows, WINDOW)[at - 2] for at in (2, 3)]
    above = padding[0]
    found = torch.empty_like(weight)
    for first in range(0, width - 1, WINDOW - 1):  # each shares a column with the one before
        window = slice(first, first + WINDOW)
        left = padding[1] - first
        edges = [left, seen[1] - left - x.shape[3], above, seen[0] - above - x.shape[2]]
        pixels = F.pad(x, edges)
        kernel = weight[..., window]
        found[..., window] = _gradient(of_output, pixels, kernel, stride, (0, 0), "weight")
    return found


def _gradient(
    of_output: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    wanted: str,
) -> Tensor:
    """The gradient of x or of weight."""
    mask, groups = [wanted == "x", wanted == "weight", False], weight.shape[0]
    found: tuple[Tensor, ...] = torch.ops.aten.convolution_backward(
        of_output, x, weight, None, stride, padding, [1, 1], False, [0, 0], groups, mask
    )
    return found[mask.index(True)]


def _repeated(x: Tensor, channels: int) -> Tensor:
    """Each map of x repeated in place, `channels` maps in all."""
    copies = channels // x.shape[1]
    return x if copies == 1 else x.repeat_interleave(copies, 1)


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
