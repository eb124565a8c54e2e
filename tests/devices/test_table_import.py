import csv
import io
import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghostnas.backends import tflite_writer
from ghostnas.devices import table_import
from ghostnas.errors import InputError
from ghostnas.ir.fusion import deploy
from ghostnas.ir.graph import (
    Activation,
    Add,
    Builder,
    Concat,
    Conv,
    Dense,
    Flatten,
    GlobalPool,
    Multiply,
    Narrow,
)
from ghostnas.ir.random_weights import random_weights
from ghostnas.latency import table
from ghostnas.latency.op_signature import ACTIVATIONS, OPS, WINDOWED, OpSignature, signatures
from ghostnas.latency.table import Origin, Table, Timing
from ghostnas.networks import zoo
from ghostnas.networks.arch import lower

GOLDEN = Path(__file__).parents[1] / "golden" / "benchmark_model"
LOGS = {path.stem: path.read_text() for path in GOLDEN.glob("*.txt")}


def small_network():
    """The network of the golden profiles: every op that TFLite knows, some of them twice."""
    graph = Builder((3, 33, 32))
    x = graph.add("stem", Conv(in_channels=3, out_channels=8, kernel=3, stride=2, bias=True), 0)
    x = graph.add("swish", Activation(kind="hard_swish"), x)
    y = graph.add("dw", Conv(in_channels=8, out_channels=8, kernel=5, groups=8, bias=True), x)
    y = graph.add("sum", Add(), x, y)
    y = graph.add("sum_relu", Activation(kind="relu"), y)
    wide = Conv(in_channels=8, out_channels=24, kernel=3, stride=2, groups=8, bias=True)
    y = graph.add("wide", wide, y)
    x = graph.add("narrow", Narrow(channels=12), y)
    y = graph.add("relu", Activation(kind="relu"), x)
    z = graph.add("relu6", Activation(kind="relu6"), x)
    x = graph.add("concat", Concat(), x, y, z)
    y = graph.add("squeeze", GlobalPool(), x)
    y = graph.add("reduce", Conv(in_channels=36, out_channels=9, bias=True), y)
    y = graph.add("reduce_relu", Activation(kind="relu"), y)
    y = graph.add("expand", Conv(in_channels=9, out_channels=36, bias=True), y)
    y = graph.add("gate", Activation(kind="hard_sigmoid"), y)
    x = graph.add("scale", Multiply(), x, y)
    x = graph.add("pointwise", Conv(in_channels=36, out_channels=16, stride=2, bias=True), x)
    same = Conv(in_channels=16, out_channels=16, kernel=3, bias=True)
    # With ReLUs, which run within them: two plain convolutions would be merged into one.
    x, y = graph.add("left", same, x), graph.add("right", same, x)
    x = graph.add("left_relu", Activation(kind="relu"), x)
    y = graph.add("right_relu", Activation(kind="relu"), y)
    x = graph.add("sum6", Add(), x, y)
    x = graph.add("sum6_relu6", Activation(kind="relu6"), x)
    x = graph.add("pool", GlobalPool(), x)
    x = graph.add("flatten", Flatten(), x)
    x = graph.add("features", Dense(in_features=16, out_features=20), x)
    x = graph.add("features_swish", Activation(kind="hard_swish"), x)
    graph.add("classifier", Dense(in_features=20, out_features=10), x)
    return graph.build()


SMALL = small_network()
STEM = OpSignature("conv", 33, 32, 3, 8, 3, 2, "none")
SIDE = OpSignature("conv", 5, 4, 16, 16, 3, 1, "relu")
WIDE = OpSignature("depthwise", 17, 16, 8, 24, 3, 2, "none")
GATE = OpSignature("hard_sigmoid", 1, 1, 36, 36, 0, 0, "none")
SUM = OpSignature("add", 17, 16, 8, 8, 0, 0, "relu")
SUM6 = OpSignature("add", 5, 4, 16, 16, 0, 0, "relu6")
FLATTEN = OpSignature("flatten", 1, 1, 16, 16, 0, 0, "none")
FEATURES = OpSignature("dense", 1, 1, 16, 20, 0, 0, "none")


