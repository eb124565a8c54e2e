"""A run folder read back: every trial with its state, trainings, and what random search expects."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import optuna
import pytest
from run_folders import SEEDS, write_search

from ghostnas.errors import InputError
from ghostnas.nas import history

EARLIER = Path(__file__).parents[1] / "golden" / "earlier" / "run"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_search(tmp_path_factory.mktemp("history") / "run")


def test_every_trial_is_read_with_its_state_and_costs(run: Path) -> None:
    found = history.read(run)
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{run}/study.db")
    scores = {each.number: each.value for each in study.get_trials()}
    states = {each.number: each.state for each in found.trials}
    assert [each.number for each in found.trials] == sorted(scores)
    assert [number for number, state in states.items() if state == history.FAILED] == [11]
    assert [number for number, state in states.items() if state == history.STOPPED] == [10]
    over = [each.number for each in found.trials if each.share > 1]
    assert over == [12]
    for each in found.trials:
        if each.state == history.DONE:
            assert each.score == scores[each.number]
            assert each.cost.macs > 0 < each.latency.latency_ms
    within = [scores[e.number] for e in found.trials if e.state == history.DONE and e.share <= 1]
    assert found.best.score == max(within)
    assert found.known_by == "study"
    assert found.seconds == 754.0
    assert "torch" in found.versions


def test_trainings_say_whether_they_chose(run: Path) -> None:
    found = history.read(run)
    best = found.result["best"]
    own = [each for each in found.trainings if each.id == best["id"]]
    assert [each.reports for each in own] == [False] * SEEDS + [True] * SEEDS
    reported = [each.test for each in own if each.reports]
    assert np.mean(reported) == pytest.approx(best["accuracy"], abs=1e-5)


def test_without_its_database_the_trials_are_those_of_the_table(tmp_path: Path) -> None:
    shutil.copytree(EARLIER, tmp_path / "run")
    by_study = history.read(tmp_path / "run")
    (tmp_path / "run" / "study.db").unlink()
    by_table = history.read(tmp_path / "run")
    assert (by_study.known_by, by_table.known_by) == ("study", "trials.csv")
    # Earlier versions counted the trials of the table from 1.
    assert [(e.score, e.arch, e.id) for e in by_study.scored] == [
        (e.score, e.arch, e.id) for e in by_table.scored
    ]
    assert not (tmp_path / "run" / "study.db").exists()


def test_importances_are_shares_of_choices(run: Path) -> None:
    shares = history.read(run).importances
    assert shares
    assert sum(shares.values()) == pytest.approx(1)
    assert list(shares.values()) == sorted(shares.values(), reverse=True)


def test_damage_is_named(tmp_path: Path, run: Path) -> None:
    with pytest.raises(InputError, match="holds no search"):
        history.read(tmp_path)
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "result.json").write_text("{")
    with pytest.raises(InputError, match=r"result\.json: is damaged"):
        history.read(tmp_path / "run")
    (tmp_path / "run" / "result.json").unlink()
    [record, *_] = sorted((tmp_path / "run" / "weights").glob("*.json"))
    trainings = history.read(tmp_path / "run").trainings
    record.write_text(json.dumps({"accuracy": "none"}))
    assert len(history.read(tmp_path / "run").trainings) == len(trainings) - 1


@pytest.mark.parametrize("scores", [[0.5], [0.1, 0.4], [0.3, 0.1, 0.2, 0.2], [3.0, -1, 2, 7, 7.5]])
def test_the_expected_best_is_the_mean_over_all_draws(scores: list[float]) -> None:
    expected = [
        np.mean([max(drawn) for drawn in itertools.combinations(scores, count)])
        for count in range(1, len(scores) + 1)
    ]
    assert history.expected_best(scores) == pytest.approx(expected)


def test_the_expected_best_of_many_is_finite() -> None:
    scores = np.random.default_rng(0).random(2000)
    found = history.expected_best(list(scores))
    assert found[0] == pytest.approx(scores.mean())
    assert found[-1] == pytest.approx(scores.max())
    assert (np.diff(found) > -1e-12).all()
    assert history.expected_best([]) == []
