"""The file of counts: what is saved is loaded, and damage is named."""

import random
from pathlib import Path

import pytest

from ghostnas.devices import op_counts
from ghostnas.devices.emulator import Counts
from ghostnas.errors import InputError
from ghostnas.latency.op_signature import OpSignature, signatures
from ghostnas.networks import classics

SHIPPED = Path(__file__).resolve().parents[2] / "latency_tables" / "counts"
FIRST = OpSignature("add", 7, 7, 32, 32, 0, 0, "none")


def counts(cycles: float = 1188.3, instructions: int = 2273) -> Counts:
    return Counts(
        cycles=cycles,
        instructions=instructions,
        l1_misses=60,
        l2_misses=59,
        l3_misses=58,
        bytes_read=14213,
        bytes_written=7001,
    )


KNOWN = {
    FIRST: counts(),
    OpSignature("add", 14, 14, 8, 8, 0, 0, "relu"): counts(0.5, 1),
    OpSignature("conv", 7, 7, 32, 64, 3, 2, "hard_swish"): counts(123456.78, 98765432101234),
}


def test_what_was_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "counts.csv"
    op_counts.save(KNOWN, path)
    assert op_counts.load(path) == KNOWN


def test_no_counts_make_a_file_too(tmp_path: Path) -> None:
    op_counts.save({}, tmp_path / "counts.csv")
    assert op_counts.load(tmp_path / "counts.csv") == {}


def test_the_file_is_sorted_whatever_the_order_of_the_ops(tmp_path: Path) -> None:
    shuffled = list(KNOWN.items())
    random.Random(3).shuffle(shuffled)
    op_counts.save(dict(shuffled), tmp_path / "shuffled.csv")
    op_counts.save(KNOWN, tmp_path / "counts.csv")
    text = (tmp_path / "counts.csv").read_text()
    assert (tmp_path / "shuffled.csv").read_text() == text
    assert [line.split(",")[:2] for line in text.splitlines()[1:]] == [
        ["add", "7"],
        ["add", "14"],
        ["conv", "7"],
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("add,7,7", r":4: "),
        ("add,7,7,x,32,0,0,none,1,2,3,4,5,6,7", r":4: .*'x'"),
        ("add,7,7,32,32,0,0,none,1,2,3,4,5.5,6,7", r":4: .*'5.5'"),
        ("add,7,7,32,32,0,0,none,1,2,3,4,5,6,7,8", r":4: too many columns"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "counts.csv"
    op_counts.save({FIRST: counts()}, path)
    path.write_text(f"{path.read_text()}\n{line}\n")
    with pytest.raises(InputError, match=f"counts.csv{message}"):
        op_counts.load(path)


def test_other_columns_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "counts.csv"
    for text in ("", "op,height\nadd,7\n"):
        path.write_text(text)
        with pytest.raises(InputError, match=r"counts.csv:1: the columns must be op,height,.*"):
            op_counts.load(path)


def test_a_file_that_is_missing_or_not_text_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.csv: cannot be read"):
        op_counts.load(tmp_path / "none.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"binary.csv: cannot be read"):
        op_counts.load(tmp_path / "binary.csv")


@pytest.mark.parametrize("dtype", ["fp32", "int8"])
def test_the_shipped_counts_are_of_all_ops_of_a_published_network(dtype: str) -> None:
    path = SHIPPED / f"cortex-a76-{dtype}.csv"
    shipped = op_counts.load(path)
    ops = set(signatures(classics.graph("mobilenet_wd4")))
    assert ops <= shipped.keys()
    assert list(shipped) == sorted(shipped)
    assert len(path.read_text().splitlines()) == 1 + len(shipped)  # no op appears twice
    for each in shipped.values():
        assert each.cycles > 0
        assert each.l1_misses >= each.l2_misses >= each.l3_misses > 0