def profile_log(nodes):
    """A log of nothing but the profile of (kind, milliseconds) nodes."""
    return "\n".join(
        (
            "Operator-wise Profiling Info for Regular Benchmark Runs:",
            "===== Run Order =====",
            "\t[node type]\t[first]\t[avg ms]\t[%]\t[cdf%]\t[mem KB]\t[times called]\t[Name]",
            *(
                f"\t{kind}\t{ms:.3f}\t{ms:.3f}\t1.0%\t1.0%\t0.000\t1\t[x]:{at}"
                for at, (kind, ms) in enumerate(nodes)
            ),
            "",
            f"Number of nodes executed: {len(nodes)}",
        )
    )


def builtin_kinds(graph):
    """The ops of the .tflite that ghostnas writes, as benchmark_model names them."""
    schema = tflite_writer.schema
    names = {code: name for name, code in vars(schema.BuiltinOperator).items()}
    packed = tflite_writer.write(graph, random_weights(graph, seed=0))
    model = schema.ModelT.InitFromPackedBuf(packed)
    codes = [code.builtinCode for code in model.operatorCodes]
    return [names[codes[op.opcodeIndex]] for op in model.subgraphs[0].operators]


FUSED_KINDS = builtin_kinds(SMALL)
_AT = FUSED_KINDS.index("MUL")
KINDS = [*FUSED_KINDS[:_AT], "ADD", "MUL", *FUSED_KINDS[_AT:]]  # with a separate gate, as in LOGS


def as_table(rows):
    origin = table_import.origin_from_toml(ORIGIN, "origin.toml")
    return Table(name="imported", origin=origin, rows=rows)


# Profiles


def test_every_op_has_its_nodes():
    assert set(table_import.NODES) == set(OPS)


def test_a_profile_of_tflites_own_kernels():
    rows = table_import.from_profile(LOGS["profile_tflite"], SMALL, "log")
    assert set(rows) == set(signatures(SMALL))
    assert rows[STEM] == pytest.approx((0.005 + 0.141,) * 3 + (1000,))
    assert rows[WIDE].median_ms == pytest.approx(0.004 + 0.083)
    assert rows[GATE].median_ms == pytest.approx(0.003 + 0.002)
    assert rows[SUM] == Timing(0.009, 0.009, 0.009, 1000)
    assert rows[FLATTEN] == Timing(0.001, 0.001, 0.001, 1000)
    assert rows[SIDE] == Timing(0.216, 0.213, 0.219, 2000)


def test_a_profile_of_xnnpacks_ops():
    rows = table_import.from_profile(LOGS["profile_xnnpack"], SMALL, "log")
    assert set(rows) == set(signatures(SMALL))
    assert rows[STEM] == Timing(0.048, 0.048, 0.048, 1000)
    assert rows[SUM].median_ms == pytest.approx(0.002 + 0.001)
    assert rows[SUM6].median_ms == pytest.approx(0.002 + 0.001)
    assert rows[GATE].median_ms == pytest.approx(0.001 + 0.000 + 0.001)
    assert rows[FEATURES].median_ms == pytest.approx(0.001 + 0.004)
    assert rows[SIDE] == Timing(0.065, 0.064, 0.066, 2000)


def test_a_profile_of_a_file_whose_gate_is_fused():
    log = profile_log([(kind, 0.01) for kind in FUSED_KINDS])
    rows = table_import.from_profile(log, SMALL, "log")
    assert set(rows) == set(signatures(SMALL))
    assert rows[GATE].median_ms == table_import.LEAST_MS
    xnnpack = {"ADD": "Binary Elementwise", "MUL": "Binary Elementwise"}
    log = profile_log([(xnnpack.get(kind, kind), 0.01) for kind in FUSED_KINDS])
    assert table_import.from_profile(log, SMALL, "log") == rows


def test_what_is_too_fast_for_the_profile_is_still_above_zero():
    rows = table_import.from_profile(LOGS["profile_xnnpack"], SMALL, "log")
    assert rows[FLATTEN] == Timing(0.0005, 0.0005, 0.0005, 1000)


@pytest.mark.parametrize("name", ["profile_tflite", "profile_xnnpack"])
def test_a_profile_becomes_a_table_that_can_be_read_again(name):
    rows = table_import.from_profile(LOGS[name], SMALL, "log")
    again = table.parse(table.to_text(as_table(rows)), "imported", "imported.csv")
    assert set(again.rows) == set(rows)
    for signature, timing in rows.items():
        assert again.rows[signature] == pytest.approx(timing, rel=1e-5)


