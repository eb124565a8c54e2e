"""How a network is trained, as numbers in a small file; knows neither torch nor the loop."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

from ghostnas import records
from ghostnas.errors import InputError, did_you_mean
from ghostnas.files import read_text, shipped, toml_value

Optimizer = Literal["sgd", "adamw"]
Schedule = Literal["cosine", "linear", "steps"]
SHARES = (  # below 1
    *("warmup", "crop_smallest", "label_smoothing", "ema", "dropout", "distill_weight"),
    "momentum",
)
MAY_BE_ZERO = {
    *("weight_decay", "crop_padding", "cutout", "randaugment", "clip_norm"),
    *("validation_pictures", "first_resolution", "randaugment_magnitude", *SHARES),
}
HIGHEST = {"randaugment_magnitude": 30}
SMALLEST_FIRST_RESOLUTION = 8  # from there it grows in steps of 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How a network is trained.

    Attributes:
        train_pictures: how many of the training images are used; None for all.
        validation_pictures: how many others of them choose between networks.
        test_pictures: how many of the test images a final score is taken on; None for all.
        classes: how many classes are used, drawn at random; None for all.
        epochs: passes over the images used.
        batch_size: of a step, all processes together.
        resolution: pixels of the images; None for the network's, or the data's if smaller.
        first_resolution: pixels in the first epoch, from which they grow to `resolution` in equal
            steps by three quarters of the epochs; 0 for no growth.
        optimizer: SGD with Nesterov's momentum, or AdamW.
        learning_rate: the highest, at the given batch size; it rises for `warmup` of the steps.
        schedule: how it falls: to zero on a cosine or a line, or to a tenth at each of
            `milestones`, which are shares of the epochs.
        weight_decay: of kernels and dense layers, none of biases and batch norms.
        clip_norm: the longest gradient; 0 for any.
        ema: weight of the past in the moving average of weights that is the result; 0 for none.
        crop_padding: images move by up to so many pixels...
        crop_smallest: ... or a part of at least this share of the area is cut out and scaled.
        flip: whether half of them are mirrored left to right.
        cutout: side of a square that is blanked, in pixels (DeVries and Taylor, 2017).
        randaugment: how many operations of RandAugment change an image (Cubuk et al., 2020).
        randaugment_magnitude: how strongly, 0 to 30.
        dropout: before the classifier.
        distill_weight: of the teacher's answers in the loss, where there is a teacher.
        distill_temperature: which softens both answers (Hinton et al., 2015).
        mixed_precision: whether products may be of bfloat16 where the hardware has them: on CUDA
            by autocast, on a CPU in 1x1 convolutions (`pointwise`). Weights stay float32.
        compile: whether torch.compile makes the step, on CUDA only; on a CPU it took 152 s to
            compile GhostNet and was no quicker.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    train_pictures: int | None = None
    validation_pictures: int = 0
    test_pictures: int | None = None
    classes: int | None = None
    resolution: int | None = None
    first_resolution: int = 0
    optimizer: Optimizer = "adamw"
    schedule: Schedule = "cosine"
    milestones: tuple[float, ...] = ()
    warmup: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 0.0
    clip_norm: float = 0.0
    ema: float = 0.0
    label_smoothing: float = 0.0
    dropout: float = 0.0
    crop_padding: int = 0
    crop_smallest: float = 0.0
    flip: bool = True
    cutout: int = 0
    randaugment: int = 0
    randaugment_magnitude: int = 9
    distill_weight: float = 0.5
    distill_temperature: float = 2.0
    mixed_precision: bool = True
    compile: bool = False

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool | str | tuple) or value is None:
                continue
            low = 0 if field.name in MAY_BE_ZERO else 1 if isinstance(value, int) else 1e-12
            share = field.name in SHARES
            high = 1.0 if share else HIGHEST.get(field.name, 1e30)
            if not low <= value <= high or (share and value == 1):
                to = "below 1" if share else f"{high:g}"
                raise InputError(
                    f"{field.name} = {value!r} is out of range, which is {low:g} to {to}"
                )
        if self.optimizer not in get_args(Optimizer):
            raise InputError(f"optimizer {self.optimizer!r}: sgd or adamw")
        if self.schedule not in get_args(Schedule):
            raise InputError(f"schedule {self.schedule!r}: cosine, linear or steps")
        if (self.schedule == "steps") != bool(self.milestones):
            raise InputError("milestones go with the schedule steps, and it needs them")
        if any(not 0 < milestone < 1 for milestone in self.milestones):
            raise InputError("milestones are shares of the epochs, between 0 and 1")
        if self.crop_padding and self.crop_smallest:
            raise InputError("crop_padding and crop_smallest exclude each other")
        if 0 < self.first_resolution < SMALLEST_FIRST_RESOLUTION:
            raise InputError(
                f"first_resolution = {self.first_resolution} is out of range, which is "
                f"{SMALLEST_FIRST_RESOLUTION} or more, or 0 for none"
            )
        if self.first_resolution and self.resolution and self.first_resolution > self.resolution:
            raise InputError("first_resolution is above resolution")


def load(name: str) -> Recipe:
    """A shipped recipe by its name, or the one in a ``.toml`` file.

    Raises:
        InputError: there is none, or the file says something that a recipe does not know.
    """
    path = Path(name) if name.endswith(".toml") else shipped("recipes") / f"{name}.toml"
    if not name.endswith(".toml") and name not in names():
        known = ", ".join(names())
        raise InputError(
            f"unknown recipe {name!r}; known: {known}, or a .toml file{did_you_mean(name, names())}"
        )
    try:
        return from_table(tomllib.loads(read_text(path)))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: {error}") from error
    except InputError as error:
        if str(error).startswith(str(path)):
            raise
        raise InputError(f"{path}: {error}") from error


def names() -> list[str]:
    """The shipped recipes."""
    return sorted(path.stem for path in shipped("recipes").glob("*.toml"))


def change(
    recipe: Recipe,
    *,
    epochs: int | None = None,
    batch_size: int | None = None,
    resolution: int | None = None,
) -> Recipe:
    """The recipe over so many epochs, at another size, or at another batch size with the learning
    rate in proportion to it (Goyal et al., 2017).
    """
    if epochs is not None:
        recipe = replace(recipe, epochs=epochs)
    if batch_size is not None:
        rate = recipe.learning_rate * batch_size / recipe.batch_size
        recipe = replace(recipe, batch_size=batch_size, learning_rate=rate)
    if resolution is not None:
        recipe = replace(recipe, resolution=resolution)
    return recipe


def to_text(recipe: Recipe) -> str:
    """The recipe as lines of TOML; what is not limited is left out."""
    values = ((field.name, getattr(recipe, field.name)) for field in fields(Recipe))
    return "\n".join(f"{key} = {toml_value(value)}" for key, value in values if value is not None)


def from_table(found: Mapping[str, Any]) -> Recipe:
    """A recipe from the keys and values of a file; whole numbers may stand for others.

    Raises:
        InputError: a key is unknown or missing, or a value out of range.
    """
    return records.from_table(Recipe, found, whole="converted")
