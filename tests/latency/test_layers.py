"""A network's rows add up to the network, say what its blocks are, and are drawn."""

import random
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

import ghostnas
from ghostnas.errors import InputError
from ghostnas.ir import cost
from ghostnas.latency import drawing, layers
from ghostnas.latency import table as latency_table
from ghostnas.latency.predictor import Predictor
from ghostnas.networks import blocks, space, zoo
from ghostnas.networks.arch import Arch, lower

WIDE = space.load("ghostnet-wide")
NETWORKS = [
    *(make(0.5, 160, 10) for make in zoo.ZOO.values()),
    *(WIDE.decode(WIDE.sample(random.Random(seed))) for seed in range(3)),
]


@pytest.mark.parametrize("arch", NETWORKS, ids=lambda arch: arch.id)
def test_the_rows_add_up_to_the_network(arch: Arch) -> None:
    rows = layers.layers(arch, "arm")
    whole = cost.count(lower(arch))
    assert sum(row.macs for row in rows) == whole.macs
    assert sum(row.params for row in rows) == whole.params
    predicted = Predictor(latency_table.load("arm")).predict(arch)
    assert sum(row.latency_ms for row in rows) == pytest.approx(predicted.latency_ms)
    assert rows[-1].out_channels == arch.classes


def first_block(block: blocks.Block) -> layers.Layer:
    """The row of a block in the place of GhostNet's fourth, the first of its stage."""
    arch = zoo.ghostnet()
    stage = replace(arch.stages[2], blocks=(block, *arch.stages[2].blocks[1:]))
    changed = replace(arch, stages=(*arch.stages[:2], stage, *arch.stages[3:]))
    return layers.layers(changed)[4]


GHOST = {"hidden_channels": 72, "out_channels": 40, "kernel": 5, "stride": 2}


@pytest.mark.parametrize(
    ("block", "said"),
    [
        (
            blocks.GhostBlock(**GHOST, ghost_ratio=3, split=True, eca_kernel=3),
            {"operator": "G-bneck", "ghost_ratio": 3, "split": True, "attention": "ECA"},
        ),
        (
            blocks.GhostBlock(**GHOST, ghost_ratio=1, se_ratio=0.25),
            {"ghost_ratio": 1, "cheap_kernel": None, "attention": "SE", "kernel": 5, "stride": 2},
        ),
        (blocks.GhostBlock(**GHOST, split=True), {"split": False, "expansion": 72}),
        (blocks.GhostV2Block(**GHOST, se_ratio=0.25), {"attention": "DFC+SE"}),
        (blocks.GhostV3Block(**GHOST, attended=False), {"operator": "G-bneck V3", "attention": ""}),
        (
            blocks.MBConv(**GHOST, activation="hard_swish", se_channels=16),
            {"operator": "MBConv, hard_swish", "attention": "SE", "cheap_kernel": None},
        ),
        (
            blocks.SkipBlock(out_channels=40, stride=2),
            {"operator": "skip", "kernel": None, "expansion": None, "out_channels": 40},
        ),
    ],
)
def test_a_row_says_what_its_block_is(block: blocks.Block, said: dict[str, object]) -> None:
    row = layers.to_json(first_block(block))
    assert {key: row[key] for key in said} == said


def test_a_kernel_that_changes_nothing_is_not_in_the_row() -> None:
    rows = layers.layers(zoo.ghostnet())
    assert [row.kernel for row in rows if row.stage == "stage 3"] == [5, None]


def test_only_columns_with_values_are_printed() -> None:
    table = layers.text([layers.to_json(row) for row in layers.layers(zoo.mobilenetv3_large())])
    head, *lines = table.splitlines()
    assert head.split() == [
        *("stage", "input", "operator", "k", "#exp", "#out", "attention", "stride", "MFLOPs"),
        "params",
    ]
    assert len(lines) == 20
    assert all(len(line) == len(head) for line in lines)  # the last column is right-aligned


def test_of_two_networks_the_rows_that_differ_are_printed() -> None:
    shown = ghostnas.show("ghostnet", "ghostnetv2", target="arm")
    lines = layers.differences_text(shown).splitlines()
    marks = [line.split()[0] for line in lines if line[:1] in "+-" and line[1:2] == " "]
    assert marks.count("-") == marks.count("+") == 14  # the blocks with attention
    assert lines[-1] == "7 rows are alike"
    [ms] = [line.split() for line in lines if line.startswith("ms")]
    assert float(ms[3]) == pytest.approx(float(ms[2]) - float(ms[1]), abs=0.011)


def test_a_network_is_like_itself() -> None:
    lines = layers.differences_text(ghostnas.show("ghostnet", "ghostnet")).splitlines()
    assert lines[-1] == "21 rows are alike"
    assert not [line for line in lines[1:] if line.startswith(("-", "+"))]


def words(drawn: str) -> list[str]:
    return [each.text or "" for each in ElementTree.fromstring(drawn).iter() if "text" in each.tag]


def test_a_drawing_has_a_box_for_each_row_and_needs_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "both.svg"
    shown = ghostnas.show("ghostnet", "mobilenetv3-large", width=0.5, target="arm", svg=path)
    drawn = path.read_text()
    said = words(drawn)
    for each in (shown, shown["compared"]):
        for row in each["layers"]:
            assert f"{row['macs'] / 1e6:.2f} MFLOPs, {row['latency_ms']:.2f} ms" in said
    assert drawn.count('class="box') == 41
    assert said[0].startswith("ghostnet 0.5x at 224 px, 42.3 MFLOPs")
    assert not re.findall(r"(?:href|src)=|url\(|@import", drawn)


def test_boxes_lie_within_the_drawing_and_do_not_overlap() -> None:
    drawn = drawing.svg(ghostnas.show("ghostnet"))
    width, height = map(int, re.search(r'viewBox="0 0 (\d+) (\d+)"', drawn).groups())
    places = re.findall(r'translate\((\d+) (\d+)\)">\n<rect class="box', drawn)
    assert len({*places}) == 21
    for x, y in places:
        assert int(x) + drawing.BOX[0] < width
        assert int(y) + drawing.BOX[1] < height
    assert "Bars: FLOPs" in drawn


def test_what_has_no_blocks_is_shown_without_rows_and_not_drawn(tmp_path: Path) -> None:
    assert ghostnas.show("squeezenet_v1_1")["layers"] == []
    with pytest.raises(InputError, match="squeezenet_v1_1 has no stages"):
        ghostnas.show("squeezenet_v1_1", svg=tmp_path / "a.svg")
    with pytest.raises(InputError, match=r"must end in \.svg"):
        ghostnas.show("ghostnet", svg=tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_a_stage_that_only_one_network_has_stands_before_the_head() -> None:
    arch = zoo.ghostnet()
    longer = replace(arch, stages=(*arch.stages, arch.stages[-1]))

    def described(network: Arch) -> dict[str, object]:
        rows = [layers.to_json(row) for row in layers.layers(network)]
        return {**ghostnas.show("ghostnet"), "layers": rows}

    said = words(drawing.svg({**described(arch), "compared": described(longer)}))
    stages = [each for each in said if re.fullmatch(r"stem|head|stage \d", each)]
    assert stages == ["stem", *(f"stage {number}" for number in range(1, 7)), "head"]
