"""A training's page says what its folder says, whether it has ended or not."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest

from ghostnas.errors import InputError
from ghostnas.training import report

EARLIER = Path(__file__).parents[1] / "golden" / "earlier" / "full"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(EARLIER, tmp_path / "full")
    rows = [
        {"epoch": epoch, "step": 10 * epoch, "resolution": 32, "learning_rate": 0.1 / epoch,
         "loss": 2.0 / epoch, "train_accuracy": 0.2 * epoch,
         "accuracy": 0.15 * epoch if epoch % 2 else "", "images_per_second": 9, "seconds": epoch}
        for epoch in (1, 2, 3)
    ]  # fmt: skip
    with open(tmp_path / "full" / "curve.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return tmp_path / "full"


def drawn(page: str) -> dict:
    return json.loads(re.search(r'id="drawn">(.*?)</script>', page, re.DOTALL)[1])


def test_the_answer_and_the_curves_are_the_folders(folder: Path) -> None:
    result = json.loads((folder / "result.json").read_text())
    page = report.write(folder).read_text()
    assert f'<span class="em">{100 * result["test_accuracy"]:.2f} %</span>' in page
    rows = drawn(page)["datasets"]
    held_out = [r for r in rows["accuracy"] if r["series"] == "held-out images"]
    assert [(row["epoch"], row["value"]) for row in held_out] == [(1, 15.0), (3, 45.0)]
    assert [row["value"] for row in rows["loss"]] == pytest.approx([2.0, 1.0, 2 / 3], abs=1e-6)
    assert [row["epoch"] for row in rows["rate"]] == [1, 2, 3]
    assert page.count("<figcaption>") == page.count("<details>") == 3
    assert len(page.encode()) < 3_000_000


def test_a_training_that_has_not_ended_says_so(folder: Path) -> None:
    (folder / "result.json").unlink()
    page = report.page(folder)
    assert "This training has not ended" in page
    assert "ghostnas train --resume" in page
    (folder / "curve.csv").unlink()
    assert "No epoch has ended yet" in report.page(folder)


def test_damage_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no training"):
        report.page(tmp_path)
    (folder / "result.json").write_text("{")
    with pytest.raises(InputError, match=r"result\.json: is damaged"):
        report.page(folder)
    (folder / "result.json").unlink()
    (folder / "curve.csv").write_text("epoch,loss\n1,low\n")
    with pytest.raises(InputError, match="training curve"):
        report.page(folder)
