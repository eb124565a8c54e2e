"""Many trainings: recorded one by one, resumed, stopped by the clock, refused if they differ."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from small import write_pictures

from ghostnas.errors import InputError
from ghostnas.ir import weights
from ghostnas.networks import zoo
from ghostnas.paper import comparisons, trainings
from ghostnas.paper.comparisons import Row
from ghostnas.paper.subjects import Subject
from ghostnas.paper.trainings import Job, Pool, Record
from ghostnas.training.recipe import Recipe

RECIPE = Recipe(epochs=2, batch_size=16, learning_rate=0.01, optimizer="adamw", resolution=32)
SUBJECT = Subject(network="resnet9", width=0.03)
JOBS = [Job(subject=SUBJECT, seed=seed) for seed in range(3)]
POOL = Pool(device="cpu", threads=1)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"folder:{write_pictures(tmp_path_factory.mktemp('data'))}"


@pytest.fixture(scope="module")
def first(data: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[Job, Record]]:
    folder = tmp_path_factory.mktemp("trained")
    return folder, trainings.run(JOBS, data, RECIPE, folder, POOL, lambda line: None)


def test_every_epoch_is_recorded_and_seeds_differ(first: tuple[Path, dict[Job, Record]]) -> None:
    folder, found = first
    assert [job.seed for job in found] == [0, 1, 2]
    for job, record in found.items():
        assert record.done
        assert len(record.accuracies) == 2
        assert trainings.read(folder / f"{job.slug}.json") == record
    kept = weights.load(trainings.weights_path(JOBS[0], folder))
    assert set(kept) == {
        key
        for key in kept
        if key.rpartition(".")[0] in {n.name for n in zoo.graph("resnet9").nodes}
    }
    assert not list(folder.glob("*seed1*.safetensors"))


def test_what_is_finished_is_not_trained_again(
    first: tuple[Path, dict[Job, Record]], data: str
) -> None:
    folder, found = first
    said: list[str] = []
    again = trainings.run(JOBS, data, RECIPE, folder, POOL, said.append)
    assert again == found
    assert said == [f"{folder}: 3 of 3 trainings are finished"]


def test_another_recipe_is_refused(first: tuple[Path, dict[Job, Record]], data: str) -> None:
    longer = dataclasses.replace(RECIPE, epochs=3)
    with pytest.raises(InputError, match="another recipe"):
        trainings.run(JOBS, data, longer, first[0], POOL, lambda line: None)


@pytest.mark.slow
def test_a_stopped_training_is_begun_again_and_ends_the_same(
    first: tuple[Path, dict[Job, Record]], data: str, tmp_path: Path
) -> None:
    """Without its checkpoint its record counts for nothing; on a CPU the seed decides the rest."""
    _, found = first
    half = dataclasses.replace(found[JOBS[1]], accuracies=found[JOBS[1]].accuracies[:1])
    path = tmp_path / f"{JOBS[1].slug}.json"
    path.write_text(json.dumps(dataclasses.asdict(half)))
    again = trainings.run(JOBS[1:2], data, RECIPE, tmp_path, POOL, lambda line: None)
    assert again[JOBS[1]].accuracies == found[JOBS[1]].accuracies


def test_time_that_is_up_leaves_the_rest_for_the_next_call(data: str, tmp_path: Path) -> None:
    said: list[str] = []
    hurried = dataclasses.replace(POOL, timeout_s=0.0)
    found = trainings.run(JOBS[:1], data, RECIPE, tmp_path, hurried, said.append)
    assert found == {}
    assert said[-1] == "the time is up: 1 trainings are left; the same command goes on"


def test_a_damaged_record_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text('{"network": "resnet9"}')
    with pytest.raises(InputError, match="is no record of a training") as error:
        trainings.read(tmp_path / "r.json")
    assert "\n" not in str(error.value)


def test_a_body_is_read_without_its_head(
    first: tuple[Path, dict[Job, Record]], tmp_path: Path
) -> None:
    path = trainings.weights_path(JOBS[0], first[0])
    kept = weights.load(path)
    other = zoo.graph("resnet9", 0.03, 32, classes=7)
    body = trainings.body_of(str(path), other)
    assert set(kept) - set(body) == {key for key in kept if key.startswith("dense")}
    assert all(np.array_equal(body[key], kept[key]) for key in body)
    with pytest.raises(InputError, match="another network's"):
        trainings.body_of(str(path), zoo.graph("resnet9", 0.06))


def test_the_sum_of_both_losses_is_twice_one_with_half_the_smoothing() -> None:
    """What recipes/cifar-seeds.toml says of the loss of Picard (2021)."""
    import torch
    from torch.nn.functional import cross_entropy

    from ghostnas.training import recipe

    logits = torch.randn(32, 10, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(32) % 10
    both = cross_entropy(logits, labels) + cross_entropy(logits, labels, label_smoothing=0.1)
    smoothing = recipe.load("cifar-seeds").label_smoothing
    torch.testing.assert_close(both, 2 * cross_entropy(logits, labels, label_smoothing=smoothing))


def test_jobs_of_a_table_go_seed_by_seed() -> None:
    jobs = comparisons.jobs("table3", seeds=2, width=0.5)
    assert [job.seed for job in jobs] == [0] * 5 + [1] * 5
    assert {job.subject.width for job in jobs} == {0.5}
    with pytest.raises(InputError, match="only table3, table4, table5 are trained"):
        comparisons.jobs("table7", seeds=1, width=1.0)


def row(label: str, printed: float) -> Row:
    return Row(label=label, subject=SUBJECT, printed=printed)


def test_an_order_is_told_only_where_the_seeds_cannot_explain_it() -> None:
    by_row = {
        "a": (row("a", 93.6), [0.80, 0.81, 0.805, 0.808]),
        "b": (row("b", 93.1), [0.70, 0.71, 0.705, 0.702]),
        "c": (row("c", 93.4), [0.70, 0.712, 0.703, 0.706]),
        "d": (row("d", 93.9), []),
    }
    found = {(each.first, each.second): each for each in comparisons.compare(by_row)}
    assert list(found) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert found["a", "b"].agrees is True
    assert found["b", "c"].agrees is None
    assert found["a", "b"].printed == pytest.approx(0.005)
    low, high = found["a", "b"].interval or (0, 0)
    assert low < found["a", "b"].difference < high
    unlike = {"a": (row("a", 93.0), by_row["a"][1]), "b": (row("b", 93.1), by_row["b"][1])}
    assert comparisons.compare(unlike)[0].agrees is False


def test_an_untrained_row_stays_untrained_in_the_text() -> None:
    by_row = {
        "a": (row("a", 93.6), [0.8, 0.81]),
        "d": (row("d", 93.9), []),
    }
    text = comparisons.text(comparisons.to_json(by_row, []))
    assert "untrained" in text.splitlines()[1]
