"""A process that shares a study: real study, sampler and storage, and scores that cost nothing.

Run by tests as: python shared_worker.py URL TRIALS FOLDER
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import budgeted

from ghostnas.nas import concluding, samplers, storage, study

AT_ONCE = 2
SECONDS = 0.02  # that a score takes


def score(arch):
    time.sleep(SECONDS)
    return int(arch.id, 16) % 1000 / 1000


def main(url, trials, folder):
    storage.HEARTBEAT_S = study.HEARTBEAT_S = 0.5
    storage.GRACE_S = 8
    sampler = samplers.create("evolution", budgeted.feasible(), seed=len(folder))
    me = concluding.Member(id=Path(folder).name, place=folder)
    current = study.open_study(url, {"space": "small"}, sampler, {}, private=False, me=me, say=say)
    presence = concluding.Presence(current, me)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        study.run(
            current,
            budgeted.SPACE,
            lambda arch, report: pool.submit(score, arch),
            trials=trials,
            at_once=AT_ONCE,
        )
    by = presence.await_turn(trials, say)
    if by is None:
        presence.concluded(trials)
    presence.end()
    print(json.dumps({"concluded_by": None if by is None else by.place}))


def say(line):
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
