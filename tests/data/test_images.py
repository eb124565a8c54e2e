import io

import numpy as np
import pytest
from PIL import Image

from ghostnas.data import images as images_module
from ghostnas.data.images import PictureFiles, Pictures, decode_crop, decode_square, subset
from ghostnas.errors import InputError

# Files of every kind


def ramp():
    """A grey ramp from black to white, with an even middle."""
    return np.tile(np.arange(24) * 255 // 23, (24, 1))


MODES = {
    "grey": lambda: Image.fromarray(ramp().astype(np.uint8)),
    "grey-alpha": lambda: Image.fromarray(ramp().astype(np.uint8)).convert("LA"),
    "rgba": lambda: Image.fromarray(ramp().astype(np.uint8)).convert("RGBA"),
    "palette": lambda: Image.fromarray(ramp().astype(np.uint8)).convert("P"),
    "palette-transparent": lambda: transparent_palette(),
    "bits": lambda: Image.fromarray(ramp() > 127),
    "16-bit": lambda: Image.fromarray((ramp() * 257).astype(np.uint16)),
}


def transparent_palette():
    picture = Image.fromarray(ramp().astype(np.uint8)).convert("P")
    picture.info["transparency"] = bytes(range(256))
    return picture


@pytest.mark.parametrize("mode", MODES)
def test_images_of_every_mode_become_rgb(tmp_path, mode):
    path = tmp_path / "picture.png"
    MODES[mode]().save(path)
    expected = np.where(ramp() > 127, 255, 0) if mode == "bits" else ramp()
    found = decode_square(path, 24)
    assert (found.shape, found.dtype) == ((24, 24, 3), np.uint8)
    np.testing.assert_allclose(found, np.repeat(expected[..., None], 3, 2), atol=1)


@pytest.mark.parametrize("suffix", [s for s in images_module.SUFFIXES if s != ".pgm"])
def test_files_of_every_known_suffix_are_read(tmp_path, suffix):
    colour = (200, 100, 40)
    Image.new("RGB", (24, 24), colour).save(tmp_path / f"picture{suffix}")
    found = decode_square(tmp_path / f"picture{suffix}", 8)
    assert np.abs(found.astype(int) - colour).max() <= 4


def test_a_cmyk_jpeg_is_read_in_its_colours(tmp_path):
    # Pillow writes CMYK as Adobe does, inverted; red is no cyan and all magenta and yellow.
    Image.new("CMYK", (24, 24), (0, 255, 255, 0)).save(tmp_path / "red.jpg")
    found = decode_square(tmp_path / "red.jpg", 8).astype(int)
    assert np.abs(found - (255, 0, 0)).max() <= 4


def test_a_ycck_jpeg_is_read_in_its_colours(tmp_path):
    raw = io.BytesIO()
    Image.new("CMYK", (24, 24), (0, 255, 255, 0)).save(raw, "jpeg")
    content = bytearray(raw.getvalue())
    at = content.index(b"Adobe")
    assert content[at + 11] == 0  # 0 says plain CMYK; 2 says that the first three are YCbCr
    content[at + 11] = 2
    (tmp_path / "ycck.jpg").write_bytes(content)
    found = decode_square(tmp_path / "ycck.jpg", 8).astype(int)
    with Image.open(tmp_path / "ycck.jpg") as picture:
        assert picture.mode == "CMYK"
        expected = np.asarray(picture.convert("RGB"))[12, 12]
    assert np.abs(found - expected).max() <= 2
    assert np.abs(expected.astype(int) - (255, 0, 0)).max() > 100  # it was read as YCCK


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_are_turned_as_their_tags_say(tmp_path, suffix, orientation):
    """Each file is what a camera held that way writes of the same scene, its top left bright."""
    scene = np.zeros((64, 96, 3), np.uint8)
    scene[:32, :48] = 250
    held = Image.fromarray(scene)
    undo = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
    if turn := undo.get(orientation, images_module.TURNS.get(orientation)):
        held = held.transpose(turn)
    tags = Image.Exif()
    tags[images_module.ORIENTATION] = orientation
    held.save(tmp_path / f"scene.{suffix}", exif=tags)

    def left_half(width, height):
        assert (width, height) == (96, 64)
        return 0, 0, 48, 64

    for size in (32, 8):  # at 8, a JPEG is decoded at a quarter
        found = decode_crop(tmp_path / f"scene.{suffix}", size, left_half)
        assert found[: size // 2 - 1].min() > 200
        assert found[size // 2 + 1 :].max() < 50


def test_damaged_tags_leave_an_image_as_it_is(tmp_path):
    path = tmp_path / "picture.jpg"
    Image.new("RGB", (16, 16), (200, 200, 200)).save(path, exif=b"Exif\0\0no tags at all")
    assert decode_square(path, 8).min() > 190


# Files that cannot be read


def save_noise(path, size=(40, 40), **kind):
    pixels = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), np.uint8)
    Image.fromarray(pixels).save(path, **kind)


def cut_in_half(path):
    save_noise(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def promise_too_much(path):
    """A complete header that promises 60000 x 60000 pixels."""
    Image.new("L", (1, 1)).save(path, "bmp")
    header = bytearray(path.read_bytes())
    header[18:26] = (60000).to_bytes(4, "little") * 2
    path.write_bytes(header)


BROKEN = {
    "cut.png": (cut_in_half, "is damaged: "),
    "cut.jpg": (cut_in_half, "is damaged: "),
    "empty.jpg": (lambda path: path.touch(), "is empty"),
    "text.jpg": (lambda path: path.write_text("none"), "is not an image of a known kind"),
    "folder.jpg": (lambda path: path.mkdir(), "cannot be read: Is a directory"),
    "gone.jpg": (lambda path: None, "cannot be read: No such file"),
    "huge.png": (promise_too_much, "is damaged: .*decompression bomb"),
    # Pillow would start Ghostscript on it.
    "script.jpg": (lambda path: path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n"), "is not an image"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_file_that_cannot_be_read_is_named_with_the_reason_in_one_line(tmp_path, name):
    damage, reason = BROKEN[name]
    damage(tmp_path / name)
    with pytest.raises(InputError, match=rf"^{tmp_path / name}: {reason}") as caught:
        decode_square(tmp_path / name, 8)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "bmp", "tiff", "gif"])
def test_any_bytes_are_an_image_or_an_input_error(tmp_path, kind):
    path = tmp_path / "picture"
    save_noise(path, (20, 16), format=kind)
    whole, rng = path.read_bytes(), np.random.default_rng(1)
    refused = 0
    for _ in range(60):
        content = bytearray(whole[: rng.integers(1, len(whole) + 1)])
        for _ in range(4):
            content[rng.integers(len(content))] = rng.integers(256)
        path.write_bytes(content)
        try:
            assert decode_square(path, 8).shape == (8, 8, 3)
        except InputError:
            refused += 1
    assert refused


# Scaling and cutting


def smooth(width, height):
    y, x = np.mgrid[:height, :width]
    waves = [128 + 120 * np.sin(x / 17 + i) * np.cos(y / 23 - i) for i in range(3)]
    return np.stack(waves, 2).astype(np.uint8)


@pytest.mark.parametrize("size", [16, 24, 31, 33, 60, 63, 64, 70, 128, 200])
@pytest.mark.parametrize("box", [(0, 0, 256, 192), (13, 7, 128, 130), (200, 100, 56, 64)])
def test_a_jpeg_decoded_small_is_the_one_decoded_in_full(tmp_path, monkeypatch, size, box):
    path = tmp_path / "picture.jpg"
    Image.fromarray(smooth(256, 192)).save(path, quality=95)
    quick = decode_crop(path, size, lambda width, height: box).astype(int)
    monkeypatch.setattr(images_module, "REDUCTIONS", ())
    full = decode_crop(path, size, lambda width, height: box).astype(int)
    assert np.abs(quick - full).max() <= 6


@pytest.mark.parametrize(
    ("size", "side", "decoded"),
    [(64, 128, 2), (65, 128, 1), (32, 128, 4), (33, 128, 2), (8, 192, 8)],
)
def test_a_jpeg_is_decoded_as_small_as_leaves_enough_pixels(
    tmp_path, monkeypatch, size, side, decoded
):
    path = tmp_path / "picture.jpg"
    Image.fromarray(smooth(256, 192)).save(path)
    sizes = []
    convert = Image.Image.convert

    def noting(picture, mode):
        sizes.append(picture.size)
        return convert(picture, mode)

    monkeypatch.setattr(Image.Image, "convert", noting)
    decode_crop(path, size, lambda width, height: (10, 0, side, side))
    assert sizes == [(256 // decoded, 192 // decoded)]


def test_the_middle_is_taken_after_the_short_side_is_scaled(tmp_path):
    pixels = np.zeros((100, 140, 3), np.uint8)
    pixels[20:80, 40:100] = 255
    Image.fromarray(pixels).save(tmp_path / "square.png")
    assert decode_square(tmp_path / "square.png", 30, short_side=50)[1:-1, 1:-1].min() > 250
    found = decode_square(tmp_path / "square.png", 50)[..., 0]
    assert found[11:39, 11:39].min() > 250
    assert found[:9].max() == found[:, 41:].max() == 0


# Parts


def numbered(counts):
    """Images, this many of each class; each holds its number."""
    labels = np.repeat(np.arange(len(counts)), counts)
    images = np.arange(len(labels), dtype=np.uint8).reshape(-1, 1, 1, 1)
    return Pictures(images=images, labels=labels)


@pytest.mark.parametrize("size", [10, 50, 99])
def test_a_subset_keeps_the_classes_shares_and_the_rest_is_the_rest(size):
    pictures = numbered([60, 30, 10])
    part, rest = subset(pictures, size, seed=3)
    assert len(part) == size
    shares = np.bincount(part.labels, minlength=3)
    assert np.abs(shares - size * np.array([0.6, 0.3, 0.1])).max() <= 1
    together = np.concatenate([part.images, rest.images]).ravel()
    assert sorted(together) == list(range(100))
    np.testing.assert_array_equal(part.labels, pictures.labels[part.images.ravel()])


def test_subsets_are_drawn_by_seed():
    pictures = numbered([60, 40])
    drawn = [subset(pictures, 20, seed)[0].images.ravel().tolist() for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


@pytest.mark.parametrize("size", [None, 100, 1000])
def test_a_subset_of_all_leaves_nothing(size):
    part, rest = subset(numbered([60, 40]), size, seed=0)
    assert (len(part), len(rest)) == (100, 0)


def test_files_are_taken_and_divided_as_images_are(tmp_path):
    labels = np.repeat([0, 1], [60, 40])
    files = PictureFiles(paths=tuple(tmp_path / str(n) for n in range(100)), labels=labels)
    part, rest = subset(files, 20, seed=3)
    kept, _ = subset(numbered([60, 40]), 20, seed=3)
    assert [int(path.name) for path in part.paths] == kept.images.ravel().tolist()
    np.testing.assert_array_equal(part.labels, kept.labels)
    assert (len(part), len(rest)) == (20, 80)
    assert files.take(np.array([7, 2])).paths == (tmp_path / "7", tmp_path / "2")
