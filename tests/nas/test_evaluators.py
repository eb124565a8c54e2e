"""Scores from a pool of processes, and a search that trains only its finalists."""

import json
import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from small import write_pictures, write_space

from ghostnas import stats
from ghostnas.cli.main import main
from ghostnas.data import datasets, image_folder
from ghostnas.data.loader import normaliser
from ghostnas.errors import TrainingError
from ghostnas.ir import cost, weights
from ghostnas.nas import evaluators, zero_cost
from ghostnas.nas.evaluators import SCORED_PICTURES, SCORERS, EvaluatorPool, recorded
from ghostnas.nas.rungs import go_on
from ghostnas.networks.arch import Arch, Head, Stage, Stem, load, lower
from ghostnas.networks.blocks import GhostBlock
from ghostnas.training import recipe, splits

TINY = Arch(
    stem=Stem(channels=4),
    stages=(
        Stage(blocks=(GhostBlock(hidden_channels=8, out_channels=6, stride=2, se_ratio=0.25),)),
    ),
    head=Head(channels=8, features=8),
    classes=1000,
    resolution=32,
)
SHORT = recipe.Recipe(epochs=1, batch_size=16, learning_rate=0.01, validation_pictures=8)
RECIPE = "epochs = 1\nbatch_size = 16\nlearning_rate = 0.01\nvalidation_pictures = 8\n"


pytestmark = pytest.mark.usefixtures("one_core")


def test_a_training_free_score_is_the_scorers_own(tmp_path: Path) -> None:
    spec = f"folder:{write_pictures(tmp_path)}"
    split = splits.split(datasets.load(spec), SHORT)
    graph = lower(splits.fit(TINY, split))
    images = torch.from_numpy(split.train.images[:SCORED_PICTURES]).permute(0, 3, 1, 2)
    inputs = normaliser(split.preprocessing, images.device)(images)
    labels = torch.from_numpy(split.train.labels[:SCORED_PICTURES])
    pools = {name: EvaluatorPool(spec, SHORT, 1, name) for name in ("macs", "synflow")}
    try:
        futures = {
            name: [pool.submit(TINY, seed) for seed in (3, 3, 4)] for name, pool in pools.items()
        }
        found = {name: [each.result() for each in own] for name, own in futures.items()}
    finally:
        for pool in pools.values():
            pool.close()
    for name, own in found.items():
        expected = [zero_cost.score(name, graph, inputs, labels, seed) for seed in (3, 4)]
        assert own[0] == own[1]
        assert own[1:] == pytest.approx(expected, rel=1e-6)
    assert found["macs"] == [cost.count(graph).macs] * 3
    assert found["synflow"][1] != found["synflow"][2]


def test_scores_are_taken_at_the_size_that_trainings_begin_with(tmp_path: Path) -> None:
    spec = f"folder:{write_pictures(tmp_path, size=32)}"
    growing = replace(SHORT, first_resolution=16)
    split = splits.split(datasets.load(spec), growing)
    pool = EvaluatorPool(spec, growing, 1, "naswot")
    pool.warm_up()
    try:
        screened = pool.submit_screening(TINY, {"a": "naswot", "b": "macs"}, 3).result()
        trial = pool.submit(TINY, 3).result()
    finally:
        pool.close()
    small = replace(splits.fit(TINY, split), resolution=16)
    assert screened["b"] == cost.count(lower(small)).macs
    assert screened["a"] == trial == evaluators.score_untrained("naswot", TINY, split, 3, 16)
    whole = evaluators.score_untrained("naswot", TINY, split, 3)
    assert trial != whole
    assert evaluators.score_untrained("naswot", TINY, split, 3, 64) == whole  # no image is enlarged


