from dataclasses import fields, replace
from pathlib import Path

import pytest
import small
from hypothesis import given
from hypothesis import strategies as st

from ghostnas.errors import InputError
from ghostnas.latency import table as latency_table
from ghostnas.latency import targets as shipped_targets
from ghostnas.latency.op_signature import OpSignature
from ghostnas.latency.table import Correction, Origin, Table, Timing

CONV = OpSignature("conv", 32, 32, 3, 16, 3, 2, "relu")
ADD = OpSignature("add", 16, 16, 8, 8, 0, 0, "none")
POOL = OpSignature("pool", 7, 7, 64, 64, 0, 0, "none")
CORRECTION = Correction(
    scale=1.1, per_op_ms=-0.002, per_megabyte_ms=0.3, networks=3, scores=(0.5, 1.25, 2.0)
)
TABLE = Table(
    name="board",
    origin=Origin(
        device="a board",
        soc="some",
        core="cortex-a00",
        clock_mhz=1500,
        governor="performance",
        load=0.25,
        threads=1,
        runtime="LiteRT 1",
        delegate="XNNPACK",
        dtype="fp32",
        method="measured",
        op_error=0.05,
        date="2024-02-29",
        sentinel_ms=0.125,
        notes="idle",
    ),
    rows={
        CONV: Timing(1.5, 1.25, 2.0, 50),
        ADD: Timing(0.0625, 0.0625, 0.0625, 50),
        POOL: Timing(0.25, 0.125, 0.5, 49),
    },
    correction=CORRECTION,
)
PLAIN = replace(TABLE, correction=None)
TEXT = latency_table.to_text(TABLE)
LINES = TEXT.splitlines()
COLUMNS = LINES.index(latency_table.COLUMNS) + 1
ADD_LINE, CONV_LINE, POOL_LINE = range(COLUMNS + 1, COLUMNS + 4)


def parse(text):
    return latency_table.parse(text, "board", "board.csv")


def refusal(text):
    """The message, which is one line and begins with the file and a line of it."""
    with pytest.raises(InputError, match=r"^board\.csv:\d+: [^\n]+\Z") as caught:
        parse(text)
    return str(caught.value)


def with_lines(lines):
    return "".join(f"{line}\n" for line in lines)


# Files


@pytest.mark.parametrize("table", [TABLE, PLAIN], ids=["corrected", "plain"])
def test_a_table_survives_its_file(tmp_path, table):
    text = latency_table.to_text(table)
    assert parse(text) == table
    assert latency_table.to_text(parse(text)) == text
    latency_table.save(table, tmp_path / "board.csv")
    assert latency_table.load(str(tmp_path / "board.csv")) == table


def test_a_file_reads_as_it_always_did():
    assert LINES[0] == "# format = 2"
    assert LINES[ADD_LINE - 1] == "add,16,16,8,8,0,0,none,0.0625,0.0625,0.0625,50,97850"
    assert LINES[CONV_LINE - 1] == "conv,32,32,3,16,3,2,relu,1.5,1.25,2,50,99500"
    assert LINES[COLUMNS - 7 : COLUMNS - 1] == [
        "# [correction]",
        "# scale = 1.1",
        "# per_op_ms = -0.002",
        "# per_megabyte_ms = 0.3",
        "# networks = 3",
        "# scores = [0.5, 1.25, 2.0]",
    ]


# DEL and lone surrogates are not TOML.
TEXTS = st.text(st.characters(exclude_characters="\x7f", exclude_categories=["Cs"]))


@given(notes=TEXTS)
def test_notes_of_any_text_survive(notes):
    table = replace(TABLE, origin=replace(TABLE.origin, notes=notes))
    assert parse(latency_table.to_text(table)) == table


@pytest.mark.parametrize("notes", ["two\nlines", "a\u2028b", "a\x85b", '"\\', "# hash"])
def test_notes_that_look_like_the_file_survive(notes):
    table = replace(TABLE, origin=replace(TABLE.origin, notes=notes))
    assert parse(latency_table.to_text(table)) == table


TIMES = st.floats(1e-6, 1e4).map(lambda ms: float(f"{ms:.6g}"))


