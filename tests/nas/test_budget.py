import pytest

from ghostnas.errors import InputError
from ghostnas.ir.cost import Cost
from ghostnas.nas import budget

COST = Cost(macs=150, params=5, model_bytes=6, peak_activation_bytes=4)


def no_latency(_target):
    raise AssertionError("asked for a latency that no budget names")


@pytest.mark.parametrize(
    ("text", "quantity", "limit"),
    [
        ("7FLOPs", "macs", 7),
        ("7KFLOPs", "macs", 7e3),
        ("150MFLOPs", "macs", 150e6),
        ("0.15GFLOPs", "macs", 150e6),
        ("20ms", "latency_ms", 20),
        (".5ms", "latency_ms", 0.5),
        ("7params", "params", 7),
        ("7Kparams", "params", 7e3),
        ("5.2Mparams", "params", 5.2e6),
        ("6KB", "model_bytes", 6e3),
        ("6MB", "model_bytes", 6e6),
        ("4KBpeak", "peak_activation_bytes", 4e3),
        ("4MBpeak", "peak_activation_bytes", 4e6),
    ],
)
def test_every_unit(text, quantity, limit):
    parsed = budget.parse(text)
    assert (parsed.text, parsed.quantity, parsed.target) == (text, quantity, None)
    assert parsed.limit == pytest.approx(limit, rel=1e-12)


@pytest.mark.parametrize("text", ["150mflops", "150MFLOPS", "150 MFLOPs", " 150MFLOPs "])
def test_case_and_blanks_do_not_matter(text):
    parsed = budget.parse(text)
    assert (parsed.text, parsed.quantity, parsed.limit) == (text.strip(), "macs", 150e6)


def test_a_latency_may_name_a_target():
    parsed = budget.parse("20ms@pixel4-cpu1-int8")
    assert (parsed.limit, parsed.target) == (20, "pixel4-cpu1-int8")


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "5", "ms", "150MFLOP5", "5furlongs", "-3ms", "0ms", "0.0MB", "1e3ms", "nanms"),
        *("infms", "1.ms", "1.2.3ms", "20ms@", "20@arm", "20ms 30ms", "20ms,5MB", "5M", "1_0ms"),
    ],
)
def test_an_invalid_amount_is_rejected_with_an_example(text):
    with pytest.raises(InputError, match="150MFLOPs, 20ms") as caught:
        budget.parse(text)
    assert repr(text) in str(caught.value)


def test_only_a_latency_can_name_a_target():
    with pytest.raises(InputError, match=r"150MFLOPs@arm.*only a latency"):
        budget.parse("150MFLOPs@arm")


@pytest.mark.parametrize(
    ("text", "amount"), [("1MFLOPs", 150), ("1Mparams", 5), ("1MB", 6), ("1MBpeak", 4)]
)
def test_a_budget_on_cost_asks_for_no_latency(text, amount):
    assert budget.amount(budget.parse(text), COST, no_latency) == amount


def test_each_latency_is_asked_for_on_its_own_target():
    latency_ms = {None: 20.5, "phone": 30.5}.__getitem__
    assert budget.amount(budget.parse("1ms"), COST, latency_ms) == 20.5
    assert budget.amount(budget.parse("1ms@phone"), COST, latency_ms) == 30.5
