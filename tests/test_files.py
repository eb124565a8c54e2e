"""How every command writes: a whole file or none, and one process at a time."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ghostnas import files
from ghostnas.errors import InputError
from ghostnas.files import SEAL_MARK, check_seal, seal


def test_a_file_is_held_by_one_process_and_free_after_it_however_it_ends(tmp_path: Path) -> None:
    table = tmp_path / "new" / "table.csv"
    script = (
        "import os\nfrom pathlib import Path\nfrom ghostnas.files import locked_file\n"
        f"with locked_file(Path({str(table)!r})):\n"
        "    print('held', flush=True)\n    input()\n    os._exit(9)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        with (
            pytest.raises(InputError, match=r"table\.csv: another process is at work on it"),
            files.locked_file(table),
        ):
            pass
        with files.locked_file(table.with_name("other.csv")):  # other tables of the folder are free
            pass
        other.communicate("end\n")
    assert other.returncode == 9
    with files.locked_file(table):
        pass
    assert list(table.parent.iterdir()) == []


def test_a_lock_removed_while_waiting_for_it_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its holder removes it between our opening and locking it: a third may hold a new one."""
    table = tmp_path / "table.csv"

    def removed_first(*_: object) -> None:
        (tmp_path / ".table.csv.lock").unlink()

    monkeypatch.setattr(files.fcntl, "flock", removed_first)
    with pytest.raises(InputError, match="another process"), files.locked_file(table):
        pass
    assert os.listdir(tmp_path) == []


def sealed():
    return seal(b"front " + SEAL_MARK.encode() + b" back")


def test_sealed_content_passes_and_any_flipped_bit_of_it_does_not():
    content = sealed()
    check_seal(content, "x")
    passed = 0
    for at in range(8 * len(content)):
        flipped = bytearray(content)
        flipped[at // 8] ^= 1 << at % 8
        try:
            check_seal(bytes(flipped), "x")
        except InputError:
            continue
        passed += 1
    # Bits of the mark itself: without its name, or with an invalid digit, there is no seal.
    assert passed <= 8 * len(SEAL_MARK)
    for at in (0, 5, len(content) - 1):
        flipped = bytearray(content)
        flipped[at] ^= 1
        with pytest.raises(InputError, match="is damaged"):
            check_seal(bytes(flipped), "x")


def test_what_was_never_sealed_passes():
    check_seal(b"", "x")
    check_seal(b"front back", "x")


@pytest.mark.parametrize("count", [0, 2])
def test_content_without_exactly_one_mark_is_a_bug(count):
    with pytest.raises(ValueError, match=f"once, not {count} times"):
        seal(count * SEAL_MARK.encode())
