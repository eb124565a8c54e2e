"""The fourteen operations of RandAugment (Cubuk et al., 2020) on batches; draws nothing itself."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ghostnas.arrays import Array

GREY = 128  # fills what a geometric operation leaves empty
OPERATIONS = (
    *("identity", "autocontrast", "equalize", "posterize", "solarize"),
    *("color", "contrast", "brightness", "sharpness"),
    *("rotate", "shear-x", "shear-y", "translate-x", "translate-y"),
)
GEOMETRIC = ("rotate", "shear-x", "shear-y", "translate-x", "translate-y")
HIGHEST_MAGNITUDE = 30
# At the highest magnitude: degrees, shares of a side, shares of a factor, bits.
ROTATION, SHEAR, TRANSLATION, ENHANCEMENT, POSTERIZED_BITS = 30.0, 0.3, 150 / 331, 0.9, 4
# Of grey, in 65536ths, as ITU-R 601-2 weighs red, green and blue.
LUMA = (19595, 38470, 7471)


def apply_operations(images: Tensor, drawn: Array, magnitude: int, negative: Array) -> Tensor:
    """Images (n, height, width, 3), each after the one of OPERATIONS whose number is `drawn` (n,);
    `negative` (n,) reverses those that have a direction.

    At the highest magnitude they are as strong as in AutoAugment (Cubuk et al., 2019, table 6).
    Geometric operations interpolate between pixels and keep the scale of square images.
    """
    share = magnitude / HIGHEST_MAGNITUDE
    signs = np.where(negative, -1.0, 1.0)
    images = images.clone()
    geometric = np.isin(drawn, [OPERATIONS.index(name) for name in GEOMETRIC])
    for number, name in enumerate(OPERATIONS):
        members = np.flatnonzero(drawn == number)
        if name not in GEOMETRIC and len(members):
            which = torch.from_numpy(members).to(images.device)
            factors = torch.tensor(1 + ENHANCEMENT * share * signs[members], dtype=torch.float32)
            images[which] = _change(images[which], name, share, factors.to(images.device))
    if (members := np.flatnonzero(geometric)).size:
        which = torch.from_numpy(members).to(images.device)
        matrices = np.stack([_matrix(OPERATIONS[drawn[i]], share * signs[i]) for i in members])
        images[which] = _warped(images[which], matrices)
    return images


def _change(images: Tensor, name: str, share: float, factors: Tensor) -> Tensor:
    """One operation that leaves every pixel in its place."""
    match name:
        case "autocontrast":
            return _autocontrast(images)
        case "equalize":
            return _equalize(images)
        case "posterize":
            dropped = round(POSTERIZED_BITS * share)
            return images & (0xFF << dropped & 0xFF)
        case "solarize":
            return torch.where(images >= 255 * (1 - share), 255 - images, images)
        case "color":
            return _blend(_grey(images).expand_as(images), images, factors)
        case "contrast":
            grey = _grey(images)
            mean = grey.sum((1, 2, 3), keepdim=True).div(grey[0].numel()).round()
            return _blend(mean.expand_as(images), images, factors)
        case "brightness":
            return _blend(torch.zeros_like(images), images, factors)
        case "sharpness":
            return _blend(_smooth(images), images, factors)
        case "identity":
            return images
    raise ValueError(name)


def _blend(weak: Tensor, images: Tensor, factors: Tensor) -> Tensor:
    """0 gives `weak`, 1 the images, and beyond 1 they move further away from it."""
    mixed = weak.float().lerp(images.float(), factors[:, None, None, None])
    return mixed.round_().clamp_(0, 255).to(torch.uint8)


def _grey(images: Tensor) -> Tensor:
    """(n, height, width, 1) uint8"""
    red, green, blue = torch.split(images.int(), 1, dim=3)
    return ((red * LUMA[0] + green * LUMA[1] + blue * LUMA[2] + 0x8000) >> 16).to(torch.uint8)


def _smooth(images: Tensor) -> Tensor:
    """Each inner pixel a mean of the nine around it, in which it has weight 5."""
    if min(images.shape[1:3]) < 3:
        return images
    planes = images.permute(0, 3, 1, 2).float()
    inner = F.avg_pool2d(planes, 3, stride=1) * 9 + planes[:, :, 1:-1, 1:-1] * 4
    smooth = images.clone()
    smooth[:, 1:-1, 1:-1] = (inner / 13).round_().to(torch.uint8).permute(0, 2, 3, 1)
    return smooth


def _autocontrast(images: Tensor) -> Tensor:
    """Each channel stretched to 0 ... 255; one of a single value is left as it is."""
    low, high = (bound(images, (1, 2), keepdim=True).int() for bound in (torch.amin, torch.amax))
    spread = high - low
    stretched = (images.int() - low) * 255 // spread.clamp(min=1)
    return torch.where(spread > 0, stretched.to(torch.uint8), images)


def _equalize(images: Tensor) -> Tensor:
    """Each channel with its values spread so that their histogram is even, as Pillow does it."""
    count, height, width, _ = images.shape
    values = images.permute(0, 3, 1, 2).reshape(count * 3, height * width).long()
    histogram = torch.zeros(count * 3, 256, dtype=torch.long, device=images.device)
    histogram.scatter_add_(1, values, torch.ones_like(values))
    last = histogram.gather(1, values.amax(1, keepdim=True))
    step = (height * width - last) // 255
    below = histogram.cumsum(1) - histogram
    table = ((below + step // 2) // step.clamp(min=1)).clamp_(max=255)
    table = torch.where(step > 0, table, torch.arange(256, device=images.device))
    equal = table.gather(1, values).to(torch.uint8)
    return equal.view(count, 3, height, width).permute(0, 2, 3, 1)


def _matrix(name: str, share: float) -> Array:
    """(2, 3): from positions in the new image to those in the old, both from -1 to 1."""
    matrix = np.eye(2, 3, dtype=np.float32)
    angle = math.radians(ROTATION * share)
    match name:
        case "rotate":
            matrix[:, :2] = (math.cos(angle), -math.sin(angle)), (math.sin(angle), math.cos(angle))
        case "shear-x":
            matrix[0, 1] = SHEAR * share
        case "shear-y":
            matrix[1, 0] = SHEAR * share
        case "translate-x":
            matrix[0, 2] = 2 * TRANSLATION * share
        case "translate-y":
            matrix[1, 2] = 2 * TRANSLATION * share
        case _:
            raise ValueError(name)
    return matrix


def _warped(images: Tensor, matrices: Array) -> Tensor:
    """Images resampled at the positions in `matrices` (n, 2, 3), grey outside the image."""
    planes = images.permute(0, 3, 1, 2).float() - GREY
    places = F.affine_grid(
        torch.from_numpy(matrices).to(images.device), list(planes.shape), align_corners=False
    )
    found = F.grid_sample(planes, places, align_corners=False) + GREY
    return found.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