def test_a_graph_may_be_deployed_already():
    log = LOGS["profile_tflite"]
    rows = table_import.from_profile(log, SMALL, "log")
    assert table_import.from_profile(log, deploy(SMALL), "log") == rows


@pytest.mark.parametrize("resolution", [57, 64])
@pytest.mark.parametrize("name", sorted(zoo.ZOO))
def test_everything_tflite_writes_is_matched(name, resolution):
    graph = lower(zoo.named(name, 0.25, resolution, 10))
    nodes = [(kind, 0.001 * at) for at, kind in enumerate(builtin_kinds(graph), 1)]
    rows = table_import.from_profile(profile_log(nodes), graph, "log")
    ops = signatures(graph)
    assert set(rows) == set(ops)
    fused = [op for op in ops if op.op == "hard_sigmoid"]
    assert {rows[op].median_ms for op in fused} == {table_import.LEAST_MS}
    total_ms = sum(rows[op].median_ms for op in ops if op not in fused)
    assert total_ms == pytest.approx(sum(ms for _, ms in nodes))
    assert all(timing.runs == ops.count(op) for op, timing in rows.items())


def test_the_kinds_of_the_golden_profile_are_those_that_tflite_writes():
    lines = LOGS["profile_tflite"].partition("Regular Benchmark Runs:")[2].splitlines()
    rows = itertools.takewhile(bool, lines[3:])
    # The profile was taken when the writer's slices were a SLICE, with the batch written into it.
    kinds = ["SLICE" if kind == "STRIDED_SLICE" else kind for kind in KINDS]
    assert [row.split("\t")[1].strip() for row in rows] == kinds


@given(st.lists(st.integers(0, 10**7), min_size=26, max_size=26))
def test_times_of_any_size_make_a_valid_table(times_us):
    nodes = [(kind, us / 1e3) for kind, us in zip(KINDS, times_us, strict=True)]
    rows = table_import.from_profile(profile_log(nodes), SMALL, "log")
    table.parse(table.to_text(as_table(rows)), "imported", "imported.csv")


NEEDS = r"log\.txt: node {} of {} is {} in the log, the network needs {}"


@pytest.mark.parametrize(
    ("kinds", "message"),
    [
        (["SOFTMAX", *KINDS[1:]], NEEDS.format(1, 26, "SOFTMAX", "CONV_2D for conv 33x32x3")),
        (KINDS[2:], NEEDS.format(1, 24, "HARD_SWISH", "CONV_2D for conv 33x32x3")),
        ([*KINDS[:3], *KINDS[4:]], NEEDS.format(4, 25, "ADD", "DEPTHWISE_CONV_2D for depthwise")),
        ([*KINDS[:3], "CONV_2D", *KINDS[4:]], NEEDS.format(4, 26, "CONV_2D", "DEPTHWISE_CONV_2D")),
        ([*KINDS[:8], "RELU6", *KINDS[9:]], NEEDS.format(9, 26, "RELU6", "RELU for relu 9x8x12")),
        ([*KINDS, "SOFTMAX"], NEEDS.format(27, 27, "SOFTMAX", "no more")),
        (KINDS[:-1], "the log ends after 25 nodes, the network needs FULLY_CONNECTED for dense"),
    ],
    ids=["other", "fewer-first", "fewer", "conv", "relu6", "more", "fewer-last"],
)
def test_nodes_that_are_not_the_networks_are_named(kinds, message):
    log = profile_log([(kind, 0.25) for kind in kinds])
    with pytest.raises(InputError, match=message) as caught:
        table_import.from_profile(log, SMALL, "log.txt")
    assert "\n" not in str(caught.value)


def test_xnnpacks_depthwise_kernel_is_not_a_convolution():
    log = LOGS["profile_xnnpack"]
    other = log.replace("F32) IGEMM\t", "F32) DWConv\t")
    with pytest.raises(InputError, match=r"node 1 of 29 is .*DWConv .*CONV_2D for conv"):
        table_import.from_profile(other, SMALL, "log")


@pytest.mark.parametrize("kind", ["CONV_2D/by a kernel", "Delegate/Convolution (NHWC, F32) IGEMM"])
def test_a_kind_may_say_more(kind):
    kinds = ["PAD", kind, *KINDS[2:]]
    rows = table_import.from_profile(profile_log([(kind, 1.0) for kind in kinds]), SMALL, "log")
    assert rows[STEM].median_ms == 2.0


