from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghostnas.devices import benchmark_model
from ghostnas.devices.benchmark_model import ProfiledOp, Timings
from ghostnas.errors import DeviceError

GOLDEN = Path(__file__).parents[1] / "golden" / "benchmark_model"
LOGS = {path.stem: path.read_text() for path in GOLDEN.glob("*.txt")}
XNNPACK, PROFILE, PARTIAL = LOGS["xnnpack"], LOGS["profile_xnnpack"], LOGS["partial"]
REGULAR = "INFO: count=93 first=10741"
COMPLETELY = "INFO: Explicitly applied XNNPACK delegate, and the model graph will be completely"
REPLACING = (
    "VERBOSE: Replacing {} out of 31 node(s) with delegate (TfLite{}Delegate) node, yielding 1 "
    "partitions for subgraph 0."
)


def log(*said, regular="count=50 curr=8413(all same)"):
    """A log with the least that is needed."""
    running = "Running benchmark for at least 1 iterations and at least 0.5 seconds"
    summary = "Inference timings in us: Init: 1, First inference: 1, Warmup (avg): 1"
    return "\n".join((*said, running, "count=1 curr=9000", "", running, regular, "", summary, ""))


# Command


def test_the_command():
    assert benchmark_model.command(
        "/data/benchmark_model",
        "/data/net.tflite",
        threads=2,
        runs=50,
        warm_up_runs=5,
        seconds=0.5,
    ) == [
        "/data/benchmark_model",
        "--graph=/data/net.tflite",
        "--use_xnnpack=true",
        "--num_threads=2",
        "--num_runs=50",
        "--warmup_runs=5",
        "--min_secs=0.5",
        "--max_secs=150",
        "--enable_op_profiling=false",
    ]


def test_runs_may_take_longer_than_the_tool_allows_by_itself():
    command = benchmark_model.command("b", "m", threads=1, runs=1, warm_up_runs=0, seconds=400)
    assert "--min_secs=400" in command
    assert "--max_secs=400" in command


# Memory


def test_the_memory_is_what_the_program_grew_by():
    assert benchmark_model.parse(XNNPACK).memory_bytes == round(9.80469 * 2**20)
    assert benchmark_model.parse(log()).memory_bytes is None


# Timings


@pytest.mark.parametrize(
    ("name", "median_ms", "p10_ms", "p90_ms", "runs", "delegated"),
    [
        ("old_uint8", 11.24, 11.094, 11.24 + 1.2816 * 0.150, 88, None),
        ("xnnpack", 10.729, 10.688, 10.985, 93, True),
        ("profile_tflite", 0.95484, 0.95484 - 1.2816e-3 * 6, 0.95484 + 1.2816e-3 * 6, 1000, None),
        ("partial", 7.3916, 7.344, 7.3916 + 1.2816e-3 * 44, 134, False),
    ],
)
def test_timings_of_the_golden_logs(name, median_ms, p10_ms, p90_ms, runs, delegated):
    timings = benchmark_model.parse(LOGS[name])
    measured = (timings.median_ms, timings.p10_ms, timings.p90_ms)
    assert measured == pytest.approx((median_ms, p10_ms, p90_ms))
    assert (timings.runs, timings.delegated) == (runs, delegated)


def test_runs_that_all_took_the_same_time():
    same = Timings(median_ms=8.413, p10_ms=8.413, p90_ms=8.413, runs=50, delegated=None)
    assert benchmark_model.parse(log()) == same
    regular = "count=50 curr=8413(all same) p5=8413 median=8413 p95=8413"
    assert benchmark_model.parse(log(regular=regular)) == same


