"""A supernet from its training to a search, a finalist's training and a pick, on small images."""

import json
import random
import shutil
import signal
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from forked import Forked
from small import SPACE, write_pictures, write_space

import ghostnas
from ghostnas.backends.torch_module import net_of
from ghostnas.cli.main import main
from ghostnas.data.loader import normaliser
from ghostnas.errors import InputError
from ghostnas.ir import weights
from ghostnas.nas.constraints import Constraints
from ghostnas.nas.evaluators import EvaluatorPool
from ghostnas.nas.supernet import dealt, within
from ghostnas.networks import arch
from ghostnas.networks import space as spaces
from ghostnas.training import recipe, supernet, supernet_run
from ghostnas.training.distributed import World
from ghostnas.training.loop import Task, evaluate
from ghostnas.training.shared_weights import SharedWeights

RECIPE = """
epochs = 3
batch_size = 16
learning_rate = 0.01
validation_pictures = 12
crop_padding = 2
warmup = 0.2
dropout = 0.1
first_resolution = 8
"""
EPOCHS = 24  # in which all networks of the small space learn the images
BUDGET = "300KFLOPs"
KINDS = """
block = [
    {type = "mbconv", kernel = 3, expansion = 3},
    {type = "mbconv", kernel = 5, expansion = 6},
    "skip",
]
alpha = 1
resolution = 32
round_to = 4
stem = {channels = 8}
head = {channels = 16, features = 0}
group = [
    {width = 8, stride = 2, depth = 1, se = 0},
    {width = 8, stride = 1, depth = 1, se = 0},
]
"""

pytestmark = pytest.mark.usefixtures("one_core")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("supernet")
    write_space(folder)
    write_pictures(folder)
    (folder / "kinds.toml").write_text(KINDS)
    (folder / "short.toml").write_text(RECIPE)
    return folder


def options(place: Path, **more: object) -> dict:
    return {
        "data": f"folder:{place / 'pictures'}",
        "recipe": str(place / "short.toml"),
        "device": "cpu",
        **more,
    }


@pytest.fixture(scope="module")
def result(place: Path) -> dict:
    small, how = str(place / "small.toml"), options(place, epochs=EPOCHS)
    return ghostnas.supernet(small, out=place / "shared", **how)


@pytest.fixture(scope="module")
def opened(place: Path, result: dict) -> supernet.Opened:
    return supernet.read(place / "shared")


def test_the_folder_says_what_was_trained(place: Path, result: dict) -> None:
    assert json.loads((place / "shared" / "result.json").read_text()) == result
    assert result["networks_per_step"] == 4
    assert 0 <= result["accuracy"] <= 1
    assert (place / "shared" / "space.toml").read_text() == (place / "small.toml").read_text()
    rows = (place / "shared" / "curve.csv").read_text().splitlines()
    assert len(rows) == 1 + EPOCHS


def test_networks_that_no_step_drew_have_learned_too(opened: supernet.Opened) -> None:
    for seed in range(6):
        judged = opened.judge_of(opened.space.sample(random.Random(seed)))
        assert judged.accuracy >= 0.9
        assert judged.likelihood >= 0.75
    untrained = supernet.read(opened.folder)
    untrained._shared = SharedWeights(opened.space, 0)
    assert untrained.judge_of({}).likelihood < 0.7


class Stopped(Exception):  # noqa: N818
    pass


def stopped_after(step: int):
    def say(line: str) -> None:
        if f"step {step}/" in line:
            raise Stopped

    return say


@pytest.mark.parametrize("more", [{}, {"target": "arm", "budget": BUDGET}], ids=["all", "within"])
def test_a_stopped_training_resumes_to_the_same_weights(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, more: dict
) -> None:
    monkeypatch.setattr("ghostnas.training.run.SPOKEN_EVERY_S", 0.0)
    small = str(place / "small.toml")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    how = options(place, checkpoint_every=0.0, epochs=7, **more)
    ghostnas.supernet(small, out=whole, **how)
    with pytest.raises(Stopped):
        ghostnas.supernet(small, out=parts, progress=stopped_after(2), **how)
    for step in (3, 5):
        with pytest.raises(Stopped):
            ghostnas.supernet(
                out=parts, resume=True, checkpoint_every=0.0, progress=stopped_after(step)
            )
    with pytest.raises(InputError, match="its training has not finished"):
        supernet.read(parts).shared  # noqa: B018
    ghostnas.supernet(out=parts, resume=True, device="cpu")
    expected = weights.load(whole / supernet.WEIGHTS)
    for name, array in weights.load(parts / supernet.WEIGHTS).items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