def test_a_clamp_after_a_convolution_is_a_separate_op():
    graph = Builder((4, 8, 8))
    x = graph.add("conv", Conv(in_channels=4, out_channels=4, bias=True), 0)
    x = graph.add("relu", Activation(kind="relu"), x)
    graph.add("relu6", Activation(kind="relu6"), x)
    nodes = [("Fully Connected (NC, F32) GEMM", 2.0), ("Clamp (NC)", 1.0)]
    rows = table_import.from_profile(profile_log(nodes), graph.build(), "log")
    assert [(op.op, timing.median_ms) for op, timing in rows.items()] == [
        ("conv", 2.0),
        ("relu6", 1.0),
    ]


@pytest.mark.parametrize("kind", ["TfLiteXNNPackDelegate", "DELEGATE", "TfLiteGpuDelegateV2"])
def test_a_delegated_network_is_not_a_profile_of_its_ops(kind):
    with pytest.raises(InputError) as caught:
        table_import.from_profile(profile_log([(kind, 9.0)]), SMALL, "log")
    message = str(caught.value)
    assert message.startswith(f"log: node 1 is {kind}, many ops as one")
    assert "--enable_op_profiling=true" in message
    assert "--use_xnnpack=false" in message
    with pytest.raises(InputError, match="node 1 is TfLiteXNNPackDelegate"):
        table_import.from_profile(LOGS["partial"], SMALL, "log")


@pytest.mark.parametrize("calls", [0, 2, 13])
def test_a_name_that_stands_for_several_nodes_is_not_a_profile(calls):
    node = "     0.000\t        1\tDelegate/Add (ND):3"
    assert LOGS["profile_xnnpack"].count(node) == 1
    log = LOGS["profile_xnnpack"].replace(node, f" 0.000\t {calls}\tDelegate/Add (ND):3")
    with pytest.raises(InputError, match=rf"node 4, Delegate/Add \(ND\):3, .* {calls} calls"):
        table_import.from_profile(log, SMALL, "log")


def test_a_log_that_is_not_a_profile_is_an_error_with_its_name():
    for name in ("failing", "xnnpack"):
        with pytest.raises(InputError, match=r"^log\.txt: benchmark_model: "):
            table_import.from_profile(LOGS[name], SMALL, "log.txt")


# CSV

CSV = """\
# measured in the laboratory
op,height,width,in_channels,out_channels,kernel,stride,activation,median_ms,p10_ms,p90_ms,runs

conv,33,32,3,8,3,2,none,1.5,1.25,2,50
  # the last one
add,17,16,8,8,0,0,relu,0.0625,0.0625,0.0625,7
"""
ROWS = {STEM: Timing(1.5, 1.25, 2.0, 50), SUM: Timing(0.0625, 0.0625, 0.0625, 7)}
TIMES = ",median_ms,p10_ms,p90_ms,runs"


def test_the_rows_of_a_csv():
    assert table_import.from_csv(CSV, "t.csv") == ROWS
    assert table_import.from_csv("\ufeff" + CSV.replace("\n", "\r\n"), "t.csv") == ROWS
    assert table_import.from_csv(CSV.replace(",", ", ").replace("relu", '"relu"'), "t.csv") == ROWS


def columns(text, keep):
    """The table with only some columns, in the order of `keep`."""
    rows = list(csv.DictReader(line for line in text.splitlines() if "," in line))
    lines = [keep, *([row[column] for column in keep] for row in rows)]
    return "\n".join(",".join(line) for line in lines)


def test_columns_may_be_in_any_order_and_percentiles_left_out():
    order = ["runs", "p90_ms", "median_ms", *reversed(OpSignature._fields), "p10_ms"]
    assert table_import.from_csv(columns(CSV, order), "t.csv") == ROWS
    least = columns(CSV, [*OpSignature._fields, "median_ms"])
    assert table_import.from_csv(least, "t.csv") == {
        STEM: Timing(1.5, 1.5, 1.5, 1),
        SUM: Timing(0.0625, 0.0625, 0.0625, 1),
    }


