"""Many trainings at once: each is ghostnas' own training, and a kill or a deadline loses little."""

import dataclasses
import importlib.util
import json
import math
import random
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from small import write_space

from ghostnas.backends.torch_module import weights_of
from ghostnas.data import datasets
from ghostnas.data.images import PictureFiles
from ghostnas.errors import InputError
from ghostnas.networks import space
from ghostnas.networks.arch import lower, to_json
from ghostnas.training import loop, recipe, splits
from ghostnas.training.initialization import fresh
from ghostnas.training.recipe import Recipe, to_text

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "experiments" / "gpu_trainings.py"
HOW = Recipe(
    train_pictures=72,
    test_pictures=60,
    epochs=3,
    batch_size=16,
    learning_rate=2e-3,
    warmup=0.2,
    weight_decay=0.05,
    label_smoothing=0.1,
    clip_norm=2.0,
    crop_padding=3,
    mixed_precision=False,
)


def load_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("gpu_trainings", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their module
    spec.loader.exec_module(module)
    return module


gpu_trainings = load_script()
EAGER = gpu_trainings.How(captured=False, bf16=False, layout="channels_last")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """CIFAR-10's files with a few images, whose colour says something of the class."""
    folder, rng = tmp_path_factory.mktemp("cifar10"), np.random.default_rng(0)
    names = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
    for name in names:
        labels = rng.integers(0, 10, 60)
        pixels = np.clip(rng.normal(60 + 15 * labels[:, None], 40, (60, 3072)), 0, 255)
        records = np.concatenate([labels[:, None], pixels], 1)
        (folder / name).write_bytes(records.astype(np.uint8).tobytes())
    return f"cifar10:{folder}"


@pytest.fixture(scope="module")
def archs(tmp_path_factory):
    searched = space.load(str(write_space(tmp_path_factory.mktemp("space"))))
    rng = random.Random(0)
    return [searched.decode(searched.sample(rng)) for _ in range(3)]


def split(data, how):
    return splits.split(datasets.load(data), how)


def job(arch, found, seed=1):
    return gpu_trainings.Job(arch_id=arch.id, arch=splits.fit(arch, found), seed=seed)


def trained(data, arch, how, layout="channels_last", seed=1):
    """A training that went on to its end, as the loop lets it."""
    found = split(data, how)
    shared = gpu_trainings.share(found, how, torch.device("cpu"))
    mode = dataclasses.replace(EAGER, layout=layout)
    lane = gpu_trainings.Lane(torch.device("cpu"))
    draws = gpu_trainings.draw(shared, seed)
    training = gpu_trainings.Training(job(arch, found, seed), shared, draws, lane, mode)
    while not training.ended:
        training.queue()
        training.look()
    return training


@pytest.mark.parametrize("layout", ["channels_last", "contiguous"])
@pytest.mark.parametrize("change", [{}, {"crop_padding": 0, "clip_norm": 0.0, "flip": False}])
def test_a_training_is_that_of_the_loop(data, archs, layout, change, monkeypatch):
    monkeypatch.setattr(gpu_trainings, "TEST_BATCH", 25)  # the last batch is filled up
    how = dataclasses.replace(HOW, **change)
    found, curve, losses = split(data, how), [], []
    task = loop.Task(
        graph=lower(job(archs[0], found).arch),
        train=found.train,
        held_out=found.test,
        recipe=how,
        seed=1,
        preprocessing=found.preprocessing,
    )

    def note(progress):
        if progress.epoch_done:
            curve.append(progress.accuracy)
            losses.append(progress.mean_loss)

    expected = loop.train(task, note, loop.Execution(evaluate_every=1))
    training = trained(data, archs[0], how, layout)
    assert training.mean_loss == pytest.approx(losses[-1], rel=1e-3)
    assert training.curve == pytest.approx(curve, abs=1.5 / 60)  # of one image
    assert set(weights_of(training.net)) == set(expected.weights)
    # Rounding decides where biases go that a batch norm then removes, so kernels are compared.
    initial = weights_of(fresh(task.graph, 1))
    kernels = [name for name, value in initial.items() if value.ndim > 1]
    own = weights_of(training.net)
    apart, moved = (
        np.mean([np.abs(one[name] - expected.weights[name]).mean() for name in kernels])
        for one in (own, initial)
    )
    assert apart < 0.02 * moved


def test_a_training_that_loses_its_way_has_no_accuracy(data, archs):
    training = trained(data, archs[0], dataclasses.replace(HOW, learning_rate=1e30))
    assert training.failure.startswith("the loss is nan in epoch 1") or "not finite" in (
        training.failure
    )
    assert training.curve == []


def test_weights_and_moments_are_as_new_once_restored(data, archs):
    found = split(data, HOW)
    shared = gpu_trainings.share(found, HOW, torch.device("cpu"))
    draws, lane = gpu_trainings.draw(shared, 1), gpu_trainings.Lane(torch.device("cpu"))
    once, again = (
        gpu_trainings.Training(job(archs[0], found), shared, draws, lane, EAGER) for _ in range(2)
    )
    initial = [each.detach().clone() for each in again._state()]
    for _ in range(3):
        again._learn()
    again._answer_eagerly()
    again._restore(initial)
    for training in (once, again):
        while not training.ended:
            training.queue()
            training.look()
    assert once.curve == again.curve
    ends = [weights_of(training.net) for training in (once, again)]
    assert all(np.array_equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_more_are_trained_at_once_while_that_is_faster():
    crew = gpu_trainings.Crew(2, 9)
    wanted = []
    for rate in (100.0, 150.0, 151.0, 300.0):
        crew.judge(rate)
        wanted.append(crew.wanted)
    assert wanted == [6, 9, 9, 9]
    crew = gpu_trainings.Crew(8, 16)
    crew.shrink(5)
    crew.judge(1e9)
    assert crew.wanted == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": "sgd"}, "the recipe has optimizer = 'sgd'; here it must be 'adamw'"),
        ({"first_resolution": 16}, "the recipe has first_resolution = 16; here it must be 0"),
        ({"ema": 0.9}, "the recipe has ema"),
        ({"cutout": 4}, "the recipe has cutout"),
    ],
)
def test_what_is_not_done_here_is_rejected(change, message):
    with pytest.raises(InputError, match=message):
        gpu_trainings.check_recipe(dataclasses.replace(HOW, **change))


