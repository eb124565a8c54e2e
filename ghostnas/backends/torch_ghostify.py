"""The Ghost module as a plug-in for any PyTorch module: its convolutions become Ghost modules
(GhostNet, section 3.1). Trains nothing; for graphs see `ghostnas.networks.ghostify`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ghostnas.errors import InputError
from ghostnas.networks.ghostify import check_numbers, split

Choose: TypeAlias = Callable[[str, nn.Conv2d], bool]
Function: TypeAlias = Callable[[Tensor], Tensor]

# What may stand between a convolution's batch norm and its ghosts, as modules call it too.
ACTIVATIONS: dict[Any, Function] = {
    F.relu: F.relu,
    torch.relu: F.relu,
    torch.relu_: F.relu,
    Tensor.relu: F.relu,
    Tensor.relu_: F.relu,
    F.relu6: F.relu6,
    F.hardswish: F.hardswish,
    F.silu: F.silu,
    F.gelu: F.gelu,
    F.leaky_relu: F.leaky_relu,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Parameters of a module, and multiply-accumulates of its convolutions and dense layers for
    one image.
    """

    params: int
    macs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Ghostified:
    """A module with Ghost modules, the paths of those, and the counts before and after."""

    module: nn.Module
    replaced: tuple[str, ...]
    before: Counts
    after: Counts


class GhostModule(nn.Module):
    """Some maps by a convolution, the others by a cheap depthwise one of those; then all together.

    Its activation is applied to what the ghosts are made of, not to its output, since the network
    around it still has the activation that follows.
    """

    def __init__(
        self,
        conv: nn.Conv2d,
        norm: nn.BatchNorm2d | None,
        activation: Function | None,
        s: int,
        d: int,
    ) -> None:
        super().__init__()
        maps = split(conv.out_channels, s)
        bias = conv.bias is not None
        on: dict[str, Any] = {"device": conv.weight.device, "dtype": conv.weight.dtype}
        self.primary_conv = nn.Conv2d(
            conv.in_channels,
            maps.primary,
            conv.kernel_size,  # type: ignore[arg-type]
            conv.stride,  # type: ignore[arg-type]
            conv.padding,  # type: ignore[arg-type]
            conv.dilation,  # type: ignore[arg-type]
            bias=bias,
            padding_mode=conv.padding_mode,
            **on,
        )
        self.cheap_operation = nn.Conv2d(
            maps.primary, maps.cheap, d, padding=d // 2, groups=maps.primary, bias=bias, **on
        )
        self.primary_norm = _norm(norm, maps.primary)
        self.cheap_norm = _norm(norm, maps.cheap)
        self.out_channels = conv.out_channels
        self._activation = activation
        with torch.no_grad():  # the filters that stay keep what they have learned
            self.primary_conv.weight.copy_(conv.weight[: maps.primary])
            if self.primary_conv.bias is not None and conv.bias is not None:
                self.primary_conv.bias.copy_(conv.bias[: maps.primary])

    def forward(self, x: Tensor) -> Tensor:
        y = self.primary_norm(self.primary_conv(x))
        source = y if self._activation is None else self._activation(y)
        ghosts = self.cheap_norm(self.cheap_operation(source))
        return torch.cat((y, ghosts), 1)[:, : self.out_channels]


