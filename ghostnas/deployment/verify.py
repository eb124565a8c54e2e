"""Compares exported files, opened as users open them, with the torch network; writes nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ghostnas.arrays import Array
from ghostnas.backends import tflite_runtime, tflite_writer
from ghostnas.backends.model_file import ModelFile, one_line, open_model
from ghostnas.deployment.samples import BATCH, Evaluation, batches
from ghostnas.errors import ExportError, GhostnasError, InputError
from ghostnas.ir.fusion import deploy
from ghostnas.ir.graph import Graph, Weights
from ghostnas.ir.preprocessing import Preprocessing
from ghostnas.processes import processor, usable_cpus
from ghostnas.progress import Say, silent

RANDOM_IMAGES = 3  # to verify a file where none are given
PROOF_IMAGES = 32  # at most, if unlabelled and not needed for calibration
MOST_HELD_OUT = 128  # of the images for int8, to verify with rather than calibrate
POINT = 0.01  # of accuracy that a file may lose
ONE_SIDED_95 = 1.645  # standard errors


class Tolerance(NamedTuple):
    """How far a file's logits may be from torch's.

    Attributes:
        largest: the largest difference, as a share of the largest logit.
        typical: the median over images of an image's mean difference, as a share of the median
            image's mean distance of logits from their mean. A single image whose logits explode
            changes it little.
    """

    largest: float
    typical: float


# In int8, GhostNet 0.5x (61 % of CIFAR-10-JPEG) and MobileNetV3 0.5x (56 %), each in both runtimes,
# were typically off by 0.04 to 0.09 while they lost less than a point of accuracy on 2,000 images;
# ranges that were too wide or too narrow gave 0.10 to 0.14 and a loss of 0.3 to 2.4 points, and
# above 0.2 a loss of 2.5 to 11. The largest difference is that of one image and says nothing: 0.5.
TOLERANCES = {
    "fp32": Tolerance(1e-4, np.inf),
    "fp16": Tolerance(2e-2, np.inf),
    "int8": Tolerance(np.inf, 0.15),
}


class Written(NamedTuple):
    """A file to be verified."""

    path: Path
    format: str
    dtype: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """The accuracy of one file, run in its own runtime, on labelled images.

    Attributes:
        top1: 0 to 1.
        torch_top1: that of the float32 weights on the same images, in torch.
        images: how many images.
        of: what the images are.
        command: prints the same number; None if no command selects exactly these images.
    """

    top1: float
    torch_top1: float
    images: int
    of: str
    command: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    """A written file, and how its own runtime's logits compare with the torch network's.

    Attributes:
        difference, mean_difference: largest and mean, as shares of the largest logit.
        typical_difference: see `Tolerance`.
        agreement: share of the images with the same top class.
        images: how many images, none used for calibration.
        processor: what it ran on.
        accuracy: of this file itself, if the images were labelled.
        xnnpack_parts: for a .tflite, the number of parts XNNPACK took it in; 1 means all at once.
        ops: for a .tflite, how many of each.
    """

    path: Path
    format: str
    dtype: str
    size_bytes: int
    difference: float
    mean_difference: float
    typical_difference: float
    agreement: float
    images: int
    processor: str
    accuracy: Accuracy | None = None
    xnnpack_parts: int | None = None
    ops: Mapping[str, int] | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "file": str(self.path),
            "format": self.format,
            "dtype": self.dtype,
            "bytes": self.size_bytes,
            "difference_from_torch": self.difference,
            "mean_difference_from_torch": self.mean_difference,
            "typical_difference_from_torch": self.typical_difference,
            "same_class": self.agreement,
            "proof_images": self.images,
            "processor": self.processor,
            "accuracy": asdict(self.accuracy) if self.accuracy is not None else None,
            "xnnpack_parts": self.xnnpack_parts,
            "ops": dict(self.ops) if self.ops is not None else None,
        }


def hold_out(calibration: Array) -> tuple[Array, Array]:
    """Images to calibrate with, and images, up to half, to verify with.

    Raises:
        InputError: there is only one.
    """
    held = min(MOST_HELD_OUT, len(calibration) // 2)
    if not held:
        raise InputError("int8 needs 2 or more images: some calibrate, others verify the file")
    return calibration[held:], calibration[:held]


def proof_images(graph: Graph, given: Array | None) -> Array:
    if given is not None:
        return given.astype(np.float32)
    drawn = np.random.default_rng(0).normal(size=(RANDOM_IMAGES, *graph.input_shape))
    return drawn.astype(np.float32)


def prove(
    written: Sequence[Written],
    graph: Graph,
    values: Weights,
    images: Array | Evaluation,
    preprocessing: Preprocessing,
    say: Say = silent,
) -> tuple[list[Exported], Accuracy | None]:
    """Compare each file, opened as a user would, with torch on the same images.

    A file is rejected if its accuracy is certainly more than POINT below torch's: if the lower end
    of the one-sided 95 % interval of the loss exceeds it. Logits must also be within tolerance
    where images have no labels or are too few to resolve a point.

    Args:
        images: as the network takes them, (n, 3, height, width), or labelled ones.
        preprocessing: of labelled images.

    Returns:
        The results, and the accuracy of the weights themselves in torch.

    Raises:
        ExportError: a file cannot be run, or is too far from torch; or XNNPACK does not take all
            of a float .tflite at once.
        InputError: the weights give logits that are not finite, or no image can be read.
    """
    labelled = images if isinstance(images, Evaluation) else None
    models = [_opened(each) for each in written]
    if labelled:
        say(f"running {len(written)} files on {len(labelled.source)} {labelled.description}")
    expected, found, labels = _logits(written, models, graph, values, images, preprocessing, say)
    right = expected.argmax(1) == labels if labelled else None
    itself = None
    if labelled and right is not None:
        itself = _accuracy(labelled, right, right, "model.safetensors")
    exported = []
    for each, logits in zip(written, found, strict=True):
        with as_export_error(f"{each.format} {each.dtype}"):
            exported.append(_judged(each, logits, expected, labels, labelled, graph))
    return exported, itself


def paired_loss(lost: int, won: int, images: int) -> tuple[float, float]:
    """The loss of accuracy on the same images, and the lower end of its one-sided 95 % interval
    (Agresti and Min, 2005: a half is added to each of four counts).

    Args:
        lost, won: images that only the first, or only the second, of two networks gets right.
    """
    count, b, c = images + 2, lost + 0.5, won + 0.5
    error = math.sqrt(b + c - (b - c) ** 2 / count) / count
    return (lost - won) / images, (b - c) / count - ONE_SIDED_95 * error


@contextmanager
def as_export_error(what: str) -> Iterator[None]:
    """Turn any error of a writer, a quantiser or a runtime into one line that names the file."""
    try:
        yield
    except OSError:
        raise
    except GhostnasError as error:
        raise ExportError(f"{what}: {error}") from error
    except Exception as error:
        raise ExportError(f"{what}: {type(error).__name__}: {one_line(error)}") from error


def _opened(written: Written) -> ModelFile:
    import torch

    with as_export_error(f"{written.format} {written.dtype}"):
        return open_model(written.path, threads=min(torch.get_num_threads(), usable_cpus()))


def _logits(
    written: Sequence[Written],
    models: Sequence[ModelFile],
    graph: Graph,
    values: Weights,
    images: Array | Evaluation,
    preprocessing: Preprocessing,
    say: Say,
) -> tuple[Array, list[Array], Array]:
    """The logits of torch and of each model, (n, classes), and the labels, 0 if there are none. All
    run on a batch before the next one is read.
    """
    import torch

    from ghostnas.backends.torch_module import net_of

    net = net_of(graph, values)
    expected, labels = [], []
    found: list[list[Array]] = [[] for _ in written]
    told = 0.1
    for inputs, answers in _batches(graph, images, preprocessing):
        with torch.inference_mode():
            expected.append(net(torch.from_numpy(inputs)).numpy())
        if not np.isfinite(expected[-1]).all():
            raise InputError("the weights give logits that are not finite")
        for each, model, own in zip(written, models, found, strict=True):
            with as_export_error(f"{each.format} {each.dtype}"):
                own.append(model.run(inputs))
        labels.append(answers)
        if isinstance(images, Evaluation):
            done = sum(map(len, labels)) / len(images.source)
            if done >= told and done < 1:
                told = (math.floor(10 * done) + 1) / 10
                say(f"{done:.0%} of the images done")
    if not labels:
        raise InputError("none of the images that the files are run on can be read")
    return np.concatenate(expected), [np.concatenate(own) for own in found], np.concatenate(labels)


def _batches(
    graph: Graph, images: Array | Evaluation, preprocessing: Preprocessing
) -> Iterator[tuple[Array, Array]]:
    if isinstance(images, Evaluation):
        yield from batches(images.source, preprocessing, graph.input_shape[1])
        return
    for at in range(0, len(images), BATCH):
        some = images[at : at + BATCH]
        yield some, np.zeros(len(some), np.int64)


def _judged(
    written: Written,
    logits: Array,
    expected: Array,
    labels: Array,
    labelled: Evaluation | None,
    graph: Graph,
) -> Exported:
    apart = np.abs(logits - expected)
    largest_logit = float(np.abs(expected).max()) or 1.0
    largest, mean = float(apart.max()) / largest_logit, float(apart.mean()) / largest_logit
    spread = np.abs(expected - expected.mean(1, keepdims=True)).mean(1)
    typical = float(np.median(apart.mean(1))) / (float(np.median(spread)) or 1.0)
    allowed = TOLERANCES[written.dtype]
    if not largest <= allowed.largest:
        raise ExportError(f"logits differ from torch's by {largest:.1e}, over {allowed.largest}")
    accuracy, resolved = None, False
    if labelled:
        ours, theirs = logits.argmax(1) == labels, expected.argmax(1) == labels
        accuracy = _accuracy(labelled, ours, theirs, written.path.name)
        lost, won = int((theirs & ~ours).sum()), int((ours & ~theirs).sum())
        loss, least = paired_loss(lost, won, len(labels))
        if least > POINT:
            raise ExportError(
                f"top-1 of {len(labels)} {labelled.description} is {accuracy.top1:.2%}, "
                f"{100 * loss:.1f} points below that of the weights; {_WHAT_HELPS}"
            )
        resolved = loss - least <= POINT
    if not resolved and not typical <= allowed.typical:
        raise ExportError(
            f"logits differ from torch's by {typical:.2g} of the spread between classes, over "
            f"{allowed.typical}; {_WHAT_HELPS}"
        )
    parts = ops = None
    if written.format == "tflite":
        parts, ops = _inspect(written.path.read_bytes(), written.dtype, graph)
    return Exported(
        path=written.path,
        format=written.format,
        dtype=written.dtype,
        size_bytes=written.path.stat().st_size,
        difference=largest,
        mean_difference=mean,
        typical_difference=typical,
        agreement=float((logits.argmax(1) == expected.argmax(1)).mean()),
        images=len(labels),
        processor=processor(),
        accuracy=accuracy,
        xnnpack_parts=parts,
        ops=ops,
    )


_WHAT_HELPS = (
    "calibrate on more images, or on others (--calibration, --data), or export in fp16 or fp32"
)


def _accuracy(labelled: Evaluation, ours: Array, theirs: Array, file: str) -> Accuracy:
    return Accuracy(
        top1=float(ours.mean()),
        torch_top1=float(theirs.mean()),
        images=len(ours),
        of=labelled.description,
        command=labelled.command(file),
    )


def _inspect(model: bytes, dtype: str, graph: Graph) -> tuple[int, dict[str, int]]:
    parts, gives_output = tflite_runtime.delegates(tflite_runtime.load(model))
    if dtype != "int8" and not (parts == 1 and gives_output):
        raise ExportError(f"XNNPACK took the model in {parts} parts, not one")
    ops = tflite_writer.count_ops(model)
    wanted_of = tflite_writer.expected_ops(deploy(graph))
    for names, wanted in wanted_of.items():
        found = sum(ops.get(name, 0) for name in names)
        if found != wanted:
            raise ExportError(f"has {found} {' and '.join(names)} for {wanted} in the network")
    return parts, ops
