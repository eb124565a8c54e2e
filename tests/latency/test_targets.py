import pytest

from ghostnas.errors import InputError
from ghostnas.latency import targets
from ghostnas.latency.targets import variant


def test_a_variant_has_the_same_cores_and_what_was_asked_for():
    assert variant("pixel4-little-fp32", threads=4) == "pixel4-little4-fp32"
    assert variant("pixel4-little4-fp32", dtype="int8") == "pixel4-little4-int8"
    assert variant("arm", threads=2, dtype="int8") == "pixel4-cpu2-int8"
    assert variant("cortex-a76", threads=4) == "rpi5-cpu4-fp32"


def test_a_target_that_has_it_already_keeps_its_name():
    assert variant("arm") == "arm"
    assert variant("arm", threads=1, dtype="fp32") == "arm"
    assert variant("runs/mine.csv") == "runs/mine.csv"


def test_a_variant_that_there_is_not_names_those_there_are():
    with pytest.raises(
        InputError, match=r"no target for 8 threads in fp32 on mi8se-cpu; .*1 in fp32, 1 in int8, 2"
    ):
        variant("mi8se-cpu1-fp32", threads=8)
    with pytest.raises(InputError, match=r"--threads chooses among.*'mine\.csv' is none of them"):
        variant("mine.csv", threads=2)
    with pytest.raises(InputError, match=r"--dtype .*did you mean arm"):
        variant("amr", dtype="int8")


def test_every_target_has_a_name_of_its_cores_and_dtype():
    for name, target in targets.targets().items():
        assert name.startswith(target.cores)
        assert name.endswith(f"-{target.dtype}")
        assert target.source in targets.SOURCES
        assert 0 < target.mape < 0.5
        assert list(target.errors) == sorted(target.errors)
        assert bool(target.errors) == (target.source == "fitted")


def test_a_target_is_written_as_it_is_read():
    for target in list(targets.targets().values())[:3]:
        row = {key: str(value) for key, value in targets.to_row(target).items()}
        assert tuple(row) != ()
        assert targets._target(row) == target


def test_more_cores_never_make_a_matrix_slower():
    for target in targets.targets().values():
        if target.threads == 1 and target.source == "fitted":
            many = [
                other.model.costs_ns[0]
                for other in targets.targets().values()
                if (other.cores, other.dtype) == (target.cores, target.dtype) and other.threads > 1
            ]
            assert all(cost < target.model.costs_ns[0] for cost in many)
