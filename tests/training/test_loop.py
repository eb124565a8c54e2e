from dataclasses import replace

import numpy as np
import pytest
import torch

from ghostnas.backends.torch_module import net_of
from ghostnas.data.images import Pictures
from ghostnas.errors import InputError, TrainingError
from ghostnas.ir.preprocessing import Preprocessing
from ghostnas.networks.arch import Arch, Head, Stage, Stem, fit_to, lower
from ghostnas.networks.blocks import GhostBlock
from ghostnas.networks.zoo import ghostnet
from ghostnas.training.checkpoint import Keeper
from ghostnas.training.learner import Health
from ghostnas.training.loop import HERE, Execution, Task, evaluate, resolution_at, train
from ghostnas.training.recipe import Recipe

NET = lower(
    Arch(
        stem=Stem(channels=8, stride=1),
        stages=(Stage(blocks=(GhostBlock(hidden_channels=16, out_channels=8),)),),
        head=Head(channels=16, features=16),
        classes=3,
        resolution=8,
    )
)
RECIPE = Recipe(
    train_pictures=None,
    validation_pictures=60,
    epochs=4,
    batch_size=16,
    learning_rate=0.01,
    warmup=0.2,
    weight_decay=0.02,
    crop_padding=1,
)
UNIT = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


def colours(count, seed):
    """One colour per class, with noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    images = rng.integers(0, 100, (count, 8, 8, 3))
    images[np.arange(count), :, :, labels] += 120
    return Pictures(images=images.astype(np.uint8), labels=labels)


TRAIN, HELD_OUT = colours(120, 0), colours(60, 1)


def task(seed=0, recipe=RECIPE, graph=NET, images=TRAIN, **more):
    return Task(
        graph=graph,
        train=images,
        held_out=HELD_OUT,
        recipe=recipe,
        seed=seed,
        preprocessing=UNIT,
        **more,
    )


def trained(seed=0, recipe=RECIPE, report=lambda progress: None, keeper=None, **more):
    return train(task(seed, recipe, **more), report, Execution(keeper=keeper))


def test_a_net_learns_to_distinguish_colours():
    told = []
    result = trained(report=told.append)
    assert [each.step for each in told] == list(range(1, 29))  # 4 epochs of 7 whole batches
    assert {each.steps for each in told} == {28}
    assert [each.step for each in told if each.epoch_done] == [7, 14, 21, 28]
    assert np.mean([each.loss for each in told[-5:]]) < 0.3 * told[0].loss
    assert told[27].mean_loss == pytest.approx(np.mean([each.loss for each in told[21:]]))
    assert told[27].train_accuracy > 0.8 > told[0].train_accuracy
    assert result.accuracy > 0.9
    assert result.seconds > 0
    assert evaluate(net_of(NET, result.weights), HELD_OUT, UNIT) == result.accuracy


def test_random_labels_are_not_learned():
    shuffled = replace(HELD_OUT, labels=np.random.default_rng(0).permutation(HELD_OUT.labels))
    result = trained()
    assert evaluate(net_of(NET, result.weights), shuffled, UNIT) < 0.6


def test_the_same_seed_gives_the_same_weights_and_another_gives_others():
    once, again, other = (trained(seed).weights for seed in (1, 1, 2))
    assert once.keys() == again.keys()
    for key, array in once.items():
        np.testing.assert_array_equal(array, again[key])
    differing = {key for key in once if not np.array_equal(once[key], other[key])}
    assert differing == once.keys()


def test_training_changes_every_weight_and_statistic():
    short = trained(recipe=replace(RECIPE, epochs=1)).weights
    longer = trained().weights
    assert [key for key in short if np.array_equal(short[key], longer[key])] == []


@pytest.mark.parametrize("learning_rate", [1e20, 1e30])
@pytest.mark.parametrize("epochs", [1, 3])
def test_a_non_finite_loss_ends_the_training(learning_rate, epochs):
    recipe = replace(RECIPE, learning_rate=learning_rate, epochs=epochs)
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) at step \d+ of"):
        trained(recipe=recipe)


def test_non_finite_weights_are_never_returned():
    recipe = replace(RECIPE, learning_rate=1e30, epochs=1, batch_size=len(TRAIN))
    recipe = replace(recipe, optimizer="sgd", weight_decay=1e30)
    with pytest.raises(TrainingError):  # its one step has a loss, and breaks the weights
        trained(recipe=recipe)


def test_fewer_images_than_a_batch_are_one_batch():
    steps = []
    few = task(recipe=replace(RECIPE, epochs=2), images=colours(9, 2))
    train(few, lambda progress: steps.append((progress.step, progress.steps)))
    assert steps == [(1, 2), (2, 2)]


def test_accuracy_is_the_share_of_correct_images():
    weights = dict(trained().weights)
    weights["classifier.weight"] = np.zeros_like(weights["classifier.weight"])
    weights["classifier.bias"] = np.array([0, 1, 0], np.float32)  # always the second class
    held_out = HELD_OUT.take(np.flatnonzero(HELD_OUT.labels != 2)[:30])
    assert evaluate(net_of(NET, weights), held_out, UNIT) == 0.5


def test_images_are_normalised_as_in_training():
    result = trained()
    assert evaluate(net_of(NET, result.weights), HELD_OUT, replace(UNIT, std=(9.0, 9.0, 9.0))) < 0.9


def test_images_are_scaled_to_the_graphs_input_size():
    large = Pictures(images=HELD_OUT.images.repeat(2, 1).repeat(2, 2), labels=HELD_OUT.labels)
    assert evaluate(net_of(NET, trained().weights), large, UNIT) > 0.9


class StoppedError(Exception):
    pass


def stop_after(step):
    def report(progress):
        if progress.step > step:
            raise StoppedError

    return report


FULL = replace(
    RECIPE, optimizer="sgd", learning_rate=0.05, ema=0.9, dropout=0.3, cutout=2, clip_norm=1.0
)


@pytest.mark.parametrize("recipe", [RECIPE, FULL], ids=["adamw", "sgd and all the rest"])
@pytest.mark.parametrize("stops", [(1,), (6, 7, 8), (3, 14, 27), (28,)])
def test_a_stopped_training_resumes_to_the_same_weights(recipe, stops, tmp_path):
    keeper = Keeper(tmp_path / "state.safetensors", interval_s=0)
    rows = []
    for stop in stops:
        if stop < 28:
            with pytest.raises(StoppedError):
                trained(recipe=recipe, keeper=keeper, report=stop_after(stop))
    resumed = trained(recipe=recipe, keeper=keeper, report=rows.append)
    whole = []
    never_stopped = trained(recipe=recipe, report=whole.append)
    for key, array in never_stopped.weights.items():
        np.testing.assert_array_equal(array, resumed.weights[key], err_msg=key)
    assert resumed.accuracy == never_stopped.accuracy
    if stops[-1] < 28:  # the row of the interrupted epoch covers the whole epoch
        assert (rows[-1].mean_loss, rows[-1].train_accuracy) == (
            whole[-1].mean_loss,
            whole[-1].train_accuracy,
        )


def test_the_result_is_the_average_of_the_weights():
    last = trained(recipe=replace(RECIPE, ema=0.0)).weights
    averaged = trained(recipe=replace(RECIPE, ema=0.9)).weights
    assert not np.array_equal(last["classifier.weight"], averaged["classifier.weight"])
    barely = trained(recipe=replace(RECIPE, ema=1e-9)).weights
    np.testing.assert_allclose(
        barely["classifier.weight"], last["classifier.weight"], rtol=1e-5, atol=1e-6
    )


def health_after(losses, own):
    """The health of a training with these losses, with and without a teacher's part."""
    health = Health(classes=3)
    logits, labels = torch.zeros(2, 3), torch.tensor([0, 1])
    for step, (loss, plain) in enumerate(zip(losses, own, strict=True), 1):
        health.add(step, torch.tensor(loss), torch.tensor(plain), logits, labels)
    health.check(len(losses))
    return health