def ghostify(
    module: nn.Module,
    example: Tensor,
    s: int = 2,
    d: int = 3,
    choose: Choose | None = None,
) -> Ghostified:
    """A copy of the module with the chosen convolutions as Ghost modules; the module is unchanged.

    A convolution of n maps becomes one of ceil(n / s), with the same kernel and stride, and a d x d
    depthwise one that makes s - 1 ghosts of each. What follows it is seen in a run of `example`: a
    batch norm that reads it is split between the two, and ghosts are made of activated maps where
    an activation reads the batch norm (or the convolution itself, where there is none).

    Args:
        example: one batch of the module's input, such as ``torch.zeros(1, 3, 224, 224)``.
        s, d: as in the paper.
        choose: whether the convolution at a path is replaced; by default every ungrouped one of
            two or more maps larger than 1x1.

    Raises:
        InputError: s or d is out of range, nothing was chosen, or the module does not run on
            `example`, or no longer gives an output of the same shape.
    """
    check_numbers(s, d)
    module = copy.deepcopy(module)
    seen = _run(module, example, "the module")
    chosen = {
        path: conv
        for path, conv in seen.convolutions.items()
        if conv.groups == 1
        and conv.out_channels > 1
        and (choose(path, conv) if choose else max(seen.shapes[conv][2:]) > 1)
    }
    if not chosen:
        raise InputError("ghostify: no convolution was chosen; groups must be 1, maps 2 or more")
    made: dict[nn.Module, nn.Module] = {}
    for conv in chosen.values():
        norm = seen.norms.get(conv)
        activation = seen.activations.get(norm or conv)
        training = conv.training
        made[conv] = GhostModule(conv, norm, activation, s, d).train(training)
        if norm is not None:
            made[norm] = nn.Identity()
    replaced = _replace(module, made)
    if module in made:  # it is a convolution itself
        module, replaced = made[module], [""]
    after = _run(module, example, "the module with Ghost modules")
    if after.output != seen.output:
        raise InputError(
            f"ghostify: the output's shape was {seen.output} and would be {after.output}"
        )
    return Ghostified(
        module=module,
        replaced=tuple(path for path in replaced if path in chosen),
        before=seen.counts,
        after=after.counts,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What a run of a module showed: for each convolution that ran, the batch norm that alone reads
    its output, and for each of both the activation that does; shapes of outputs.
    """

    convolutions: dict[str, nn.Conv2d]
    norms: dict[nn.Module, nn.BatchNorm2d]
    activations: dict[nn.Module, Function]
    shapes: dict[nn.Module, torch.Size]
    counts: Counts
    output: Any


class _Watch(TorchFunctionMode):
    """Notes which functions read the outputs of convolutions and batch norms."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: dict[int, list[Any]] = {}  # of a tensor, by its id
        self.kept: list[Tensor] = []  # so that no id is used twice

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name not in ("__get__", "dim", "size"):  # looking at a shape reads no map
            for each in args:
                for tensor in each if isinstance(each, list | tuple) else (each,):
                    if isinstance(tensor, Tensor) and id(tensor) in self.readers:
                        self.readers[id(tensor)].append(func)
        return func(*args, **(kwargs or {}))

    def look_at(self, tensor: Tensor) -> None:
        self.readers.setdefault(id(tensor), [])
        self.kept.append(tensor)


def _run(module: nn.Module, example: Tensor, what: str) -> _Seen:
    watch = _Watch()
    outputs: dict[nn.Module, list[Tensor]] = {}
    norm_of: dict[int, list[nn.BatchNorm2d]] = {}
    macs = 0

    def before(each: nn.Module, inputs: Any) -> None:
        if isinstance(each, nn.BatchNorm2d):
            norm_of.setdefault(id(inputs[0]), []).append(each)

    def after(each: nn.Module, inputs: Any, output: Tensor) -> None:
        nonlocal macs
        outputs.setdefault(each, []).append(output)
        watch.look_at(output)
        if isinstance(each, nn.Conv2d):
            macs += each.weight.numel() * prod(output.shape[2:])
        elif isinstance(each, nn.Linear):
            macs += each.weight.numel() * prod(output.shape[1:-1])

    watched = (nn.Conv2d, nn.BatchNorm2d, nn.Linear)
    hooks = [
        handle
        for each in module.modules()
        if isinstance(each, watched)
        for handle in (each.register_forward_pre_hook(before), each.register_forward_hook(after))
    ]
    training = {each: each.training for each in module.modules()}
    try:
        module.eval()
        with torch.no_grad(), watch:
            output = module(example)
    except (RuntimeError, ValueError, TypeError) as error:
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"ghostify: {what} does not run on the example: {line}") from error
    finally:
        for handle in hooks:
            handle.remove()
        for each, was in training.items():
            each.training = was
    norms: dict[nn.Module, nn.BatchNorm2d] = {}
    activations: dict[nn.Module, Function] = {}
    for each, made in outputs.items():
        if len(made) != 1:  # used in several places: what follows differs
            continue
        readers = watch.readers[id(made[0])]
        found = norm_of.get(id(made[0]), [])
        if isinstance(each, nn.Conv2d) and len(found) == 1 and readers == [F.batch_norm]:
            if len(outputs[found[0]]) == 1:
                norms[each] = found[0]
        elif readers and readers[0] in ACTIVATIONS:
            activations[each] = ACTIVATIONS[readers[0]]
    paths = {path: each for path, each in module.named_modules() if isinstance(each, nn.Conv2d)}
    params = sum(each.numel() for each in module.parameters())
    return _Seen(
        convolutions={path: each for path, each in paths.items() if each in outputs},
        norms=norms,
        activations=activations,
        shapes={each: made[0].shape for each, made in outputs.items()},
        counts=Counts(params=params, macs=macs),
        output=_shape(output),
    )


def _shape(output: Any) -> Any:
    """The shapes of an output, which may be tensors in tuples, lists and dicts."""
    if isinstance(output, Tensor):
        return tuple(output.shape)
    if isinstance(output, dict):
        return {key: _shape(value) for key, value in output.items()}
    if isinstance(output, list | tuple):
        return [_shape(each) for each in output]
    return type(output).__name__


def _replace(module: nn.Module, made: dict[nn.Module, nn.Module]) -> list[str]:
    """Put the new modules where the old ones are; returns the paths."""
    paths = []
    for path, parent in list(module.named_modules(remove_duplicate=False)):
        for name, child in list(parent._modules.items()):  # a module may have several names
            if child is not None and child in made:
                setattr(parent, name, made[child])
                paths.append(f"{path}.{name}" if path else name)
    return paths


def _norm(norm: nn.BatchNorm2d | None, channels: int) -> nn.Module:
    """A batch norm like the given one, of so many channels."""
    if norm is None:
        return nn.Identity()
    at = norm.weight if norm.affine else norm.running_mean
    made = nn.BatchNorm2d(channels, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
    return made if at is None else made.to(at.device, at.dtype)
