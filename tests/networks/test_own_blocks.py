"""Block types from a user's own file: found, searched, lowered, and known to other processes."""

import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from ghostnas.errors import InputError
from ghostnas.latency import table
from ghostnas.latency.predictor import Predictor
from ghostnas.networks import blocks, space
from ghostnas.networks.arch import from_json, lower, to_json

EXAMPLE = Path(__file__).parents[2] / "examples" / "my_block.py"
SPACE = """
block = ["fused", "skip", {type = "fused", kernel = 5}]
alpha = [1, 0.5]
resolution = 32
round_to = 4
stem = {channels = 8}
head = {channels = 16, features = 0}
group = [{stride = 2, depth = [1, 2], width = 16, expansion = [2, 4], kernel = 3}]
"""
BLOCK = """
from dataclasses import dataclass
from typing import ClassVar
from ghostnas.networks.blocks import Block, Range

@dataclass(frozen=True, slots=True, kw_only=True)
class Mine(Block):
    type_name: ClassVar[str] = "mine"
    out_channels: int
    stride: int = 1
    def build(self, graph, x, name, stride=None):
        return x
"""


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is loaded in a test is forgotten after it."""
    monkeypatch.setattr(blocks, "BLOCK_TYPES", dict(blocks.BLOCK_TYPES))
    monkeypatch.setattr(space, "BLOCK_TYPES", blocks.BLOCK_TYPES)
    monkeypatch.setattr("ghostnas.networks.arch.BLOCK_TYPES", blocks.BLOCK_TYPES)
    monkeypatch.setenv(blocks.OWN_FILES, "")
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if ".own_" in name:
            del sys.modules[name]


@pytest.mark.usefixtures("own")
def test_a_block_of_a_file_is_searched_lowered_timed_and_stored() -> None:
    blocks.load_file(EXAMPLE)
    blocks.load_file(EXAMPLE)  # again changes nothing
    searched = space.parse(SPACE, "mine", "mine.toml")
    assert searched.choices["group1.block"] == ("fused", "skip", "fused kernel=5")
    arch = searched.decode({"group1.depth": 2, "group1.expansion": 4})
    first, second = arch.stages[0].blocks
    assert (first.hidden_channels, second.hidden_channels) == (32, 64)
    assert (first.out_channels, first.stride, second.stride, first.kernel) == (16, 2, 1, 3)
    assert searched.decode({"group1.block": "fused kernel=5"}).stages[0].blocks[0].kernel == 5
    assert "blocks.1.0.add" in {node.name for node in lower(arch).nodes}
    assert from_json(to_json(arch)) == arch
    assert Predictor(table.load("cortex-a76")).predict(arch).latency_ms > 0


@pytest.mark.usefixtures("own")
def test_other_processes_know_the_file(tmp_path: Path) -> None:
    blocks.load_file(EXAMPLE)
    block = space.parse(SPACE, "mine", "mine.toml").decode({}).stages[0].blocks[0]
    path = tmp_path / "block.pickle"
    path.write_bytes(pickle.dumps(block))
    script = (
        "import pickle, sys\n"
        "block = pickle.load(open(sys.argv[1], 'rb'))\n"
        "from ghostnas.networks.blocks import BLOCK_TYPES\n"
        "print(block, type(block) is BLOCK_TYPES['fused'])"
    )
    environment = {**os.environ, blocks.OWN_FILES: os.environ[blocks.OWN_FILES]}
    printed = subprocess.run(
        [sys.executable, "-c", script, path],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    ).stdout
    assert printed.strip() == f"{block} True"


@pytest.mark.usefixtures("own")
def test_limits_of_a_key_of_its_own_hold(tmp_path: Path) -> None:
    path = tmp_path / "limited.py"
    extra = '    keys: ClassVar = ("gap",)\n    limits: ClassVar = {"gap": Range(1, 3)}\n'
    path.write_text(
        BLOCK.replace("    out_channels", extra + "    out_channels").replace(
            "stride: int = 1", "stride: int = 1\n    gap: int = 1"
        )
    )
    blocks.load_file(path)
    text = SPACE.replace('["fused", "skip", {type = "fused", kernel = 5}]', '"mine"')
    text = text.replace("expansion = [2, 4], kernel = 3", "gap = [2, 3]")
    searched = space.parse(text, "mine", "mine.toml")
    assert searched.decode({"group1.gap": 3}).stages[0].blocks[0].gap == 3
    with pytest.raises(InputError, match=r"group1\.gap: 4 is not a whole number from 1"):
        space.parse(text.replace("[2, 3]", "[2, 4]"), "mine", "mine.toml")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"mine"', '"ghost"', "Mine is named 'ghost', as a block of ghostnas is"),
        ('"mine"', '"my block"', "Mine.type_name is 'my block', not a name like ghost"),
        ("    stride: int = 1\n", "", "Mine has no field stride"),
        ("@dataclass(frozen=True, slots=True, kw_only=True)\n", "", "Mine is not a dataclass"),
        ("class Mine(Block)", "class Mine", "defines no block type"),
        ("from typing", "from tipping", "cannot be loaded: ModuleNotFoundError: No module"),
        ("def build", "deaf build", "cannot be loaded: SyntaxError"),
    ],
)
@pytest.mark.usefixtures("own")
def test_a_file_that_does_not_fit_is_refused(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in BLOCK
    path = tmp_path / "bad.py"
    path.write_text(BLOCK.replace(old, new))
    with pytest.raises(InputError, match=rf"bad\.py: {message}") as caught:
        blocks.load_file(path)
    assert "\n" not in str(caught.value)
    path.write_text(BLOCK)
    blocks.load_file(path)  # once it is mended
    assert "mine" in blocks.BLOCK_TYPES


@pytest.mark.usefixtures("own")
def test_a_missing_or_ambiguous_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.py: cannot be loaded: FileNotFoundError"):
        blocks.load_file(tmp_path / "none.py")
    with pytest.raises(InputError, match=r"none\.toml: is not a \.py file"):
        blocks.load_file(tmp_path / "none.toml")
    blocks.load_file(EXAMPLE)
    other = tmp_path / EXAMPLE.name
    other.write_text(BLOCK)
    with pytest.raises(InputError, match=r"another file of block types is named my_block\.py"):
        blocks.load_file(other)


def test_the_command_line_takes_a_file(tmp_path: Path) -> None:
    (tmp_path / "space.toml").write_text(SPACE)
    script = "import sys\nfrom ghostnas.cli.main import main\nsys.exit(main(sys.argv[1:]))"
    unknown = [sys.executable, "-c", script, "show", str(tmp_path / "arch.json")]
    document = (
        '{"format": 1, "resolution": 32, "stem": {"channels": 8}, "head": {"channels": 8, '
        '"features": 0}, "stages": [[{"type": "fused", "hidden_channels": 16, "out_channels": 8}]]}'
    )
    (tmp_path / "arch.json").write_text(document)
    refused = subprocess.run(unknown, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "type is 'fused', known: ghost" in refused.stderr
    assert "--blocks" in refused.stderr
    known = subprocess.run([*unknown, "--blocks", EXAMPLE], capture_output=True, text=True)
    assert known.returncode == 0, known.stderr