@given(st.lists(st.integers(1, 10**8), min_size=1, max_size=99), st.booleans())
def test_percentiles_enclose_the_median_however_the_runs_lie(times_us, new):
    least, greatest, last = min(times_us), max(times_us), times_us[-1]
    mean = sum(times_us) / len(times_us)
    deviation = (sum((each - mean) ** 2 for each in times_us) / len(times_us)) ** 0.5
    regular = f"count={len(times_us)} curr={last}"
    if least < greatest:
        regular = f"count={len(times_us)} first={times_us[0]} curr={last} min={least} "
        regular += f"max={greatest} avg={mean:g} std={int(deviation)}"
    if new:
        in_order = sorted(times_us)
        p5, median, p95 = (in_order[len(in_order) * share // 100] for share in (5, 50, 95))
        regular += f" p5={p5} median={median} p95={p95}"
    timings = benchmark_model.parse(log(regular=regular))
    assert timings.runs == len(times_us)
    assert least <= timings.p10_ms * 1e3 * (1 + 1e-9)
    assert timings.p90_ms * 1e3 <= greatest * (1 + 1e-9)
    assert timings.p10_ms <= timings.median_ms <= timings.p90_ms
    if new:
        assert timings.median_ms == median / 1e3
    elif least < greatest:
        clipped = min(max(float(f"{mean:g}"), least), greatest)
        assert timings.median_ms == clipped / 1e3


AROUND = {
    "crlf": lambda text: text.replace("\n", "\r\n"),
    "pty": lambda text: text.replace("\n", "\r\r\n"),
    "logcat-brief": lambda text: "".join(
        f"I/tflite  ( 4711): {line}\n" for line in text.splitlines()
    ),
    "logcat": lambda text: "".join(
        f"05-31 10:31:13.006 21767 21767 I tflite  : {line}\n" for line in text.splitlines()
    ),
    "no-level": lambda text: text.replace("INFO: ", ""),
    "indented": lambda text: "".join(f"\t{line}\n" for line in text.splitlines()),
    "no-blank-lines": lambda text: text.replace("\n\n", "\n"),
    "expanded-tabs": lambda text: text.expandtabs(),
    "shell": lambda text: "$ ./benchmark_model --graph=x --num_threads=1" + text + "$ \n",
}


@pytest.mark.parametrize("put", AROUND.values(), ids=AROUND.keys())
@pytest.mark.parametrize("name", ["old_uint8", "profile_xnnpack", "partial"])
def test_what_stands_around_the_lines_does_not_matter(name, put):
    text = LOGS[name]
    assert benchmark_model.parse(put(text)) == benchmark_model.parse(text)
    assert benchmark_model.parse_profile(put(text)) == benchmark_model.parse_profile(text)


def test_of_several_benchmarks_the_last_one_counts():
    for first, last in ((XNNPACK, PARTIAL), (PARTIAL, XNNPACK), (LOGS["failing"], PROFILE)):
        assert benchmark_model.parse(first + last) == benchmark_model.parse(last)
    assert benchmark_model.parse_profile(PARTIAL + PROFILE) == benchmark_model.parse_profile(
        PROFILE
    )
    with pytest.raises(DeviceError, match="failed"):
        benchmark_model.parse(XNNPACK + LOGS["failing"])


@pytest.mark.parametrize(
    ("said", "delegated"),
    [
        ((COMPLETELY + " executed by the delegate.",), True),
        ((COMPLETELY.replace("XNNPACK", "GPU") + " executed by the delegate.",), None),
        (
            (
                COMPLETELY.replace("XNNPACK", "GPU") + " executed by the delegate.",
                "INFO: Though XNNPACK delegate is explicitly applied, the model graph will not be "
                "executed by the delegate.",
            ),
            False,
        ),
        ((REPLACING.format(31, "XNNPack"),), True),
        ((REPLACING.format(30, "XNNPack"),), False),
        ((REPLACING.format(31, "XNNPack"), REPLACING.format(30, "XNNPack")), False),
        ((REPLACING.format(31, "Nnapi"),), None),
        (("INFO: Created TensorFlow Lite XNNPACK delegate for CPU.",), None),
    ],
)
def test_whether_xnnpack_took_the_whole_network(said, delegated):
    assert benchmark_model.parse(log(*said)).delegated is delegated


def test_a_log_cut_anywhere_before_its_summary_is_an_error():
    for text in (XNNPACK, LOGS["old_uint8"]):
        for length in range(text.index("nference timings in us") + 1):
            with pytest.raises(DeviceError, match="looked for"):
                benchmark_model.parse(text[:length])


@pytest.mark.parametrize("parse", [benchmark_model.parse, benchmark_model.parse_profile])
def test_a_benchmark_that_failed_says_why_in_one_line(parse):
    for text in (
        LOGS["failing"],
        LOGS["failing"].replace("ERROR: ", "05-31 10:31:13.006 217 217 E tflite  : "),
        PROFILE + LOGS["failing"].partition("runtime.\n")[2],
    ):
        with pytest.raises(DeviceError) as caught:
            parse(text)
        assert str(caught.value) == (
            "benchmark_model: the benchmark failed; it says ERROR: Encountered unresolved custom "
            "op: CUSTOM_NORM."
        )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sh: benchmark_model: not found",
        "count=50 first=1 curr=1 min=1 max=2 avg=1 std=1",
        log(regular="count=0"),
        log(regular="count=50 curr=0(all same)"),
        log(regular="count=50 first=8 curr=8 min=8 max=9 avg=nan std=0"),
        log(regular="count=50 first=8 curr=8 min=8 max=9 avg=8.5.1 std=0"),
        log(regular="count=5 first=0 curr=8 min=0 max=9 avg=8 std=2 p5=0 median=8 p95=9"),
        log(regular="count= curr=8413"),
        log(regular="count=0 p5=0 median=0 p95=0"),
        log(regular="first=8 curr=8 min=8 max=9 avg=8 std=0"),
        log() + log(),
    ],
)
def test_a_text_without_timings_is_an_error(text):
    with pytest.raises(DeviceError, match=r"benchmark_model: looked for .* found") as caught:
        benchmark_model.parse(text)
    assert "\n" not in str(caught.value)


