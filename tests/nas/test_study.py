import dataclasses
import functools
import itertools
import json
import random
import threading
import time
import warnings
from concurrent.futures import Future
from pathlib import Path

import budgeted
import pytest
import sqlalchemy
from budgeted import LOOSE, SPACE, TIGHT, TIGHTEST, TINY, macs
from optuna.exceptions import StorageInternalError
from optuna.trial import TrialState

from ghostnas.errors import BudgetError, InputError, TrainingError
from ghostnas.nas import feasible as feasible_module
from ghostnas.nas import samplers, study
from ghostnas.nas import storage as storage_module
from ghostnas.nas.feasible import find_smallest, published
from ghostnas.networks import space
from ghostnas.networks.arch import from_json

TINY_NETWORKS = {
    TINY.decode(dict(zip(TINY.choices, options, strict=True))).id
    for options in itertools.product(*TINY.choices.values())
}
SAMPLERS = ("surrogate", "tpe", "random")  # the others: tests/nas/test_samplers.py
SPACES = {"small": SPACE, "tiny": TINY, "ghostnet": space.load("ghostnet")}
SETTINGS = {"space": "small", "seed": 0, "budgets": ["1MFLOPs"]}
feasible = functools.cache(
    lambda name, classes, limit: budgeted.feasible(
        dataclasses.replace(SPACES[name], classes=classes), limit
    )
)


def utilization_of(limit):
    return lambda arch: macs(arch) / limit


def ready(value):
    future = Future()
    future.set_result(value)
    return future


def failed(error):
    future = Future()
    future.set_exception(error)
    return future


def score(arch, report=None):
    """An immediate score, always the same for an architecture."""
    return ready(int(arch.id, 16) % 1000 / 1000)


def opened(
    storage="sqlite:///:memory:", *, limit=LOOSE, sampler="random", seed=0, settings=SETTINGS,
    searched=SPACE, **others,
):  # fmt: skip
    [name] = [each for each, known in SPACES.items() if known.choices == searched.choices]
    utilization = utilization_of(limit)
    start = published(searched, utilization) or find_smallest(searched, utilization)
    made = samplers.create(sampler, feasible(name, searched.classes, limit), seed)
    return study.open_study(storage, settings, made, start, **others)


def run(opened_study, trials, submit=score, searched=SPACE, at_once=1, **others):
    """The ids of the finished trials' networks, in order."""
    study.run(opened_study, searched, submit, trials=trials, at_once=at_once, **others)
    return [scored.arch.id for scored in study.finished(opened_study)]


def states(opened_study):
    return [trial.state.name for trial in opened_study.get_trials(deepcopy=False)]


