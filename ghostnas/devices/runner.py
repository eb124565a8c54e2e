"""Times TensorFlow Lite models on the machine it runs on, many in one process. Self-contained.

It is copied to a device that has Python 3.8 or later, numpy and either ai-edge-litert or
tflite-runtime, and started as ``python3 runner.py FOLDER``. FOLDER holds ``job.json`` and the
models that it names; one line of JSON goes to stdout.

Models are run in turns, round after round: between two runs of one model come all the others, so
that its weights are as cold as in a network and a disturbance spreads over all. A sentinel, always
the same model, is timed before and after every few runs: if it was slow, those runs are thrown
away and repeated.
"""

from __future__ import annotations

import glob
import json
import os
import platform
import sys
import time
from typing import Any

import numpy as np

WARM_UP_ROUNDS = 2
SENTINEL_EVERY = 16  # models
DISTURBED = 1.10  # times the sentinel's usual
PATIENCE = 3  # times the wanted rounds, before disturbed runs are accepted
COOLER_CELSIUS = 5
LONGEST_PAUSE_S = 120


def find_interpreter(model: bytes) -> tuple[Any, str]:
    """The class and version of a runtime that works: some can be imported but not used."""
    failures = []
    for package in ("ai_edge_litert", "tflite_runtime"):
        try:
            module = __import__(package + ".interpreter", fromlist=["Interpreter"])
            module.Interpreter(model_content=model)
        except Exception as error:
            failures.append(f"{package}: {error}")
            continue
        name = package.replace("_", "-")
        return module.Interpreter, f"{name} {version_of(name)}"
    raise SystemExit(
        f"runner: neither ai-edge-litert nor tflite-runtime works here ({'; '.join(failures)}); "
        "install one: python3 -m pip install ai-edge-litert"
    )


def version_of(package: str) -> str:
    try:
        from importlib.metadata import version

        return version(package)
    except Exception:
        return "of an unknown version"


class Model:
    """A model that is ready to run. `refused` says why its times would mislead, if they would."""

    def __init__(self, name: str, interpreter_class: Any, content: bytes, threads: int) -> None:
        self.name = name
        self.interpreter = interpreter_class(model_content=content, num_threads=threads)
        self.interpreter.allocate_tensors()
        inputs = self.interpreter.get_input_details()
        outputs = self.interpreter.get_output_details()
        self.refused = self._find_refusal(inputs, outputs)
        rng = np.random.default_rng(0)
        for detail in inputs:
            if detail["dtype"] == np.float32:
                values = rng.normal(size=detail["shape"]).astype(np.float32)
            else:
                values = rng.integers(-100, 100, detail["shape"]).astype(detail["dtype"])
            self.interpreter.set_tensor(detail["index"], values)
        self.inputs = [self.interpreter.tensor(detail["index"]) for detail in inputs]
        self.outputs = [self.interpreter.tensor(detail["index"]) for detail in outputs]
        self.times_us: list[float] = []

    def _find_refusal(self, inputs: list[Any], outputs: list[Any]) -> str | None:
        """XNNPACK must run everything from the inputs to the outputs, in one part."""
        ops = [op for op in self.interpreter._get_ops_details() if op["op_name"] == "DELEGATE"]
        if not ops:
            return "XNNPACK did not take it"
        taken_in, put_out = set(ops[0]["inputs"]), set(ops[0]["outputs"])
        whole = {d["index"] for d in inputs} <= taken_in and {
            d["index"] for d in outputs
        } <= put_out
        return None if whole and len(ops) == 1 else "XNNPACK took only parts of it"

    def run(self, burst: int) -> list[float]:
        """Microseconds of one run after others ran, or of all but the first of a burst."""
        if burst == 1:
            # As the op before leaves them: inputs just written, the output's memory in use.
            for view in self.outputs:
                view().fill(0)
            for view in self.inputs:
                view().sum()
            return [self.time()]
        return [self.time() for _ in range(burst)][1:]

    def time(self) -> float:
        start = time.perf_counter()
        self.interpreter.invoke()
        return 1e6 * (time.perf_counter() - start)


