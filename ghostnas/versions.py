"""The versions a process runs with, as recorded in a run folder."""

from __future__ import annotations

import platform
from importlib.metadata import version

from ghostnas._version import __version__
from ghostnas.files import toml_value

PACKAGES = ("torch", "optuna", "onnx", "onnxruntime", "ai-edge-litert", "numpy")


def versions_text() -> str:
    """The versions this process runs with, as a TOML table."""
    lines = ["[versions]", f"ghostnas = {toml_value(__version__)}"]
    lines += [f"python = {toml_value(platform.python_version())}"]
    lines += [f"{name} = {toml_value(version(name))}" for name in PACKAGES]
    return "\n".join(lines)
