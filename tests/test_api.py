"""The Python API: every function's example runs, and importing it is quick."""

import doctest
import functools
import inspect
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small import write_pictures, write_space

import ghostnas
from ghostnas import api
from ghostnas.cli.main import main
from ghostnas.devices import op_models, table_build
from ghostnas.networks import blocks, zoo

pytestmark = pytest.mark.usefixtures("one_core")
VERBS = [name for name in ghostnas.__all__ if name[0].islower()]
RECIPE = "epochs = 1\nbatch_size = 16\nlearning_rate = 0.01\nvalidation_pictures = 16\n"
ORIGIN = """
device = "phone"
soc = "made"
core = "cortex-a76"
clock_mhz = 2000
governor = "none"
threads = 1
runtime = "TFLite"
delegate = "XNNPACK"
dtype = "fp32"
method = "measured elsewhere"
op_error = 0.05
date = "2026-01-01"
"""
ROWS = (
    "op,height,width,in_channels,out_channels,kernel,stride,activation,median_ms,p10_ms,p90_ms,runs\n"
    "conv,28,28,40,120,1,1,relu,0.2,0.19,0.21,30\n"
)


def examples(name: str) -> list[doctest.Example]:
    return doctest.DocTestParser().get_examples(getattr(ghostnas, name).__doc__ or "")


def test_every_function_has_an_example_and_types() -> None:
    for name in VERBS:
        verb = getattr(ghostnas, name)
        assert verb is getattr(api, name)
        assert examples(name), name
        hints = inspect.signature(verb)
        assert hints.return_annotation is not inspect.Signature.empty
    assert (Path(ghostnas.__file__).parent / "py.typed").exists()
    assert set(ghostnas.__all__) <= set(dir(ghostnas))
    with pytest.raises(AttributeError, match="no attribute 'serch'"):
        _ = ghostnas.serch  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with everything the examples name, in which they run one after another."""
    folder = tmp_path_factory.mktemp("api")
    write_space(folder)
    write_pictures(folder).rename(folder / "images")
    (folder / "short.toml").write_text(RECIPE)
    (folder / "origin.toml").write_text(ORIGIN)
    (folder / "rows.csv").write_text(ROWS)
    shutil.copy(Path(__file__).parents[1] / "examples" / "my_block.py", folder)
    return folder


ORDER = (
    *(
        "DeviceOptions",
        "search",
        "pick",
        "report",
        "supernet",
        "show",
        "train",
        "export",
        "evaluate",
        "predict_latency",
        "predict",
        "list_targets",
    ),
    *("load_network", "load_space", "load_blocks", "load_data", "import_table"),
    *("build_table", "check_table", "calibrate_table"),
    *("ghostify", "paper_table", "paper_figures", "paper_page", "paper_seeds"),
)


@pytest.mark.parametrize("name", ORDER)
def test_the_example_of_each_function_runs(
    name: str, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    shown = examples(name)
    monkeypatch.setattr(ghostnas, "search", functools.partial(api.search, workers=1))
    if name.endswith("_table"):  # a few small ops, on a machine that may be shared
        monkeypatch.setattr(op_models, "ZOO", {"ghostnet": zoo.ghostnet})
        monkeypatch.setattr(op_models, "ZOO_WIDTHS", ())
        monkeypatch.setattr(op_models, "OPS_A_KIND", 2)
        monkeypatch.setattr(table_build, "SPREAD", 99.0)
        monkeypatch.setattr(table_build, "DRIFTED", 99.0)
    if name == "load_blocks":  # forgotten after the test
        monkeypatch.setenv(blocks.OWN_FILES, "")
        monkeypatch.setattr(blocks, "BLOCK_TYPES", dict(blocks.BLOCK_TYPES))
        monkeypatch.setitem(sys.modules, "ghostnas.networks.blocks.own_my_block", None)
        monkeypatch.delitem(sys.modules, "ghostnas.networks.blocks.own_my_block")
    test = doctest.DocTest(shown, {"ghostnas": ghostnas}, name, None, None, None)
    said: list[str] = []
    failed = doctest.DocTestRunner(verbose=False).run(test, out=said.append)
    assert failed.attempted
    assert not failed.failed, "".join(said)


def test_all_functions_are_tried() -> None:
    assert set(ORDER) == {"DeviceOptions", *VERBS}


def test_an_error_has_the_message_of_the_command_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(ghostnas.GhostnasError) as caught:
        ghostnas.show("gostnet")
    assert main(["show", "gostnet"]) == 2
    assert capsys.readouterr().err == f"ghostnas: {caught.value}\n"


def test_importing_loads_nothing_heavy_and_no_function() -> None:
    script = (
        "import sys, ghostnas\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "print(sorted(loaded & {'torch', 'optuna', 'numpy', 'onnx', 'pandas', 'ai_edge_litert'}))\n"
        "print('ghostnas.api' in sys.modules)\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(ghostnas.__file__).parents[1])},
    )
    assert ran.stdout == "[]\nFalse\n"