def test_a_training_that_gets_worse_than_guessing_is_stopped():
    with pytest.raises(TrainingError, match=r"diverges: .* at step \d+ of 300.*learning_rate"):
        health_after([1.0] * 50 + [9.0] * 250, [1.0] * 50 + [9.0] * 250)
    health_after([9.0] * 40 + [1.0] * 260, [9.0] * 40 + [1.0] * 260)  # a wild start does not count
    health_after([9.0] * 300, [1.0] * 300)  # from a teacher's answers


def test_the_means_are_those_of_the_epoch():
    health = health_after([1.0, 3.0], [1.0, 3.0])
    assert health.means(HERE) == (2.0, 0.5)
    health.new_epoch()
    assert health.means(HERE) == (0.0, 0.0)


def test_running_out_of_memory_is_reported_with_advice():
    def too_much(images):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1")

    with pytest.raises(TrainingError, match="batches of 16; try --batch-size 8"):
        trained(teacher=too_much)

    def a_defect(images):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        trained(teacher=a_defect)


def test_a_student_learns_what_its_teacher_believes():
    def believer(images):
        """Mistake the first class for the second."""
        first, second, third = images.float().mean((2, 3)).T
        return 0.5 * torch.stack([second, first, third], 1)

    recipe = replace(RECIPE, distill_weight=0.999, epochs=6)
    taught = trained(recipe=recipe, teacher=believer)
    swapped = replace(HELD_OUT, labels=np.array([1, 0, 2])[HELD_OUT.labels])
    assert evaluate(net_of(NET, taught.weights), swapped, UNIT) > 0.8


