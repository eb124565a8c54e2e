import dataclasses

import pytest

from ghostnas.errors import InputError
from ghostnas.training import recipe
from ghostnas.training.recipe import Recipe

MINIMAL = "epochs = 2\nbatch_size = 8\nlearning_rate = 0.1\n"


@pytest.mark.parametrize("name", recipe.names())
def test_a_shipped_recipe_survives_a_round_trip(name, tmp_path):
    found = recipe.load(name)
    (tmp_path / "again.toml").write_text(recipe.to_text(found))
    assert recipe.load(str(tmp_path / "again.toml")) == found


def test_the_recipes_that_the_documentation_names_are_shipped():
    known = {"quick", "proxy", "cifar", "cifar-resnet", "imagenet", "imagenet-modern"}
    assert known < set(recipe.names())


def test_the_papers_recipe_is_the_papers():
    paper = recipe.load("imagenet")
    assert (paper.batch_size, paper.learning_rate, paper.schedule) == (1024, 0.4, "linear")
    assert paper.epochs * 1_281_167 / 1024 == pytest.approx(300_000, rel=0.002)


def test_a_file_sets_its_own_values_and_nothing_else(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(MINIMAL + "schedule = 'steps'\nmilestones = [0.5]\nflip = false\n")
    expected = Recipe(
        epochs=2, batch_size=8, learning_rate=0.1, schedule="steps", milestones=(0.5,), flip=False
    )
    assert recipe.load(str(path)) == expected


WRONG = {
    "unknown key": ("epoch = 3", "unknown key 'epoch'"),
    "text for a number": ("weight_decay = 'much'", 'weight_decay = "much" is not a number'),
    "fraction of a picture": ("crop_padding = 1.5", "crop_padding = 1.5 is not a whole number"),
    "number for a truth": ("flip = 1", "flip = 1 is not true or false"),
    "number for a list": ("milestones = 1", "milestones = 1 is not a list of numbers"),
    "truth for a number": ("cutout = true", "cutout = true is not a whole number"),
    "negative": ("weight_decay = -1", "weight_decay = -1.0 is out of range, which is 0 to"),
    "no images": ("train_pictures = 0", "train_pictures = 0 is out of range, which is 1 to"),
    "share of one": ("ema = 1", "ema = 1.0 is out of range, which is 0 to below 1"),
    "momentum that never ends": ("momentum = 1", "momentum = 1.0 is out of range, which is 0 to"),
    "rate that is not a number": ("momentum = nan", "momentum = nan is out of range"),
    "augmentation too strong": (
        "randaugment_magnitude = 31",
        "31 is out of range, which is 0 to 30",
    ),
    "pictures of few pixels": ("first_resolution = 7", "which is 8 or more, or 0"),
    "unknown schedule": (
        "schedule = 'exp'",
        'schedule = "exp" is not one of cosine, linear, steps',
    ),
    "unknown optimizer": ("optimizer = 'lion'", 'optimizer = "lion" is not one of sgd, adamw'),
    "steps without any": ("schedule = 'steps'", "milestones"),
    "milestones without steps": ("milestones = [0.5]", "milestones"),
    "milestone after the end": ("schedule = 'steps'\nmilestones = [1.5]", "between 0 and 1"),
    "two ways to crop": ("crop_padding = 2\ncrop_smallest = 0.5", "exclude"),
    "shrinking images": ("resolution = 32\nfirst_resolution = 64", "above resolution"),
    "no toml": ("epochs =", "mine.toml"),
}


@pytest.mark.parametrize("name", WRONG)
def test_errors_in_a_file_are_named(name, tmp_path):
    line, told = WRONG[name]
    path = tmp_path / "mine.toml"
    path.write_text(MINIMAL + line + "\n")
    with pytest.raises(InputError) as caught:
        recipe.load(str(path))
    assert told in str(caught.value)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_values_and_files_are_named(tmp_path):
    (tmp_path / "mine.toml").write_text("epochs = 2\n")
    with pytest.raises(InputError, match="batch_size, learning_rate are missing"):
        recipe.load(str(tmp_path / "mine.toml"))
    with pytest.raises(InputError, match="cannot be read"):
        recipe.load(str(tmp_path / "none.toml"))
    with pytest.raises(InputError, match="known: cifar"):
        recipe.load("slow")


def test_the_learning_rate_follows_the_batch_size():
    paper = recipe.load("imagenet")
    changed = recipe.change(paper, batch_size=256, epochs=3)
    assert changed == dataclasses.replace(paper, batch_size=256, learning_rate=0.1, epochs=3)
    assert recipe.change(paper) == paper
