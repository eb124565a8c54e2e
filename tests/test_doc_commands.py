"""Every command in a shell block of the README and the docs: parsed by default, and run in a
rehearsal (`ghostnas.cli.rehearsal`) with ``-m slow``, but for those of `NOT_RUN`.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import forked
import numpy as np
import pytest
from small import write_pictures

from ghostnas.cli import rehearsal
from ghostnas.cli.main import _parser, main
from ghostnas.ir import weights
from ghostnas.ir.random_weights import random_weights
from ghostnas.networks import zoo
from ghostnas.networks.arch import lower

ROOT = Path(__file__).parents[1]
README = "README.md"
PAGES = [
    README,
    "CONTRIBUTING.md",
    *sorted(str(page.relative_to(ROOT)) for page in (ROOT / "docs").rglob("*.md")),
]
BLOCK = re.compile(r"^```(?:sh|bash|console)\n(.*?)^```", re.DOTALL | re.MULTILINE)
# What is parsed and not run, by a part of its line or its page, and why.
NOT_RUN = {
    "docs/results/": "a record of what was measured",
    "--device ssh:": "another machine",
    "--device adb": "a phone",
    "--device emulated:": "the emulator, which takes root and minutes to set up",
    "scripts/": "installs, or sets up what the tests run in",
    "pip install": "changes the environment",
    "torchrun": "several GPUs",
    "data get": "170 MB from the network",
    "--storage": "a database on another machine",
    "profile.txt": "the op profile of a phone",
}
OPS = (
    "op,height,width,in_channels,out_channels,kernel,stride,activation,median_ms,p10_ms,p90_ms,runs\n"
    "conv,28,28,40,120,1,1,relu,0.2,0.19,0.21,30\n"
)
TIMED = {
    "ghostnet": 30.1,
    "mobilenetv3-large": 33.9,
    "mobilenet_w1": 90.2,
    "mobilenet_wd2": 26.0,
    "squeezenet_v1_1": 60.5,
    "mobilenetv2_w1": 47.0,
    "mobilenetv2_wd2": 19.5,
    "resnet10": 160.0,
    "resnet18": 310.0,
    "proxylessnas_mobile": 62.0,
}


def commands(page: str) -> list[str]:
    """The commands in a page's shell blocks, continued lines joined, without comments."""
    found = []
    for block in BLOCK.findall((ROOT / page).read_text()):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if words:
                found.append(shlex.join(words))
    return found


ALL = list(dict.fromkeys((page, line) for page in PAGES for line in commands(page)))


def first_uses() -> dict[str, list[str]]:
    """By page, the commands that no page before it has."""
    known: set[str] = set()
    found: dict[str, list[str]] = {page: [] for page in PAGES}
    for page, line in ALL:
        if line not in known:
            found[page].append(line)
        known.add(line)
    return found


def reason_not_to_run(page: str, line: str) -> str:
    return next((why for part, why in NOT_RUN.items() if part in f"{page} {line}"), "")


def words_of(line: str) -> list[str]:
    """A command's words without variables before it, and those that torchrun starts."""
    words = shlex.split(line)
    while words and re.match(r"[A-Za-z_]+=", words[0]):
        words = words[1:]
    if words and words[0] == "torchrun":
        words = words[words.index("-m") + 1 :]
    return words


def test_there_are_commands() -> None:
    assert len(commands(README)) >= 10
    assert sum(not reason_not_to_run(*each) for each in ALL) >= 40


def test_every_reason_not_to_run_a_command_holds_for_one() -> None:
    texts = [f"{page} {line}" for page, line in ALL]
    assert [part for part in NOT_RUN if not any(part in text for text in texts)] == []


@pytest.mark.parametrize(("page", "line"), ALL, ids=lambda part: part[:70])
def test_a_command_parses(page: str, line: str) -> None:
    words = words_of(line)
    match words:
        case []:
            assert "=" in line
        case ["ghostnas", *options]:
            assert callable(_parser().parse_args(options).command)
        case ["python", script, *options]:
            text = (ROOT / script).read_text()
            named = [option for option in options if option.startswith("--")]
            assert [option for option in named if f'"{option}"' not in text] == []
        case [script, *_] if script.startswith("scripts/"):
            assert os.access(ROOT / script, os.X_OK)
        case _:
            assert words[:2] == ["pip", "install"]