def test_training_starts_from_the_initial_weights():
    gone = trained(recipe=replace(RECIPE, epochs=6))
    still = replace(RECIPE, epochs=1, learning_rate=1e-12, weight_decay=0.0)
    again = trained(recipe=still, initial=gone.weights)
    kernels = [key for key in gone.weights if gone.weights[key].ndim > 1]
    for key in kernels:
        np.testing.assert_allclose(again.weights[key], gone.weights[key], atol=1e-9)
    part = {"classifier.weight": gone.weights["classifier.weight"]}
    begun = trained(recipe=still, initial=part).weights
    np.testing.assert_allclose(begun["classifier.weight"], part["classifier.weight"], atol=1e-9)
    assert not np.allclose(begun[kernels[0]], gone.weights[kernels[0]], atol=1e-3)


def test_images_grow_to_the_networks_size():
    graph = lower(fit_to(ghostnet(0.5), resolution=64, classes=10))
    recipe = replace(RECIPE, epochs=8, first_resolution=32)
    sizes = [resolution_at(recipe, graph, epoch) for epoch in range(8)]
    assert sizes == sorted(sizes)
    assert (sizes[0], sizes[5], sizes[6], sizes[7]) == (32, 56, 64, 64)
    assert resolution_at(replace(recipe, first_resolution=20), graph, 0) == 20
    two = replace(recipe, epochs=2)
    assert [resolution_at(two, graph, epoch) for epoch in range(2)] == [32, 64]
    assert resolution_at(replace(recipe, epochs=1), graph, 0) == 64
    assert {resolution_at(RECIPE, graph, epoch) for epoch in range(4)} == {64}


def test_the_time_left_counts_the_pixels_to_come():
    told = []
    recipe = replace(RECIPE, first_resolution=8)
    graph = lower(fit_to(ghostnet(0.1), resolution=16, classes=3))
    train(task(recipe=recipe, graph=graph), told.append)
    pixels = [each.resolution**2 for each in told]
    assert len(set(pixels)) > 1
    for one in (told[0], told[len(told) // 2]):
        elapsed = one.step * min(recipe.batch_size, len(TRAIN)) / one.images_per_second
        share = sum(pixels[one.step :]) / sum(pixels[: one.step])
        assert one.seconds_left == pytest.approx(elapsed * share, rel=0.05)
    assert told[-1].seconds_left == 0


def test_the_rate_rises_and_falls_as_the_recipe_says():
    def rates(recipe):
        told = []
        trained(recipe=recipe, report=told.append)
        return np.array([each.learning_rate for each in told])

    cosine = rates(RECIPE)
    assert cosine.argmax() in (5, 6)
    assert cosine.max() <= RECIPE.learning_rate
    assert cosine[-1] < 0.02 * cosine.max()
    line = rates(replace(RECIPE, schedule="linear", warmup=0.0))
    np.testing.assert_allclose(np.diff(line), -RECIPE.learning_rate / 28)
    steps = rates(replace(RECIPE, schedule="steps", milestones=(0.5, 0.75), warmup=0.0))
    np.testing.assert_allclose(steps, [0.01] * 14 + [0.001] * 7 + [0.0001] * 7)


def test_an_average_of_few_steps_is_not_that_of_the_start():
    recipe = replace(RECIPE, epochs=8, ema=0.999)
    assert trained(recipe=recipe).accuracy > 0.8


def test_no_image_to_evaluate_on_is_reported():
    nothing = HELD_OUT.take(np.arange(0))
    with pytest.raises(InputError, match="none of the 0 images"):
        evaluate(net_of(NET, trained().weights), nothing, UNIT)