def test_images_that_do_not_suit_are_rejected(tmp_path, data):
    cpu = torch.device("cpu")
    few = dataclasses.replace(HOW, batch_size=100)
    with pytest.raises(InputError, match="72 training images are fewer than a batch, 100"):
        gpu_trainings.share(split(data, few), few, cpu)
    scaled = dataclasses.replace(HOW, resolution=16)
    with pytest.raises(InputError, match="resolution = 16; here it must be the data's, 32"):
        gpu_trainings.share(split(data, scaled), scaled, cpu)
    found = split(data, HOW)
    files = PictureFiles(paths=(tmp_path / "a.jpg",) * 72, labels=found.train.labels)
    with pytest.raises(InputError, match="the images are in files"):
        gpu_trainings.share(dataclasses.replace(found, train=files), HOW, cpu)


@pytest.fixture
def command(tmp_path, data, archs):
    (tmp_path / "recipe.toml").write_text(to_text(HOW))
    documents = {arch.id: to_json(arch) for arch in archs}
    (tmp_path / "architectures.json").write_text(json.dumps(documents))
    return [
        *(f"--data={data}", f"--architectures={tmp_path / 'architectures.json'}"),
        *(f"--recipe={tmp_path / 'recipe.toml'}", f"--out={tmp_path / 'out'}", "--device=cpu"),
        *("--seeds=1,2", "--at-once=2"),
    ]


