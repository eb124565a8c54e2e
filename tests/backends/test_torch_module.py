"""The torch network against a GhostNet written here from the paper, with the released names."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from ghostnas.backends.torch_module import Net, load_weights, net_of, weights_of
from ghostnas.errors import InputError
from ghostnas.ir.random_weights import random_weights
from ghostnas.networks import zoo
from ghostnas.networks.arch import fit_to, lower

# Table 1 of the paper, grouped as the release groups it: k, #exp, #out, SE, stride.
TABLE_1 = [
    [(3, 16, 16, 0, 1)],
    [(3, 48, 24, 0, 2)],
    [(3, 72, 24, 0, 1)],
    [(5, 72, 40, 1, 2)],
    [(5, 120, 40, 1, 1)],
    [(3, 240, 80, 0, 2)],
    [
        *((3, 200, 80, 0, 1), (3, 184, 80, 0, 1), (3, 184, 80, 0, 1)),
        *((3, 480, 112, 1, 1), (3, 672, 112, 1, 1)),
    ],
    [(5, 672, 160, 1, 2)],
    [(5, 960, 160, 0, 1), (5, 960, 160, 1, 1)] * 2,
]


def by_four(channels):
    nearest = max(4, math.floor(channels / 4 + 0.5) * 4)
    return nearest + 4 if nearest < 0.9 * channels else nearest


def depthwise(channels, kernel, stride=1):
    return nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False)


def pointwise(inputs, outputs):
    return nn.Conv2d(inputs, outputs, 1, bias=False)


class GhostModule(nn.Module):
    def __init__(self, inputs, outputs, last):
        super().__init__()
        half = -(-outputs // 2)
        self.outputs = outputs
        self.primary_conv = nn.Sequential(pointwise(inputs, half), nn.BatchNorm2d(half), last)
        self.cheap_operation = nn.Sequential(depthwise(half, 3), nn.BatchNorm2d(half), last)

    def forward(self, x):
        intrinsic = self.primary_conv(x)
        return torch.cat((intrinsic, self.cheap_operation(intrinsic)), 1)[:, : self.outputs]


class SqueezeExcite(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv_reduce = nn.Conv2d(channels, by_four(channels / 4), 1)
        self.conv_expand = nn.Conv2d(by_four(channels / 4), channels, 1)

    def forward(self, x):
        squeezed = nn.functional.adaptive_avg_pool2d(x, 1)
        gate = self.conv_expand(self.conv_reduce(squeezed).clamp(min=0))
        return x * ((gate + 3).clamp(0, 6) / 6)


class Bottleneck(nn.Module):
    def __init__(self, inputs, kernel, hidden, outputs, se, stride):
        super().__init__()
        self.ghost1 = GhostModule(inputs, hidden, nn.ReLU())
        self.strided = stride == 2
        if self.strided:
            self.conv_dw = depthwise(hidden, kernel, 2)
            self.bn_dw = nn.BatchNorm2d(hidden)
        self.se = SqueezeExcite(hidden) if se else nn.Identity()
        self.ghost2 = GhostModule(hidden, outputs, nn.Identity())
        self.shortcut = nn.Sequential()
        if self.strided or inputs != outputs:
            self.shortcut = nn.Sequential(
                depthwise(inputs, kernel, stride),
                nn.BatchNorm2d(inputs),
                pointwise(inputs, outputs),
                nn.BatchNorm2d(outputs),
            )

    def forward(self, x):
        y = self.ghost1(x)
        if self.strided:
            y = self.bn_dw(self.conv_dw(y))
        return self.ghost2(self.se(y)) + self.shortcut(x)


class ConvNormAct(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.conv, self.bn1 = pointwise(inputs, outputs), nn.BatchNorm2d(outputs)

    def forward(self, x):
        return self.bn1(self.conv(x)).relu()


class PlainGhostNet(nn.Module):
    def __init__(self, width):
        super().__init__()
        channels = by_four(16 * width)
        self.conv_stem = nn.Conv2d(3, channels, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        groups = []
        for rows in TABLE_1:
            group = []
            for kernel, hidden, out, se, stride in rows:
                hidden, out = by_four(hidden * width), by_four(out * width)
                group.append(Bottleneck(channels, kernel, hidden, out, se, stride))
                channels = out
            groups.append(nn.Sequential(*group))
        last = by_four(960 * width)
        groups.append(nn.Sequential(ConvNormAct(channels, last)))
        self.blocks = nn.Sequential(*groups)
        self.conv_head = nn.Conv2d(last, 1280, 1)
        self.classifier = nn.Linear(1280, 1000)

    def forward(self, x):
        x = self.blocks(self.bn1(self.conv_stem(x)).relu())
        x = self.conv_head(x.mean((2, 3), keepdim=True)).relu()
        return self.classifier(x.flatten(1))


def plain_ghostnet(width):
    """With random weights and gathered statistics, as after some training."""
    torch.manual_seed(0)
    net = PlainGhostNet(width).eval()
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
            module.num_batches_tracked.fill_(7)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.normal_(module.weight, std=module.weight[0].numel() ** -0.5)
    return net


@pytest.mark.parametrize("width", [1.0, 0.5, 1.3])
def test_published_weights_fit_and_give_the_published_logits(width):
    plain = plain_ghostnet(width)
    net = Net(lower(zoo.ghostnet(width))).eval()
    net.load_state_dict(plain.state_dict(), strict=True)
    assert net.bn1.num_batches_tracked == 7
    PlainGhostNet(width).load_state_dict(net.state_dict(), strict=True)
    images = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected, logits = plain(images), net(images)
    assert expected.std(dim=0).max() > 1e-3  # the logits depend on the image
    assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_published_keys_and_shapes():
    shapes = {
        key: tuple(tensor.shape) for key, tensor in Net(lower(zoo.ghostnet())).state_dict().items()
    }
    published = {
        "conv_stem.weight": (16, 3, 3, 3),
        "bn1.running_var": (16,),
        "bn1.num_batches_tracked": (),
        "blocks.0.0.ghost1.primary_conv.0.weight": (8, 16, 1, 1),
        "blocks.0.0.ghost1.cheap_operation.1.bias": (8,),
        "blocks.1.0.conv_dw.weight": (48, 1, 3, 3),
        "blocks.1.0.bn_dw.weight": (48,),
        "blocks.3.0.se.conv_reduce.weight": (20, 72, 1, 1),
        "blocks.3.0.se.conv_expand.bias": (72,),
        "blocks.3.0.shortcut.0.weight": (24, 1, 5, 5),
        "blocks.3.0.shortcut.3.running_mean": (40,),
        "blocks.6.3.shortcut.2.weight": (112, 80, 1, 1),
        "blocks.8.3.ghost2.cheap_operation.0.weight": (80, 1, 3, 3),
        "blocks.9.0.conv.weight": (960, 160, 1, 1),
        "blocks.9.0.bn1.weight": (960,),
        "conv_head.weight": (1280, 960, 1, 1),
        "conv_head.bias": (1280,),
        "classifier.weight": (1000, 1280),
    }
    assert published.items() <= shapes.items()


def test_at_32_pixels_all_weights_but_the_classifiers_are_those_of_224():
    small = fit_to(zoo.ghostnet(), resolution=32, classes=10)
    shapes, published = (
        {key: tensor.shape for key, tensor in Net(lower(arch)).state_dict().items()}
        for arch in (small, zoo.ghostnet())
    )
    assert shapes.keys() == published.keys()
    differing = {key for key in shapes if shapes[key] != published[key]}
    assert differing == {"classifier.weight", "classifier.bias"}


@pytest.fixture
def net():
    return Net(lower(zoo.ghostnet(0.5, 32, 10)))


def test_weights_come_back_as_they_went_in(net):
    weights = random_weights(net.graph, 0)
    load_weights(net, weights)
    returned = weights_of(net)
    assert returned.keys() == weights.keys()
    for key, array in weights.items():
        np.testing.assert_array_equal(returned[key], array)
    returned["conv_stem.weight"][:] = 0  # a copy: the network keeps its own
    assert net.conv_stem.weight.detach().abs().min() > 0


def test_step_counters_may_be_given_or_left_out(net):
    weights = random_weights(net.graph, 0)
    load_weights(net, weights | {"bn1.num_batches_tracked": np.array(5)})
    assert net.bn1.num_batches_tracked == 5
    load_weights(net, weights)
    assert net.bn1.num_batches_tracked == 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("conv_stem.weight"), "1 missing.*conv_stem.weight"),
        (lambda weights: weights.update(fc=np.zeros(3)), "1 unknown.*fc"),
        (
            lambda weights: weights.update({"classifier.weight": np.zeros((1000, 1280))}),
            r"classifier\.weight has shape \(1000, 1280\), needs \(10, 1280\)",
        ),
    ],
    ids=["missing", "unknown", "shape"],
)
def test_weights_that_do_not_fit_are_refused_by_key_and_nothing_is_loaded(net, change, message):
    before = weights_of(net)
    weights = random_weights(net.graph, 0)
    change(weights)
    with pytest.raises(InputError, match=message):
        load_weights(net, weights)
    for key, array in weights_of(net).items():
        np.testing.assert_array_equal(array, before[key])


def test_net_of_is_in_evaluation_mode(net):
    assert not net_of(net.graph, random_weights(net.graph, 0)).training


def test_every_parameter_learns(net):
    net.train()(torch.randn(4, *net.graph.input_shape)).square().sum().backward()
    silent = [key for key, parameter in net.named_parameters() if parameter.grad is None]
    assert silent == []


def test_a_copy_has_weights_of_its_own(net):
    images = torch.ones(1, *net.graph.input_shape)
    twin = copy.deepcopy(net.eval())
    with torch.no_grad():
        before = net(images)
        for parameter in twin.parameters():
            parameter.zero_()
        assert torch.equal(net(images), before)
        assert not twin(images).any()
