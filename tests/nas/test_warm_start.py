"""What is read of an earlier search; what samplers make of it: test_samplers.py."""

from concurrent.futures import Future
from pathlib import Path

import budgeted
import pytest
from budgeted import TINY, macs

from ghostnas.errors import InputError
from ghostnas.nas import samplers, study, warm_start
from ghostnas.nas.settings import Settings, to_text


def search(folder: Path, trials: int, score, storage: str = "") -> Path:
    """The run folder of a search that stopped after some trials."""
    folder.mkdir(exist_ok=True)
    settings = Settings(target="arm", budgets=("1MFLOPs",), storage=storage)
    (folder / "search.toml").write_text(to_text(settings))
    sampler = samplers.create("random", budgeted.feasible(TINY), 0)
    current = study.open_study(storage or f"sqlite:///{folder}/study.db", {}, sampler, {})

    def submit(arch, report):
        future = Future()
        future.set_result(score(arch))
        return future

    study.run(current, TINY, submit, trials=trials, at_once=1)
    return folder


@pytest.mark.parametrize("shared", [False, True])
def test_trials_are_read_in_units_of_their_own_spread(tmp_path, shared):
    storage = f"sqlite:///{tmp_path}/shared.db" if shared else ""
    past = warm_start.read(search(tmp_path / "run", 4, macs, storage))
    assert len(past) == 4
    scores = [each.score for each in past]
    assert sum(scores) == pytest.approx(0)
    assert sum(score**2 for score in scores) / 4 == pytest.approx(1)
    by_size = sorted(past, key=lambda each: macs(TINY.decode(each.params)))
    assert [each.score for each in by_size] == sorted(scores)


@pytest.mark.parametrize(
    ("trials", "score"), [(1, macs), (3, lambda arch: 0.5)], ids=["one trial", "equal scores"]
)
def test_too_little_to_learn_from_is_rejected(tmp_path, trials, score):
    with pytest.raises(InputError, match="has too few finished trials"):
        warm_start.read(search(tmp_path / "run", trials, score))


def test_a_folder_without_a_search_or_a_study_is_rejected_in_one_line(tmp_path):
    with pytest.raises(InputError, match="holds no search"):
        warm_start.read(tmp_path)
    (tmp_path / "search.toml").write_text(to_text(Settings(target="arm", budgets=("1MFLOPs",))))
    with pytest.raises(InputError, match="its study cannot be read") as caught:
        warm_start.read(tmp_path)
    assert "\n" not in str(caught.value)