def test_a_network_is_trained_at_the_datas_size_and_its_score_is_recorded(tmp_path: Path) -> None:
    spec = f"folder:{write_pictures(tmp_path)}"
    path = tmp_path / "weights" / "tiny-1.safetensors"
    path.parent.mkdir()
    assert recorded(path) is None
    pool = EvaluatorPool(spec, SHORT, 1)
    try:
        tested, again = (pool.submit_test(TINY, 1, each) for each in (path, tmp_path / "again"))
        accuracy = pool.submit(TINY, 1).result()
        score = tested.result()
        again.result()
    finally:
        pool.close()
    assert recorded(path) == score
    assert score.accuracy == accuracy
    assert 0 <= score.test_accuracy <= 1
    assert score.seconds > 0
    one, other = weights.load(path), weights.load(tmp_path / "again")
    for key, values in one.items():
        np.testing.assert_array_equal(values, other[key])
    assert one["classifier.weight"].shape[0] == 2
    assert len(weights.preprocessing_of(path).classes) == 2


def test_unreadable_images_are_named_in_a_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As happens where the images stay in their files."""
    folder = write_pictures(tmp_path)
    monkeypatch.setattr(image_folder, "BYTES_IN_MEMORY", 0)
    in_files = splits.split(datasets.load(f"folder:{folder}"), SHORT)
    monkeypatch.setattr(evaluators, "_splits", {SHORT: in_files}, raising=False)
    monkeypatch.setattr(evaluators, "_recipes", (SHORT, SHORT), raising=False)
    damaged = [in_files.validation.paths[0], in_files.test.paths[0]]
    for each in damaged:
        each.write_bytes(b"no picture")
    path = tmp_path / "tiny.safetensors"
    score = evaluators._test(TINY, 1, path)
    assert len(score.skipped) == 2
    assert all(str(each) in line for each, line in zip(damaged, score.skipped, strict=True))
    assert recorded(path) == score


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a search whose trials are scored by MACs."""
    folder = tmp_path_factory.mktemp("proxy")
    space = ["--space", str(write_space(folder)), "--data", f"folder:{write_pictures(folder)}"]
    (folder / "short.toml").write_text(RECIPE)
    counts = [
        *("--trials", "4", "--finalists", "2", "--seeds", "2", "--scorer", "macs"),
        *("--workers", "1", "--recipe", str(folder / "short.toml")),
    ]
    out = ["--out", str(folder / "run"), "--json"]
    assert main(["search", "--target", "arm", "--budget", "300KFLOPs", *space, *counts, *out]) == 0
    return folder / "run"


def test_a_search_with_a_training_free_scorer_trains_only_its_finalists(run: Path) -> None:
    trials = pd.read_csv(run / "trials.csv")
    assert len(trials) == 4
    assert list(trials.columns[:3]) == ["trial", "id", "score"]
    # The images are smaller and have fewer classes than the network that a budget applies to.
    assert (trials.score <= trials.macs).all()
    result = json.loads((run / "result.json").read_text())
    assert result["scorer"] == "macs"
    assert 'scorer = "macs"\n' in (run / "search.toml").read_text()
    networks = networks_of(result)
    plain = {result["baseline"]["id"]}
    finalists = set(networks) - plain
    assert finalists == set(trials[~trials.id.isin(plain)].sort_values("score").id[-2:])
    trained = {path.stem for path in (run / "weights").glob("*.safetensors")}
    compared = {result["best"]["id"]} | plain
    assert trained == {f"{each}-{seed}" for each in networks for seed in (1, 2)} | {
        f"{each}-{seed}" for each in compared for seed in (3, 4)
    }
    assert load(run / "best.json").id == result["best"]["id"]


def networks_of(result: dict) -> dict[str, dict]:
    found = [result["best"], result["baseline"], *result["others"]]
    return {each["id"]: each for each in found}