@given(
    times=st.lists(st.tuples(TIMES, TIMES, TIMES), min_size=1, max_size=4),
    costs=st.tuples(*[st.floats(-1e3, 1e3)] * 3),
    scores=st.lists(st.floats(0, 1e3), max_size=5),
)
def test_times_and_corrections_of_any_size_survive(times, costs, scores):
    rows = {}
    for index, (low, middle, high) in enumerate(map(sorted, times)):
        rows[ADD._replace(height=index + 1)] = Timing(middle, low, high, index + 1)
    correction = Correction(
        scale=costs[0],
        per_op_ms=costs[1],
        per_megabyte_ms=costs[2],
        networks=len(scores),
        scores=tuple(sorted(scores)),
    )
    table = replace(TABLE, rows=rows, correction=correction)
    assert parse(latency_table.to_text(table)) == table


def test_rows_are_sorted():
    turned = replace(TABLE, rows=dict(reversed(TABLE.rows.items())))
    assert latency_table.to_text(turned) == TEXT


def test_windows_line_endings_and_blank_lines_at_the_end_are_not_damage(tmp_path):
    path = tmp_path / "board.csv"
    for text in (TEXT, TEXT + "\n\n", TEXT[:-1]):
        assert parse(text) == parse(text.replace("\n", "\r\n")) == TABLE
        path.write_bytes(text.replace("\n", "\r\n").encode())
        assert latency_table.load(str(path)) == TABLE


# Damage


@pytest.mark.parametrize("text", [TEXT, latency_table.to_text(PLAIN)], ids=["corrected", "plain"])
def test_a_file_cut_anywhere_is_refused(text):
    for length in range(len(text) - 1):  # all but the last line's end
        refusal(text[:length])


def test_a_digit_edited_anywhere_in_a_row_names_the_line():
    edits = 0
    for at in (ADD_LINE, CONV_LINE, POOL_LINE):
        line = LINES[at - 1]
        for position in (index for index, char in enumerate(line) if char.isdigit()):
            for digit in set("0357") - {line[position]}:
                edited = line[:position] + digit + line[position + 1 :]
                text = with_lines([*LINES[: at - 1], edited, *LINES[at:]])
                assert refusal(text).startswith(f"board.csv:{at}: ")
                edits += 1
    assert edits > 200


def test_a_row_edited_to_other_valid_numbers_says_that_it_was_changed():
    for old, new in (("1.5,1.25", "1.6,1.25"), (",16,3,2,", ",24,3,2,"), (",2,50,", ",2,51,")):
        assert LINES[CONV_LINE - 1].count(old) == 1
        edited = LINES[CONV_LINE - 1].replace(old, new)
        text = with_lines([*LINES[: CONV_LINE - 1], edited, *LINES[CONV_LINE:]])
        expected = f"board.csv:{CONV_LINE}: this row or the order of the rows was changed"
        assert refusal(text).startswith(expected)


@pytest.mark.parametrize("at", [ADD_LINE, CONV_LINE])
def test_rows_swapped_name_the_first_of_them(at):
    lines = LINES.copy()
    lines[at - 1], lines[at] = lines[at], lines[at - 1]
    assert refusal(with_lines(lines)).startswith(f"board.csv:{at}: ")


@pytest.mark.parametrize("at", [ADD_LINE, CONV_LINE])
def test_a_row_deleted_names_the_line_where_it_was(at):
    assert refusal(with_lines([*LINES[: at - 1], *LINES[at:]])).startswith(f"board.csv:{at}: ")


def test_the_last_row_deleted_says_how_many_there_are():
    expected = f"board.csv:{CONV_LINE}: the file ends with 2 of 3 rows"
    assert refusal(with_lines(LINES[: POOL_LINE - 1])) == expected
    expected = f"board.csv:{COLUMNS}: the file ends with 0 of 3 rows"
    assert refusal(with_lines(LINES[:COLUMNS])) == expected


@pytest.mark.parametrize(
    ("at", "to"), [(ADD_LINE, ADD_LINE + 1), (ADD_LINE, POOL_LINE + 1), (POOL_LINE, POOL_LINE + 1)]
)
def test_a_row_duplicated_names_the_second(at, to):
    lines = [*LINES[: to - 1], LINES[at - 1], *LINES[to - 1 :]]
    message = refusal(with_lines(lines))
    assert message.startswith(f"board.csv:{to}: ")
    assert message.endswith("appears a second time")