def test_a_score_is_the_same_every_time_and_that_of_the_network_run_alone(
    opened: supernet.Opened,
) -> None:

    for seed in range(3):
        network = opened.space.decode(opened.space.sample(random.Random(seed)))
        before = torch.random.get_rng_state()
        judged = opened.judge(network)
        assert torch.equal(before, torch.random.get_rng_state())
        assert judged == opened.judge(network)
        net = opened.network(network)
        alone = net_of(net.graph, opened.weights(network))
        assert evaluate(alone, opened.held_out, opened.split.preprocessing) == judged.accuracy
        assert 0 < judged.likelihood < 1


def test_the_likelihood_is_the_mean_probability_of_the_right_classes(
    opened: supernet.Opened,
) -> None:
    net = opened.network(opened.space.decode({}))
    images = torch.from_numpy(opened.held_out.images).permute(0, 3, 1, 2)
    with torch.no_grad():
        inputs = normaliser(opened.split.preprocessing, torch.device("cpu"))(images)
        chances = net(inputs).softmax(1)[range(len(images)), opened.held_out.labels].double()
    expected = float(chances.prod() ** (1 / len(images)))
    found = opened.judge(opened.space.decode({}))
    assert found.likelihood == pytest.approx(expected, rel=1e-4)


def test_batch_statistics_are_those_of_the_networks_own_maps(opened: supernet.Opened) -> None:
    network = opened.space.decode({})
    net = opened.network(network)
    some = opened.split.train
    images = torch.from_numpy(some.images).permute(0, 3, 1, 2)
    inputs = normaliser(opened.split.preprocessing, torch.device("cpu"))(images)
    maps = net.get_submodule("conv_stem")(inputs)
    expected = maps.mean((0, 2, 3)).detach()
    torch.testing.assert_close(net.get_buffer("bn1.running_mean"), expected, rtol=1e-3, atol=1e-5)


def test_a_network_of_another_space_has_no_score(opened: supernet.Opened) -> None:
    with pytest.raises(InputError, match="is not one of space small"):
        opened.judge(ghostnas.load_network("ghostnet"))


def test_strict_fairness_where_nothing_is_nested() -> None:
    space = spaces.parse(KINDS, "kinds", "kinds")
    draw = dealt(space, 0, 0)
    assert draw(3) == dealt(space, 0, 0)(3)
    assert draw(3) != dealt(space, 0, 1)(3)
    pairs = Counter()
    for step in range(60):
        drawn = draw(step)
        assert not drawn.teaches
        assert len(drawn.networks) == 3
        for group in ("group1.block", "group2.block"):
            options = [params[group] for params in drawn.networks]
            assert sorted(options) == sorted(space.choices[group])
        pairs.update(tuple(params.values()) for params in drawn.networks)
    assert len(pairs) == 9
    assert min(pairs.values()) > 8


def test_the_largest_network_teaches_and_the_smallest_comes_second() -> None:
    space = spaces.parse(SPACE, "small", "small")
    draw = dealt(space, 0, 0)
    nested = {
        "group1.depth": (2, 1),
        "group1.width": (16, 8),
        "group1.expansion": (2, 1),
        "group1.se": (0.25, 0),
        "head.channels": (32, 16),
    }
    seen = set()
    for step in range(20):
        drawn = draw(step)
        assert drawn.teaches
        for at in range(2):
            found = {name: drawn.networks[at][name] for name in nested}
            assert found == {name: ends[at] for name, ends in nested.items()}
        seen |= {params["group1.ghost_ratio"] for params in drawn.networks[:2]}
        assert space.decode(drawn.networks[2]) != space.decode(drawn.networks[0])
    assert seen == {2, 3}


