"""Shared by all tests: one thread, the same examples of hypothesis on every run, the synthetic
images of a process drawn once, and interrupts that are heard.
"""

import functools
import os
import signal
from collections.abc import Iterator

# Set before numpy and torch load. Torch's idle threads spin: on shared cores, two threads take ten
# times as long as one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

from ghostnas.data import datasets

settings.register_profile("ghostnas", derandomize=True, deadline=None, database=None)
settings.load_profile("ghostnas")

# Where the tests were started in the background of a script, they and what they start would ignore
# Ctrl-C, which some of them send.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _synthetic_drawn_once() -> Iterator[None]:
    """To draw the 6,000 images takes 3.5 s, and many tests load them."""
    needs_folder, what, read = datasets.KINDS["synthetic"]
    with pytest.MonkeyPatch.context() as patch:
        drawn_once = (needs_folder, what, functools.cache(read))
        patch.setitem(datasets.KINDS, "synthetic", drawn_once)
        yield


@pytest.fixture(scope="module")
def one_core() -> Iterator[None]:
    """Give the processes that score or evaluate one thread: idle ones spin, which is slow on shared
    cores.
    """
    with pytest.MonkeyPatch.context() as patch:
        for module in ("ghostnas.nas.evaluators", "ghostnas.deployment.evaluate"):
            patch.setattr(f"{module}.usable_cpus", lambda: 1)
        yield