def test_what_is_reported_is_of_seeds_that_chose_nothing(run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    best, baseline = result["best"], result["baseline"]
    tested = {}
    for each in networks_of(result).values():
        compared = each in (best, baseline)
        own = [
            recorded(run / "weights" / f"{each['id']}-{seed}.safetensors")
            for seed in ((3, 4) if compared else (1, 2))
        ]
        tested[each["id"]] = [score.test_accuracy for score in own]
        assert (each["seeds"], each["fresh_seeds"]) == (2, compared)
        ends = [each["accuracy_min"], each["accuracy_max"]]
        assert ends == pytest.approx(sorted(tested[each["id"]]))
        assert each["accuracy"] == pytest.approx(sum(tested[each["id"]]) / 2)
    if best["id"] == baseline["id"]:
        assert result["comparison"] is None
    else:
        p = stats.welch_p_value(tested[best["id"]], tested[baseline["id"]])
        compared = result["comparison"]
        assert compared["networks"] == [best["name"], baseline["name"]]
        assert compared["p_value"] == (None if p is None else pytest.approx(p, rel=0.01))


@pytest.mark.slow
def test_a_killed_worker_loses_only_its_current_job_which_is_retried(
    tmp_path: Path,
) -> None:
    spec = f"folder:{write_pictures(tmp_path)}"
    pool = EvaluatorPool(spec, SHORT, 1)
    try:
        expected = pool.submit(TINY, 1).result()
        [process] = multiprocessing.active_children()
        again = pool.submit(TINY, 1)
        process.kill()
        assert again.result() == expected
        assert process not in multiprocessing.active_children()
        assert pool.submit(TINY, 1).result() == expected
    finally:
        pool.close()


@pytest.mark.slow
def test_a_network_that_kills_every_worker_fails_and_the_others_continue(tmp_path: Path) -> None:
    pool = EvaluatorPool(f"folder:{write_pictures(tmp_path)}", SHORT, 2, "macs")
    try:
        with pytest.raises(TrainingError, match=r"died 2 times.*--workers"):
            pool._threads.submit(pool._run, "trial", TINY, go_on, os._exit, 1).result()
        assert pool.submit(TINY, 1).result() > 0
    finally:
        pool.close()


def test_damaged_records_and_weights_are_trained_again(tmp_path: Path) -> None:
    path = tmp_path / "tiny-1.safetensors"
    record = path.with_suffix(".json")
    weights.save({"a": np.zeros(3, np.float32)}, path)
    good = {"accuracy": 0.5, "test_accuracy": 0.4, "seconds": 1.0, "skipped": ["one"]}
    record.write_text(json.dumps(good))
    assert recorded(path).skipped == ("one",)
    for damaged in ("", "{", "[]", json.dumps(good | {"accuracy": "x"})):
        record.write_text(damaged)
        assert recorded(path) is None
    record.write_text(json.dumps(good))
    path.write_bytes(path.read_bytes()[:-4])
    assert recorded(path) is None
    path.unlink()
    assert recorded(path) is None


def test_an_unknown_scorer_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search = ["search", "--target", "arm", "--budget", "150MFLOPs", "--out", str(tmp_path / "run")]
    assert main([*search, "--scorer", "synfow"]) == 2
    *_, line = capsys.readouterr().err.splitlines()
    known = ", ".join([*SCORERS, "supernet:DIR"])
    assert line == f"ghostnas: unknown scorer 'synfow'; did you mean synflow?; known: {known}"
    assert not (tmp_path / "run").exists()


def test_a_recipe_that_holds_no_images_out_cannot_choose(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search = ["search", "--target", "arm", "--budget", "150MFLOPs", "--out", str(tmp_path / "run")]
    assert main([*search, "--recipe", "cifar"]) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("ghostnas: recipe cifar holds out no validation images; ")
    assert not (tmp_path / "run").exists()


def test_an_edited_recipe_makes_another_search(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edited = run.parent / "short.toml"
    edited.write_text(RECIPE.replace("epochs = 1", "epochs = 2"))
    assert main(["search", "--resume", "--out", str(run), "--trials", "5"]) == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert "started with recipe.epochs = 1, not 2" in line
    edited.write_text(RECIPE)


def test_a_finished_search_gives_its_result_again(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = json.loads((run / "result.json").read_text())
    assert main(["search", "--resume", "--out", str(run), "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert {**again, "seconds": 0} == {**before, "seconds": 0}


def test_a_search_keeps_its_scorer(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / "result.json").read_bytes()
    assert main(["search", "--resume", "--out", str(run), "--scorer", "train"]) == 2
    assert "scorer = 'macs', not 'train'" in capsys.readouterr().err
    assert (run / "result.json").read_bytes() == before
