"""The trainings that choose the winner and report on it, from seeds that no trial has used."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, as_completed
from dataclasses import replace
from pathlib import Path

from ghostnas.nas import evaluators, results
from ghostnas.nas.constraints import Accuracies, Candidate
from ghostnas.nas.evaluators import EvaluatorPool, Score
from ghostnas.networks.arch import Arch
from ghostnas.progress import Say, duration


class Finals:
    """Trains finalists in a pool; what an earlier process trained is read from the run folder.

    Args:
        kept: called after each training.
    """

    def __init__(
        self, pool: EvaluatorPool, folder: Path, say: Say, kept: Callable[[], object]
    ) -> None:
        self._pool, self._folder, self._say, self._kept = pool, folder, say, kept
        self.skipped: dict[str, None] = {}  # a line for each image that could not be read
        self.done = self.wanted = 0  # trainings of the present purpose
        self.left_s: float | None = None  # seconds that these will take

    def choose(
        self, candidates: Sequence[Candidate], seeds: range, most_likely: results.Choice
    ) -> tuple[Candidate, list[Candidate]]:
        """The winner, and all candidates with the accuracies that it was chosen by."""
        trained = self._train([each.arch for each in candidates], seeds, "to choose")
        judged = [
            replace(each, choosing=_accuracies(trained[at])) for at, each in enumerate(candidates)
        ]
        return most_likely(judged), judged

    def report(
        self, winner: Candidate, candidates: Sequence[Candidate], seeds: range
    ) -> tuple[Candidate, list[Candidate]]:
        """The same with the winner's and the baseline's accuracies from fresh seeds.

        The seeds that chose took no part in the trials, whose scores flatter the best of them, and
        those that report took none in the choice, which in turn flatters the winner.
        """
        compared = [each for each in candidates if each is winner or each.trial is None]
        trained = self._train([each.arch for each in compared], seeds, "to report")
        reported = {
            each.name: replace(each, reporting=_accuracies(scores))
            for each, scores in zip(compared, trained, strict=True)
        }
        judged = [reported.get(each.name, each) for each in candidates]
        return reported[winner.name], judged

    def train(self, candidates: Sequence[Candidate], seeds: range) -> list[Candidate]:
        """The candidates with their accuracies from these seeds."""
        trained = self._train([each.arch for each in candidates], seeds, "along the front")
        return [
            replace(each, reporting=_accuracies(scores))
            for each, scores in zip(candidates, trained, strict=True)
        ]

    def _train(self, archs: Sequence[Arch], seeds: range, purpose: str) -> list[list[Score]]:
        known: dict[tuple[str, int], Score] = {}
        running: dict[Future[Score], tuple[str, int]] = {}
        ids = [arch.id for arch in archs]
        for arch, arch_id in zip(archs, ids, strict=True):
            for seed in seeds:
                path = results.weights_path(self._folder, arch, seed)
                score = evaluators.recorded(path)
                if score is None:
                    running[self._pool.submit_test(arch, seed, path)] = (arch_id, seed)
                else:
                    known[arch_id, seed] = score
        self._say(
            f"training {purpose}: {len(archs)} networks from {len(seeds)} fresh seeds each"
            + (f", {len(known)} of them already done" if known else "")
        )
        began = time.monotonic()
        self.done, self.wanted, self.left_s = 0, len(running), None
        for count, future in enumerate(as_completed(running), 1):
            arch_id, seed = running[future]
            score = known[arch_id, seed] = future.result()
            self._kept()
            self.done = count
            self.left_s = (time.monotonic() - began) / count * (len(running) - count)
            self._say(
                f"{count}/{len(running)} trainings {purpose}: {arch_id}, seed {seed}: "
                f"{score.accuracy:.1%} on validation images; {duration(self.left_s)} left"
            )
        found = [[known[arch_id, seed] for seed in seeds] for arch_id in ids]
        for scores in found:
            for score in scores:
                self.skipped |= dict.fromkeys(score.skipped)
        return found


def _accuracies(scores: Sequence[Score]) -> Accuracies:
    return Accuracies(
        validation=tuple(score.accuracy for score in scores),
        test=tuple(score.test_accuracy for score in scores),
    )