def run_here(monkeypatch, command):
    monkeypatch.setattr(sys, "argv", ["gpu_trainings", *command])
    return gpu_trainings.main()


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.slow
def test_killed_trainings_resume(tmp_path, command, archs, monkeypatch, capsys):
    results = tmp_path / "out" / "results.jsonl"
    how = dataclasses.replace(HOW, epochs=6)
    (tmp_path / "recipe.toml").write_text(to_text(how))
    with subprocess.Popen(
        [sys.executable, str(SCRIPT), *command],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as first:
        assert any(line.startswith("1/6 ") for line in first.stdout)
        first.kill()
        first.stdout.read()
    before = results.read_text()
    assert 2 <= before.count("\n") < 1 + 6
    assert run_here(monkeypatch, command) == 0
    out = capsys.readouterr().out
    assert "0 were not begun and 0 cut off" in out
    assert results.read_text().startswith(before[: before.rindex("\n") + 1])
    header, *entries = lines_of(results)
    # The same images are held out as for the short trainings of fidelity.py.
    assert header["long"]["validation_pictures"] == recipe.load("proxy").validation_pictures
    assert header["long"]["epochs"] == 6
    keys = [(each["arch"], each["seed"]) for each in entries]
    assert sorted(keys) == sorted((arch.id, seed) for seed in (1, 2) for arch in archs)
    for entry in entries:
        assert set(entry) == {"score", "arch", "seed", "value", "seconds", "curve"}
        assert entry["score"] == "long training"
        assert len(entry["curve"]) == 6
        assert entry["value"] == entry["curve"][-1]
    curves = lines_of(tmp_path / "out" / "curves.jsonl")[1:]
    last = {(each["arch"], each["seed"]): each["accuracy"] for each in curves}
    assert last == {(each["arch"], each["seed"]): each["value"] for each in entries}
    assert run_here(monkeypatch, command) == 0
    assert "0 of 6 trainings to do" in capsys.readouterr().out


@pytest.mark.slow
def test_what_cannot_end_before_the_deadline_is_left(tmp_path, command, monkeypatch, capsys):
    assert run_here(monkeypatch, [*command, "--deadline=0"]) == 0
    assert "0 of 6 trainings ended" in (said := capsys.readouterr().out)
    assert "6 were not begun and 0 cut off" in said
    (tmp_path / "recipe.toml").write_text(to_text(dataclasses.replace(HOW, epochs=5000)))
    began = time.monotonic()
    assert run_here(monkeypatch, [*command, f"--out={tmp_path / 'other'}", "--deadline=4"]) == 0
    assert time.monotonic() - began < 60
    said = capsys.readouterr().out
    assert "0 of 6 trainings ended" in said
    assert "4 were not begun and 2 cut off" in said
    assert len(lines_of(tmp_path / "other" / "results.jsonl")) == 1
    assert len(lines_of(tmp_path / "other" / "curves.jsonl")) > 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--data=nowhere:x"], "unknown data 'nowhere:x'"),
        (["--recipe=cifar-short"], "the recipe has first_resolution = 16; here it must be 0"),
        (["--architectures=none.json"], "none.json: cannot be read"),
    ],
)
def test_bad_input_gives_one_line(monkeypatch, capsys, command, change, message):
    assert run_here(monkeypatch, [*command, *change]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"gpu_trainings: {message}")
    assert error.count("\n") == 1


def test_a_gpu_that_is_not_there_is_missed(monkeypatch, capsys, command):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert run_here(monkeypatch, [*command, "--device=cuda"]) == 2
    assert "there is no GPU; use --device cpu" in capsys.readouterr().err


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
def test_captured_steps_train_as_eager_ones(tmp_path, command, monkeypatch, capsys):
    eager, graphs = tmp_path / "eager", tmp_path / "graphs"
    gpu = [*command, "--device=cuda", "--layout=channels_last"]
    assert run_here(monkeypatch, [*gpu, f"--out={eager}", "--eager"]) == 0
    assert run_here(monkeypatch, [*gpu, f"--out={graphs}"]) == 0
    assert "steps are captured" in capsys.readouterr().out
    last = [
        {(e["arch"], e["seed"]): e["loss"] for e in lines_of(out / "curves.jsonl")[1:]}
        for out in (eager, graphs)
    ]
    assert set(last[0]) == set(last[1])
    assert all(math.isclose(last[0][key], last[1][key], rel_tol=0.05) for key in last[0])
