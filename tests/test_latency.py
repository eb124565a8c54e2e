from dataclasses import replace

import pytest

from ghostnas import files, latency, zoo
from ghostnas.arch import lower
from ghostnas.deploy import deploy
from ghostnas.errors import InputError, MissingOpError
from ghostnas.graph import (
    Activation,
    Add,
    BatchNorm,
    Builder,
    Concat,
    Conv,
    Dense,
    Flatten,
    GlobalPool,
    Multiply,
    Narrow,
)
from ghostnas.latency import OpSignature, Origin, Table, Timing

CONV = OpSignature("conv", 32, 32, 3, 16, 3, 2, "relu")
TABLE = Table(
    name="board",
    origin=Origin(
        device="a board",
        soc="some",
        core="cortex-a00",
        clock_mhz=1500,
        threads=1,
        runtime="LiteRT 1",
        delegate="XNNPACK",
        dtype="fp32",
        method="measured",
        op_error=0.05,
        date="2024-02-29",
        notes="idle",
    ),
    rows={
        CONV: Timing(1.5, 1.25, 2.0, 50),
        OpSignature("add", 16, 16, 8, 8, 0, 0, "none"): Timing(0.0625, 0.0625, 0.0625, 50),
    },
)
TEXT = latency.to_text(TABLE)
ROW = "conv,32,32,3,16,3,2,relu,1.5,1.25,2,50"
HEADER = "op,height,width,in_channels,out_channels,kernel,stride,activation"


def parse(text):
    return latency.parse(text, "board", "board.csv")


# Signatures


def test_signatures_by_hand():
    builder = Builder((3, 9, 8))
    x = builder.add("conv", Conv(in_channels=3, out_channels=6, kernel=3, stride=2), 0)
    x = builder.add("bn", BatchNorm(channels=6), x)
    x = builder.add("relu", Activation(kind="relu"), x)
    y = builder.add("dw", Conv(in_channels=6, out_channels=12, kernel=5, groups=6), x)
    y = builder.add("swish", Activation(kind="hard_swish"), y)
    y = builder.add("narrow", Narrow(channels=6), y)
    y = builder.add("add", Add(), y, x)
    y = builder.add("relu6", Activation(kind="relu6"), y)
    x = builder.add("concat", Concat(), x, y)
    y = builder.add("pool", GlobalPool(), x)
    x = builder.add("scale", Multiply(), x, y)
    x = builder.add("pool2", GlobalPool(), x)
    x = builder.add("flatten", Flatten(), x)
    builder.add("classifier", Dense(in_features=12, out_features=10), x)
    graph = builder.build()
    assert latency.signatures(graph) == [
        OpSignature("conv", 9, 8, 3, 6, 3, 2, "relu"),
        OpSignature("depthwise", 5, 4, 6, 12, 5, 1, "none"),
        OpSignature("hard_swish", 5, 4, 12, 12, 0, 0, "none"),
        OpSignature("narrow", 5, 4, 12, 6, 0, 0, "none"),
        OpSignature("add", 5, 4, 6, 6, 0, 0, "relu6"),
        OpSignature("concat", 5, 4, 6, 12, 0, 0, "none"),
        OpSignature("pool", 5, 4, 12, 12, 0, 0, "none"),
        OpSignature("multiply", 5, 4, 12, 12, 0, 0, "none"),
        OpSignature("pool", 5, 4, 12, 12, 0, 0, "none"),
        OpSignature("flatten", 1, 1, 12, 12, 0, 0, "none"),
        OpSignature("dense", 1, 1, 12, 10, 0, 0, "none"),
    ]
    assert latency.signatures(deploy(graph)) == latency.signatures(graph)


@pytest.mark.parametrize("name", sorted(zoo.ZOO))
def test_a_signature_for_each_op_that_runs(name):
    graph = deploy(lower(zoo.named(name)))
    assert len(latency.signatures(graph)) == len(graph.nodes) - 1


def test_a_grouped_convolution_is_refused_by_name():
    builder = Builder((4, 8, 8))
    builder.add("grouped", Conv(in_channels=4, out_channels=8, groups=2), 0)
    with pytest.raises(MissingOpError, match="grouped"):
        latency.signatures(builder.build())


# Files


def test_a_table_survives_its_file(tmp_path):
    assert parse(TEXT) == TABLE
    assert latency.to_text(parse(TEXT)) == TEXT
    latency.save(TABLE, tmp_path / "board.csv")
    assert latency.load(str(tmp_path / "board.csv")) == TABLE


@pytest.mark.parametrize(
    "notes", ["", 'a "quoted" \\ word', "naïve, with a comma", "# hash", "two\nlines"]
)
def test_notes_of_any_text_survive(notes):
    table = replace(TABLE, origin=replace(TABLE.origin, notes=notes))
    assert parse(latency.to_text(table)) == table


def test_rows_are_sorted():
    turned = replace(TABLE, rows=dict(reversed(TABLE.rows.items())))
    assert latency.to_text(turned) == TEXT
    assert TEXT.splitlines()[-1] == ROW


def test_notes_may_be_left_out_of_a_file():
    assert parse(TEXT.replace('# notes = "idle"\n', "")).origin.notes == ""