def test_a_character_edited_anywhere_in_the_header_is_refused():
    header = TEXT[: TEXT.index(latency_table.COLUMNS)]
    check = header.index("# check")
    for position in range(len(header)):
        if header[position].isspace() and check < position < header.index("\n", check):
            continue  # what surrounds the digits is not part of them
        for char in set("7z,") - {header[position]}:
            refusal(TEXT[:position] + char + TEXT[position + 1 :])


HEADER_EDITS = {
    "notes": ('notes = "idle"', 'notes = "busy"'),
    "notes-left-out": ('# notes = "idle"\n', ""),
    "sentinel": ("sentinel_ms = 0.125", "sentinel_ms = 0.120"),
    "sentinel-left-out": ("# sentinel_ms = 0.125\n", ""),
    "op-error": ("op_error = 0.05", "op_error = 0.01"),
    "governor": ('"performance"', '"powersave"'),
    "threads": ("threads = 1", "threads = 4"),
    "date": ("2024-02-29", "2025-02-28"),
    "rows": ("rows = 3", "rows = 4"),
    "scale": ("scale = 1.1", "scale = 1.0"),
    "per-op": ("per_op_ms = -0.002", "per_op_ms = 0.002"),
    "scores": ("1.25, 2.0]", "1.25]"),
    "networks": ("networks = 3", "networks = 4"),
    "order": ('soc = "some"\n# core = "cortex-a00"', 'core = "cortex-a00"\n# soc = "some"'),
}


@pytest.mark.parametrize(("old", "new"), HEADER_EDITS.values(), ids=HEADER_EDITS.keys())
def test_a_header_edited_to_other_valid_values_says_that_it_was_changed(old, new):
    assert TEXT.count(old) == 1
    message = refusal(TEXT.replace(old, new))
    assert message == "board.csv:1: the header was changed after the table was written"


def test_rows_of_another_table_do_not_fit_the_header():
    other = replace(TABLE, origin=replace(TABLE.origin, notes="busy"))
    body = latency_table.to_text(other).splitlines()[COLUMNS:]
    message = refusal(with_lines([*LINES[:COLUMNS], *body]))
    assert message.startswith(f"board.csv:{ADD_LINE}: this row")


def test_a_correction_cut_out_is_refused():
    start = TEXT.index("# [correction]")
    end = TEXT.index(latency_table.COLUMNS)
    refusal(TEXT[:start] + TEXT[end:])


