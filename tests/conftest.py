"""Shared by all tests: one thread, and hypothesis draws the same examples on every run."""

import os

# Set before numpy and torch load. Torch's idle threads spin: on shared cores, two threads take ten
# times as long as one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings

settings.register_profile("ghostnas", derandomize=True, deadline=None, database=None)
settings.load_profile("ghostnas")
