"""How processes that work for this one begin: Ctrl-C is left to it and they end with it; not what
they do.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

PARENT_LOOKED_AT_S = 1.0


def start_worker(parent: int) -> None:
    """The first thing a worker process does: it ignores Ctrl-C, and ends when the process
    `parent`, which started it, is gone, also after a kill -9.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


@contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Processes begun in the block do not hear Ctrl-C, not even before they come to `start_worker`.

    An executor begins one at a submit. A Ctrl-C in the block is heard here when it ends.
    """
    heard = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, heard)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(PARENT_LOOKED_AT_S)
    os._exit(1)