AT_CONV = f":{CONV_LINE}: "
ROW = LINES[CONV_LINE - 1]
ADD_ROW = LINES[ADD_LINE - 1]
HEADER = "op,height,width,in_channels,out_channels,kernel,stride,activation"
DAMAGED = {
    "empty": (TEXT, "", ":1: not a latency table"),
    "no-table": (TEXT, "a,b\n1,2\n", ":1: not a latency table"),
    "cut-after-a-cell": (ROW, "conv,32,32,3", AT_CONV + "has 4 columns, needs 13"),
    "too-many-columns": (ROW, ROW + ",1", AT_CONV + "has 14 columns"),
    "no-check": (ROW, ROW.rpartition(",")[0], AT_CONV + "has 12 columns"),
    "other-columns": ("median_ms,p10_ms", "p10_ms,median_ms", "the columns must be op,height"),
    "no-number": ("1.5,1.25", "fast,1.25", AT_CONV + ".*fast"),
    "no-size": ("conv,32", "conv,wide", AT_CONV + ".*wide"),
    "fraction-of-a-size": ("conv,32", "conv,32.5", AT_CONV + ".*32.5"),
    "size-0": ("conv,32", "conv,0", AT_CONV + "sizes"),
    "negative-size": ("conv,32", "conv,-32", AT_CONV + "sizes"),
    "channels-0": ("32,32,3,16", "32,32,0,16", AT_CONV + "sizes"),
    "unknown-op": ("conv,", "cnov,", AT_CONV + ".*cnov"),
    "unknown-activation": ("relu", "rleu", AT_CONV + ".*rleu"),
    "duplicate": (ROW, ADD_ROW, AT_CONV + ".*second time"),
    "duplicate-of-other-time": (ROW, ADD_ROW.replace("2,2", "1,2"), AT_CONV + ".*second time"),
    "p10-above-median": ("1.5,1.25", "1.5,1.75", AT_CONV + ".*p10_ms <= median_ms"),
    "p90-below-median": ("1.25,2,", "1.25,1.4,", AT_CONV + ".*median_ms <= p90_ms"),
    "nan": ("1.5,1.25,2", "nan,nan,nan", AT_CONV + "needs 0 <"),
    "nan-p90": ("1.25,2,", "1.25,nan,", AT_CONV + "needs 0 <"),
    "inf": ("1.25,2,", "1.25,inf,", AT_CONV + "needs 0 <"),
    "0-ms": ("1.5,1.25", "0,0", AT_CONV + "needs 0 <"),
    "0-ms-p10": ("1.5,1.25", "1.5,0", AT_CONV + "needs 0 <"),
    "negative-ms": ("1.5,1.25", "1.5,-1.25", AT_CONV + "needs 0 <"),
    "no-runs": (",2,50,", ",2,0,", AT_CONV + ".*runs must be at least 1"),
    "negative-runs": (",2,50,", ",2,-5,", AT_CONV + ".*runs must be at least 1"),
    "format-1": ("format = 2", "format = 1", ":1: not a latency table of format 2"),
    "no-format": ("# format = 2\n", "", ":1: not a latency table of format 2"),
    "no-row-count": ("# rows = 3\n", "", "the header: rows is missing"),
    "no-check-digits": (LINES[1] + "\n", "", "check is missing|header was changed"),
    "origin-not-toml": ("clock_mhz = 1500", "clock_mhz == 1500", "not TOML"),
    "comment-in-the-rows": (ADD_ROW, "# " + ADD_ROW, "not TOML"),
    "key-missing": ("# threads = 1\n", "", "the origin: threads is missing"),
    "key-unknown": ("# threads", "# weather = 3\n# threads", "unknown key 'weather'"),
    "text-for-a-number": ("threads = 1", 'threads = "1"', 'threads = "1" is not a whole number'),
    "bool-for-a-number": ("threads = 1", "threads = true", "threads = true is not a whole number"),
    "whole-for-a-fraction": ("load = 0.25", "load = 1", "load = 1 is not a number"),
    "date-for-a-text": ('"2024-02-29"', "2024-02-29", "date = .*2024.* is not text"),
    "nan-op-error": ("op_error = 0.05", "op_error = nan", "op_error = nan is not a number"),
    "no-correction-table": ("# [correction]\n", "# correction = 1\n", ":1: the origin"),
    "list-of-corrections": ("[correction]", "[[correction]]", "correction must be a table"),
    "correction-missing": ("# scale = 1.1\n", "", "the correction: scale is missing"),
    "correction-unknown": (
        "# scale",
        "# scales = 1.0\n# scale",
        "the correction: unknown key 'scales'",
    ),
    "correction-type": ("networks = 3", 'networks = "3"', 'networks = "3" is not a whole number'),
    "nan-scale": ("scale = 1.1", "scale = nan", "scale = nan is not a number"),
    "scores-number": ("scores = [0.5, 1.25, 2.0]", "scores = 0.5", "scores = 0.5 is not a list"),
    "scores-text": ("[0.5, 1.25", '[0.5, "1.25"', "scores = .* is not a list of numbers"),
}


