"""What must stay quick: help and `import ghostnas` load nothing heavy."""

import subprocess
import sys

HEAVY = {"torch", "ai_edge_litert", "optuna", "onnx", "onnxruntime", "pandas", "jinja2"}


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