class Sentinel:
    """The model whose times tell whether the machine is as it was."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.times_us = [model.time() for _ in range(20)][10:]

    def is_slow(self) -> bool:
        now = min(self.model.time() for _ in range(2))
        self.times_us.append(now)
        return now > DISTURBED * self.usual_us()

    def usual_us(self) -> float:
        return float(np.percentile(self.times_us[-200:], 20))


def celsius() -> float:
    """Of the hottest part that reports a temperature; 0 if none does."""
    hottest = 0.0
    for path in glob.glob("/sys/class/thermal/thermal_zone*/temp"):
        try:
            with open(path) as file:
                degrees = float(file.read())
        except (OSError, ValueError):
            continue
        degrees = degrees / 1000 if degrees > 1000 else degrees
        if degrees < 150:
            hottest = max(hottest, degrees)
    return hottest


def wait_until_cool(limit: float) -> float:
    """Seconds waited because a part was hotter than `limit`."""
    start = time.time()
    if limit and celsius() > limit:
        while celsius() > limit - COOLER_CELSIUS and time.time() - start < LONGEST_PAUSE_S:
            time.sleep(1)
    return time.time() - start


def _status_bytes(key: str) -> int:
    """A line of /proc/self/status."""
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(key + ":"))


def start_peak() -> int | None:
    """Forget the process's peak of resident memory, and return what is resident now, in bytes; None
    where the system cannot: only Linux can.
    """
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        return _status_bytes("VmRSS")
    except (OSError, StopIteration, ValueError):
        return None


def grown_since(start: int | None) -> int | None:
    """Bytes from what `start_peak` returned to the peak since then."""
    return None if start is None else max(0, _status_bytes("VmHWM") - start)


def measure(models: list[Model], sentinel: Sentinel, job: dict[str, Any]) -> tuple[int, float]:
    """Fill in the models' times; return the number of runs thrown away and the seconds paused."""
    groups = [models[at : at + SENTINEL_EVERY] for at in range(0, len(models), SENTINEL_EVERY)]
    thrown_away, paused_s = 0, 0.0
    for _ in range(WARM_UP_ROUNDS):
        for model in models:
            model.run(job["burst"])
        sentinel.is_slow()
    done = [0] * len(groups)
    budget = [PATIENCE * job["rounds"]] * len(groups)
    while min(done) < job["rounds"]:
        paused_s += wait_until_cool(job["hottest_celsius"])
        for index, group in enumerate(groups):
            if done[index] == job["rounds"]:
                continue
            slow = sentinel.is_slow()
            times = [model.run(job["burst"]) for model in group]
            slow = sentinel.is_slow() or slow
            if slow and budget[index]:
                budget[index] -= 1
                thrown_away += len(group)
                continue
            done[index] += 1
            for position, model in enumerate(group):
                model.times_us += times[position]
    return thrown_away, paused_s


def main(folder: str) -> None:
    def read(name: str) -> bytes:
        with open(os.path.join(folder, name), "rb") as file:
            return file.read()

    job = json.loads(read("job.json"))
    if job["cpus"] and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, job["cpus"])
    content = read(job["sentinel"])
    interpreter_class, runtime = find_interpreter(content)
    sentinel = Sentinel(Model("sentinel", interpreter_class, content, job["threads"]))
    refused: dict[str, str] = {}
    models: list[Model] = []
    resident = start_peak()
    for name in job["models"]:
        try:
            model = Model(name, interpreter_class, read(name), job["threads"])
        except (ValueError, RuntimeError) as error:
            refused[name] = str(error).splitlines()[0]
            continue
        if model.refused and job["delegated"]:
            refused[name] = model.refused
        else:
            models.append(model)
    thrown_away, paused_s = measure(models, sentinel, job) if models else (0, 0.0)
    memory_bytes = grown_since(resident) if len(models) == 1 else None  # of several: nobody's
    result = {
        "runtime": runtime,
        "python": platform.python_version(),
        "times_us": {model.name: [round(each, 3) for each in model.times_us] for model in models},
        "refused": refused,
        "sentinel_us": round(sentinel.usual_us(), 3),
        "thrown_away": thrown_away,
        "paused_s": round(paused_s, 1),
        "celsius": celsius(),
        "memory_bytes": memory_bytes,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1])
