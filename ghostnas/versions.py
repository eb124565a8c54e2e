"""The versions that a process runs with, as a run folder keeps them."""

from __future__ import annotations

import platform
from importlib.metadata import version

from ghostnas._version import __version__
from ghostnas.files import toml_value

PACKAGES = ("torch", "optuna", "onnx", "onnxruntime", "ai-edge-litert", "numpy")


def versions_text() -> str:
    """The versions that this process runs with, as a table of TOML."""
    lines = ["[versions]", f"ghostnas = {toml_value(__version__)}"]
    lines += [f"python = {toml_value(platform.python_version())}"]
    lines += [f"{name} = {toml_value(version(name))}" for name in PACKAGES]
    return "\n".join(lines)
