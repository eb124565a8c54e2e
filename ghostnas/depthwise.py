"""Depthwise convolutions that make several maps of each, trained quickly on a CPU.

PyTorch 2.13 (oneDNN) runs a convolution of 231 groups that makes 462 maps several times slower than
one of 462 groups that makes 462: 32 pictures, 4x4, 5x5 kernels, one AVX-512 core: 2.9 against 0.5
ms, and 3.9 against 0.3 for the gradient of its input. Ghost modules with a ratio s above 2 have
such.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

LARGEST_REPEATED = 3  # kernel; the gradient of larger ones is quicker by the groups as they are


class MultiplyingConv2d(nn.Conv2d):
    """A depthwise convolution with more outputs than inputs: the same numbers as `nn.Conv2d`."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or x.device.type != "cpu" or not torch.is_grad_enabled():
            return super().forward(x)
        y: Tensor = _Repeated.apply(x, self.weight, self.stride, self.padding)  # type: ignore[no-untyped-call]
        return y if self.bias is None else y + self.bias[:, None, None]


class _Repeated(torch.autograd.Function):
    """Each input map stands beside its copies, so that every output has one of its own."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride, ctx.padding = stride, padding
        outputs = weight.shape[0]
        repeated = x.repeat_interleave(outputs // x.shape[1], 1)
        return F.conv2d(repeated, weight, None, stride, padding, 1, outputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, weight = ctx.saved_tensors
        outputs, inputs = weight.shape[0], x.shape[1]
        repeated = x.repeat_interleave(outputs // inputs, 1)

        def gradient(of: Tensor, groups: int, wanted: list[bool]) -> Any:
            return torch.ops.aten.convolution_backward(
                gradients[0],
                of,
                weight,
                None,
                ctx.stride,
                ctx.padding,
                [1, 1],
                False,
                [0, 0],
                groups,
                wanted,
            )

        copies, weights, _ = gradient(
            repeated, outputs, [True, weight.shape[2] <= LARGEST_REPEATED, False]
        )
        if weights is None:
            weights = gradient(x, inputs, [False, True, False])[1]
        return copies.unflatten(1, (inputs, outputs // inputs)).sum(2), weights, None, None