@pytest.mark.parametrize(
    ("column", "share"), [("ms", 1), ("median_ms", 1), ("us", 1e-3), ("median_us", 1e-3)]
)
def test_times_are_milliseconds_or_microseconds(column, share):
    text = columns(CSV, [*OpSignature._fields, "median_ms"]).replace("median_ms", column)
    assert table_import.from_csv(text, "t.csv")[STEM].median_ms == pytest.approx(1.5 * share)


def test_percentiles_may_be_in_microseconds_too():
    text = CSV.replace("_ms", "_us")
    timing = table_import.from_csv(text, "t.csv")[STEM]
    assert timing == pytest.approx((0.0015, 0.00125, 0.002, 50))


BAD = {
    "unknown-column": ("runs", "turns", r"2: unknown column 'turns'; known: op, "),
    "unnamed-column": (",runs", ",", "2: unknown column ''"),
    "no-time": (TIMES, ",p10_ms,p90_ms,runs,runs", "2: runs is in two columns"),
    "two-times": ("p10_ms", "us", "2: median_ms is in two columns"),
    "no-column": ("kernel,", "", "2: lacks the column kernel"),
    "no-time-column": ("median_ms,p10_ms,p90_ms,", "", "2: lacks the column median_ms"),
    "no-number": ("1.5,", "fast,", "4: median_ms is 'fast', not a number"),
    "no-size": ("conv,33", "conv,33.5", "4: height is '33.5', not a number"),
    "empty": ("conv,33", "conv,", "4: height is '', not a number"),
    "zero": ("1.5,1.25", "0,0", "4: needs 0 < p10_ms"),
    "negative": ("0.0625,0.0625,0.0625", "-1,-1,-1", "6: needs 0 < p10_ms"),
    "nan": ("1.5,", "nan,", "4: needs 0 <"),
    "infinite": ("1.25,2,", "1.25,inf,", "4: needs 0 <"),
    "p10-above": ("1.25", "1.75", "4: needs 0 < p10_ms <= median_ms"),
    "p90-below": (",2,50", ",1.4,50", "4: needs 0 <"),
    "no-runs": (",50", ",0", "4: sizes, channels and runs"),
    "size-0": ("conv,33", "conv,0", "4: sizes, channels and runs"),
    "no-kernel": ("3,8,3,2", "3,8,0,2", "4: kernel and stride"),
    "kernel-of-a-sum": ("8,8,0,0", "8,8,1,1", "6: kernel and stride"),
    "negative-stride": ("3,8,3,2", "3,8,3,-2", "4: kernel and stride"),
    "unknown-op": ("conv,33", "cnov,33", "4: unknown op 'cnov'; known: conv, "),
    "unknown-activation": ("none,1.5", "rleu,1.5", "4: unknown activation 'rleu'; known: none"),
    "second-time": ("add,17,16,8,8,0,0,relu", "conv,33,32,3,8,3,2,none", "6: conv .* second time"),
    "too-few": (",50", "", "4: has 11 columns, needs 12"),
    "too-many": (",50", ",50,1", "4: has 13 columns, needs 12"),
    "quotes": ("conv,33", '"conv"x,33', "4: "),
}


@pytest.mark.parametrize(("old", "new", "message"), BAD.values(), ids=BAD.keys())
def test_a_bad_csv_is_refused_by_file_and_line(old, new, message):
    assert CSV.count(old) == 1
    with pytest.raises(InputError, match=r"^t\.csv:" + message) as caught:
        table_import.from_csv(CSV.replace(old, new), "t.csv")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "# nothing\n\n", CSV[: CSV.index("conv,")]])
def test_a_csv_without_rows_is_an_error(text):
    with pytest.raises(InputError, match=r"^t\.csv: needs a line of column names"):
        table_import.from_csv(text, "t.csv")


SIZES = st.integers(1, 4096)
PLACES = st.tuples(SIZES, SIZES, SIZES, SIZES)
KERNELS = st.tuples(st.integers(1, 11), st.integers(1, 4))
WITH_WINDOWS = st.tuples(st.sampled_from(WINDOWED), PLACES, KERNELS)
OTHERS = st.tuples(st.sampled_from(OPS[len(WINDOWED) :]), PLACES, st.just((0, 0)))
SIGNATURES = st.tuples(WITH_WINDOWS | OTHERS, st.sampled_from(ACTIVATIONS)).map(
    lambda parts: OpSignature(parts[0][0], *parts[0][1], *parts[0][2], parts[1])
)
TIMINGS = st.tuples(
    st.lists(st.floats(1e-6, 1e6), min_size=3, max_size=3).map(sorted), st.integers(1, 10**6)
).map(lambda parts: Timing(parts[0][1], parts[0][0], parts[0][2], parts[1]))