def test_all_networks_of_a_budget_are_within_it() -> None:
    space = spaces.parse(SPACE, "small", "small").pin(resolution=32)
    constraints = Constraints("arm", [BUDGET])
    draw = within(constraints.feasible(space), 3, 0)
    seen = set()
    for step in (0, 1, 63, 64, 200):
        drawn = draw(step)
        assert drawn.teaches
        assert len(drawn.networks) == 3
        shares = [constraints.utilization(space.decode(params)) for params in drawn.networks]
        assert max(shares) <= 1
        assert shares[0] > shares[1]
        seen.add(tuple(drawn.networks[2].items()))
    assert len(seen) == 5
    again = within(constraints.feasible(space), 3, 0)
    assert again(64) == draw(64)


def test_a_pool_of_processes_scores_with_the_supernet(place: Path, opened: supernet.Opened) -> None:
    networks = [opened.space.decode(opened.space.sample(random.Random(n))) for n in range(2)]
    scorer = f"supernet:{place / 'shared'}"
    pool = EvaluatorPool(f"folder:{place / 'pictures'}", opened.how, 1, scorer)
    try:
        scores = [future.result() for future in [pool.submit(each, 0) for each in networks]]
        by = {"synflow": "synflow", "supernet": scorer}
        screened = pool.submit_screening(networks[0], by, 0).result()
    finally:
        pool.close()
    assert scores == [opened.judge(each).likelihood for each in networks]
    assert screened.keys() == {"synflow", "supernet"}
    assert screened["supernet"] == scores[0]


@pytest.mark.slow
def test_a_search_by_the_supernets_scores(place: Path, opened: supernet.Opened) -> None:
    found = ghostnas.search(
        target="arm",
        budget=BUDGET,
        space=str(place / "small.toml"),
        data=f"folder:{place / 'pictures'}",
        recipe=str(place / "short.toml"),
        scorer=f"supernet:{place / 'shared'}",
        trials=2,
        finalists=1,
        seeds=1,
        workers=1,
        out=place / "run",
    )
    assert found["scorer"] == f"supernet:{place / 'shared'}"
    rows = (place / "run" / "trials.csv").read_text().splitlines()
    header = rows[0].split(",")
    for row in rows[1:]:
        cells = dict(zip(header, row.split(","), strict=False))
        assert 0 <= float(cells["score"]) <= 1


def test_pick_takes_the_best_of_a_budget_with_its_weights(
    place: Path, opened: supernet.Opened
) -> None:
    said: list[str] = []
    found = ghostnas.pick(
        place / "shared",
        target="arm",
        budget=BUDGET,
        out=place / "picked.json",
        networks=12,
        progress=said.append,
    )
    network = arch.load(place / "picked.json")
    assert network.id == found["id"]
    assert found["macs"] <= 300_000
    assert found["of"] == 12
    judged = opened.judge(network)
    assert found["score"] == round(judged.likelihood, 5)
    assert found["accuracy"] == round(judged.accuracy, 5)
    kept = weights.load(place / "picked.safetensors")
    for key, array in opened.weights(network).items():
        np.testing.assert_array_equal(kept[key], array)
    assert "12/12 networks scored" in said[-1]
    again = ghostnas.pick(place / "shared", target="arm", budget=BUDGET, networks=12)
    assert again == {**found, "network": None, "weights": None}


def test_a_training_starts_from_the_networks_part(
    place: Path, opened: supernet.Opened, tmp_path: Path
) -> None:
    """With a learning rate of nearly nothing, it stays there."""
    frozen = replace(opened.how, learning_rate=1e-9, epochs=1, dropout=0.0)

    (tmp_path / "frozen.toml").write_text(recipe.to_text(frozen))
    network = opened.space.decode(opened.space.sample(random.Random(4)))
    (tmp_path / "network.json").write_text(json.dumps(arch.to_json(network)))
    said: list[str] = []
    ghostnas.train(
        str(tmp_path / "network.json"),
        init=f"supernet:{place / 'shared'}",
        data=f"folder:{place / 'pictures'}",
        recipe=str(tmp_path / "frozen.toml"),
        device="cpu",
        out=tmp_path / "run",
        progress=said.append,
    )
    assert any("part of the weights" in line for line in said)
    trained = weights.load(tmp_path / "run" / "model.safetensors")
    for key, array in opened.weights(network).items():
        if not key.endswith(("running_mean", "running_var")):
            np.testing.assert_allclose(trained[key], array, atol=1e-6, err_msg=key)


