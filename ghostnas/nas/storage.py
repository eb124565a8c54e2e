"""A study's database: opened or rejected in one line, waited for while it is unavailable, and told
which trials are alive. Knows nothing of networks.
"""

from __future__ import annotations

import functools
import threading
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, GrpcStorageProxy, RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.engine import make_url
from sqlalchemy.exc import SQLAlchemyError

from ghostnas.errors import InputError
from ghostnas.progress import Say

HEARTBEAT_S, GRACE_S = 15, 120  # a trial without a heartbeat for the grace period is abandoned
BEAT = "ghostnas:heartbeat"  # a trial's system attribute
PATIENCE_S = 150.0
PAUSE_S = 1.0
OPENINGS = 4  # attempts: two processes that create the tables at once disturb each other
OPENING_PAUSE_S = 0.5
GRPC, GRPC_PORT = "grpc://", 13000
Result = TypeVar("Result")
Method = TypeVar("Method", bound=Callable[..., Any])


class _Patient:
    """Retries every call for up to `PATIENCE_S` while the database is restarting or unreachable."""

    def __init__(self, url: str, say: Say, failures: tuple[type[Exception], ...]) -> None:
        self.patient = False  # until the study is open
        self._shown, self._say, self._failures = shown(url), say, failures

    def patiently(self, call: Callable[[], Result]) -> Result:
        """What `call` returns, once the database is available."""
        began, said = time.monotonic(), False
        while True:
            try:
                return call()
            except self._failures as error:
                if not self.patient or time.monotonic() - began > PATIENCE_S:
                    raise StorageInternalError(reason(error)) from error
                if not said:
                    self._say(
                        f"storage {self._shown}: {reason(error)}; retrying for {PATIENCE_S:.0f} s"
                    )
                    said = True
                time.sleep(PAUSE_S)


class PatientStorage(_Patient, RDBStorage):
    """Optuna's database storage, patient."""

    def __init__(self, url: str, say: Say) -> None:
        _Patient.__init__(self, url, say, (StorageInternalError, SQLAlchemyError))
        # With pool_pre_ping, a connection that the database closed is replaced before use.
        RDBStorage.__init__(self, url, {"pool_pre_ping": True})


class PatientProxy(_Patient, GrpcStorageProxy):
    """Optuna's storage behind a gRPC server (`optuna.storages.run_grpc_proxy_server`), patient."""

    def __init__(self, url: str, say: Say) -> None:
        import grpc  # type: ignore[import-untyped]

        _Patient.__init__(self, url, say, (grpc.RpcError,))
        host, _, port = url.removeprefix(GRPC).partition(":")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            GrpcStorageProxy.__init__(self, host=host or "localhost", port=int(port or GRPC_PORT))


def _patient(method: Method) -> Method:
    @functools.wraps(method)
    def call(self: _Patient, *arguments: Any, **named: Any) -> Any:
        return self.patiently(lambda: method(self, *arguments, **named))

    return call  # type: ignore[return-value]


# Every method that Optuna and its cache call on a storage.
_COMMON = (
    *("create_new_study", "get_all_studies", "get_study_id_from_name", "get_study_name_from_id"),
    *("get_study_directions", "get_study_user_attrs", "get_study_system_attrs"),
    *("set_study_user_attr", "set_study_system_attr", "set_trial_state_values"),
    *("set_trial_user_attr", "set_trial_system_attr", "set_trial_intermediate_value", "get_trial"),
    *("get_trial_id_from_study_id_trial_number",),
)
_DATABASE = ("_create_new_trial", "_set_trial_param", "_get_trials", "_get_best_trial_id")
_PROXY = ("create_new_trial", "set_trial_param", "get_all_trials")
for _class, _names in ((PatientStorage, _COMMON + _DATABASE), (PatientProxy, _COMMON + _PROXY)):
    for _name in _names:
        setattr(_class, _name, _patient(getattr(_class, _name)))


def open_storage(url: str, say: Say) -> BaseStorage:
    """The database at an SQLAlchemy URL, whose missing tables are created, or the one behind a
    gRPC server at ``grpc://HOST:PORT``; its attribute `patient` makes it wait for the database.

    Raises:
        InputError: it cannot be opened, or its driver is not installed.
    """
    for attempt in range(OPENINGS):
        try:
            if url.startswith(GRPC):
                proxy = PatientProxy(url, say)
                proxy.get_all_studies()  # connects
                return proxy
            return PatientStorage(url, say)
        except ImportError as error:
            if url.startswith(GRPC):
                raise InputError(
                    f"storage {url}: grpcio is not installed; pip install 'ghostnas[grpc]'"
                ) from error
            driver = getattr(error.__cause__, "name", None) or "its driver"
            raise InputError(
                f"storage {shown(url)}: {driver}, which this database needs, is not installed; for "
                "PostgreSQL: pip install 'psycopg[binary]' and use postgresql+psycopg://..."
            ) from error
        except Exception as error:  # Optuna's storages raise their database drivers' errors
            known = isinstance(error, SQLAlchemyError | StorageInternalError)
            if attempt == OPENINGS - 1 or not known:
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
    """Says every `HEARTBEAT_S` seconds that this process's trials are alive, and hears whether
    others' are. What counts is that a trial's counter changes, not the clock of its machine.
    """

    def __init__(self, study: optuna.Study) -> None:
        self._study = study
        self._lock = threading.Lock()
        self._trials: set[int] = set()
        # Each trial's counter and when it last changed, by its number. A thread listens, so that
        # it does not matter how long the search's own steps take.
        self._heard: dict[int, tuple[int, float]] = {}
        self._count = 0
        self._listened = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def add(self, trial: optuna.Trial) -> None:
        self._beat(trial._trial_id)
        with self._lock:
            self._trials.add(trial._trial_id)

    def remove(self, trial: optuna.Trial) -> None:
        with self._lock:
            self._trials.discard(trial._trial_id)

    def silent(self) -> list[FrozenTrial]:
        """The running trials of other processes that were not heard of for `GRACE_S` seconds, as
        far as this process has listened. While the database is gone, nobody can be heard.
        """
        with self._lock:
            now = time.monotonic()
            long = {number for number, (_, since) in self._heard.items() if now - since > GRACE_S}
        running = (
            self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)) if long else ()
        )
        return [trial for trial in running if trial.number in long]

    def _listen(self) -> None:
        running = self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        with self._lock:
            now = time.monotonic()
            if now - self._listened > GRACE_S / 2:
                self._heard.clear()
            self._listened = now
            heard = {}
            for trial in running:
                if trial._trial_id not in self._trials:
                    count = int(trial.system_attrs.get(BEAT, 0))
                    before, since = self._heard.get(trial.number, (-1, now))
                    heard[trial.number] = (count, since if count == before else now)
            self._heard = heard

    def end(self) -> None:
        self._ended.set()
        self._thread.join(timeout=PAUSE_S)

    def _run(self) -> None:
        while not self._ended.wait(HEARTBEAT_S):
            self._count += 1
            with self._lock:
                alive = list(self._trials)
            for trial_id in alive:
                try:
                    self._beat(trial_id)
                except UpdateFinishedTrialError:
                    continue  # another process has closed it
                except (StorageInternalError, SQLAlchemyError):
                    break  # the search itself meets the error too, and reports it
            with suppress(StorageInternalError, SQLAlchemyError):
                self._listen()

    def _beat(self, trial_id: int) -> None:
        self._study._storage.set_trial_system_attr(trial_id, BEAT, self._count)
