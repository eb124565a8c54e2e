import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps

from ghostnas.data import augmentation as augment_module
from ghostnas.data.augmentation import (
    GREY,
    HIGHEST_MAGNITUDE,
    OPERATIONS,
    Augmentation,
    PaddedCrop,
    ResizedCrop,
    apply_operations,
    augment,
    cutout,
    draw_parts,
    flip,
    move,
    parts,
    scale,
)
from ghostnas.errors import InputError

EVERYTHING = Augmentation(flip=True, randaugment=3, magnitude=15, cutout=6)


def noise(count, height=16, width=16, seed=0):
    """(n, height, width, 3) uint8, smooth enough to look like photographs."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, height // 4, width // 4, 3))
    return torch.from_numpy(coarse.repeat(4, 1).repeat(4, 2).astype(np.uint8))


def as_batch(images):
    return images.permute(0, 3, 1, 2)


# augment


def test_the_same_seed_changes_a_batch_the_same_way_and_another_does_not():
    batch = as_batch(noise(8))
    before = batch.clone()
    once, again, other = (augment(batch, EVERYTHING, seed) for seed in ((1, 2), (1, 2), (1, 3)))
    assert torch.equal(batch, before)
    assert torch.equal(once, again)
    assert not torch.equal(once, other)
    assert not torch.equal(once, batch)


@pytest.mark.parametrize("world", [2, 4])
def test_shards_together_are_the_whole(world):
    batch = as_batch(noise(32))
    whole = augment(batch, EVERYTHING, (7,))
    pieces = [
        augment(piece, EVERYTHING, (7,), (rank, world))
        for rank, piece in enumerate(batch.chunk(world))
    ]
    assert torch.equal(torch.cat(pieces), whole)


def test_a_batch_stays_in_channels_last_memory_and_nothing_changes_nothing():
    batch = as_batch(noise(4))
    assert torch.equal(augment(batch, Augmentation(), (0,)), batch)
    found = augment(batch, EVERYTHING, (0,))
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert (found.shape, found.dtype) == (batch.shape, torch.uint8)


def test_half_of_the_images_are_mirrored():
    batch = as_batch(noise(400))
    found = augment(batch, Augmentation(flip=True), (5,))
    mirrored = (found == batch.flip(3)).flatten(1).all(1)
    left = (found == batch).flatten(1).all(1)
    assert (mirrored | left).all()
    assert 160 < int(mirrored.sum()) < 240


@pytest.mark.parametrize(
    "numbers", [{"randaugment": -1}, {"magnitude": 31}, {"magnitude": -1}, {"cutout": -1}]
)
def test_numbers_out_of_range_are_refused(numbers):
    with pytest.raises(InputError, match="needs 0 or more"):
        Augmentation(**numbers)


def test_flip_turns_the_marked_ones_only():
    images = noise(3)
    found = flip(images, np.array([True, False, True]))
    for number, expected in enumerate((images[0].flip(1), images[1], images[2].flip(1))):
        assert torch.equal(found[number], expected)


def test_cutout_blanks_a_square_around_its_centre_that_may_leave_the_image():
    images = torch.full((3, 16, 16, 3), 255, dtype=torch.uint8)
    centres = np.array([[0.5, 0.0, 0.999], [0.5, 0.5, 0.999]])  # rows, then columns
    found = cutout(images, 6, centres)[..., 0] == GREY
    expected = torch.zeros(3, 16, 16, dtype=torch.bool)
    expected[0, 5:11, 5:11] = True
    expected[1, 0:3, 5:11] = True
    expected[2, 12:16, 12:16] = True
    assert torch.equal(found, expected)


# Crops


@pytest.mark.parametrize(("width", "height"), [(500, 375), (32, 32), (100, 1000), (1000, 90)])
def test_parts_lie_inside_and_have_the_shares_and_shapes_asked_for(width, height):
    crop = ResizedCrop(0.2, 0.9)
    found = parts(crop, draw_parts(500, np.random.default_rng(0)), width, height)
    left, top, wide, high = found.T
    assert min(left.min(), top.min()) >= 0
    assert (left + wide).max() <= width
    assert (top + high).max() <= height
    shapes = wide / high
    assert shapes.min() > 0.75 - 0.06
    assert shapes.max() < 4 / 3 + 0.1
    if width / height == pytest.approx(1, abs=0.4):
        shares = wide * high / (width * height)
        assert 0.18 < shares.min() < 0.25
        assert 0.85 < shares.max() < 0.93
        assert abs(np.log(shapes).mean()) < 0.03
        assert 0.45 < (left / np.maximum(width - wide, 1)).mean() < 0.55


def test_an_image_that_no_part_fits_gives_its_middle():
    draws = draw_parts(3, np.random.default_rng(0))
    found = parts(ResizedCrop(1.0), draws, 400, 30)
    assert found.tolist() == [[180, 0, 40, 30]] * 3


@pytest.mark.parametrize("shares", [(0, 1), (0.5, 0.4), (0.5, 1.1), (-0.1, 1)])
def test_impossible_shares_are_refused(shares):
    with pytest.raises(InputError, match="needs shares above 0"):
        ResizedCrop(*shares)


def test_a_negative_padding_is_refused():
    with pytest.raises(InputError, match="padding -1"):
        PaddedCrop(-1)


def test_moved_images_are_windows_of_the_padded_ones():
    images, pad = noise(40, 8, 12), 3
    found = move(images, 40, np.random.default_rng(4), PaddedCrop(pad), slice(None))
    padded = np.pad(images.numpy(), ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    tops, lefts = np.random.default_rng(4).integers(0, 2 * pad + 1, (2, 40))
    assert {*tops, *lefts} == set(range(7))
    for image, whole, top, left in zip(found.numpy(), padded, tops, lefts, strict=True):
        np.testing.assert_array_equal(image, whole[top : top + 8, left : left + 12])


@pytest.mark.parametrize("size", [8, 24, 32, 50])
@pytest.mark.parametrize("box", [(0, 0, 32, 24), (5, 2, 17, 20), (30, 22, 2, 2)])
def test_scaled_parts_are_those_that_pillow_makes(size, box):
    images = noise(2, 24, 32)
    left, top, width, height = box
    found = scale(images, np.array([box, (0, 0, 32, 24)]), size)
    for image, source, cut in zip(found, images, (box, (0, 0, 32, 24)), strict=True):
        left, top, width, height = cut
        expected = Image.fromarray(source.numpy()).resize(
            (size, size), Image.Resampling.BILINEAR, box=(left, top, left + width, top + height)
        )
        assert np.abs(image.numpy().astype(int) - np.asarray(expected).astype(int)).max() <= 1


def test_weights_of_a_scaling_are_whole_and_add_up():
    for size in (7, 32, 64):
        found = augment_module._weights(torch.tensor([3.0]), torch.tensor([21.0]), 32, size)
        assert torch.equal(found, found.round())
        assert torch.equal(found.sum(2), torch.full((1, size), float(augment_module.ONE)))


# RandAugment's operations, as Pillow does them


def enhanced(kind):
    return lambda image, share, sign: kind(image).enhance(1 + sign * 0.9 * share)


PILLOW = {
    "identity": lambda image, share, sign: image,
    "autocontrast": lambda image, share, sign: ImageOps.autocontrast(image),
    "equalize": lambda image, share, sign: ImageOps.equalize(image),
    "posterize": lambda image, share, sign: ImageOps.posterize(image, 8 - round(4 * share)),
    "solarize": lambda image, share, sign: ImageOps.solarize(image, math.ceil(255 * (1 - share))),
    "color": enhanced(ImageEnhance.Color),
    "contrast": enhanced(ImageEnhance.Contrast),
    "brightness": enhanced(ImageEnhance.Brightness),
    "sharpness": enhanced(ImageEnhance.Sharpness),
}


def changed(images, name, magnitude, negative=False):
    drawn = np.full(len(images), OPERATIONS.index(name))
    return apply_operations(images, drawn, magnitude, np.full(len(images), negative))


@pytest.mark.parametrize("name", PILLOW)
@pytest.mark.parametrize("magnitude", [0, 9, 17, 30])
@pytest.mark.parametrize("negative", [False, True])
def test_an_operation_on_values_is_that_of_pillow(name, magnitude, negative):
    images = noise(3, 32, 48, seed=magnitude) // 2 + 60  # so that contrast can be stretched
    found = changed(images, name, magnitude, negative).numpy()
    for image, source in zip(found, images.numpy(), strict=True):
        expected = PILLOW[name](
            Image.fromarray(source), magnitude / HIGHEST_MAGNITUDE, -1 if negative else 1
        )
        difference = np.abs(image.astype(int) - np.asarray(expected).astype(int))
        assert difference.max() <= 1  # Pillow truncates decimals
    if magnitude and name != "identity":
        assert not np.array_equal(found, images.numpy())


@pytest.mark.parametrize("name", ["autocontrast", "equalize"])
def test_an_image_of_one_value_is_left(name):
    images = torch.full((1, 8, 8, 3), 77, dtype=torch.uint8)
    assert torch.equal(changed(images, name, 30), images)


def centre_of(image):
    """Row and column of the mass of what is not grey."""
    mass = np.abs(image[..., 0].astype(int) - GREY)
    rows, columns = np.mgrid[: image.shape[0], : image.shape[1]]
    return np.array([(mass * rows).sum(), (mass * columns).sum()]) / mass.sum()


@pytest.mark.parametrize(
    ("name", "move_of"),
    [
        ("translate-x", lambda row, column: (0, -0.3 * 150 / 331 * 64)),
        ("translate-y", lambda row, column: (-0.3 * 150 / 331 * 64, 0)),
        ("shear-x", lambda row, column: (0, -0.09 * row)),
        ("shear-y", lambda row, column: (-0.09 * column, 0)),
        (
            "rotate",
            lambda row, column: (
                math.cos(math.radians(9)) * row - math.sin(math.radians(9)) * column - row,
                math.sin(math.radians(9)) * row + math.cos(math.radians(9)) * column - column,
            ),
        ),
    ],
)
def test_an_operation_on_places_moves_a_dot_as_far_as_it_should(name, move_of):
    images = torch.full((1, 64, 64, 3), GREY, dtype=torch.uint8)
    images[0, 40:44, 20:24] = 255
    middle = np.array([31.5, 31.5])
    before = centre_of(images[0].numpy())
    expected = np.array(move_of(*(before - middle)))
    one, other = (
        centre_of(changed(images, name, 9, negative)[0].numpy()) - before
        for negative in (False, True)
    )
    np.testing.assert_allclose(one, expected, atol=0.2)
    assert np.dot(one, other) < 0
    assert np.linalg.norm(other) == pytest.approx(np.linalg.norm(one), rel=0.15)


def test_a_mixed_batch_is_each_image_alone():
    images = noise(56)
    drawn = np.arange(56) % len(OPERATIONS)
    negative = np.arange(56) % 3 == 0
    found = apply_operations(images, drawn, 12, negative)
    for index in range(56):
        one = slice(index, index + 1)
        alone = apply_operations(images[one], drawn[one], 12, negative[one])
        assert torch.equal(found[one], alone), OPERATIONS[drawn[index]]


def test_all_fourteen_operations_are_drawn():
    assert len(OPERATIONS) == 14
    images = as_batch(noise(1).expand(300, -1, -1, -1))
    found = augment(images, Augmentation(randaugment=1, magnitude=20), (3,))
    seen = {image.numpy().tobytes() for image in found.permute(0, 2, 3, 1).contiguous()}
    # Four have no direction; posterize and solarize neither; eight have two.
    assert 18 <= len(seen) <= 4 + 2 + 2 * 9