QUICK = [  # need neither data nor what another command wrote
    line
    for line in dict.fromkeys(line for _, line in ALL)
    if re.match(r"ghostnas (show|latency (list|predict)|data list|paper table\d$)", line)
    and "runs/" not in line
]


@pytest.mark.parametrize("line", QUICK, ids=lambda line: line[:70])
def test_a_quick_command_runs(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words_of(line)[1:]) == 0
    assert capsys.readouterr().out


@pytest.mark.parametrize("line", ["search --resume --trials 9", "search --recipe night --seeds 1"])
def test_a_rehearsal_cuts_counts(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed = _parser().parse_args(line.split())
    before = vars(parsed).copy()
    monkeypatch.delenv(rehearsal.VARIABLE, raising=False)
    assert rehearsal.cut(parsed) == ""
    assert vars(parsed) == before
    monkeypatch.setenv(rehearsal.VARIABLE, "1")
    assert "means nothing" in rehearsal.cut(parsed)
    assert parsed.trials == rehearsal.MOST["trials"]
    assert parsed.recipe == (None if parsed.resume else rehearsal.RECIPE)
    assert parsed.seeds == (None if parsed.resume else 1)


def run(line: str, folder: Path) -> None:
    """Run a command in a folder, as a user would, but for how its process starts."""
    words = words_of(line)
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = {**os.environ, rehearsal.VARIABLE: "1", "PYTHONPATH": paths}
    if words[0] == "ghostnas":
        done = forked.run(words[1:], cwd=folder, env=env, timeout=900)
    else:
        assert words[0] == "python"
        done = subprocess.run(
            [sys.executable, *words[1:]],
            cwd=folder,
            env=env,
            capture_output=True,
            text=True,
            timeout=900,
        )
    assert done.returncode == 0, f"{line}\n{done.stdout[-500:]}\n{done.stderr[-1500:]}"
    assert done.stdout.strip(), line


def write_cifar10(folder: Path) -> None:
    """Binary files as CIFAR-10's, of a few images that differ by class."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    names = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
    for name in names:
        labels = np.arange(100, dtype=np.uint8) % 10
        pixels = rng.integers(0, 56, (100, 3072)) + 20 * labels[:, None].astype(int)
        records = np.concatenate([labels[:, None], pixels.astype(np.uint8)], axis=1)
        (folder / name).write_bytes(records.tobytes())


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with all that the pages take for granted, after the README's commands."""
    folder = tmp_path_factory.mktemp("docs")
    write_cifar10(folder / "data" / "cifar10")
    write_pictures(folder, a_class=80, size=32).rename(folder / "photos")
    shutil.copy(ROOT / "search_spaces" / "ghostnet.toml", folder / "my.toml")
    for name in ("examples", "scripts"):
        (folder / name).symlink_to(ROOT / name)
    texts = {"timings-of-ops.csv": OPS}
    for page, name in (("docs/space.md", "fused.toml"), ("docs/device.md", "origin.toml")):
        block = re.compile(rf"^```toml\n(# {name}\n.*?)^```", re.DOTALL | re.MULTILINE)
        [texts[name]] = block.findall((ROOT / page).read_text())
    texts["timings.csv"] = "network,ms\n" + "".join(f"{n},{ms}\n" for n, ms in TIMED.items())
    for name, text in texts.items():
        (folder / name).write_text(text)
    values = random_weights(lower(zoo.ghostnet()), 0)
    for name in ("ghostnet_100.safetensors", "state_dict_73.98.pth"):
        weights.save(values, folder / name)
    run_page(README, folder)
    yield folder
    shutil.rmtree(folder)


def run_page(page: str, folder: Path) -> None:
    for line in first_uses()[page]:
        if words_of(line) and not reason_not_to_run(page, line):
            run(line, folder)


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES[1:] if first_uses()[page]])
def test_the_commands_of_a_page_run(page: str, place: Path) -> None:
    run_page(page, place)