@pytest.mark.parametrize(("old", "new", "message"), DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_file_is_refused_by_file_and_line(tmp_path, old, new, message):
    assert TEXT.count(old) == 1
    path = tmp_path / "board.csv"
    path.write_text(TEXT.replace(old, new))
    with pytest.raises(InputError, match=rf"^{path}:\d+: [^\n]+\Z") as caught:
        latency_table.load(str(path))
    caught.match(message)


def test_a_binary_or_missing_file_is_refused_by_name(tmp_path):
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe")
    for name in ("binary", "none"):
        with pytest.raises(InputError, match=rf"{name}\.csv: cannot be read"):
            latency_table.load(str(tmp_path / f"{name}.csv"))


# Several tables as one

OTHER_SETTING = {
    "device": "another board",
    "soc": "other",
    "core": "cortex-b00",
    "clock_mhz": 1800,
    "governor": "powersave",
    "threads": 4,
    "runtime": "LiteRT 2",
    "delegate": "none",
    "dtype": "int8",
    "method": "emulated, not measured",
}
SAME_SETTING = {
    "load": 3.5,
    "op_error": 0.1,
    "date": "2025-01-01",
    "sentinel_ms": 0.5,
    "notes": "warm",
    "architecture": "arm",
}


def with_origin(**values):
    return replace(TABLE, name="other", origin=replace(TABLE.origin, **values))


def test_every_field_of_an_origin_is_of_the_setting_or_not():
    assert {field.name for field in fields(Origin)} == OTHER_SETTING.keys() | SAME_SETTING.keys()


@pytest.mark.parametrize("key", OTHER_SETTING)
def test_tables_of_different_settings_are_refused_by_the_difference(key):
    other = with_origin(**{key: OTHER_SETTING[key]})
    ours, theirs = getattr(TABLE.origin, key), OTHER_SETTING[key]
    words = f"{key} is {ours!r} in one and {theirs!r} in the other"
    assert latency_table.difference(TABLE.origin, other.origin) == words
    for tables in ([TABLE, other], [TABLE, TABLE, other]):
        with pytest.raises(InputError) as caught:
            latency_table.join(tables)
        assert str(caught.value) == f"tables board and other do not mix: {words}"


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"core": "cortex-a76+cortex-a55"}, "arm"),
        ({"core": "kryo-485-gold"}, "arm"),
        ({"core": "0x41 0xd4f"}, "arm"),  # a part that has no name yet; only ARM's have numbers
        ({"core": "unknown", "soc": "Exynos 9820"}, "arm"),
        ({"core": "unknown", "soc": "unknown", "device": "aarch64"}, "arm"),
        ({"core": "Intel(R) Xeon(R) Processor"}, "x86"),
        ({"core": "AMD EPYC"}, "x86"),
        ({"core": "unknown", "soc": "unknown", "device": "x86_64"}, "x86"),
        ({"core": "unknown", "soc": "none", "method": "emulated, not measured"}, "arm"),
        ({"core": "unknown", "soc": "unknown", "device": "a board"}, ""),
        ({"core": "AMD EPYC", "architecture": "riscv64"}, "riscv64"),  # what is said counts
        ({"core": "AMD EPYC", "method": "carried over from arm by 12 networks"}, "x86"),
    ],
)
def test_an_origin_tells_its_architecture(told, expected):
    origin = replace(TABLE.origin, **{"method": "measured", "device": "board", "soc": "s", **told})
    assert latency_table.architecture(origin) == expected


def test_the_shipped_tables_are_of_arm_cores():
    assert {
        latency_table.architecture(latency_table.load(name).origin)
        for name in latency_table.targets()
    } == {"arm"}


def test_an_architecture_is_kept_and_a_table_without_stays_byte_for_byte():
    table = replace(TABLE, origin=replace(TABLE.origin, architecture="x86"))
    assert '# architecture = "x86"' in latency_table.to_text(table).splitlines()
    assert parse(latency_table.to_text(table)) == table
    text = Path(small.TABLE).read_text(encoding="utf-8")
    assert "architecture" not in text
    assert latency_table.to_text(latency_table.parse(text, "emulated-a76", "file")) == text


@pytest.mark.parametrize("key", SAME_SETTING)
def test_tables_of_one_setting_join_whenever_they_were_measured(key):
    other = with_origin(**{key: SAME_SETTING[key]})
    assert latency_table.difference(TABLE.origin, other.origin) == ""
    joined = latency_table.join([TABLE, other])
    assert joined == replace(TABLE, name="board+other")


def test_of_an_op_that_several_tables_have_the_first_ones_row_counts():
    slower = {ADD: Timing(9.0, 9.0, 9.0, 1), POOL: Timing(8.0, 8.0, 8.0, 1)}
    new = {POOL._replace(height=9): Timing(7.0, 7.0, 7.0, 1)}
    first = replace(TABLE, rows={ADD: TABLE.rows[ADD], CONV: TABLE.rows[CONV]})
    joined = latency_table.join([first, with_origin(notes="b"), replace(TABLE, rows=slower | new)])
    assert joined.rows == {**TABLE.rows, **new}
    assert latency_table.join([replace(TABLE, rows=slower), first]).rows[ADD] == slower[ADD]


