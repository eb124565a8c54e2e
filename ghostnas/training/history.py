"""Records a training's progress: curve.csv, progress lines, and TensorBoard files if installed."""

from __future__ import annotations

import csv
import io
import time
from pathlib import Path
from typing import Any

from ghostnas.errors import InputError
from ghostnas.files import read_text, write_whole
from ghostnas.progress import Say, duration
from ghostnas.training.loop import Progress

SPOKEN_EVERY_S = 10.0


class Curve:
    """curve.csv, one row per epoch, including those of earlier processes; and progress lines."""

    COLUMNS = (
        *("epoch", "step", "resolution", "learning_rate", "loss", "train_accuracy", "accuracy"),
        *("images_per_second", "seconds"),
    )

    def __init__(self, path: Path, say: Say) -> None:
        self._path = path
        self._say = say
        self._rows: dict[int, dict[str, Any]] = {}
        if path.exists():
            try:
                rows = csv.DictReader(read_text(path).splitlines())
                self._rows = {
                    int(row["epoch"]): {**row, "seconds": float(row["seconds"])} for row in rows
                }
            except (KeyError, ValueError, TypeError) as error:
                raise InputError(
                    f"{path}: is not a training curve; restore it, or move it away"
                ) from error
        self._began = time.monotonic()
        self._before: float | None = None
        self._spoken = 0.0
        self._board = _tensorboard(path.parent)

    @property
    def seconds(self) -> float:
        """Seconds of this training, over all processes that worked on it."""
        if self._before is None:  # nothing was left to do
            return self._seconds_before(len(self._rows) + 1)
        return self._before + time.monotonic() - self._began

    def __call__(self, progress: Progress) -> None:
        if self._before is None:
            self._before = self._seconds_before(progress.epoch)
        now = time.monotonic()
        if progress.epoch_done:
            self._add(progress)
        if progress.epoch_done or now - self._spoken >= SPOKEN_EVERY_S:
            self._spoken = now
            held_out = "" if progress.accuracy is None else f", {progress.accuracy:.1%} held out"
            self._say(
                f"epoch {progress.epoch}, step {progress.step}/{progress.steps}: loss "
                f"{progress.mean_loss:.3f}, {progress.train_accuracy:.1%} in training{held_out}; "
                f"{progress.images_per_second:.0f} images per second, "
                f"{duration(progress.seconds_left)} left"
            )

    def _add(self, progress: Progress) -> None:
        row = {
            "epoch": progress.epoch,
            "step": progress.step,
            "resolution": progress.resolution,
            "learning_rate": round(progress.learning_rate, 8),
            "loss": round(progress.mean_loss, 6),
            "train_accuracy": round(progress.train_accuracy, 6),
            "accuracy": "" if progress.accuracy is None else round(progress.accuracy, 6),
            "images_per_second": round(progress.images_per_second, 1),
            "seconds": round(self.seconds, 1),
        }
        self._rows[progress.epoch] = row
        text = io.StringIO()
        writer = csv.DictWriter(text, self.COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows[epoch] for epoch in sorted(self._rows))
        write_whole(self._path, text.getvalue().encode())
        if self._board is not None:
            for key, value in row.items():
                if key != "epoch" and value != "":
                    self._board.add_scalar(key, value, progress.step)
            self._board.flush()

    def _seconds_before(self, epoch: int) -> float:
        """When the last epoch before this one finished; anything after it is repeated."""
        return max(
            (float(row["seconds"]) for done, row in self._rows.items() if done < epoch), default=0.0
        )


def _tensorboard(folder: Path) -> Any:
    """A TensorBoard writer, if TensorBoard is installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"))
