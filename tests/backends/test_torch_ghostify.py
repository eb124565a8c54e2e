"""Ghost modules in modules of others: plain PyTorch, as users write it."""

import copy

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from ghostnas.backends.torch_ghostify import GhostModule, ghostify
from ghostnas.errors import InputError

D = 3


class LeNet(nn.Module):
    """Convolutions with biases, no batch norm, functional activations (LeCun et al., 1998)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 5, padding=2)
        self.second = nn.Conv2d(8, 16, 5)
        self.out = nn.Linear(16 * 12 * 12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(torch.relu(self.first(x)), 2)
        return self.out(F.relu(self.second(x)).flatten(1))


class Unit(nn.Module):
    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out, eps=1e-3, momentum=0.2)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.down = None
        if stride > 1 or channels != out:
            self.down = nn.Sequential(
                nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + (x if self.down is None else self.down(x)))


class TinyResNet(nn.Module):
    """Residual units (He et al., 2016) with an activation that each of them uses twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 7, 2, 3, bias=False), nn.BatchNorm2d(16))
        self.units = nn.Sequential(Unit(16, 16, 1), Unit(16, 32, 2), Unit(32, 32, 1))
        self.fc = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.units(F.relu(self.stem(x))).mean((2, 3)))


class Mobile(nn.Sequential):
    """Depthwise and dilated convolutions, hard-swish, and a gate of 1x1 maps."""

    def __init__(self) -> None:
        act = nn.Hardswish()
        super().__init__(
            nn.Sequential(nn.Conv2d(3, 24, 3, 2, 1, bias=False), nn.BatchNorm2d(24), act),
            nn.Sequential(nn.Conv2d(24, 24, 5, 1, 2, groups=24), nn.BatchNorm2d(24), act),
            nn.Sequential(
                nn.Conv2d(24, 42, 3, padding=2, dilation=2, padding_mode="circular"), nn.SiLU()
            ),
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(42, 10, 1),
            nn.Flatten(),
        )


NETWORKS = [LeNet, TinyResNet, Mobile]


def example() -> Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def replaced(module: nn.Module) -> list[tuple[str, nn.Conv2d]]:
    return [
        (path, each)
        for path, each in module.named_modules()
        if isinstance(each, nn.Conv2d) and each.groups == 1 and path != "4"
    ]


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("s", [2, 3])
def test_parameters_and_macs_fall_as_equations_4_and_5_say(network: type, s: int) -> None:
    """n c k k weights become n/s c k k + (s - 1) n/s d d, and so do they at each pixel."""
    net = network()
    made = ghostify(net, example(), s, D)
    params, macs = made.before.params, made.before.macs
    sizes: dict[nn.Module, int] = {}
    for _, conv in replaced(net):
        conv.register_forward_hook(
            lambda each, inputs, output: sizes.update({each: output.shape[2] * output.shape[3]})
        )
    net.eval()(example())
    for _, conv in replaced(net):
        primary = -(-conv.out_channels // s)
        of_one = conv.in_channels * conv.kernel_size[0] * conv.kernel_size[1]
        fewer = (conv.out_channels - primary) * of_one - primary * (s - 1) * D * D
        params -= fewer
        macs -= fewer * sizes[conv]
        extra = primary * s - conv.out_channels  # maps that are cut off have weights too
        normed = network is TinyResNet or (network is Mobile and conv.kernel_size == (3, 3)
                                           and conv.stride == (2, 2))  # fmt: skip
        params += extra * (2 * normed + (conv.bias is not None))
    assert made.after.params == params
    assert made.after.macs == macs
    assert made.replaced == tuple(path for path, _ in replaced(net))
    assert made.module(example()).shape == net(example()).shape


@pytest.mark.parametrize("network", NETWORKS)
def test_it_trains_and_the_given_module_is_unchanged(network: type) -> None:
    net = network().train()
    before = copy.deepcopy(net.state_dict())
    made = ghostify(net, example()).module
    assert made.training
    made(example()).square().mean().backward()
    assert all(each.grad is not None and each.grad.isfinite().all() for each in made.parameters())
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_batch_norms_are_split_and_ghosts_made_of_activated_maps() -> None:
    unit = ghostify(TinyResNet(), example()).module.units[0]
    assert isinstance(unit.bn1, nn.Identity)
    ghost = unit.conv1
    assert isinstance(ghost, GhostModule)
    assert (ghost.primary_norm.num_features, ghost.cheap_norm.num_features) == (8, 8)
    assert (ghost.primary_norm.eps, ghost.primary_norm.momentum) == (1e-3, 0.2)
    assert ghost._activation is F.relu
    assert unit.conv2._activation is None  # its batch norm is read by the sum
    x = torch.randn(2, 16, 8, 8)
    maps = unit.eval().conv1(x)
    wanted = ghost.cheap_norm(ghost.cheap_operation(maps[:, :8].relu()))
    torch.testing.assert_close(maps[:, 8:], wanted)


def test_the_filters_that_stay_keep_their_weights() -> None:
    net = LeNet()
    ghost = ghostify(net, example(), s=4).module.first
    assert torch.equal(ghost.primary_conv.weight, net.first.weight[:2])
    assert ghost.primary_conv.stride == net.first.stride


def test_dilation_and_padding_are_kept() -> None:
    ghost = ghostify(Mobile(), example()).module[2][0]
    primary = ghost.primary_conv
    assert (primary.dilation, primary.padding_mode) == ((2, 2), "circular")
    assert ghost._activation is F.silu


def test_the_caller_chooses() -> None:
    made = ghostify(TinyResNet(), example(), choose=lambda path, conv: conv.kernel_size == (1, 1))
    assert made.replaced == ("units.1.down.0",)


def test_a_convolution_used_twice_is_one_ghost_module() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)
            self.same = self.conv

        def forward(self, x: Tensor) -> Tensor:
            return self.same(self.conv(x).relu())

    made = ghostify(Twice(), example()).module
    assert made.conv is made.same
    assert isinstance(made.conv, GhostModule)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"s": 1}, "s = 1"),
        ({"d": 4}, "d = 4"),
        ({"example": torch.zeros(1, 4, 32, 32)}, "does not run on the example"),
        ({"choose": lambda path, conv: False}, "no convolution was chosen"),
    ],
)
def test_what_cannot_be_done_is_one_line(change: dict, message: str) -> None:
    arguments = {"example": example(), **change}
    with pytest.raises(InputError, match=message) as error:
        ghostify(LeNet(), **arguments)
    assert "\n" not in str(error.value)
