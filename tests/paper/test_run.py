"""The commands' results as files: pages that stand alone, drawings that parse, own accuracies."""

import io
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from ghostnas.cli.main import main
from ghostnas.networks import zoo
from ghostnas.networks.arch import to_json
from ghostnas.paper import comparisons, drawing, figures
from ghostnas.paper.drawing import Area, Dot, Drawing, Label, Line, Picture, Plot


def trained(folder: Path, *, unlike: bool = False) -> None:
    """A folder as after a training of table 3, with accuracies that are told apart."""
    spread = np.random.default_rng(0).normal(0, 0.002, (5, 4))
    means = [0.9, 0.7, 0.8, 0.75, 0.72]
    by_row = {
        row.label: (row, (mean + noise).tolist())
        for row, mean, noise in zip(comparisons.TRAINED["table3"], means, spread, strict=True)
    }
    del by_row["d = 7"]
    found = comparisons.to_json(by_row, [])
    about = {"width": 0.25, "recipe": "train_pictures = 500", "epochs": 3, "data": "cifar10"}
    document = {"trained": {**found, **about, "hardware": ["a CPU"]}}
    folder.mkdir(exist_ok=True)
    (folder / "table3.json").write_text(json.dumps(document))


def test_one_page_holds_every_table_and_figure_and_nothing_from_elsewhere(tmp_path: Path) -> None:
    trained(tmp_path)
    assert main(["paper", "all", "--out", str(tmp_path)]) == 0
    page = (tmp_path / "paper.html").read_text()
    for number in range(1, 9):
        assert re.search(rf"<h2[^>]*>Table {number}: ", page)
    assert page.count("<svg") == 5  # table 3 as trained, figures 4 to 7
    assert not re.findall(r'(?:src|href)="(?!data:|#)', page)
    assert "7.651" in page
    assert "untrained" in page
    assert "random weights" in page


def test_a_trained_table_says_how_and_which_order_is_the_papers(tmp_path: Path) -> None:
    trained(tmp_path)
    assert main(["paper", "table3", "--out", str(tmp_path)]) == 0
    page = (tmp_path / "table3.html").read_text()
    assert "all networks 0.25 as wide, 3 epochs, 500 training images, on a CPU" in page
    assert re.search(r"d = 1 against d = 3: -(9|10)\.", page)
    assert "as in the paper" in page
    assert page.count("untrained") == 1  # d = 7
    kept = json.loads((tmp_path / "table3.json").read_text())
    assert kept["trained"]["epochs"] == 3  # the next call still knows it
    assert (tmp_path / "table3.svg").exists()
    with Image.open(tmp_path / "table3.png") as image:
        assert image.size == (1520, 920)


def test_figures_mark_an_own_training(tmp_path: Path) -> None:
    run = tmp_path / "full"
    run.mkdir()
    (run / "arch.json").write_text(json.dumps(to_json(zoo.ghostnet(0.8))))
    result = {"data": "imagenet:DIR", "test_accuracy": 0.701, "macs": 95_000_000}
    (run / "result.json").write_text(json.dumps(result))
    out = tmp_path / "figures"
    assert main(["paper", "figures", "--out", str(out), "--run", str(run)]) == 0
    for name in ("figure6", "figure7"):
        text = (out / f"{name}.svg").read_text()
        assert "full, imagenet (ours)" in text
        assert "hollow as published, filled our own" in text
    names = {path.name for path in out.iterdir()}
    assert {f"figure{n}.{kind}" for n in (4, 5, 6, 7) for kind in ("svg", "png")} <= names


def test_every_network_has_a_latency_or_a_reason() -> None:
    found = figures.placed("arm")
    assert len(found) == 19
    for each in found:
        assert (each.latency_ms is None) == bool(each.reason)
        if each.low_ms is not None and each.latency_ms is not None and each.high_ms is not None:
            assert each.low_ms < each.latency_ms < each.high_ms
    assert sum(each.latency_ms is None for each in found) == 5  # those that shuffle


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["all", "--out", "o", "--weights", "w.pth"], "--weights needs --network"),
        (["all", "--out", "o", "--network", "vgg61"], "did you mean vgg16"),
        (["figures", "--out", "o", "--run", "nowhere"], "holds no finished training"),
        (["figures", "--out", "o", "--target", "amr"], "amr"),
        (["table3", "--train", "--out", "o"], "a training needs --data"),
        (["table4", "--train", "--data", "synthetic"], "--train needs --out"),
        (["seeds", "--out", "o", "--data", "cifra10:DIR"], "unknown data"),
        (["seeds", "--out", "o", "--data", "synthetic", "--recipe", "nope"], "unknown recipe"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["paper", *arguments]) == 2
    [line] = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("ghostnas: ")
    assert message in line


def everything() -> Drawing:
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    return Drawing(
        width=100,
        height=60,
        shapes=(
            Area(points=((0, 0), (100, 0), (100, 10)), colour="#c0392b", opacity=0.5, title="<a>"),
            Line(points=((5, 20), (95, 20)), colour="#000000", width=2, dashed=True),
            Dot(x=20, y=40, colour="#1e8449", title="a & b"),
            Dot(x=40, y=40, colour="#1e8449", filled=False),
            Label(x=50, y=50, text="<word>", anchor="middle"),
            Picture(x=80, y=30, width=16, height=16, pixels=pixels, frame="#2471a3"),
        ),
        caption='"quoted" & <tagged>',
    )


def test_a_drawing_is_well_formed_svg_of_every_shape() -> None:
    root = ElementTree.fromstring(drawing.svg(everything()))
    kinds = [each.tag.rpartition("}")[2] for each in root]
    for kind in ("polygon", "polyline", "circle", "text", "image"):
        assert kind in kinds
    assert root[0].text == '"quoted" & <tagged>'
    assert any(each.text == "<word>" for each in root)


def test_a_drawing_is_a_png_with_its_colours_in_their_places() -> None:
    image = Image.open(io.BytesIO(drawing.png(everything()))).convert("RGB")
    assert image.size == (200, 120)
    assert image.getpixel((40, 80)) == (0x1E, 0x84, 0x49)
    assert image.getpixel((80, 80)) == (255, 255, 255)
    assert image.getpixel((12, 40)) == (0, 0, 0)
    assert image.getpixel((164, 64)) == (0, 1, 2)
    assert image.getpixel((160, 70)) == (0x24, 0x71, 0xA3)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (58.0, 76.0), (-0.6, 4.4), (0, 8.75), (1e-4, 2e-3)]
)
def test_ticks_are_a_few_round_numbers_within(low: float, high: float) -> None:
    found = drawing.ticks(low, high)
    assert 2 <= len(found) <= drawing.TICKS + 1
    assert all(low <= each <= high for each in found)


def test_a_plot_puts_its_ranges_ends_at_its_edges() -> None:
    plot = Plot(x_range=(10, 1000), y_range=(0, 5), x_name="", y_name="", log_x=True)
    assert plot.at(10, 0) == (plot.left, plot.height - plot.bottom)
    assert plot.at(1000, 5) == pytest.approx((plot.width - plot.right, plot.top))
    assert plot.x(100) == pytest.approx((plot.left + plot.width - plot.right) / 2)
