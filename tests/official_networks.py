"""The module trees of published networks in plain PyTorch, written from their papers' structure.

Names are those of the published files: GhostNet's of the authors' ghostnet.py, MobileNetV3's of
torchvision, whose batch norms add 1e-3. The numbers of the blocks come from an `Arch`.
"""

import math

import torch
from torch import nn

TORCHVISION_EPS = 1e-3


def depthwise(channels, kernel, stride):
    return nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False)


class GhostModule(nn.Module):
    def __init__(self, in_channels, out_channels, ratio, kernel, act):
        super().__init__()
        first = math.ceil(out_channels / ratio)
        more = first * (ratio - 1)
        self.out_channels = out_channels
        self.primary_conv = nn.Sequential(
            nn.Conv2d(in_channels, first, 1, bias=False), nn.BatchNorm2d(first), act()
        )
        self.cheap_operation = nn.Sequential(
            nn.Conv2d(first, more, kernel, 1, kernel // 2, groups=first, bias=False),
            nn.BatchNorm2d(more),
            act(),
        )

    def forward(self, x):
        intrinsic = self.primary_conv(x)
        both = torch.cat([intrinsic, self.cheap_operation(intrinsic)], 1)
        return both[:, : self.out_channels]


class Gate(nn.Module):
    """Squeeze-and-excitation; the names of its convolutions differ."""

    def __init__(self, channels, reduced, names):
        super().__init__()
        self.names = names
        self.add_module(names[0], nn.Conv2d(channels, reduced, 1))
        self.add_module(names[1], nn.Conv2d(reduced, channels, 1))

    def forward(self, x):
        squeeze, excite = (getattr(self, name) for name in self.names)
        return x * nn.functional.hardsigmoid(excite(squeeze(x.mean((2, 3), True)).relu()))


class GhostBottleneck(nn.Module):
    def __init__(self, in_channels, block, reduced):
        super().__init__()
        hidden, out = block.hidden_channels, block.out_channels
        kernel, stride = block.kernel, block.stride
        cheap = block.ghost_ratio, block.cheap_kernel
        self.ghost1 = GhostModule(in_channels, hidden, *cheap, nn.ReLU)
        if stride > 1:
            self.conv_dw = depthwise(hidden, kernel, stride)
            self.bn_dw = nn.BatchNorm2d(hidden)
        self.se = Gate(hidden, reduced, ("conv_reduce", "conv_expand")) if reduced else None
        self.ghost2 = GhostModule(hidden, out, *cheap, nn.Sequential)
        self.shortcut = nn.Sequential()
        if stride > 1 or in_channels != out:
            self.shortcut = nn.Sequential(
                depthwise(in_channels, kernel, stride),
                nn.BatchNorm2d(in_channels),
                nn.Conv2d(in_channels, out, 1, bias=False),
                nn.BatchNorm2d(out),
            )

    def forward(self, x):
        y = self.ghost1(x)
        if hasattr(self, "conv_dw"):
            y = self.bn_dw(self.conv_dw(y))
        if self.se is not None:
            y = self.se(y)
        return self.ghost2(y) + self.shortcut(x)


class ConvNormAct(nn.Module):
    def __init__(self, in_channels, out_channels):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)

    def forward(self, x):
        return self.bn1(self.conv(x)).relu()


class GhostNet(nn.Module):
    """`arch` has GhostBlocks only; a stage is two groups of blocks, the first of them alone."""

    def __init__(self, arch):
        super().__init__()
        channels = arch.stem.channels
        self.conv_stem = nn.Conv2d(3, channels, 3, 2, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        groups = []
        for stage in arch.stages:
            for blocks in (stage.blocks[:1], stage.blocks[1:]):
                group = []
                for block in blocks:
                    share = block.hidden_channels * block.se_ratio
                    reduced = max(4, int(share + 2) // 4 * 4)
                    reduced += 4 if reduced < 0.9 * share else 0
                    group.append(GhostBottleneck(channels, block, reduced if share else 0))
                    channels = block.out_channels
                if group:
                    groups.append(nn.Sequential(*group))
        groups.append(nn.Sequential(ConvNormAct(channels, arch.head.channels)))
        self.blocks = nn.Sequential(*groups)
        self.conv_head = nn.Conv2d(arch.head.channels, arch.head.features, 1)
        self.classifier = nn.Linear(arch.head.features, arch.classes)

    def forward(self, x):
        x = self.blocks(self.bn1(self.conv_stem(x)).relu())
        return self.classifier(self.conv_head(x.mean((2, 3), True)).relu().flatten(1))


def conv_norm(conv, act):
    norm = nn.BatchNorm2d(conv.out_channels, eps=TORCHVISION_EPS)
    return nn.Sequential(conv, norm, act()) if act else nn.Sequential(conv, norm)


class InvertedResidual(nn.Module):
    def __init__(self, in_channels, block):
        super().__init__()
        hidden, out = block.hidden_channels, block.out_channels
        act = nn.Hardswish if block.activation == "hard_swish" else nn.ReLU
        layers = []
        if hidden != in_channels:
            layers.append(conv_norm(nn.Conv2d(in_channels, hidden, 1, bias=False), act))
        layers.append(conv_norm(depthwise(hidden, block.kernel, block.stride), act))
        if block.se_channels:
            layers.append(Gate(hidden, block.se_channels, ("fc1", "fc2")))
        layers.append(conv_norm(nn.Conv2d(hidden, out, 1, bias=False), None))
        self.block = nn.Sequential(*layers)
        self.keeps_shape = block.stride == 1 and in_channels == out

    def forward(self, x):
        return self.block(x) + x if self.keeps_shape else self.block(x)


class MobileNetV3(nn.Module):
    def __init__(self, arch):
        super().__init__()
        channels, act = arch.stem.channels, nn.Hardswish
        features = [conv_norm(nn.Conv2d(3, channels, 3, 2, 1, bias=False), act)]
        for stage in arch.stages:
            for block in stage.blocks:
                features.append(InvertedResidual(channels, block))
                channels = block.out_channels
        last = nn.Conv2d(channels, arch.head.channels, 1, bias=False)
        self.features = nn.Sequential(*features, conv_norm(last, act))
        self.classifier = nn.Sequential(
            nn.Linear(arch.head.channels, arch.head.features),
            act(),
            nn.Dropout(0.2),
            nn.Linear(arch.head.features, arch.classes),
        )

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


def trained(net, seed=0):
    """As after training: batch norms away from their start, activations at unit scale."""
    generator = torch.Generator().manual_seed(seed)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.normal_(module.bias, 0.0, 0.1, generator=generator)
            nn.init.normal_(module.running_mean, 0.0, 0.1, generator=generator)
            # Small, so that what is added to it matters.
            nn.init.uniform_(module.running_var, 0.01, 0.5, generator=generator)
            module.num_batches_tracked.fill_(7)
        elif isinstance(module, nn.Conv2d | nn.Linear):
            fan_in = module.weight[0].numel()
            nn.init.normal_(module.weight, 0.0, fan_in**-0.5, generator=generator)
    return net.eval()
