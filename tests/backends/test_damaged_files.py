"""No damaged user file causes a traceback, runs anything, or passes for a network.

A reader is asked to open a good file with one thing wrong. It refuses in one line; or, where only
numbers changed, it gives a complete network of finite numbers.
"""

import dataclasses
import io
import json
import os
import pickle
import random
import zipfile
from collections.abc import Callable

import numpy as np
import pytest
import torch
from safetensors.numpy import save as to_safetensors

from ghostnas.backends import pretrained
from ghostnas.errors import InputError
from ghostnas.ir.graph import weight_shapes
from ghostnas.ir.random_weights import random_weights
from ghostnas.networks import zoo
from ghostnas.networks.arch import Arch, Head, Stage, Stem, lower, to_json
from ghostnas.networks.blocks import GhostBlock

ARCH = Arch(
    stem=Stem(channels=4),
    stages=(
        Stage(blocks=(GhostBlock(hidden_channels=8, out_channels=6, stride=2, se_ratio=0.25),)),
    ),
    head=Head(channels=8, features=8),
    classes=3,
    resolution=16,
)
GRAPH = lower(ARCH)
VALUES = random_weights(GRAPH, 0)
LONGEST_LINE = 300


def torch_file(content, zipped=True):
    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
    return buffer.getvalue()


def state_dict():
    return {key: torch.from_numpy(array) for key, array in VALUES.items()}


def open_weights(path):
    shapes = {key: shape for node in GRAPH.nodes for key, shape in weight_shapes(node).items()}
    found = pretrained.read(path, GRAPH)
    assert {key: array.shape for key, array in found.items()} == shapes
    for array in found.values():
        assert array.dtype == np.float32
        assert np.isfinite(array).all()


def open_arch(path):
    arch = zoo.find(str(path))
    assert lower(arch).output_shape == (arch.classes,)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reader:
    """A good file as bytes, and a function that opens a path and checks what it gets."""

    suffix: str
    good: bytes
    open: Callable


# A reader of another kind of file is one more line here.
READERS = {
    "safetensors": Reader(
        suffix=".safetensors", good=to_safetensors(VALUES, {"made": "here"}), open=open_weights
    ),
    "pth": Reader(suffix=".pth", good=torch_file(state_dict()), open=open_weights),
    "legacy pth": Reader(suffix=".pth", good=torch_file(state_dict(), False), open=open_weights),
    "arch": Reader(
        suffix=".json", good=json.dumps(to_json(ARCH), indent=1).encode(), open=open_arch
    ),
}


