"""Imports run downwards only, and help is quick."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ghostnas

# From the bottom up: a module imports only from those before it.
LAYERS = [
    "errors",
    "records",
    "files",
    "processes",
    "preprocessing",
    "recipe",
    "graph",
    "seal",
    "weights",
    "published",
    "places",
    "inherit",
    "seeds",
    "blocks",
    "arch",
    "space",
    "zoo",
    "classic_blocks",
    "classics",
    "cost",
    "budget",
    "storage",
    "study",
    "deploy",
    "signature",
    "latency",
    "interpolate",
    "sums",
    "correction",
    "predict",
    "sweep",
    "judge",
    "reference",
    "depthwise",
    "pointwise",
    "torch_net",
    "initial",
    "scorers",
    "tflite_run",
    "tflite",
    "tflite_metadata",
    "onnx_model",
    "quantize",
    "op_models",
    "device",
    "hardware",
    "runner",
    "benchmark_model",
    "table_import",
    "bench",
    "emulator",
    "emulated",
    "op_counts",
    "journal",
    "measure",
    "check",
    "synthetic",
    "pictures",
    "cifar",
    "download",
    "image_folder",
    "data",
    "randaugment",
    "augment",
    "decoding",
    "loader",
    "calibration",
    "splits",
    "deployment",
    "checkpoint",
    "distributed",
    "learner",
    "train",
    "proxy",
    "torch_program",
    "model_file",
    "evaluate",
    "proof",
    "model_card",
    "whole_folder",
    "export",
    "report",
    "settings",
    "outcome",
    "search",
    "curve",
    "training_settings",
    "training_run",
    "show",
    "handover",
    "commands",
    "cli",
    "__main__",
]
READERS = {"cost", "signature", "reference", "torch_net", "tflite", "onnx_model"}
MUST_NOT_KNOW = {
    "graph": {"torch", "onnx", "ai_edge_litert"},
    "blocks": {"torch", "arch", "cost"},
    "arch": {"torch", "space"},
    "space": {"optuna", "torch"},
    "cost": {"torch", "blocks"},
    "budget": {"torch", "latency", "predict"},
    "signature": {"torch", "device"},
    "latency": {"torch", "device", "graph"},
    "interpolate": {"latency", "arch"},
    "predict": {"torch", "device"},
    "runner": set(LAYERS),
    "judge": {"torch", "study"},
    "settings": {"torch", "study"},
    "device": {"ai_edge_litert", "tflite", "latency"},
    "hardware": {"device", "tflite"},
    "benchmark_model": {"device", "latency"},
    "bench": {"space", "study"},
    "measure": {"study", "device"},
    "check": {"study", "device"},
    "reference": {"torch"},
    "torch_net": {"train"},
    "initial": {"train", "data"},
    "scorers": {"train", "data", "study"},
    "weights": {"torch"},
    "published": {"torch_net", "arch"},
    "places": {"numpy", "graph"},
    "inherit": {"torch", "arch", "published"},
    "seeds": {"torch", "train", "study"},
    "seal": {"torch", "weights"},
    "tflite_run": {"torch", "tflite"},
    "tflite_metadata": {"torch"},
    "calibration": {"quantize", "data"},
    "quantize": {"torch", "tflite"},
    "model_file": {"onnx_model", "cli"},
    "evaluate": {"train", "cli"},
    "model_card": {"torch", "export"},
    "whole_folder": {"torch", "export"},
    "tflite": {"torch"},
    "onnx_model": {"torch"},
    "pictures": {"torch", "recipe"},
    "cifar": {"torch", "download"},
    "download": {"torch", "numpy"},
    "image_folder": {"torch", "recipe"},
    "data": {"torch", "recipe"},
    "augment": {"pictures", "recipe"},
    "randaugment": {"pictures", "recipe"},
    "decoding": {"recipe", "data"},
    "loader": {"recipe", "data"},
    "train": {"study"},
    "proxy": {"study"},
    "study": {"torch", "device", "cli"},
    "export": {"cli"},
    "report": {"cli"},
    "outcome": {"train", "proxy", "cli"},
    "search": {"cli"},
    "show": {"cli"},
}
HEAVY = {"torch", "ai_edge_litert", "optuna", "onnx", "onnxruntime", "pandas"}

PACKAGE = Path(ghostnas.__file__).parent
MODULES = sorted(path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__")


def imports(module):
    """The modules of ghostnas that it imports, and by their first name all others."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: relative import in line {node.lineno}"
            dotted = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            dotted = [alias.name for alias in node.names]
        else:
            continue
        for name in dotted:
            first, _, rest = name.partition(".")
            found.add(rest.split(".")[0] if first == "ghostnas" and rest else first)
    return found


def test_every_module_has_its_layer():
    assert len(set(LAYERS)) == len(LAYERS)
    assert set(MODULES) <= set(LAYERS)
    assert not [path for path in PACKAGE.rglob("*.py") if path.parent != PACKAGE]


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downwards_only(module):
    above = set(LAYERS[LAYERS.index(module) :])
    assert imports(module) & above == set()


@pytest.mark.parametrize("module", sorted(READERS & set(MODULES)))
def test_readers_of_a_graph_do_not_know_each_other(module):
    assert imports(module) & READERS == set()


@pytest.mark.parametrize("module", sorted(MUST_NOT_KNOW.keys() & set(MODULES)))
def test_a_module_does_not_know_what_is_none_of_its_business(module):
    assert imports(module) & MUST_NOT_KNOW[module] == set()


def test_the_check_sees_every_form_of_import():
    assert {"graph", "errors", "numpy", "torch"} <= imports("torch_net")


def test_help_imports_nothing_heavy():
    script = (
        "import runpy, sys\n"
        "sys.argv = ['ghostnas', '--help']\n"
        "try:\n"
        "    runpy.run_module('ghostnas', run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        f"print('heavy:', *sorted({HEAVY!r} & set(sys.modules)))\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    assert "usage" in finished.stdout.lower()
    assert finished.stdout.splitlines()[-1] == "heavy:"
