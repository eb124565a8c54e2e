import errno
import json
import os
import random
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ghostnas.devices.journal import Journal
from ghostnas.errors import InputError

ABOUT = {"space": "abc", "setting": {"device": "Pixel 4", "threads": 1}}
ENTRIES = [{"kind": "op", "key": ["conv", index], "row": [1.5, 1.25, 2.0, 30]} for index in "abc"]
LARGE = [{"text": "x" * 2000} for _ in range(100)]
WRITER = """
import sys
from pathlib import Path
from ghostnas.devices.journal import Journal

journal = Journal(Path(sys.argv[1]), {"of": "a test"})
at = len(journal.entries)
while True:
    several = 1 + at % 3
    journal.append([{"at": at + more, "text": "x" * 700} for more in range(several)])
    at += several
    print(at, flush=True)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "table.csv.journal"


def test_what_was_appended_is_there_when_it_is_opened_again(path: Path) -> None:
    journal = Journal(path, ABOUT)
    assert journal.entries == []
    journal.append(ENTRIES[:2])
    journal.append(ENTRIES[2:])
    assert journal.entries == ENTRIES
    again = Journal(path, ABOUT)
    assert again.entries == ENTRIES
    again.append([{"kind": "fit"}])
    assert Journal(path, ABOUT).entries == [*ENTRIES, {"kind": "fit"}]


def test_it_has_one_line_of_json_each_after_one_that_says_of_what(path: Path) -> None:
    Journal(path, ABOUT).append(ENTRIES)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [ABOUT, *ENTRIES]


def test_it_makes_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "some" / "where" / "journal"
    Journal(path, ABOUT).append(ENTRIES)
    assert Journal(path, ABOUT).entries == ENTRIES


def test_it_is_gone_once_it_is_removed(path: Path) -> None:
    journal = Journal(path, ABOUT)
    journal.remove()
    assert not path.exists()
    journal.remove()


def test_a_file_cut_anywhere_keeps_the_lines_that_are_whole(path: Path) -> None:
    about, entries = {"of": 1}, [{"at": 0}, {"at": 1}]
    Journal(path, about).append(entries)
    whole = path.read_bytes()
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        journal = Journal(path, about)
        kept = max(whole[:size].count(b"\n") - 1, 0)
        assert journal.entries == entries[:kept]
        journal.append([{"at": 2}])
        assert Journal(path, about).entries == [*entries[:kept], {"at": 2}]


@pytest.mark.parametrize(
    ("about", "message"),
    [
        ({**ABOUT, "space": "xyz"}, "was begun with space 'abc', not 'xyz'; .*delete the file"),
        ({**ABOUT, "setting": {"device": "Pixel 5"}}, "was begun with setting .*4.*, not .*5"),
        ({**ABOUT, "seed": 2}, "was begun with seed None, not 2"),
        ({"space": "abc"}, "was begun with setting .*Pixel 4.*, not None"),
    ],
)
def test_a_journal_of_something_else_is_refused_and_stays(
    path: Path, about: dict[str, object], message: str
) -> None:
    Journal(path, ABOUT).append(ENTRIES)
    before = path.read_bytes()
    with pytest.raises(InputError, match=f"^{path} {message}"):
        Journal(path, about)
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", [b"\xff\xfe\n", b'{"kind": "o\n', b"[1, 2]\n", b"\n"])
def test_a_damaged_line_in_the_middle_is_named_and_nothing_is_changed(
    path: Path, damage: bytes
) -> None:
    Journal(path, ABOUT).append(ENTRIES)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], damage, *lines[3:]]))
    before = path.read_bytes()
    with pytest.raises(InputError, match=f"^{path}:3: is not a line of a journal"):
        Journal(path, ABOUT)
    assert path.read_bytes() == before


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "ghostnas-test", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a file system cannot be mounted here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@contextmanager
def small_files(folder: Path) -> Iterator[Path]:
    """No file of this process may grow beyond 64 KiB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        yield folder
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    ("limit", "number"), [(small_disk, errno.ENOSPC), (small_files, errno.EFBIG)]
)
def test_on_a_full_disk_nothing_half_written_stays(limit, number: int, tmp_path: Path) -> None:
    with limit(tmp_path) as folder:
        journal = Journal(folder / "journal", ABOUT)
        journal.append(ENTRIES)
        before = journal.path.read_bytes()
        with pytest.raises(OSError, match=os.strerror(number)) as caught:
            journal.append(LARGE)
        assert caught.value.errno == number
        assert caught.value.filename == str(journal.path)
        assert journal.path.read_bytes() == before
        assert journal.entries == ENTRIES
        journal.append([{"kind": "there is room for this"}])
        assert len(Journal(journal.path, ABOUT).entries) == len(ENTRIES) + 1


def test_a_disk_too_full_to_begin_raises_and_is_begun_when_there_is_room(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    about = {"text": "x" * 100_000}
    with small_files(tmp_path), pytest.raises(OSError, match=os.strerror(errno.EFBIG)):
        Journal(path, about)
    assert path.read_bytes() == b""
    Journal(path, about).append(ENTRIES)
    assert Journal(path, about).entries == ENTRIES


def test_every_line_that_was_acknowledged_survives_a_kill_at_any_moment(path: Path) -> None:
    rng = random.Random(0)
    grown = 0
    for _ in range(8):
        command = [sys.executable, "-c", WRITER, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            first = writer.stdout.readline()
            killer = threading.Timer(rng.uniform(0, 0.05), writer.kill)
            killer.start()
            rest = writer.stdout.readlines()
            killer.join()
        acknowledged = int([first, *rest][-1])
        entries = Journal(path, {"of": "a test"}).entries
        assert acknowledged <= len(entries) <= acknowledged + 3
        assert [entry["at"] for entry in entries] == list(range(len(entries)))
        assert acknowledged > grown
        grown = acknowledged
