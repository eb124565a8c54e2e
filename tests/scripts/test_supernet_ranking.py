"""The table of a supernet's ranking: what it compares, worked out on scores that are known."""

import importlib.util
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "scripts" / "experiments"


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(FOLDER))
        spec = importlib.util.spec_from_file_location(
            "supernet_ranking", FOLDER / "supernet_ranking.py"
        )
        module = importlib.util.module_from_spec(spec)
        patch.setitem(sys.modules, "supernet_ranking", module)
        spec.loader.exec_module(module)
        yield module


@pytest.fixture
def rows(script):
    return {
        f"{number:08}": script.Row(accuracies=(80.0 + number,), params=1, macs=50_000_000 + number)
        for number in range(400)
    }


def test_tau_is_one_for_the_published_order_and_minus_one_for_its_reverse(script, rows):
    found = {key: (float(key), -float(key)) for key in rows}
    assert list(script.taus(list(rows), rows, found)) == pytest.approx([1.0, -1.0])


def test_the_first_by_likelihood_are_compared_with_those_at_random(script, rows):
    found = {key: (0.0, float(key)) for key in rows}
    lines = list(script.worth(list(rows), rows, found))
    assert lines[0] == "the best of the first 1: 479.00 %"
    best = [float(line.split()[-2]) for line in lines[2:]]
    assert best == sorted(best)
    assert best[0] == pytest.approx(279.5, abs=6)


def test_networks_are_chosen_of_the_band_and_of_all(script, rows):
    wide = {
        **rows,
        **{f"9{n:07}": script.Row(accuracies=(1.0,), params=1, macs=1) for n in range(400)},
    }
    chosen = script.chosen(wide)
    assert {len(keys) for keys in chosen.values()} == {script.NETWORKS}
    assert not any(key.startswith("9") for key in chosen["band"])
    assert any(key.startswith("9") for key in chosen["all"])
    assert chosen == script.chosen(wide)