def failed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 2
    lines = capsys.readouterr().err.splitlines()
    return lines[-1]


def test_wrong_input_is_told_in_a_line(
    place: Path, result: dict, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared, small, out = str(place / "shared"), str(place / "small.toml"), str(tmp_path / "out")
    scored = f"supernet:{shared}"
    data = ["--data", f"folder:{place / 'pictures'}"]
    short = ["--recipe", str(place / "short.toml")]
    budget = ["--target", "arm", "--budget", BUDGET]
    for arguments, expected in (
        (["supernet", "--out", out], "a supernet needs SPACE"),
        (["supernet", small, "--out", out], "a supernet needs --data"),
        (["supernet", small, *data, *short, "--out", shared], "already holds a supernet"),
        (["supernet", small, *data, *short, "--out", out, *budget[:2]], "needs the other"),
        (["supernet", small, *data, "--recipe", "cifar", "--out", out], "no validation images"),
        (["supernet", "--resume", "--out", out], "holds no supernet"),
        (["supernet", small, "--resume", "--out", shared], "leave SPACE out"),
        (
            ["supernet", small, *data, *short, "--out", out, *budget[:2], "--budget", "1FLOPs"],
            "no network of space small meets the budget",
        ),
        (["pick", shared, "--budget", BUDGET], "give --target"),
        (["pick", str(place), *budget, "--networks", "3"], "--networks is for a supernet's"),
        (["search", *budget, "--scorer", "supernet:nowhere", *data, *short], "holds no supernet"),
        (
            ["search", *budget, "--screened-by", "naswot,supernet:nowhere", *data, *short],
            "holds no supernet",
        ),
        (
            [
                "search",
                *budget,
                "--scorer",
                f"supernet:{shared}",
                *data,
                *short,
                "--space",
                "ghostnet",
            ],
            "its networks are those of space small, not ghostnet",
        ),
        (
            ["train", "ghostnet", "--init", scored, *data, *short, "--out", out],
            "is not one of space small",
        ),
    ):
        assert expected in failed(capsys, *arguments), arguments
    assert not Path(out).exists()


def wait_for(path: Path, process: Forked) -> None:
    while not path.exists():
        assert process.poll() is None, process.said()
        time.sleep(0.01)


@pytest.mark.slow
def test_kills_at_any_moment_change_no_bit(place: Path, tmp_path: Path) -> None:
    command = [
        *("supernet", str(place / "small.toml"), "--data", f"folder:{place / 'pictures'}"),
        *("--recipe", str(place / "short.toml"), "--epochs", "20", "--device", "cpu"),
    ]
    whole = tmp_path / "whole"
    process = Forked([*command, "--threads", "1", "--out", str(whole)])
    wait_for(whole / supernet.SETTINGS, process)
    began = time.monotonic()
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    length = time.monotonic() - began
    expected = weights.load(whole / supernet.WEIGHTS)
    rng = random.Random(0)
    killed = 0
    while killed < 3:
        out = tmp_path / f"killed{killed}"
        more = ["--threads", "1", "--checkpoint-every", "0s", "--out", str(out)]
        process = Forked([*command, *more])
        wait_for(out / supernet.SETTINGS, process)
        time.sleep(rng.uniform(0, 1) * length)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if (out / "result.json").exists():  # it had finished: try again, for another time
            shutil.rmtree(out)
            continue
        killed += 1
        resumed = Forked(["supernet", "--resume", "--out", str(out), "--device", "cpu"])
        _, errors = resumed.communicate()
        assert resumed.returncode == 0, errors
        for name, array in weights.load(out / supernet.WEIGHTS).items():
            np.testing.assert_array_equal(array, expected[name], err_msg=f"{killed}: {name}")


def test_several_processes_are_refused(opened: supernet.Opened) -> None:

    task = Task(
        graph=opened.graph_of({}),
        train=opened.split.train,
        held_out=opened.held_out,
        recipe=opened.how,
        seed=0,
        preprocessing=opened.split.preprocessing,
    )
    world = World(device=torch.device("cpu"), size=2)
    with pytest.raises(InputError, match="in one process"):
        supernet_run.SupernetLearner(
            SharedWeights(opened.space, 0),
            opened.graph_of,
            dealt(opened.space, 0, 0),
            {},
            task,
            world,
        )
