"""Which of the processes that share a study concludes it: the one that created it or, if that is no
longer heard of, one of those that wait for it. Knows nothing of networks.

Each process tells the study every `HEARTBEAT_S` seconds that it is there. Once its trials are done,
it waits until another has claimed the conclusion, or claims it itself: whoever created the study
does, and of those that wait the one with the lowest id, once the creator has ended or been silent
for `GRACE_S` seconds.
"""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from sqlalchemy.exc import SQLAlchemyError

from ghostnas.nas import storage
from ghostnas.progress import Say

CREATOR, CLAIM = "creator", "concluded by"  # the study's attributes
PROCESS = "process "  # the attribute of a process, by its id
POLL_S = 0.5  # between looks at the others
SETTLE_S = 1.0  # after which a claim that no other has overwritten holds


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A process that shares a study; `place` names its machine and its run folder."""

    id: str
    place: str


class Presence:
    """A process's presence in a study, until `end`."""

    def __init__(self, study: optuna.Study, me: Member) -> None:
        self._study, self._me = study, me
        self._beat, self._waiting = 0, False
        self._heard: dict[str, tuple[int, float, bool]] = {}
        self._writing = threading.Lock()
        self._ended = threading.Event()
        self._tell()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def await_turn(self, trials: int, say: Say) -> Member | None:
        """Wait until it is clear who concludes; None if this process should.

        Args:
            trials: that this process was asked for; a conclusion of fewer does not count.
        """
        self._waiting = True
        self._tell()
        listening = looked = time.monotonic()
        said, claimed = False, True
        while True:
            told = self._study.user_attrs
            now = time.monotonic()
            if now - looked > storage.GRACE_S / 2:  # the database was gone, nobody could be heard
                listening = now
                self._heard.clear()
            looked = now
            claim = told.get(CLAIM)
            fresh = claim is not None and not claimed  # it was not there at the last look
            claimed = claim is not None
            if claim is not None and claim["id"] != self._me.id and claim["trials"] >= trials:
                by = Member(id=claim["id"], place=claim["place"])
                if claim["done"] or fresh or self._changed(told, by.id):
                    return by
                if not self._silent(told, by.id, listening):
                    time.sleep(POLL_S)
                    continue
            if self._leader(told, listening) == self._me.id:
                self._claim(trials, done=False)
                time.sleep(SETTLE_S)
                if self._study.user_attrs[CLAIM]["id"] == self._me.id:
                    return None
                continue
            if not said and CREATOR in told:
                say(f"waiting for {told[CREATOR]['place']}, which began the search, to conclude it")
                said = True
            time.sleep(POLL_S)

    def concluded(self, trials: int) -> None:
        """Tell the study that this process has concluded it."""
        self._claim(trials, done=True)

    def end(self) -> None:
        self._ended.set()
        with suppress(StorageInternalError, SQLAlchemyError):  # the others wait for its silence
            self._tell()
        self._thread.join(timeout=storage.PAUSE_S)

    def _claim(self, trials: int, *, done: bool) -> None:
        claim = {**dataclasses.asdict(self._me), "trials": trials, "done": done}
        self._study.set_user_attr(CLAIM, claim)

    def _leader(self, told: Mapping[str, Any], listening: float) -> str | None:
        creator = told.get(CREATOR, {}).get("id")
        if creator is not None and not self._silent(told, creator, listening):
            return str(creator)
        waiting = (
            name.removeprefix(PROCESS)
            for name, process in told.items()
            if name.startswith(PROCESS) and process["waiting"]
        )
        there = [each for each in waiting if not self._silent(told, each, listening)]
        return min(there, default=None)

    def _silent(self, told: Mapping[str, Any], other: str, listening: float) -> bool:
        """Whether another process has ended, or not been heard of for the grace period, as far as
        this one has listened.
        """
        if other == self._me.id:
            return False
        process = told.get(PROCESS + other)
        if process is not None and process["ended"]:
            return True
        since = self._listen(told, other)[1] if process is not None else listening
        return time.monotonic() - since > storage.GRACE_S

    def _changed(self, told: Mapping[str, Any], other: str) -> bool:
        """Whether another process has been heard of since it was first seen."""
        return PROCESS + other in told and self._listen(told, other)[2]

    def _listen(self, told: Mapping[str, Any], other: str) -> tuple[int, float, bool]:
        beat = int(told[PROCESS + other]["beat"])
        known = self._heard.get(other)
        if known is None or known[0] != beat:
            self._heard[other] = (beat, time.monotonic(), known is not None)
        return self._heard[other]

    def _run(self) -> None:
        while not self._ended.wait(storage.HEARTBEAT_S):
            # If the database is gone, the search itself meets the error too, and reports it.
            with suppress(StorageInternalError, SQLAlchemyError):
                self._tell()

    def _tell(self) -> None:
        with self._writing:
            self._beat += 1
            process = {
                "place": self._me.place,
                "beat": self._beat,
                "waiting": self._waiting,
                "ended": self._ended.is_set(),
            }
            self._study.set_user_attr(PROCESS + self._me.id, process)