def asked(opened_study):
    """A trial of a process that is killed before it reports."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Heartbeat of storage", UserWarning)
        return opened_study.ask()


@pytest.fixture
def storage(tmp_path):
    return f"sqlite:///{tmp_path / 'study.db'}"


# What is proposed


@pytest.mark.parametrize("count", [20, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("sampler", "limit"),
    [
        pytest.param("random", TIGHTEST, marks=pytest.mark.slow),
        ("random", LOOSE),
        pytest.param("tpe", TIGHTEST, marks=pytest.mark.slow),
        ("tpe", TIGHT),
        pytest.param("tpe", LOOSE, marks=pytest.mark.slow),
        ("surrogate", TIGHTEST),
        ("surrogate", LOOSE),
    ],
)
def test_no_trial_is_over_budget_and_none_is_a_repeat(sampler, limit, count):
    current = opened(limit=limit, sampler=sampler)
    ids = run(current, count)
    stored = [from_json(json.loads(t.user_attrs["arch"])) for t in current.get_trials()]
    assert len(stored) == len(ids) == count
    assert max(macs(arch) for arch in stored) <= limit
    assert len(set(ids)) == count


@pytest.mark.slow
@pytest.mark.parametrize("mega", [12, 150])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_same_holds_in_the_shipped_space(sampler, mega):
    searched = space.load("ghostnet")
    current = opened(limit=mega * 1e6, sampler=sampler, searched=searched)
    assert len(set(run(current, 60, searched=searched))) == 60
    assert max(macs(scored.arch) for scored in study.finished(current)) <= mega * 1e6


@pytest.mark.parametrize("classes", [10, 1000])
def test_a_space_is_searched_completely_without_repeats(classes):
    searched = dataclasses.replace(TINY, classes=classes)
    ids = run(opened(searched=searched), len(TINY_NETWORKS), searched=searched)
    assert len(set(ids)) == len(TINY_NETWORKS)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_exhausted_space_ends_the_search_and_reports_it(sampler):
    current = opened(searched=TINY, sampler=sampler)
    ended = study.run(current, TINY, score, trials=50, at_once=3)
    ids = [each.arch.id for each in study.finished(current)]
    assert ended == study.Ended(used_up=True, failed=0)
    assert len(ids) == len(set(ids)) == len(TINY_NETWORKS)
    assert "RUNNING" not in states(current)
    again = study.run(current, TINY, score, trials=50, at_once=1)
    assert again.used_up
    assert len(study.finished(current)) == len(TINY_NETWORKS)


def test_a_set_that_is_too_large_to_list_ends_too(monkeypatch):
    monkeypatch.setattr(feasible_module, "SMALL", 1)
    monkeypatch.setattr(samplers, "LAST_DRAWS", 500)
    made = samplers.create("random", budgeted.feasible(TINY), 0)
    current = study.open_study("sqlite:///:memory:", SETTINGS, made, {})
    assert study.run(current, TINY, score, trials=50, at_once=1).used_up
    assert len({each.arch.id for each in study.finished(current)}) == len(TINY_NETWORKS)


def test_networks_that_train_at_the_same_time_are_different():
    waiting = []

    def submit(arch, report):
        waiting.append((arch, Future()))
        if len(waiting) == 4:
            for each, future in waiting:
                future.set_result(score(each).result())
            waiting.clear()
        return waiting[-1][1] if waiting else ready(0.5)

    assert len(set(run(opened(searched=TINY), 8, submit, searched=TINY, at_once=4))) == 8


@pytest.mark.parametrize(
    ("limit", "alpha"), [(10**9, 1.5), (LOOSE, 1.0), (327_935, 0.75), (150_000, 0.5)]
)
def test_the_first_proposal_is_the_published_network_at_the_largest_alpha_that_fits(limit, alpha):
    current = opened(limit=limit)
    (first,) = run(current, 1)
    published = SPACE.decode({"alpha": alpha})
    assert first == published.id
    assert macs(published) <= limit
    wider = [option for option in SPACE.choices["alpha"] if option > alpha]
    assert all(macs(SPACE.decode({"alpha": option})) > limit for option in wider)


def test_if_the_published_network_fits_at_no_alpha_the_first_proposal_is_the_smallest():
    (first,) = run(opened(limit=TIGHTEST), 1)
    assert first == SPACE.decode(find_smallest(SPACE, utilization_of(TIGHTEST))).id


def test_the_smallest_network_is_smaller_than_random_ones():
    utilization = utilization_of(LOOSE)
    smallest = utilization(SPACE.decode(find_smallest(SPACE, utilization)))
    rng = random.Random(0)
    assert all(smallest <= utilization(SPACE.decode(SPACE.sample(rng))) for _ in range(200))


def test_an_impossible_budget_is_rejected_with_how_much_is_needed():
    with pytest.raises(BudgetError, match=r"space small.*needs 5\.09e\+04 times"):
        find_smallest(SPACE, utilization_of(1))


@pytest.mark.parametrize(
    ("sampler", "trials"),
    [
        ("surrogate", 6),
        ("tpe", 12),  # of which it draws the first 10 at random
        ("random", 6),
        *(pytest.param(sampler, 25, marks=pytest.mark.slow) for sampler in SAMPLERS),
    ],
)
def test_the_same_seed_proposes_the_same_networks_and_another_proposes_others(sampler, trials):
    once, again, other = (run(opened(sampler=sampler, seed=seed), trials) for seed in (3, 3, 4))
    assert once == again
    assert once[0] == other[0]
    assert len(set(once) & set(other)) < max(3, trials / 5)


@pytest.mark.slow
def test_tpe_gets_closer_to_high_scores_than_chance():
    def wide(arch, report):
        return ready(arch.stages[-1].blocks[0].out_channels / 100)

    tpe, chance = opened(sampler="tpe", limit=10**9), opened(limit=10**9)
    means = []
    for current in (tpe, chance):
        run(current, 40, wide)
        late = study.finished(current)[20:]
        means.append(sum(scored.score for scored in late) / len(late))
    assert means[0] > means[1] + 0.05


# What a trial records


def test_a_finished_trial_holds_its_network_for_the_datas_classes_and_its_accuracy():
    searched = dataclasses.replace(SPACE, classes=7)
    current, reports = opened(searched=searched), []
    run(current, 5, searched=searched, report=reports.append)
    assert study.finished(current) == [
        study.ScoredArch(
            trial=each.trial, arch=each.arch, score=each.score, seconds=round(each.seconds, 3)
        )
        for each in reports
    ]
    assert [each.trial for each in reports] == [0, 1, 2, 3, 4]
    assert {each.arch.classes for each in reports} == {7}
    assert all(each.score == score(each.arch).result() for each in reports)


def test_no_more_trials_run_at_once_than_asked():
    running = most = 0

    class Scorer(Future):
        def result(self, timeout=None):
            nonlocal running
            running -= 1
            return super().result(timeout)

    def submit(_arch, _report):
        nonlocal running, most
        running += 1
        most = max(most, running)
        future = Scorer()
        future.set_result(0.5)
        return future

    run(opened(), 10, submit, at_once=3)
    assert most == 3


def test_no_trial_starts_after_the_time_is_up():
    current = opened()
    assert run(current, 5, until=0.0) == []
    assert "RUNNING" not in states(current)


# Resuming


def test_a_study_resumes_up_to_the_number_asked_for(storage):
    first = run(opened(storage), 4)
    assert run(opened(storage), 4) == first
    more = run(opened(storage), 7)
    assert more[:4] == first
    assert len(set(more)) == 7


def left_running(current):
    """A trial with a network, of a process that is killed before it reports."""
    trial = asked(current)
    arch = TINY.build(trial.suggest_categorical)
    trial.set_user_attr("id", arch.id)
    return trial


def test_trials_left_running_by_an_earlier_process_are_closed_and_tried_again(storage):
    current = opened(storage, searched=TINY)
    run(current, 2, searched=TINY)
    left = left_running(current)
    current = opened(storage, searched=TINY)
    assert states(current) == ["COMPLETE", "COMPLETE", "FAIL", "WAITING"]
    ids = run(current, 3, searched=TINY)
    again = current.get_trials()[3]
    assert again.params == left.params
    assert again.user_attrs[study.RETRY_OF] == left.number
    assert ids[2] == current.get_trials()[2].user_attrs["id"]
    assert set(run(current, len(TINY_NETWORKS), searched=TINY)) == TINY_NETWORKS
    assert states(current).count("FAIL") == 1


def test_a_network_whose_processes_keep_dying_is_not_tried_for_ever(storage):
    run(opened(storage, searched=TINY), 1, searched=TINY)
    for _ in range(2 + study.RETRIES):
        left_running(opened(storage, searched=TINY))
    found = opened(storage, searched=TINY).get_trials()
    # Trial 1 was tried again twice, then another network was proposed.
    assert [each.user_attrs.get(study.RETRY_OF) for each in found] == [None, None, 1, 2, None, 4]
    assert found[1].params == found[2].params == found[3].params


def test_a_trial_that_was_killed_before_it_had_a_network_is_closed(storage):
    asked(opened(storage))
    current = opened(storage)
    assert len(run(current, 3)) == 3
    assert states(current) == ["FAIL", "COMPLETE", "COMPLETE", "COMPLETE"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (SETTINGS | {"seed": 1}, "seed = 0, not 1"),
        (SETTINGS | {"budgets": ["20ms"]}, r"budgets = \['1MFLOPs'\], not \['20ms'\]"),
        (SETTINGS | {"colour": "red"}, "colour"),
        ({key: SETTINGS[key] for key in ("space", "seed")}, "budgets"),
    ],
    ids=["changed", "list", "more", "fewer"],
)
def test_other_settings_are_refused_by_name(storage, settings, message):
    opened(storage)
    with pytest.raises(InputError, match=message):
        opened(storage, settings=settings)


@pytest.mark.parametrize("place", ["nowhere/study.db", "damaged.db"])
def test_a_storage_that_cannot_be_opened_is_rejected_in_one_line(tmp_path, place):
    (tmp_path / "damaged.db").write_bytes(b"this is no database" * 100)
    with pytest.raises(InputError, match=rf"{place}: cannot be opened") as caught:
        opened(f"sqlite:///{tmp_path / place}")
    assert "\n" not in str(caught.value)


# Several processes


def together(url, trials, **others):
    """Two runs of one study in two threads, each with its own connection."""
    studies = [opened(url, private=False, **others) for _ in range(2)]
    reports = [[], []]

    def run_one(current, reported):
        study.run(
            current,
            SPACE,
            score,
            trials=trials,
            at_once=2,
            report=lambda each: reported.append(each),
        )

    threads = [
        threading.Thread(target=run_one, args=pair) for pair in zip(studies, reports, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return studies[0], reports


def test_two_processes_share_the_trials_but_no_network(storage):
    current, reports = together(storage, 24)
    done = study.finished(current)
    assert len(done) == 24
    assert len({each.arch.id for each in done}) == len(done)
    assert sorted(each.trial for each in (*reports[0], *reports[1])) == [
        each.trial for each in done
    ]
    assert "RUNNING" not in states(current)


@pytest.mark.slow
def test_a_second_process_leaves_the_running_trials_of_the_first_alone(storage):
    first = opened(storage, private=False)
    began = asked(first)
    began.set_user_attr("id", "another")
    second = opened(storage, private=False)
    assert states(second) == ["RUNNING"]
    assert len(run(second, 3, until=time.monotonic() + 5)) == 2
    first.tell(began.number, 0.25)
    assert states(first)[0] == "COMPLETE"


@pytest.mark.slow
def test_a_trial_whose_process_sends_no_heartbeat_is_closed_and_tried_again(storage, monkeypatch):
    monkeypatch.setattr(storage_module, "GRACE_S", 1)
    monkeypatch.setattr(storage_module, "HEARTBEAT_S", 0.2)
    monkeypatch.setattr(study, "HEARTBEAT_S", 0.2)
    dead = opened(storage, private=False, searched=TINY)
    left = left_running(dead)
    ids = run(opened(storage, private=False, searched=TINY), 3, searched=TINY)
    assert len(set(ids)) == 3
    assert states(dead).count("FAIL") == 1
    [again] = [each for each in dead.get_trials() if study.RETRY_OF in each.user_attrs]
    assert (again.user_attrs[study.RETRY_OF], again.params) == (left.number, left.params)


@pytest.mark.slow
def test_a_trial_left_without_a_network_holds_up_nobody_for_long(storage, monkeypatch):
    monkeypatch.setattr(storage_module, "GRACE_S", 2)
    monkeypatch.setattr(storage_module, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(study, "NAMING_S", 1.5)  # each wait is long beside the grace period
    dead = opened(storage, private=False)
    asked(dead)
    began = opened(storage, private=False)
    assert len(run(began, 6)) == 6
    assert states(began).count("FAIL") == 1  # it was closed though the search was busy waiting


def test_a_trial_that_another_process_closed_stays_closed(storage):
    current = opened(storage, private=False)

    def submit(arch, report):
        other = opened(storage, private=False)
        for trial in other.get_trials(states=(TrialState.RUNNING,)):
            other.tell(trial.number, state=TrialState.FAIL)
        return score(arch) if len(states(other)) > 1 else ready(0.9)

    study.run(current, SPACE, submit, trials=1, at_once=1, until=time.monotonic() + 1)
    assert "COMPLETE" not in states(current)


def test_a_temporarily_unavailable_database_is_waited_for(storage, monkeypatch):
    monkeypatch.setattr(storage_module, "PAUSE_S", 0.0)
    said = []
    current = opened(storage, say=said.append)
    away = iter([True] * 5)
    commit = sqlalchemy.orm.Session.commit

    def failing(session):
        if next(away, False):
            raise sqlalchemy.exc.OperationalError("SELECT 1", {}, Exception("server closed"))
        commit(session)

    monkeypatch.setattr(sqlalchemy.orm.Session, "commit", failing)
    assert len(run(current, 3)) == 3
    assert len([line for line in said if "server closed" in line]) == 1


def test_a_database_that_stays_unavailable_is_an_error(storage, monkeypatch):
    monkeypatch.setattr(storage_module, "PAUSE_S", 0.0)
    monkeypatch.setattr(storage_module, "PATIENCE_S", 0.0)
    current = opened(storage)

    def failing(session):
        raise sqlalchemy.exc.OperationalError("SELECT 1", {}, Exception("server closed"))

    monkeypatch.setattr(sqlalchemy.orm.Session, "commit", failing)
    with pytest.raises(StorageInternalError) as caught:
        run(current, 3)
    assert storage_module.reason(caught.value) == "(builtins.Exception) server closed"


def test_a_study_that_is_gone_is_not_started_again(storage):
    run(opened(storage), 2)
    Path(storage.removeprefix("sqlite:///")).write_bytes(b"")
    with pytest.raises(InputError, match="no longer holds the study"):
        opened(storage, new=False)


def test_a_missing_driver_is_named(monkeypatch):
    with pytest.raises(InputError, match=r"MySQLdb, .* is not installed"):
        opened("mysql://user:secret@host/study")
    with pytest.raises(InputError) as caught:
        opened("mysql://user:secret@host/study")
    assert "secret" not in str(caught.value)


# What goes wrong


def test_one_failed_training_does_not_end_the_study():
    scorers = iter([score, score, lambda *_: failed(TrainingError("the loss is nan"))])
    current = opened()
    ids = run(current, 6, lambda arch, _: next(scorers, score)(arch))
    assert len(set(ids)) == 6
    assert states(current).count("FAIL") == 1


def test_trainings_that_keep_failing_end_the_study():
    current = opened()
    with pytest.raises(TrainingError, match="the loss is nan"):
        run(current, 6, lambda *_: failed(TrainingError("the loss is nan")), at_once=2)
    assert set(states(current)) == {"FAIL"}


def interrupt(*_):
    raise KeyboardInterrupt


INTERRUPTED = {
    "future": {"submit": lambda *_: failed(KeyboardInterrupt())},
    "report": {"report": interrupt},
    "submit": {"submit": interrupt},
    "worker": {"submit": lambda *_: failed(RuntimeError("the pool is broken"))},
}


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize("arguments", INTERRUPTED.values(), ids=INTERRUPTED.keys())
def test_an_interrupt_leaves_no_trial_running_and_the_study_can_resume(arguments, at_once):
    current = opened()
    run(current, 2)
    with pytest.raises((KeyboardInterrupt, RuntimeError)):
        run(current, 9, at_once=at_once, **arguments)
    assert "RUNNING" not in states(current)
    assert len(set(run(current, 9))) == 9


def test_interrupting_the_first_trial_does_not_lose_the_published_network(storage):
    with pytest.raises(KeyboardInterrupt):
        run(opened(storage), 3, interrupt)
    assert SPACE.decode({}).id in run(opened(storage), 3)
