import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from ghostnas.errors import InputError
from ghostnas.training import checkpoint
from ghostnas.training.checkpoint import Keeper, State


def a_training(seed, optimizer):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    made = {
        "sgd": lambda: torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9),
        "adamw": lambda: torch.optim.AdamW(net.parameters(), lr=0.1),
    }[optimizer]()
    average = AveragedModel(net, use_buffers=True)
    for _ in range(3):
        step(net, made, average)
    return net, made, average


def step(net, optimizer, average):
    loss = net(torch.randn(5, 3, 4, 4)).square().sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    average.update_parameters(net)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_checkpoint_resumes_as_if_nothing_had_happened(optimizer):
    first, second = a_training(0, optimizer), a_training(1, optimizer)
    kept = State(step=3, tensors=checkpoint.gather(*first), sums=(0.1, 2.0, float("inf")))
    read = checkpoint.from_bytes(checkpoint.to_bytes(kept), "here")
    assert (read.step, read.sums) == (3, kept.sums)
    checkpoint.restore(read, *second)
    for training in (first, second):
        torch.manual_seed(9)
        step(*training)
    one, other = checkpoint.gather(*first), checkpoint.gather(*second)
    assert one.keys() == other.keys()
    for key, tensor in one.items():
        assert torch.equal(tensor, other[key]), key


def test_every_part_of_a_file_is_needed():
    content = checkpoint.to_bytes(State(step=3, tensors=checkpoint.gather(*a_training(0, "sgd"))))
    rng = np.random.default_rng(0)
    for length in [0, 1, 7, 8, *rng.integers(9, len(content) - 1, 40)]:
        with pytest.raises(InputError, match="here: is not a complete checkpoint"):
            checkpoint.from_bytes(content[:length], "here")


def test_another_networks_checkpoint_is_rejected():
    net, optimizer, average = a_training(0, "sgd")
    content = checkpoint.to_bytes(State(step=3, tensors={"net.0.weight": torch.ones(2)}))
    with pytest.raises(InputError, match="another network or recipe"):
        checkpoint.restore(checkpoint.from_bytes(content, "here"), net, optimizer, average)


def test_a_keeper_writes_when_it_is_due(tmp_path):
    keeper = Keeper(tmp_path / "state.safetensors", interval_s=3600)
    assert keeper.read() is None
    assert not keeper.due()
    assert Keeper(tmp_path / "state.safetensors", interval_s=0).due()
    state = State(step=1, tensors={"net.x": torch.ones(2)})
    keeper.keep(state)
    assert checkpoint.from_bytes(keeper.read(), "here").step == 1
    assert [path.name for path in tmp_path.iterdir()] == ["state.safetensors"]
