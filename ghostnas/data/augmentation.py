"""Random changes to a batch of images: crops, mirroring, cutout and RandAugment.

All work on uint8 tensors on any device, on all images at once. What is drawn for an image depends
only on its position in the batch: shards of a batch are changed as the whole is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from ghostnas.arrays import Array
from ghostnas.errors import InputError

Shard = tuple[int, int]  # this process's number, and how many there are
WHOLE: Shard = (0, 1)
STREAM = 0xA06  # separates these draws from others with the same seed
CROP_TRIES = 10
WIDEST = 4 / 3  # a crop's width over its height, or vice versa
# Weights of a scaling are whole numbers that add up to this, so that sums of products with 8 bits
# are exact in float32 and TF32: no order of summation, and so no batch size, can change a pixel.
ONE = 1024
GREY = 128  # fills what a geometric operation leaves empty
OPERATIONS = (  # of RandAugment (Cubuk et al., 2020)
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


@dataclass(frozen=True, slots=True)
class PaddedCrop:
    """Images shifted by up to `padding` pixels each way, black where there were none."""

    padding: int = 0

    def __post_init__(self) -> None:
        if self.padding < 0:
            raise InputError(f"a crop with padding {self.padding}: needs 0 or more pixels")


@dataclass(frozen=True, slots=True)
class ResizedCrop:
    """A part of an image, scaled: its share of the area is drawn from `smallest` to `largest`, and
    its width over its height from 3/4 to 4/3 (Szegedy et al., 2015).
    """

    smallest: float
    largest: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.smallest <= self.largest <= 1:
            raise InputError(
                f"a crop of {self.smallest} to {self.largest} of the area: "
                "needs shares above 0 and up to 1, the smaller first"
            )


Crop = PaddedCrop | ResizedCrop


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """What `augment` does, in this order; by default, nothing.

    Attributes:
        flip: whether half of the images are mirrored left to right.
        randaugment: how many operations change an image (Cubuk et al., 2020)...
        magnitude: ... and how strongly, 0 to 30.
        cutout: side of a square that is blanked, in pixels (DeVries and Taylor, 2017).

    Raises:
        InputError: a number is out of range.
    """

    flip: bool = False
    randaugment: int = 0
    magnitude: int = 9
    cutout: int = 0

    def __post_init__(self) -> None:
        if self.randaugment < 0 or not 0 <= self.magnitude <= HIGHEST_MAGNITUDE:
            raise InputError(
                f"randaugment {self.randaugment} operations of magnitude {self.magnitude}: "
                f"needs 0 or more, of 0 to {HIGHEST_MAGNITUDE}"
            )
        if self.cutout < 0:
            raise InputError(f"cutout {self.cutout}: needs 0 or more pixels")


def augment(
    batch: Tensor, augmentation: Augmentation, seed: tuple[int, ...], shard: Shard = WHOLE
) -> Tensor:
    """The batch, (n, 3, height, width) uint8, changed; one in channels_last memory stays so.

    With a `shard` (rank, world) the batch is this process's part of one that is `world` times
    as large, and all numbers are drawn for that.
    """
    rank, world = shard
    count = len(batch)
    mine = slice(rank * count, (rank + 1) * count)
    rng = np.random.default_rng([STREAM, *seed])
    mirrored = rng.random(world * count) < 0.5
    operations = rng.integers(0, len(OPERATIONS), (augmentation.randaugment, world * count))
    negative = rng.random(operations.shape) < 0.5
    centres = rng.random((2, world * count))
    images = batch.permute(0, 2, 3, 1)
    if augmentation.flip:
        images = flip(images, mirrored[mine])
    for drawn, signs in zip(operations[:, mine], negative[:, mine], strict=True):
        images = apply_operations(images, drawn, augmentation.magnitude, signs)
    if augmentation.cutout:
        images = cutout(images, augmentation.cutout, centres[:, mine])
    return images.permute(0, 3, 1, 2)


def draw_parts(count: int, rng: np.random.Generator) -> Array:
    """What `parts` needs for `count` images, (count, CROP_TRIES, 4) from 0 to 1."""
    return rng.random((count, CROP_TRIES, 4))


def parts(crop: ResizedCrop, draws: Array, width: int, height: int) -> Array:
    """Left, top, width and height in pixels, (n, 4), of the part of each of n images of one size.

    It is the first of CROP_TRIES that fits; if none does, as much of the middle as has an
    allowed shape.
    """
    shares = crop.smallest + draws[..., 0] * (crop.largest - crop.smallest)
    shapes = np.exp((2 * draws[..., 1] - 1) * math.log(WIDEST))
    area = shares * width * height
    widths, heights = (np.rint(np.sqrt(a)) for a in (area * shapes, area / shapes))
    fits: Array = (widths >= 1) & (widths <= width) & (heights >= 1) & (heights <= height)
    picked = np.arange(len(draws)), fits.argmax(1)
    wide, high = widths[picked], heights[picked]
    left = np.floor(draws[..., 2][picked] * (width - wide + 1))
    top = np.floor(draws[..., 3][picked] * (height - high + 1))
    part: Array = np.stack([left, top, wide, high], 1)
    most_wide = min(width, round(height * WIDEST))
    most_high = min(height, round(width * WIDEST))
    middle = ((width - most_wide) // 2, (height - most_high) // 2, most_wide, most_high)
    return np.where(np.any(fits, 1)[:, None], part, middle).astype(np.int64)


def move(
    images: Tensor, whole: int, rng: np.random.Generator, crop: PaddedCrop, mine: slice
) -> Tensor:
    """Images (n, height, width, 3), each shifted, black around it.

    A window of a padded image is rows of neighbouring bytes, and so is copied by rows: 0.3 ms
    for 64 CIFAR images on one core, where indexing rows and columns takes 1.0.
    """
    pad = crop.padding
    if not pad:
        return images
    tops, lefts = torch.from_numpy(rng.integers(0, 2 * pad + 1, (2, whole))[:, mine]).to(
        images.device
    )
    count, height, width, _ = images.shape
    padded = images.new_zeros(count, height + 2 * pad, width + 2 * pad, 3)
    padded[:, pad : pad + height, pad : pad + width] = images
    row = padded.stride(1)
    windows = padded.as_strided(
        (count, 2 * pad + 1, 2 * pad + 1, height, width * 3), (padded.stride(0), row, 3, row, 1)
    )
    picked = windows[torch.arange(count, device=images.device), tops, lefts]
    return picked.view(count, height, width, 3)


def scale(images: Tensor, cut: Array, size: int) -> Tensor:
    """The parts `cut` (n or 1, 4) of images (n, height, width, 3), scaled to `size` x `size`:
    bilinear, over all pixels that a new one covers.
    """
    count, height, width, _ = images.shape
    left, top, wide, high = torch.from_numpy(cut.astype(np.float32)).to(images.device).T
    values = images.float().view(count, height, width * 3)
    values = _rounded(_weights(top, high, height, size) @ values)
    values = values.view(count, size, width, 3).transpose(1, 2).reshape(count, width, size * 3)
    values = _rounded(_weights(left, wide, width, size) @ values)
    turned = values.to(torch.uint8).view(count, size, size, 3)
    return turned.transpose(1, 2).contiguous()


def _rounded(sums: Tensor) -> Tensor:
    return sums.add_(ONE // 2).mul_(1 / ONE).floor_()


def _weights(start: Tensor, extent: Tensor, pixels: int, size: int) -> Tensor:
    """(n, size, pixels): the weight of each old pixel in each new one; whole numbers, sum ONE."""
    scale = (extent / size)[:, None, None]
    centres = (
        start[:, None, None] + (torch.arange(size, device=start.device)[:, None] + 0.5) * scale
    )
    distance = (torch.arange(pixels, device=start.device) + 0.5 - centres).abs_()
    weights = distance.div_(-scale.clamp(min=1)).add_(1).clamp_(min=0)
    weights = weights.mul_(ONE / weights.sum(2, keepdim=True)).round_()
    largest = weights.argmax(2, keepdim=True)
    return weights.scatter_add_(2, largest, ONE - weights.sum(2, keepdim=True))


def flip(images: Tensor, mirrored: Array) -> Tensor:
    """Images (n, height, width, 3) of which the `mirrored` ones (n,) are flipped left to right."""
    which = torch.from_numpy(np.flatnonzero(mirrored)).to(images.device)
    return images.index_copy(0, which, images[which].flip(2))


def cutout(images: Tensor, side: int, centres: Array) -> Tensor:
    """Images (n, height, width, 3) with a grey square each around `centres` (2, n), which are
    shares of height and width; it may lie half outside.
    """
    _, height, width, _ = images.shape
    covered = []
    for extent, share in zip((height, width), centres, strict=True):
        first = torch.from_numpy((share * extent).astype(np.int64) - side // 2)[:, None]
        pixel = torch.arange(extent)
        covered.append((pixel >= first) & (pixel < first + side))
    rows, columns = (each.to(images.device) for each in covered)
    return images.masked_fill((rows[:, :, None] & columns[:, None])[..., None], GREY)


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
