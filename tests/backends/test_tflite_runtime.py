"""LiteRT's INFO lines are dropped, its errors are not."""

import subprocess
import sys

SCRIPT = """
import os, sys
from ghostnas.backends import tflite_runtime, tflite_writer
from ghostnas.networks import zoo
from ghostnas.networks.arch import lower
from ghostnas.ir.random_weights import random_weights

graph = lower(zoo.ghostnet(0.1, 32, 10))
model = tflite_writer.write(graph, random_weights(graph, 0))
if {direct}:
    from ai_edge_litert.interpreter import Interpreter
    Interpreter(model_content=model).allocate_tensors()
else:
    print(tflite_runtime.delegates(tflite_runtime.load(model)))
with tflite_runtime._without_news():
    os.write(2, b"INFO: a thing was made\\nERROR: a thing broke\\nno end of line")
print("after", file=sys.stderr)
"""


def ran(direct, **streams):
    command = [sys.executable, "-c", SCRIPT.format(direct=direct)]
    return subprocess.run(command, text=True, check=True, stdout=subprocess.PIPE, **streams)


def test_info_lines_are_dropped_and_all_else_is_kept_in_order():
    alone = ran(True, stderr=subprocess.PIPE).stderr
    assert "INFO: " in alone  # else there is nothing left to drop: see `tflite_runtime`
    done = ran(False, stderr=subprocess.PIPE)
    assert done.stdout == "(1, True)\n"
    assert done.stderr == "ERROR: a thing broke\nno end of lineafter\n"


def test_a_process_without_stderr_runs_models_too():
    closed = "import os; os.close(2)\n" + SCRIPT.format(direct=False).partition("with ")[0]
    command = [sys.executable, "-c", closed]
    done = subprocess.run(command, text=True, check=True, stdout=subprocess.PIPE)
    assert done.stdout == "(1, True)\n"
