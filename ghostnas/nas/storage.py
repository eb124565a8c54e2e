"""A study's database: opened or rejected in one line, waited for while it is unavailable, and told
which trials are alive. Knows nothing of networks.
"""

from __future__ import annotations

import functools
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from ghostnas.errors import InputError
from ghostnas.progress import Say

HEARTBEAT_S, GRACE_S = 15, 120  # a trial without a heartbeat for the grace period is abandoned
PATIENCE_S = 150.0
PAUSE_S = 1.0
OPENINGS = 4  # attempts: two processes that create the tables at once disturb each other
OPENING_PAUSE_S = 0.5
Result = TypeVar("Result")
Method = TypeVar("Method", bound=Callable[..., Any])


class PatientStorage(RDBStorage):
    """Optuna's database storage that retries every call for up to `PATIENCE_S` while the database
    is restarting or unreachable.
    """

    def __init__(self, url: str, say: Say) -> None:
        # With pool_pre_ping, a connection that the database closed is replaced before use.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            super().__init__(
                url,
                {"pool_pre_ping": True},
                heartbeat_interval=HEARTBEAT_S,
                grace_period=GRACE_S,
            )
        self.patient = False  # until the study is open
        self._say = say

    def patiently(self, call: Callable[[], Result]) -> Result:
        """What `call` returns, once the database is available."""
        began, said = time.monotonic(), False
        while True:
            try:
                return call()
            except (StorageInternalError, SQLAlchemyError) as error:
                if not self.patient or time.monotonic() - began > PATIENCE_S:
                    raise
                if not said:
                    self._say(
                        f"storage {shown(self.url)}: {reason(error)}; retrying for "
                        f"{PATIENCE_S:.0f} s"
                    )
                    said = True
                time.sleep(PAUSE_S)


def _patient(method: Method) -> Method:
    @functools.wraps(method)
    def call(self: PatientStorage, *arguments: Any, **named: Any) -> Any:
        return self.patiently(lambda: method(self, *arguments, **named))

    return call  # type: ignore[return-value]


# Every method that Optuna and its cache call on a storage.
for _name in (
    *("create_new_study", "get_all_studies", "get_study_id_from_name", "get_study_name_from_id"),
    *("get_study_directions", "get_study_user_attrs", "get_study_system_attrs"),
    *("set_study_user_attr", "set_study_system_attr", "_create_new_trial", "_set_trial_param"),
    *("set_trial_state_values", "set_trial_user_attr", "set_trial_system_attr", "get_trial"),
    *("_get_trials", "get_trial_id_from_study_id_trial_number", "record_heartbeat"),
    *("_get_stale_trial_ids", "_get_best_trial_id", "set_trial_intermediate_value"),
):
    setattr(PatientStorage, _name, _patient(getattr(RDBStorage, _name)))


def open_storage(url: str, say: Say) -> PatientStorage:
    """The database at an SQLAlchemy URL; missing tables are created.

    Raises:
        InputError: it cannot be opened, or its driver is not installed.
    """
    for attempt in range(OPENINGS):
        try:
            return PatientStorage(url, say)
        except ImportError as error:
            driver = getattr(error.__cause__, "name", None) or "its driver"
            raise InputError(
                f"storage {shown(url)}: {driver}, which this database needs, is not installed; for "
                "PostgreSQL: pip install 'psycopg[binary]' and use postgresql+psycopg://..."
            ) from error
        except Exception as error:  # Optuna's storages raise their database drivers' errors
            if attempt == OPENINGS - 1 or not isinstance(error, SQLAlchemyError):
                raise InputError(
                    f"storage {shown(url)}: cannot be opened: {reason(error)}"
                ) from error
            time.sleep(OPENING_PAUSE_S)
    raise AssertionError("the last attempt returns or raises")


def shown(url: str) -> str:
    """A storage's URL for display, without its password."""
    try:
        return make_url(url).render_as_string(hide_password=True)
    except SQLAlchemyError:
        return url


def reason(error: BaseException) -> str:
    """The first line of the database's own message."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class Heartbeat:
    """Tells the database every `HEARTBEAT_S` seconds that this process's trials are alive."""

    def __init__(self, storage: PatientStorage) -> None:
        self._storage = storage
        self._lock = threading.Lock()
        self._trials: set[int] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def add(self, trial_id: int) -> None:
        self._storage.record_heartbeat(trial_id)
        with self._lock:
            self._trials.add(trial_id)

    def remove(self, trial_id: int) -> None:
        with self._lock:
            self._trials.discard(trial_id)

    def end(self) -> None:
        self._ended.set()
        self._thread.join(timeout=PAUSE_S)

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_S):
            with self._lock:
                alive = list(self._trials)
            for trial_id in alive:
                try:
                    self._storage.record_heartbeat(trial_id)
                except (StorageInternalError, SQLAlchemyError):
                    break  # the search itself meets the error too, and reports it
