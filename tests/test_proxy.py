"""Scores of a pool of processes, and a search that trains its finalists only."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from small import write_pictures, write_space

from ghostnas import cost, data, image_folder, proxy, recipe, scorers, seeds, splits, weights
from ghostnas.arch import Arch, Head, Stage, Stem, load, lower
from ghostnas.blocks import GhostBlock
from ghostnas.cli import main
from ghostnas.loader import normaliser
from ghostnas.proxy import SCORED_PICTURES, SCORERS, ProxyPool, recorded

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


@pytest.fixture(scope="module", autouse=True)
def one_core() -> Iterator[None]:
    """A worker gets one thread: idle ones spin, which is slow where the cores are shared."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ghostnas.proxy.usable_cpus", lambda: 1)
        yield


def test_a_score_without_training_is_the_scorers_own() -> None:
    split = splits.split(data.load("synthetic"), SHORT)
    graph = lower(splits.fit(TINY, split))
    images = torch.from_numpy(split.train.images[:SCORED_PICTURES]).permute(0, 3, 1, 2)
    inputs = normaliser(split.preprocessing, images.device)(images)
    labels = torch.from_numpy(split.train.labels[:SCORED_PICTURES])
    pools = {name: ProxyPool("synthetic", SHORT, 1, name) for name in ("macs", "synflow")}
    try:
        futures = {
            name: [pool.submit(TINY, seed) for seed in (3, 3, 4)] for name, pool in pools.items()
        }
        found = {name: [each.result() for each in own] for name, own in futures.items()}
    finally:
        for pool in pools.values():
            pool.close()
    for name, own in found.items():
        expected = [scorers.score(name, graph, inputs, labels, seed) for seed in (3, 4)]
        assert own[0] == own[1]
        assert own[1:] == pytest.approx(expected, rel=1e-6)
    assert found["macs"] == [cost.count(graph).macs] * 3
    assert found["synflow"][1] != found["synflow"][2]


def test_a_network_is_trained_at_the_datas_size_and_its_score_is_recorded(tmp_path: Path) -> None:
    spec = f"folder:{write_pictures(tmp_path)}"
    path = tmp_path / "weights" / "tiny-1.safetensors"
    path.parent.mkdir()
    assert recorded(path) is None
    pool = ProxyPool(spec, SHORT, 1)
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


def test_pictures_that_cannot_be_read_are_named_in_a_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it is where the pictures stay in their files."""
    folder = write_pictures(tmp_path)
    monkeypatch.setattr(image_folder, "BYTES_IN_MEMORY", 0)
    in_files = splits.split(data.load(f"folder:{folder}"), SHORT)
    monkeypatch.setattr(proxy, "_split", in_files, raising=False)
    monkeypatch.setattr(proxy, "_recipe", SHORT, raising=False)
    damaged = [in_files.validation.paths[0], in_files.test.paths[0]]
    for each in damaged:
        each.write_bytes(b"no picture")
    path = tmp_path / "tiny.safetensors"
    score = proxy._test(TINY, 1, path)
    assert len(score.skipped) == 2
    assert all(str(each) in line for each, line in zip(damaged, score.skipped, strict=True))
    assert recorded(path) == score


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a search whose trials are counts of MACs."""
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


def test_a_search_by_a_scorer_trains_its_finalists_alone(run: Path) -> None:
    trials = pd.read_csv(run / "trials.csv")
    assert len(trials) == 4
    assert list(trials.columns[:3]) == ["trial", "id", "score"]
    # The pictures are smaller and have fewer classes than what a budget counts.
    assert (trials.score <= trials.macs).all()
    result = json.loads((run / "result.json").read_text())
    assert result["scorer"] == "macs"
    assert 'scorer = "macs"\n' in (run / "search.toml").read_text()
    finalists = {result["best"]["id"], *(each["id"] for each in result["others"])}
    assert finalists == set(trials.sort_values("score").id[-2:])
    baseline = {result["baseline"]["id"]} if result["baseline"] else set()
    trained = {path.stem for path in (run / "weights").glob("*.safetensors")}
    assert trained == {f"{each}-{seed}" for each in finalists | baseline for seed in (1, 2)}
    assert load(run / "best.json").id == result["best"]["id"]


def test_a_result_says_which_networks_the_seeds_tell_apart(run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    best = result["best"]
    others = [*result["others"], *([result["baseline"]] if result["baseline"] else [])]
    assert len(result["others"]) == 1
    for each in (best, *others):
        own = [recorded(run / "weights" / f"{each['id']}-{seed}.safetensors") for seed in (1, 2)]
        tested = [score.test_accuracy for score in own]
        assert each["seeds"] == 2
        assert [each["accuracy_min"], each["accuracy_max"]] == pytest.approx(sorted(tested))
        assert each["accuracy"] == pytest.approx(sum(tested) / 2)
    pairs = {tuple(each["networks"]): each for each in result["told_apart"]}
    assert set(pairs) == {(best["name"], each["name"]) for each in others}
    for other in others:
        ends = [(each["accuracy_min"], each["accuracy_max"]) for each in (best, other)]
        p = seeds.told_apart(*ends)  # of two seeds the ends are all
        compared = pairs[best["name"], other["name"]]
        assert compared["p_value"] == pytest.approx(p, rel=0.01)
        assert compared["told_apart"] == (p < 0.05)
    page = (run / "report.html").read_text()
    for first, second in pairs:
        assert f"<li>{first} and {second}: " in page
    assert page.count("Welch&#x27;s t-test, p = ") == len(pairs)


def test_an_unknown_scorer_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search = ["search", "--target", "arm", "--budget", "150MFLOPs", "--out", str(tmp_path / "run")]
    assert main([*search, "--scorer", "synfow"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line == f"ghostnas: unknown scorer 'synfow'; known: {', '.join(SCORERS)}"
    assert not (tmp_path / "run").exists()


def test_a_recipe_that_holds_no_pictures_out_cannot_choose(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    search = ["search", "--target", "arm", "--budget", "150MFLOPs", "--out", str(tmp_path / "run")]
    assert main([*search, "--recipe", "cifar"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("ghostnas: recipe cifar holds out no pictures to choose by; ")
    assert not (tmp_path / "run").exists()


def test_a_recipe_that_was_edited_is_another_search(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    edited = run.parent / "short.toml"
    edited.write_text(RECIPE.replace("epochs = 1", "epochs = 2"))
    assert main(["search", "--resume", "--out", str(run), "--trials", "5"]) == 2
    [line] = capsys.readouterr().err.splitlines()
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
