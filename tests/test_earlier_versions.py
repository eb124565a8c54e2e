"""Run folders and tables written by an earlier version can still be opened and resumed."""

import json
import shutil
from pathlib import Path

import pytest
from small import write_pictures

from ghostnas.cli.main import main
from ghostnas.latency import table

pytestmark = pytest.mark.usefixtures("one_core")
EARLIER = Path(__file__).parent / "golden" / "earlier"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(EARLIER, tmp_path / "earlier")
    folder = tmp_path / "earlier"
    write_pictures(folder).rename(folder / "images")
    settings = folder / "full" / "train.toml"
    settings.write_text(settings.read_text().replace("IMAGES", str(folder / "images")))
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.slow
def test_a_search_is_shown_exported_and_resumed(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = json.loads((place / "run" / "result.json").read_text())
    assert main(["show", "run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["id"] == before["best"]["id"]
    assert main(["export", "run", "--format", "onnx", "--out", "files"]) == 0
    capsys.readouterr()
    assert main(["search", "--resume", "--out", "run", "--trials", "3", "--json"]) == 0
    after = json.loads(capsys.readouterr().out)
    assert after["trials"] == 3
    assert before["best"]["id"] in (place / "run" / "trials.csv").read_text()


def test_a_training_is_resumed_and_exported(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = json.loads((place / "full" / "result.json").read_text())
    assert main(["train", "--resume", "--out", "full", "--workers", "0", "--json"]) == 0
    after = json.loads(capsys.readouterr().out)
    assert after["test_accuracy"] == before["test_accuracy"]
    assert after["id"] == before["id"]
    assert main(["export", "full", "--format", "tflite", "--out", "files"]) == 0


@pytest.mark.parametrize(("name", "kind"), [("run", "search"), ("full", "training")])
def test_a_run_has_a_report(
    place: Path, name: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", name, "--json"]) == 0
    written = json.loads(capsys.readouterr().out)
    assert (written["kind"], written["report"]) == (kind, f"{name}/report.html")
    assert (place / name / "report.html").stat().st_size == written["bytes"]


def test_a_table_is_read_as_it_was(place: Path) -> None:
    [(op, timing)] = table.load("phone.csv").rows.items()
    assert (op.op, op.out_channels, timing.median_ms) == ("conv", 120, 0.2)