def test_an_error_of_a_delegate_alone_is_none():
    said = "ERROR: Following operations are not supported by GPU delegate:"
    assert benchmark_model.parse(log(said)).runs == 50
    with pytest.raises(DeviceError, match=r"found none; it says ERROR: Following operations"):
        benchmark_model.parse(log(said, regular=""))


# Profiles


def test_the_nodes_of_an_old_profile():
    ops = benchmark_model.parse_profile(LOGS["old_uint8"])
    assert len(ops) == 13
    assert ops[0] == ProfiledOp(
        kind="CONV_2D", avg_ms=1.417, times_called=1, name="[tiny/stem/Relu6]"
    )
    assert [op.kind for op in ops[:3]] == ["CONV_2D", "DEPTHWISE_CONV_2D", "CONV_2D"]
    assert [op.avg_ms for op in ops[-3:]] == [0.118, 0.005, 0.019]
    assert sum(op.avg_ms for op in ops) == pytest.approx(11.12)


def test_the_nodes_of_xnnpack_and_not_those_of_the_initialisation():
    ops = benchmark_model.parse_profile(PROFILE)
    assert len(ops) == 29
    assert ops[0] == ProfiledOp(
        kind="Convolution (NHWC, F32) IGEMM",
        avg_ms=0.048,
        times_called=1,
        name="Delegate/Convolution (NHWC, F32) IGEMM:0",
    )
    assert [op.name.rpartition(":")[2] for op in ops] == [str(index) for index in range(29)]
    assert ops[-2] == ProfiledOp(
        kind="Static Reshape (NC)",
        avg_ms=0.0,
        times_called=1,
        name="Delegate/Static Reshape (NC):27",
    )


def test_how_often_a_node_is_called():
    line = next(line for line in PARTIAL.splitlines() if "CUSTOM_NORM" in line)
    calls = "     0.000\t        1\t"
    ops = benchmark_model.parse_profile(
        PARTIAL.replace(line, line.replace(calls, " -8.000\t 13\t"))
    )
    assert [op.times_called for op in ops] == [1, 13, 1]
    assert ops[1].avg_ms == 0.377


def test_a_profile_cut_anywhere_is_an_error():
    end = PROFILE.index("Number of nodes executed: 29") + len("Number of nodes executed: 29")
    assert len(benchmark_model.parse_profile(PROFILE[:end])) == 29
    for length in range(0, end, 11):
        with pytest.raises(DeviceError):
            benchmark_model.parse_profile(PROFILE[:length])
    with pytest.raises(DeviceError, match=r"29 nodes, 'Number of nodes executed' is 2$"):
        benchmark_model.parse_profile(PROFILE[: end - 1])


def test_a_profile_that_lacks_a_node_is_an_error():
    line = next(line for line in PROFILE.splitlines(keepends=True) if line.endswith("DWConv:2\n"))
    with pytest.raises(DeviceError, match="28 nodes, 'Number of nodes executed' is 29"):
        benchmark_model.parse_profile(PROFILE.replace(line, "", 1))


def test_a_log_without_a_profile_says_how_to_get_one():
    with pytest.raises(DeviceError, match="--enable_op_profiling=true"):
        benchmark_model.parse_profile(XNNPACK)


def test_the_initialisation_alone_is_no_profile():
    end = PROFILE.index("INFO: Operator-wise")
    with pytest.raises(DeviceError, match="ends before the op profile of the regular runs"):
        benchmark_model.parse_profile(PROFILE[:end])
