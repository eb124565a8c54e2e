"""Processes that share a study in a real PostgreSQL, behind gRPC and in sqlite: 200 cheap trials,
one process killed with -9 and replaced, the server restarted in the middle.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import optuna
import postgres
import pytest

from ghostnas.nas import concluding, storage, study

TRIALS = 200
WORKER = Path(__file__).parents[1] / "shared_worker.py"
SERVE = """
import sys
import warnings
import optuna
warnings.simplefilter("ignore")
optuna.storages.run_grpc_proxy_server(
    optuna.storages.get_storage(sys.argv[1]), host="localhost", port=int(sys.argv[2])
)
"""

pytestmark = pytest.mark.slow


@dataclass
class GrpcServer:
    """Optuna's gRPC server over a sqlite file, in a process of its own."""

    folder: Path
    port: int
    process: "subprocess.Popen[bytes]" = field(init=False)

    @property
    def url(self) -> str:
        return f"grpc://localhost:{self.port}"

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE, f"sqlite:///{self.folder}/study.db", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for _ in range(300):
            with socket.socket() as probe:
                if probe.connect_ex(("localhost", self.port)) == 0:
                    return
            time.sleep(0.2)
        raise AssertionError("the gRPC server did not start")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@contextmanager
def grpc_server(folder: Path) -> Iterator[GrpcServer]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    made = GrpcServer(folder, port)
    made.start()
    try:
        yield made
    finally:
        made.stop()


def start(url: str, folder: Path, name: str) -> "subprocess.Popen[str]":
    tests = [str(WORKER.parent), str(WORKER.parents[1])]
    with open(folder / f"{name}.txt", "w") as errors:
        return subprocess.Popen(
            [sys.executable, str(WORKER), url, str(TRIALS), str(folder / name)],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(tests), "OMP_NUM_THREADS": "1"},
        )


def wait_for(current: optuna.Study, count: int) -> set[int]:
    """The numbers of the finished trials, once there are so many."""
    for _ in range(1500):
        done = {each.trial for each in study.finished(current)}
        if len(done) >= count:
            return done
        time.sleep(0.2)
    raise AssertionError(f"{count} trials did not come")


def opened(made: optuna.storages.BaseStorage) -> optuna.Study:
    made.patient = True  # type: ignore[attr-defined]
    for _ in range(300):
        try:
            return optuna.load_study(study_name=study.NAME, storage=made)
        except KeyError:  # no study yet
            time.sleep(0.2)
    raise AssertionError("no study came")


def share(
    url: str,
    folder: Path,
    killed: str,
    server: "postgres.Server | GrpcServer | None",
) -> None:
    """Two processes; one is killed and replaced, the server is restarted, and all is checked."""
    processes = {"a": start(url, folder, "a")}
    made = storage.open_storage(url, lambda line: None)
    try:
        current = opened(made)
        processes["b"] = start(url, folder, "b")
        wait_for(current, 20)
        processes[killed].kill()
        before = wait_for(current, 40)
        processes["c"] = start(url, folder, "c")
        wait_for(current, 100)
        if server is not None:
            server.stop()
            time.sleep(3)
            server.start()
        ended = {}
        for name, process in processes.items():
            output, _ = process.communicate(timeout=300)
            if name != killed:
                said = (folder / f"{name}.txt").read_text()
                assert process.returncode == 0, said
                assert "Traceback" not in said
                ended[name] = json.loads(output)["concluded_by"]
        trials = current.get_trials()
        told = current.user_attrs
    finally:
        for process in processes.values():
            process.kill()
            process.communicate()
        if isinstance(made, storage.PatientStorage):
            made.engine.dispose()
    done = [each for each in trials if each.state.name == "COMPLETE"]
    assert before <= {each.number for each in done}
    assert len(done) == TRIALS
    assert len({each.user_attrs["id"] for each in done}) == TRIALS
    states = Counter(each.state.name for each in trials)
    assert states["RUNNING"] == states["WAITING"] == 0
    # What the killed process was running was tried again.
    retried = [each for each in trials if study.RETRY_OF in each.user_attrs]
    finished = {each.user_attrs["id"] for each in done}
    for each in retried:
        left = trials[each.user_attrs[study.RETRY_OF]]
        assert left.state.name == "FAIL"
        assert left.user_attrs["id"] in finished
    # One concludes, the others know which.
    [concluder] = [name for name, by in ended.items() if by is None]
    assert {by for by in ended.values() if by is not None} == {str(folder / concluder)}
    assert told[concluding.CREATOR]["id"] == "a"
    assert (concluder == "a") == (killed != "a")
    assert told[concluding.CLAIM]["id"] == concluder
    assert told[concluding.CLAIM]["done"]


@pytest.mark.skipif(postgres.PROGRAM is None, reason="no PostgreSQL")
def test_postgresql(tmp_path: Path) -> None:
    with postgres.server() as server:
        share(server.url, tmp_path, "b", server)


def test_grpc_without_its_creator(tmp_path: Path) -> None:
    with grpc_server(tmp_path) as server:
        share(server.url, tmp_path, "a", server)


def test_sqlite_without_its_creator(tmp_path: Path) -> None:
    share(f"sqlite:///{tmp_path}/study.db", tmp_path, "a", None)