def cut(good):
    places = {*range(17), *(len(good) * n // 20 for n in range(1, 20)), len(good) - 1}
    return [good[:place] for place in sorted(places)]


def flipped(good):
    """One bit each; half of them in the first 2,000 bytes, where the headers are."""
    draw = random.Random(0)
    found = []
    for number in range(60):
        place = draw.randrange(min(2000, len(good)) if number % 2 else len(good))
        bit = 1 << draw.randrange(8)
        found.append(good[:place] + bytes([good[place] ^ bit]) + good[place + 1 :])
    return found


def zeroed(good):
    runs = [(len(good) * n // 12, 16) for n in range(12)] + [(0, 4), (8, 64), (len(good) - 64, 64)]
    return [
        good[:start] + bytes(len(good[start : start + size])) + good[start + size :]
        for start, size in runs
    ]


def full(good):
    """Runs of ones: not a number in a tensor, the greatest size in a header."""
    runs = [(len(good) * n // 12, 16) for n in range(12)] + [(0, 8)]
    return [
        good[:start] + b"\xff" * len(good[start : start + size]) + good[start + size :]
        for start, size in runs
    ]


def strange(good):
    """Other beginnings, what is not such a file at all, and content given twice."""
    starts = (b"PK\x03\x04", b"\x80\x02", b"\x80\x04\x95", b"{}", b"\x89PNG\r\n", b"\0" * 8)
    others = (b"", b"\n", b"null", b"[]", b'{"format": 1}', b"hello\n" * 50)
    return [
        *(start + good[len(start) :] for start in starts),
        *others,
        good + good,
        good[len(good) // 2 :] + good[: len(good) // 2],
        good[::-1],
        bytes(random.Random(1).randbytes(4096)),
    ]


def swapped(good):
    """The good files of all other kinds."""
    return [reader.good for reader in READERS.values() if reader.good != good]


DAMAGES = [cut, flipped, zeroed, full, strange, swapped]


def opened(reader, path):
    """Whether the file was opened; checks that a refusal is one line and leaves no files."""
    before = sorted(path.parent.iterdir())
    try:
        reader.open(path)
    except InputError as error:
        line = str(error).replace(str(path), path.name)
        assert "\n" not in line
        assert 10 < len(line) < LONGEST_LINE, line
        return False
    finally:
        assert sorted(path.parent.iterdir()) == before
    return True


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", READERS)
def test_a_damaged_file_is_refused_in_one_line_or_is_whole(tmp_path, kind, damage):
    reader = READERS[kind]
    path = tmp_path / f"file{reader.suffix}"
    path.write_bytes(reader.good)
    assert opened(reader, path)
    survived = 0
    files = damage(reader.good)
    for content in files:
        path.write_bytes(content)
        survived += opened(reader, path)
    # Lost content cannot be restored; a weight file of the other kind opens under any name.
    if damage is cut:
        assert survived <= (kind == "arch")  # without its last line's end
    if damage is swapped:
        assert survived == (0 if kind == "arch" else 2)


def test_there_are_many_damaged_files():
    counts = [
        sum(len(set(damage(reader.good))) for damage in DAMAGES) for reader in READERS.values()
    ]
    assert min(counts) > 100
    assert sum(counts) > 400


@pytest.mark.parametrize("kind", READERS)
def test_what_is_not_a_file_is_refused(tmp_path, kind):
    reader = READERS[kind]
    folder = tmp_path / f"folder{reader.suffix}"
    folder.mkdir()
    assert not opened(reader, folder)
    assert not opened(reader, tmp_path / f"none{reader.suffix}")
    loop = tmp_path / f"loop{reader.suffix}"
    loop.symlink_to(loop)
    assert not opened(reader, loop)


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_a_pipe_that_never_ends_is_not_waited_for(tmp_path, kind):
    path = tmp_path / f"pipe{READERS[kind].suffix}"
    os.mkfifo(path)
    assert not opened(READERS[kind], path)


class Runs:
    """Pickled, an instruction to call `function` when it is read."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def programs(marker):
    """Pickles that make the file `marker` when anything obeys them."""
    shell = Runs(os.system, f"touch {marker}")
    python = Runs(eval, f"open({str(marker)!r}, 'w').close()")
    for name, program in (("system", shell), ("eval", python)):
        yield f"{name} in zip", torch_file(program)
        yield f"{name} in legacy", torch_file(program, False)
        yield f"{name} as a weight", torch_file({**state_dict(), "extra": program})
        yield f"{name} as a key's neighbour", torch_file({"state_dict": state_dict(), "a": program})
        yield f"{name} in a legacy dict", torch_file({"model": state_dict(), "a": program}, False)
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
            yield f"{name}, protocol {protocol}", pickle.dumps(program, protocol)
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("archive/data.pkl", pickle.dumps(program, 2))
            archive.writestr("archive/version", "3\n")
        yield f"{name} in a zip by hand", buffer.getvalue()


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_a_program_in_a_pickle_is_not_run(tmp_path, kind):
    (tmp_path / "out").mkdir()
    marker = tmp_path / "out" / "ran"
    path = tmp_path / f"model{READERS[kind].suffix}"
    for name, content in programs(marker):
        path.write_bytes(content)
        assert not opened(READERS[kind], path), name
        assert not marker.exists(), name
    for name, content in programs(marker):  # they would run where nothing holds them back
        if "protocol" in name:
            pickle.loads(content)
            assert marker.exists(), name
            marker.unlink()


def header(about, data=b""):
    text = json.dumps(about).encode()
    return len(text).to_bytes(8, "little") + text + data


def tensor(shape, dtype="F32", end=8):
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, end]}}


ABSURD = {
    "a header of 2^63 bytes": (1 << 63).to_bytes(8, "little") + b"{}",
    "a header larger than the file": (10_000).to_bytes(8, "little") + b"{}",
    "a header of 2^31 bytes": (1 << 31).to_bytes(8, "little") + b"{}",
    "data beyond the file": header(tensor([1 << 40], end=1 << 42)),
    "a shape beyond its data": header(tensor([1 << 40]), bytes(8)),
    "a shape whose product overflows": header(tensor([1 << 33, 1 << 33]), bytes(8)),
    "a negative side": header(tensor([-1]), bytes(8)),
    "no tensors": header({}),
    "an unknown type": header(tensor([2], "F31"), bytes(8)),
    "whole numbers": header(tensor([1], "I64"), bytes(8)),
    "quarters": header(tensor([8], "F8_E4M3"), bytes(8)),
    "truth values": header(tensor([8], "BOOL"), bytes(8)),
    "complex numbers": header(tensor([1], "C64"), bytes(8)),
    "not a number": header(tensor([2]), np.array([1, np.nan], "<f4").tobytes()),
    "infinite": header(tensor([2]), np.array([1, np.inf], "<f4").tobytes()),
    "beyond float32": header(tensor([1], "F64"), np.array([1e300], "<f8").tobytes()),
    "a key of many lines": header({"\n" * 500: tensor([1], "I64")["a"]}, bytes(8)),
    "a name without an end": header({"x" * 100_000: tensor([1], "I64")["a"]}, bytes(8)),
    "deep": (20_000).to_bytes(8, "little") + b"[" * 20_000,
}


@pytest.mark.parametrize("case", ABSURD)
def test_an_absurd_header_is_refused(tmp_path, case):
    path = tmp_path / "model.safetensors"
    path.write_bytes(ABSURD[case])
    assert not opened(READERS["safetensors"], path)


def test_a_compressed_archive_is_not_unpacked(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"a": bytes(50_000_000)}, 2))
        archive.writestr("archive/version", "3\n")
    path = tmp_path / "model.pth"
    path.write_bytes(buffer.getvalue())
    assert len(buffer.getvalue()) < 100_000
    with pytest.raises(InputError, match="is a compressed archive"):
        pretrained.read_any(path)


JSON = {
    "not a number": b'{"format": NaN}',
    "a number without an end": b'{"format": ' + b"9" * 5000 + b"}",
    "deep": b"[" * 100_000,
    "not UTF-8": b'{"format": "\xff"}',
    "a long name": json.dumps({**to_json(ARCH), "x" * 10_000: 1}).encode(),
    "a long value": json.dumps({**to_json(ARCH), "classes": "9" * 10_000}).encode(),
    "a name of many lines": json.dumps({**to_json(ARCH), "a\nb": 1}).encode(),
    "huge": json.dumps({**to_json(ARCH), "resolution": 1 << 60}).encode(),
    "negative": json.dumps({**to_json(ARCH), "classes": -1}).encode(),
}


@pytest.mark.parametrize("case", JSON)
def test_an_absurd_architecture_is_refused(tmp_path, case):
    path = tmp_path / "arch.json"
    path.write_bytes(JSON[case])
    assert not opened(READERS["arch"], path)