@given(
    st.dictionaries(SIGNATURES, TIMINGS, min_size=1, max_size=5),
    st.permutations((*OpSignature._fields, *Timing._fields)),
)
def test_any_rows_survive_a_csv_in_any_order_of_columns(rows, order):
    text = io.StringIO()
    writer = csv.DictWriter(text, order)
    writer.writeheader()
    writer.writerows({**op._asdict(), **timing._asdict()} for op, timing in rows.items())
    assert table_import.from_csv(text.getvalue(), "t.csv") == rows
    table.parse(table.to_text(as_table(rows)), "imported", "imported.csv")


# Origin

ORIGIN = """
device = "Pixel 6"
threads = 1
runtime = "benchmark_model 2.16"
delegate = "XNNPACK"
dtype = "fp32"
date = "2024-02-29"
"""


def test_an_origin_of_what_a_user_knows():
    assert table_import.origin_from_toml(ORIGIN, "o.toml") == Origin(
        device="Pixel 6",
        soc="unknown",
        core="unknown",
        clock_mhz=0,
        governor="unknown",
        load=0.0,
        threads=1,
        runtime="benchmark_model 2.16",
        delegate="XNNPACK",
        dtype="fp32",
        method="imported",
        op_error=0.05,
        date="2024-02-29",
    )


def test_an_origin_of_all_keys():
    said = 'soc = "Tensor"\ncore = "cortex-x1"\nclock_mhz = 2802\ngovernor = "performance"\n'
    said += 'load = 1\nmethod = "measured"\nop_error = 0.1\nsentinel_ms = 0.5\nnotes = "hot"\n'
    origin = table_import.origin_from_toml(ORIGIN + said, "o.toml")
    assert (origin.soc, origin.core, origin.clock_mhz) == ("Tensor", "cortex-x1", 2802)
    assert (origin.governor, origin.load, origin.method) == ("performance", 1.0, "measured")
    assert (origin.op_error, origin.sentinel_ms, origin.notes) == (0.1, 0.5, "hot")
    assert type(origin.load) is float


def test_an_origin_without_a_date_has_todays():
    text = ORIGIN.replace('date = "2024-02-29"', "")
    date = table_import.origin_from_toml(text, "o.toml").date
    assert date > "2025"
    assert len(date) == len("2024-02-29")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("threads = 1", "threads == 1", "is not TOML"),
        ("threads = 1", "threads = 1\nweather = 3", "unknown key 'weather'; known: device, soc"),
        ("threads = 1", 'threads = "1"', "threads must be a whole number"),
        ("threads = 1", "threads = true", "threads must be a whole number"),
        ("threads = 1", "threads = 1.0", "threads must be a whole number"),
        ("threads = 1", "threads = 0", "threads must be at least 1"),
        ("threads = 1", "threads = 1\nclock_mhz = -1", "clock_mhz must be at least 0"),
        ("threads = 1", "threads = 1\nload = true", "load must be a number"),
        ("threads = 1", "threads = 1\nop_error = nan", "op_error must be at least 0"),
        ("threads = 1", "threads = 1\nop_error = inf", "op_error must be at least 0"),
        ("threads = 1", "threads = 1\nop_error = -0.1", "op_error must be at least 0"),
        ('"2024-02-29"', "2024-02-29", "date must be text"),
        ('"fp32"', "32", "dtype must be text"),
        ('device = "Pixel 6"\nthreads = 1\n', "", "lacks device, threads$"),
        *(
            (f"{key} = ", f"# {key} = ", f"lacks {key}$")
            for key in ("device", "threads", "runtime", "delegate", "dtype")
        ),
    ],
)
def test_a_bad_origin_is_refused_by_file_and_key(old, new, message):
    assert ORIGIN.count(old) == 1
    with pytest.raises(InputError, match=r"^o\.toml: " + message):
        table_import.origin_from_toml(ORIGIN.replace(old, new), "o.toml")
