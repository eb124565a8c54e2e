import json
import re
from concurrent.futures import Future

import budgeted
import optuna
import pytest
from budgeted import LOOSE, SPACE, TIGHT, TINY, macs

from ghostnas.errors import InputError, TrainingError
from ghostnas.nas import screening
from ghostnas.nas.samplers import key_of

FEASIBLE = budgeted.feasible(SPACE, LOOSE)
TINY_SET = budgeted.feasible(TINY)


class Scorer:
    """Scores at once by a formula, and remembers what it was asked."""

    def __init__(self, fails=lambda arch: False):
        self.asked, self._fails = [], fails

    def __call__(self, arch):
        self.asked.append(arch)
        future = Future()
        if self._fails(arch):
            future.set_exception(TrainingError("no score"))
        else:
            future.set_result({"naswot": float(macs(arch)), "jacob_cov": -1.0})
        return future


def screen(path, count, scorer, feasible=FEASIBLE, said=lambda line: None):
    return screening.screen(feasible, scorer, count, 0, path, said)


def test_as_many_networks_as_asked_for_are_scored_each_once_and_within_the_budget(tmp_path):
    scorer, said = Scorer(), []
    tight = budgeted.feasible(SPACE, TIGHT)
    found = screen(tmp_path / "screened.json", 120, scorer, tight, said.append)
    assert len(found) == len(scorer.asked) == 120
    assert max(map(macs, scorer.asked)) <= TIGHT
    assert said[-1] == "120/120 networks scored without training"
    for key, scores in found.items():
        assert scores["naswot"] == macs(SPACE.decode(dict(key)))


def test_the_second_half_is_nearer_to_what_is_expected_to_be_good(tmp_path):
    scores = [each["naswot"] for each in screen(tmp_path / "s.json", 160, Scorer()).values()]
    even, changed = scores[:80], scores[80:]
    assert sum(changed) / 80 > 1.1 * sum(even) / 80


def test_what_was_scored_is_kept_and_not_scored_again(tmp_path):
    path = tmp_path / "screened.json"
    first = screen(path, 40, Scorer())
    scorer = Scorer()
    assert screen(path, 40, scorer) == first
    assert scorer.asked == []
    more = screen(path, 60, scorer)
    assert len(scorer.asked) == 20
    assert first.items() <= more.items()
    assert len(more) == 60


def test_an_interrupted_screening_resumes_from_what_it_wrote(tmp_path):
    path = tmp_path / "screened.json"

    def interrupting(line):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        screen(path, 100, Scorer(), said=interrupting)
    scorer = Scorer()
    assert len(screen(path, 100, scorer)) == 100
    assert len(scorer.asked) == 100 - screening.KEPT_EVERY


def test_what_was_scored_before_an_interrupt_is_kept(tmp_path):
    path, scorer, wanted = tmp_path / "screened.json", Scorer(), 5

    def interrupting(done):
        if done == wanted:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        screening.screen(FEASIBLE, scorer, 100, 0, path, lambda line: None, interrupting)
    assert len(screening.read(path)) == wanted


@pytest.mark.parametrize("text", ["", "{", "[1]", '[{"params": 3}]', '{"a": 1}', "null"])
def test_a_damaged_file_is_scored_again(tmp_path, text):
    path = tmp_path / "screened.json"
    path.write_text(text)
    scorer = Scorer()
    assert len(screen(path, 5, scorer, TINY_SET)) == len(scorer.asked) == 5
    assert len(json.loads(path.read_text())) == 5


def test_of_a_small_space_all_are_scored(tmp_path):
    scorer = Scorer()
    found = screen(tmp_path / "screened.json", 1000, scorer, TINY_SET)
    assert set(found) == {key_of(params) for params in TINY_SET.all}


def test_networks_without_a_score_are_kept_without_one_and_end_nothing(tmp_path):
    path = tmp_path / "screened.json"
    found = screen(path, 30, Scorer(lambda arch: macs(arch) % 3 == 0))
    assert len(found) == 30
    assert {} in found.values()
    again = screen(path, 30, none := Scorer())
    assert again == found
    assert none.asked == []
    assert len(screen(tmp_path / "none.json", 30, Scorer(lambda arch: True))) == 30


def test_processes_of_one_study_share_the_work(tmp_path):
    study = optuna.create_study()
    scorers = [Scorer(), Scorer(), Scorer()]

    def screen_as(me, count):
        exchange = screening.Exchange(study, f"process{me}", FEASIBLE.choices)
        path, say = tmp_path / f"{me}.json", lambda line: None
        return screening.screen(FEASIBLE, scorers[me], count, 0, path, say, exchange=exchange)

    first = screen_as(0, 60)
    second = screen_as(1, 100)
    assert (len(scorers[0].asked), len(scorers[1].asked)) == (60, 40)
    assert {key: second[key] for key in first} == first
    assert screen_as(2, 100) == second
    assert scorers[2].asked == []
    again = screen_as(0, 120)  # it resumes: what it gave before stays
    assert {key: again[key] for key in second} == second
    assert len(scorers[0].asked) == 80
    asked = [arch.id for scorer in scorers for arch in scorer.asked]
    assert len(asked) == len(set(asked)) == 120


def test_processes_that_screen_at_the_same_time_draw_different_networks(tmp_path):
    studies = [optuna.create_study(), optuna.create_study()]
    found = []
    for me, study in enumerate(studies):
        exchange = screening.Exchange(study, f"process{me}", FEASIBLE.choices)
        path = tmp_path / f"{me}.json"
        found.append(
            screening.screen(FEASIBLE, Scorer(), 60, 0, path, lambda line: None, exchange=exchange)
        )
    assert len(found[0].keys() & found[1].keys()) < 30


def test_scores_are_named_with_commas_and_a_supernet_by_its_folder():
    found = screening.parse("synflow,naswot,supernet:runs/shared")
    assert found == {"synflow": "synflow", "naswot": "naswot", "supernet": "supernet:runs/shared"}
    assert list(screening.parse(screening.DEFAULT)) == ["naswot", "jacob_cov"]
    assert screening.prior(found) == {"synflow": 0.0, "naswot": 0.5, "supernet": 0.5}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("naswott", "unknown score 'naswott' to screen by; did you mean naswot"),
        ("train", "unknown score 'train'"),
        ("naswot,", "unknown score ''"),
        ("naswot,naswot", "'naswot' to screen by is given twice"),
        ("supernet:a,supernet:b", "'supernet' to screen by is given twice"),
    ],
)
def test_a_score_that_there_is_not_is_rejected(text, said):
    with pytest.raises(InputError, match=re.escape(said)):
        screening.parse(text)
