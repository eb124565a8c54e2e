"""Trainings that are stopped at a rung: where the rungs are, and a real training in the pool."""

import pytest
from small import write_pictures

from ghostnas.nas.evaluators import EvaluatorPool
from ghostnas.nas.rungs import StoppedEarly, epochs_of, go_on
from ghostnas.networks.arch import Arch, Head, Stage, Stem
from ghostnas.networks.blocks import GhostBlock
from ghostnas.training import recipe

pytestmark = pytest.mark.usefixtures("one_core")
TINY = Arch(
    stem=Stem(channels=4),
    stages=(Stage(blocks=(GhostBlock(hidden_channels=8, out_channels=6, stride=2),)),),
    head=Head(channels=8, features=8),
    classes=1000,
    resolution=32,
)
FOUR = recipe.Recipe(epochs=4, batch_size=16, learning_rate=0.01, validation_pictures=8)


@pytest.mark.parametrize(
    ("epochs", "halving", "rungs"),
    [
        (8, 0, ()),
        (8, 2, (2, 4)),
        (9, 3, (1, 3)),
        (12, 2, (3, 6)),
        (2, 2, (1,)),
        (1, 2, ()),
        (100, 4, (6, 24, 96)),
    ],
)
def test_rungs_are_a_factor_apart_and_before_the_end(epochs, halving, rungs):
    assert epochs_of(epochs, halving) == rungs


def test_nothing_stops_a_training_by_default():
    assert go_on(1, 0.0)


@pytest.mark.slow
def test_a_training_is_stopped_at_the_rung_whose_report_says_so(tmp_path):
    pool = EvaluatorPool(f"folder:{write_pictures(tmp_path)}", FOUR, 1)
    heard, stopped = [], []

    def hear(epoch, accuracy):
        heard.append((epoch, accuracy))
        return True

    def stop(epoch, accuracy):
        stopped.append((epoch, accuracy))
        return epoch < 2

    try:
        whole = pool.submit(TINY, 1).result()
        reported = pool.submit(TINY, 1, (1, 2, 4), hear).result()
        with pytest.raises(StoppedEarly):
            pool.submit(TINY, 1, (1, 2, 3), stop).result()
        again = pool.submit(TINY, 1, (1, 2), hear).result()  # the process works on
    finally:
        pool.close()
    assert whole == reported == again  # rungs change nothing of the training
    assert [epoch for epoch, _ in heard] == [1, 2, 1, 2]  # the end is no rung
    assert all(0 <= accuracy <= 1 for _, accuracy in heard)
    assert stopped == heard[:2]
