"""The study of the seed: its statistics against brute force and against known distributions."""

from itertools import combinations

import numpy as np
import pytest

from ghostnas.errors import InputError
from ghostnas.paper import drawing, figures, seeds
from ghostnas.paper.trainings import Record


def record(seed: int, *accuracies: float, recipe: str = "epochs = 2") -> Record:
    return Record(
        network="resnet9",
        seed=seed,
        data="cifar10:DIR",
        recipe=recipe,
        body="",
        accuracies=accuracies,
        epochs=2,
        seconds=1.0,
        hardware="a CPU",
    )


@pytest.mark.parametrize("best_of", [1, 2, 3, 6])
def test_luck_is_the_mean_over_all_choices_of_seeds(best_of: int) -> None:
    accuracies = [0.31, 0.5, 0.44, 0.61, 0.44, 0.58]
    best = [max(chosen) for chosen in combinations(accuracies, best_of)]
    wanted = np.mean(best) - np.mean(accuracies)
    assert seeds.luck(accuracies, best_of) == pytest.approx(wanted)


def test_luck_of_a_normal_distribution_is_its_known_order_statistic() -> None:
    """The expected highest of 30 standard normal draws is 2.043 (Harter, 1961)."""
    draws = np.random.default_rng(0).normal(size=20_000)
    assert seeds.luck(draws.tolist(), 30) == pytest.approx(2.043, abs=0.03)


def test_luck_needs_as_many_seeds() -> None:
    with pytest.raises(InputError, match="the best of 4 of 3 seeds"):
        seeds.luck([0.1, 0.2, 0.3], 4)


def test_a_study_of_finished_trainings() -> None:
    finished = [record(seed, 0.4 + seed / 100, 0.6 + seed / 50) for seed in range(5)]
    found = seeds.study([*finished, record(5, 0.9)])  # the last one was stopped
    assert found.final.count == 5
    assert found.final.max == pytest.approx(0.68)
    assert [each.mean for each in found.by_epoch] == pytest.approx([0.42, 0.64])
    assert list(found.luck) == [2, 3, 5]
    assert found.luck[5] == pytest.approx(0.04)
    assert "by luck alone" in seeds.text(found)


def test_trainings_that_differ_in_more_than_the_seed_are_no_study() -> None:
    others = [record(0, 0.1, 0.2), record(1, 0.1, 0.2), record(2, 0.1, 0.2, recipe="epochs = 3")]
    with pytest.raises(InputError, match="in their seeds alone"):
        seeds.study(others)
    with pytest.raises(InputError, match="2 seeds: a study needs 3"):
        seeds.study(others[:2])


def test_the_density_integrates_to_one() -> None:
    places, heights = seeds.density(np.random.default_rng(0).normal(0.6, 0.01, 200).tolist())
    assert np.trapezoid(heights, places) == pytest.approx(1, abs=0.05)
    assert seeds.density([0.5, 0.5, 0.5]) == ([], [])


def test_the_pictures_hold_every_seed() -> None:
    found = seeds.study([record(seed, 0.4, 0.6 + seed / 200) for seed in range(12)])
    histogram = figures.histogram(found)
    titles = [shape.title for shape in histogram.shapes if isinstance(shape, drawing.Area)]
    assert sum(int(title.split()[0]) for title in titles) == 12
    assert "standard deviation" in drawing.svg(histogram)
    assert "12 seeds" in drawing.svg(figures.by_epoch(found))