def test_a_joined_table_has_the_first_correction_there_is():
    other = replace(TABLE, correction=replace(CORRECTION, scale=2.0))
    assert latency_table.join([TABLE, other]).correction == CORRECTION
    assert latency_table.join([PLAIN, other, TABLE]).correction == other.correction
    assert latency_table.join([PLAIN, PLAIN]).correction is None


def test_load_joins_the_tables_between_plus_signs(tmp_path):
    one, other = tmp_path / "one.csv", tmp_path / "other.csv"
    latency_table.save(replace(PLAIN, rows={ADD: TABLE.rows[ADD]}), one)
    latency_table.save(replace(TABLE, rows={ADD: TABLE.rows[CONV], POOL: TABLE.rows[POOL]}), other)
    joined = latency_table.load(f"{one}+{other}")
    assert joined.name == "one+other"
    assert joined.rows == {ADD: TABLE.rows[ADD], POOL: TABLE.rows[POOL]}
    assert joined.correction == CORRECTION
    latency_table.save(with_origin(dtype="int8"), other)
    with pytest.raises(InputError, match="one and other do not mix: dtype is 'fp32' in one and 'i"):
        latency_table.load(f"{one}+{other}")
    with pytest.raises(InputError, match="cannot be read"):
        latency_table.load(f"{one}+{tmp_path / 'none.csv'}")


def test_a_plus_sign_may_be_part_of_a_files_name(tmp_path):
    latency_table.save(TABLE, tmp_path / "a+b.csv")
    assert latency_table.load(str(tmp_path / "a+b.csv")) == replace(TABLE, name="a+b")


# What ships


def test_a_shipped_target_has_a_cost_model_and_says_where_it_is_from():
    for name, target in shipped_targets.targets().items():
        table = latency_table.load(name)
        assert (table.name, table.model, table.rows) == (name, target.model, {})
        assert table.origin.method == f"{target.source} {target.basis}"
        assert 0 < table.origin.op_error < 1
        if target.source == "fitted":
            assert table.correction.networks == len(target.errors) >= 70
        else:
            assert table.correction is None


def test_a_table_with_a_cost_model_is_read_as_it_was_written(tmp_path):
    table = latency_table.load("pixel4-little2-int8")
    latency_table.save(table, tmp_path / "pixel4-little2-int8.csv")
    read = latency_table.load(str(tmp_path / "pixel4-little2-int8.csv"))
    assert read == table
    text = (tmp_path / "pixel4-little2-int8.csv").read_text()
    assert len(text) < 3000


@pytest.mark.parametrize("costs", ["[1.0, 2.0]", "[-1.0, 1.0, 1.0, 1.0, 1.0, 1.0]", "[1, 2]"])
def test_a_cost_model_that_is_none_is_refused(costs):
    text = latency_table.to_text(latency_table.load("arm"))
    [line] = [line for line in text.splitlines() if "costs_ns" in line]
    with pytest.raises(InputError, match=r"arm\.csv:1: the model: costs_ns"):
        latency_table.parse(text.replace(line, f"# costs_ns = {costs}"), "arm", "arm.csv")


def test_every_target_has_its_table():
    assert set(latency_table.targets().values()) == set(shipped_targets.targets())
    assert latency_table.load("arm") == latency_table.load(latency_table.targets()["arm"])


def test_names_that_earlier_versions_had_are_still_targets():
    earlier = "cortex-a76 cortex-a76-int8 pixel4-cpu1-fp32 pixel4-cpu1-int8 pixel4-little-fp32"
    earlier += " s10-cpu1-fp32 s10-cpu1-int8 s10-little-fp32 arm"
    assert set(earlier.split()) < set(latency_table.targets())


def test_an_unknown_target_says_where_the_known_ones_are():
    with pytest.raises(InputError, match=r"'amr'.*latency list.*\.csv; did you mean arm"):
        latency_table.load("amr")
