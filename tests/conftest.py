"""Shared by all tests: one thread, the same examples of hypothesis on every run, and the synthetic
images of a process drawn once.
"""

import functools
import os
from collections.abc import Iterator

# Set before numpy and torch load. Torch's idle threads spin: on shared cores, two threads take ten
# times as long as one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

from ghostnas.data import datasets

settings.register_profile("ghostnas", derandomize=True, deadline=None, database=None)
settings.load_profile("ghostnas")


@pytest.fixture(scope="session", autouse=True)
def _synthetic_drawn_once() -> Iterator[None]:
    """To draw the 6,000 images takes 3.5 s, and many tests load them."""
    needs_folder, what, read = datasets.KINDS["synthetic"]
    with pytest.MonkeyPatch.context() as patch:
        drawn_once = (needs_folder, what, functools.cache(read))
        patch.setitem(datasets.KINDS, "synthetic", drawn_once)
        yield
