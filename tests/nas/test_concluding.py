"""Who of those that share a study concludes it, in threads with a connection each."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import optuna
import pytest

from ghostnas.nas import concluding, storage
from ghostnas.nas.concluding import CLAIM, Member, Presence

NAMES = ("first", "second", "third")
MEMBERS = {name: Member(id=name, place=f"host:/{name}") for name in NAMES}


def say(line):
    """A search says more; here nobody listens."""


@pytest.fixture
def join(tmp_path, monkeypatch):
    """Joins a study that `first` created; every presence ends with the test."""
    monkeypatch.setattr(storage, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(storage, "GRACE_S", 2.0)
    monkeypatch.setattr(concluding, "POLL_S", 0.05)
    monkeypatch.setattr(concluding, "SETTLE_S", 0.3)
    url = f"sqlite:///{tmp_path}/study.db"
    study = optuna.create_study(storage=storage.open_storage(url, say), study_name="search")
    study.set_user_attr(concluding.CREATOR, {"id": "first", "place": "host:/first"})
    joined = []

    def join(name):
        own = optuna.load_study(study_name="search", storage=storage.open_storage(url, say))
        joined.append(Presence(own, MEMBERS[name]))
        return joined[-1]

    yield join
    for each in joined:
        each.end()


def vanish(presence):
    """As if its process was killed: it is no longer heard of, and says no goodbye."""
    presence._ended.set()
    presence._thread.join()


def test_the_creator_concludes_and_the_others_learn_it(join):
    first, second, third = map(join, NAMES)
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(each.await_turn, 10, say) for each in (second, third)]
        time.sleep(3)  # it is still busy with its last trial, but heard of
        assert not any(each.done() for each in waiting)
        assert first.await_turn(10, say) is None
        assert [each.result() for each in waiting] == [MEMBERS["first"]] * 2


@pytest.mark.slow
@pytest.mark.parametrize("leave", [vanish, Presence.end], ids=["killed", "ended"])
def test_one_of_the_waiting_replaces_a_creator_that_is_gone(join, leave):
    first, second, third = map(join, NAMES)
    leave(first)
    with ThreadPoolExecutor() as pool:
        waiting = [pool.submit(each.await_turn, 10, say) for each in (third, second)]
        found = [each.result() for each in waiting]
    elected = [[MEMBERS["second"], None]]
    if leave is Presence.end:  # nobody waits for silence: the first to come is elected
        elected.append([None, MEMBERS["third"]])
    assert found in elected


def test_whoever_is_late_joins_no_concluded_study_unless_it_asks_for_more(join):
    first, second = map(join, NAMES[:2])
    assert first.await_turn(10, say) is None
    first.concluded(10)
    first.end()
    assert second.await_turn(10, say) == MEMBERS["first"]
    assert second.await_turn(12, say) is None
    assert second._study.user_attrs[CLAIM]["id"] == "second"


@pytest.mark.slow
def test_a_conclusion_whose_process_died_is_taken_over(join):
    first, second = map(join, NAMES[:2])
    assert first.await_turn(10, say) is None
    vanish(first)
    assert second.await_turn(10, say) is None


def test_a_creator_that_resumes_concludes_again(join):
    first = join("first")
    assert first.await_turn(10, say) is None
    first.concluded(10)
    first.end()
    assert join("first").await_turn(10, say) is None


@pytest.mark.slow
def test_a_creator_that_resumes_leaves_a_conclusion_in_progress_alone(join):
    second = join("second")
    assert second.await_turn(10, say) is None  # the creator is not there
    assert join("first").await_turn(10, say) == MEMBERS["second"]


@pytest.mark.slow
def test_an_outage_of_the_database_makes_nobody_silent(join, monkeypatch):
    first, second = map(join, NAMES[:2])
    away = threading.Event()
    tell, attrs = Presence._tell, optuna.Study.user_attrs.fget

    def telling(self):
        while away.is_set():
            time.sleep(0.05)
        tell(self)

    def reading(self):
        while away.is_set():
            time.sleep(0.05)
        return attrs(self)

    monkeypatch.setattr(Presence, "_tell", telling)
    monkeypatch.setattr(optuna.Study, "user_attrs", property(reading))
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(second.await_turn, 10, say)
        time.sleep(0.5)
        away.set()
        time.sleep(3)
        away.clear()
        time.sleep(0.5)
        assert not waiting.done()
        assert first.await_turn(10, say) is None
        assert waiting.result() == MEMBERS["first"]
