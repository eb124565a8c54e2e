"""From a search to its files: every number on every card matches what `eval` and `show` report for
that file, whatever is deployed, in every format and dtype.
"""

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
from small import write_pictures, write_space

from ghostnas.cli.main import main
from ghostnas.deployment import bundle
from ghostnas.errors import ExportError
from ghostnas.ir import cost
from ghostnas.networks import arch

RECIPE = "epochs = 1\nbatch_size = 16\nlearning_rate = 0.01\nvalidation_pictures = 16\n"
DTYPES = ("fp32", "int8")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("truth")
    space = write_space(folder)
    # Small images for a network with two strides: at its published size none is dropped.
    space.write_text(space.read_text().replace("[32, 64]", "[64]"))
    write_pictures(folder, a_class=60, size=8)
    (folder / "short.toml").write_text(RECIPE)
    return folder


def search(place: Path, deploy: str) -> Path:
    out = place / deploy
    if not out.exists():
        arguments = [
            *("search", "--target", "arm", "--dtype", "int8"),
            *("--budget", "9ms", "--budget", "3MB"),
            *("--space", str(place / "small.toml"), "--data", f"folder:{place / 'pictures'}"),
            *("--recipe", str(place / "short.toml"), "--trials", "2", "--finalists", "1"),
            *(
                "--seeds",
                "2",
                "--seed",
                "1",
                "--workers",
                "1",
                "--deploy",
                deploy,
                "--out",
                str(out),
                "--json",
            ),
        ]
        assert main(arguments) == 0
    return out


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    capsys.readouterr()
    assert main([*arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def check_files(folder: Path, trained: bool, capsys: pytest.CaptureFixture[str]) -> set[str]:
    """Compare the folder's card and manifest with `show` and `eval`; returns the dtypes seen."""
    card = (folder / "README.md").read_text()
    network = arch.load(folder / "arch.json")
    shown = run(capsys, "show", str(folder / "arch.json"))
    assert f"| multiply-accumulates | {shown['macs']:,} |" in card
    assert f"| parameters | {shown['params']:,} |" in card
    manifest = json.loads((folder / "export.json").read_text())
    assert manifest["arch"] == network.id == shown["id"]
    seen = set()
    for row in manifest["files"]:
        seen.add(row["dtype"])
        [line] = [each for each in card.splitlines() if each.startswith(f"| `{row['file']}`")]
        claimed = line.split("|")[4].strip()
        if not trained:
            assert row.get("accuracy") is None
            assert claimed == "-"
            continue
        found = run(capsys, *shlex.split(row["accuracy"]["command"])[1:])
        assert found["top1"] == pytest.approx(row["accuracy"]["top1"], abs=1e-12)
        assert found["images" if "images" in found else "pictures"] == row["accuracy"]["images"]
        assert claimed == f"{found['top1']:.2%}"
    assert ("not trained" in card) != trained
    return seen


@pytest.mark.parametrize("deploy", ["data", "published"])
def test_cards_match_what_eval_and_show_report_for_the_file(
    place: Path, deploy: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = search(place, deploy)
    result = json.loads((out / "result.json").read_text())
    best = result["best"]
    assert {Path(each["file"]).name for each in result["exported"]} >= {
        "model.tflite",
        "model-int8.tflite",
        "model-int8.onnx",
    }
    monkeypatch.chdir(out / "export")
    assert check_files(out / "export", deploy == "data", capsys) == set(DTYPES)
    shown = run(capsys, "show", str(out), "--target", "pixel4-cpu1-int8")
    for key in ("id", "macs", "params"):
        assert shown[key] == best[key]
    assert shown["latency_ms"] == pytest.approx(best["latency_ms"], abs=1e-4)
    card = (out / "export" / "README.md").read_text()
    [latency] = [line for line in card.splitlines() if line.startswith("| latency")]
    assert f"{best['latency_ms']:.2f} ms" in latency
    assert (out / "proxy").exists() == (deploy == "published")
    if deploy == "published":
        assert (result["deployment"]["resolution"], result["proxy"]["resolution"]) == (64, 8)
        assert result["deployment"]["macs"] == best["macs"] > result["proxy"]["macs"]
        monkeypatch.chdir(out / "proxy")
        assert check_files(out / "proxy", True, capsys) == set(DTYPES)
    else:
        assert result["deployment"]["id"] == result["proxy"]["id"] == best["id"]


def test_budgets_in_bytes_are_those_of_the_dtype(place: Path) -> None:
    result = json.loads((search(place, "data") / "result.json").read_text())
    network = arch.load(place / "data" / "best.json")
    counted = cost.count(arch.lower(network), "int8")
    assert result["best"]["model_bytes"] == counted.model_bytes
    assert result["best"]["peak_activation_bytes"] == counted.peak_activation_bytes
    [file] = [each for each in result["exported"] if each["file"].endswith("model-int8.tflite")]
    assert counted.model_bytes == pytest.approx(file["bytes"], rel=0.35)  # a very small file


def test_training_the_deployment_trains_the_promised_network(
    place: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trained = {}
    for deploy in ("data", "published"):
        run_folder = search(place, deploy)
        best = json.loads((run_folder / "result.json").read_text())["best"]
        arguments = [
            *("train", str(run_folder), "--data", f"folder:{place / 'pictures'}"),
            *("--recipe", str(place / "short.toml"), "--workers", "0", "--json"),
        ]
        capsys.readouterr()
        assert main([*arguments, "--out", str(tmp_path / deploy)]) == 0
        said = capsys.readouterr()
        trained[deploy] = json.loads(said.out)
        proxied = "training its proxy" in said.err
        assert proxied == (deploy == "published")
        assert (trained[deploy]["macs"] == best["macs"]) == (deploy == "data")
        if proxied:
            assert re.search(r"--resolution 64 trains that", said.err)
            assert main([*arguments, "--out", str(tmp_path / "own"), "--resolution", "64"]) == 0
            assert json.loads(capsys.readouterr().out)["macs"] == best["macs"]
    folder = tmp_path / "data"
    found = run(
        capsys,
        *("export", str(folder), "--format", "onnx,tflite", "--dtype", "fp32,fp16,int8"),
        *("--data", f"folder:{place / 'pictures'}", "--out", str(folder / "export")),
    )
    assert found["id"] == trained["data"]["id"]
    monkeypatch.chdir(folder / "export")
    assert check_files(folder / "export", True, capsys) == {"fp32", "fp16", "int8"}


def test_a_search_whose_int8_files_are_refused_ends_with_those_of_fp32(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = Path(shutil.copytree(search(place, "data"), place / "refused"))
    shutil.rmtree(out / "export")
    write = bundle.export

    def refusing(*arguments: Any, **options: Any) -> Any:
        if "int8" in options["dtypes"]:
            raise ExportError("too far from torch")
        return write(*arguments, **options)

    monkeypatch.setattr(bundle, "export", refusing)
    result = run(capsys, "search", "--resume", "--out", str(out))
    assert result["not_exported"] == ["export has no int8 files: too far from torch"]
    assert {each["dtype"] for each in result["exported"]} == {"fp32"}
    assert (out / "export" / "model.tflite").exists()
    assert not (out / "export" / "model-int8.tflite").exists()