LINE = TEXT.splitlines().index(ROW) + 1
ADD_ROW = TEXT.splitlines()[LINE - 2]
AT_ROW = rf"board\.csv:{LINE}: "
DAMAGED = {
    "empty": (TEXT, "", "not a latency table"),
    "no-table": (TEXT, "a,b\n1,2\n", "not a latency table"),
    "cut-after-origin": (TEXT[TEXT.index(HEADER) :], "", "the columns must be op,height"),
    "cut-after-a-row": (ROW + "\n", "", "2 rows but has 1"),
    "cut-in-a-row": (ROW, "conv,32,32,3", AT_ROW + "has 4 columns, needs 12"),
    "cut-in-a-number": (",2,50\n", ",\n", AT_ROW),
    "other-columns": ("median_ms,p10_ms", "p10_ms,median_ms", rf"board\.csv:{LINE - 2}: the col"),
    "too-many-columns": (ROW, ROW + ",1", AT_ROW + "has 13 columns"),
    "no-number": ("1.5,1.25", "fast,1.25", AT_ROW + ".*fast"),
    "no-size": ("conv,32", "conv,wide", AT_ROW + ".*wide"),
    "fraction-of-a-size": ("conv,32", "conv,32.5", AT_ROW + ".*32.5"),
    "size-0": ("conv,32", "conv,0", AT_ROW),
    "negative-size": ("conv,32", "conv,-32", AT_ROW),
    "channels-0": ("32,32,3,16", "32,32,0,16", AT_ROW),
    "unknown-op": (ROW, ROW.replace("conv", "cnov"), AT_ROW + ".*cnov"),
    "unknown-activation": (ROW, ROW.replace("relu", "rleu"), AT_ROW + ".*rleu"),
    "duplicate": (ADD_ROW, ROW, AT_ROW + ".*second time"),
    "duplicate-of-other-time": (ADD_ROW, ROW.replace("1.5", "1.6"), AT_ROW + ".*second time"),
    "p10-above-median": ("1.5,1.25", "1.5,1.75", AT_ROW + ".*p10_ms <= median_ms"),
    "p90-below-median": ("1.25,2,", "1.25,1.4,", AT_ROW + ".*median_ms <= p90_ms"),
    "nan": ("1.5,1.25,2", "nan,nan,nan", AT_ROW),
    "nan-p90": ("1.25,2,", "1.25,nan,", AT_ROW),
    "inf": ("1.25,2,", "1.25,inf,", AT_ROW),
    "0-ms": ("1.5,1.25", "0,0", AT_ROW),
    "0-ms-p10": ("1.5,1.25", "1.5,0", AT_ROW),
    "negative-ms": ("1.5,1.25", "1.5,-1.25", AT_ROW),
    "no-runs": (",2,50\n", ",2,0\n", AT_ROW),
    "negative-runs": (",2,50\n", ",2,-5\n", AT_ROW),
    "other-format": ("format = 1", "format = 2", "format 1"),
    "no-format": ("# format = 1\n", "", "format 1"),
    "row-count": ("rows = 2", "rows = 3", "3 rows but has 2"),
    "no-row-count": ("# rows = 2\n", "", "lacks rows"),
    "origin-not-toml": ("clock_mhz = 1500", "clock_mhz == 1500", "not TOML"),
    "key-missing": ("# threads = 1\n", "", "lacks threads"),
    "key-unknown": ("# threads", "# weather = 3\n# threads", "'weather'"),
    "key-of-other-type": (
        "threads = 1",
        'threads = "1"',
        "threads in the origin must be a whole number",
    ),
    "bool-for-a-number": (
        "threads = 1",
        "threads = true",
        "threads in the origin must be a whole number",
    ),
    "date-for-a-text": ('"2024-02-29"', "2024-02-29", "date in the origin must be text"),
    "op-error-nan": ("op_error = 0.05", "op_error = nan", "op_error"),
    "op-error-negative": ("op_error = 0.05", "op_error = -0.05", "op_error"),
}


@pytest.mark.parametrize(("old", "new", "message"), DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_file_is_refused_by_file_and_line(tmp_path, old, new, message):
    assert TEXT.count(old) == 1
    path = tmp_path / "board.csv"
    path.write_text(TEXT.replace(old, new))
    with pytest.raises(InputError, match=message) as caught:
        latency.load(str(path))
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_a_file_cut_anywhere_is_refused():
    for length in range(TEXT.index(",50\n" + ROW[:4])):
        with pytest.raises(InputError, match=r"^board\.csv:"):
            parse(TEXT[:length])


def test_a_binary_or_missing_file_is_refused_by_name(tmp_path):
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe")
    for name in ("binary", "none"):
        with pytest.raises(InputError, match=rf"{name}\.csv: cannot be read"):
            latency.load(str(tmp_path / f"{name}.csv"))


# What ships


SHIPPED = sorted(path.stem for path in files.shipped("latency_tables").glob("*.csv"))


@pytest.mark.parametrize("name", SHIPPED)
def test_a_shipped_table_is_whole_and_says_how_it_came_about(name):
    table = latency.load(name)
    assert table.name == name
    assert table.origin.method in ("measured", "emulated, not measured")
    assert 0 < table.origin.op_error < 1
    path = files.shipped("latency_tables") / f"{name}.csv"
    assert latency.to_text(table) == path.read_text()


def test_every_target_has_its_table():
    assert set(latency.targets().values()) == set(SHIPPED)
    assert latency.load("arm") == latency.load(latency.targets()["arm"])


def test_an_unknown_target_lists_the_known_ones():
    with pytest.raises(InputError, match=r"'amr'.*cortex-a76.*arm.*\.csv"):
        latency.load("amr")
