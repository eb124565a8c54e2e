"""Reads weights that others published, under this project's keys; it neither downloads nor trains.

The keys of GhostNet are the same here, in the authors' ghostnet.py (Efficient-AI-Backbones,
ghostnet_pytorch) and in timm; those of GhostNetV2, GhostNetV3 and RepGhostNet
are timm's. MobileNetV3-Large has other keys in timm and torchvision: `NAMINGS`.
The authors' first release (iamhankai/ghostnet.pytorch) is another network, and is refused.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ghostnas.arrays import Array
from ghostnas.errors import InputError, short
from ghostnas.files import read_bytes
from ghostnas.ir import weights
from ghostnas.ir.graph import BATCH_NORM_EPS, Dense, Graph, weight_shapes
from ghostnas.ir.preprocessing import Preprocessing
from ghostnas.networks import zoo
from ghostnas.networks.arch import Arch, lower

# Where training scripts put the weights in a checkpoint; averaged weights come first, as those are
# what was published.
WRAPPERS = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "ema"),
    *("state_dict", "model_state_dict", "model_state", "model", "net"),
)
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")  # of wrappers around the network

# The blocks of MobileNetV3-Large, and its last convolution: ours, timm's, torchvision's.
_BLOCKS = (
    ("0.0", "0.0", "1"),
    ("1.0", "1.0", "2"),
    ("2.0", "1.1", "3"),
    ("3.0", "2.0", "4"),
    ("4.0", "2.1", "5"),
    ("4.1", "2.2", "6"),
    ("5.0", "3.0", "7"),
    ("6.0", "3.1", "8"),
    ("6.1", "3.2", "9"),
    ("6.2", "3.3", "10"),
    ("6.3", "4.0", "11"),
    ("6.4", "4.1", "12"),
    ("7.0", "5.0", "13"),
    ("8.0", "5.1", "14"),
    ("8.1", "5.2", "15"),
    ("9.0", "6.0", "16"),
)
FIRST = "0.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Naming:
    """The keys of MobileNetV3-Large elsewhere.

    Attributes:
        mark, unlike: a file with the key `mark` and without `unlike` has this naming.
        place: pattern of a block's keys; its group is a key of `blocks`.
        blocks: from their block positions to ours.
        first: in the first block, which has no expansion, key prefixes and their replacements.
        later: the same in all other blocks.
        outside: the same outside the blocks.
        eps: what its batch norms add to the variance.
    """

    mark: str
    unlike: str
    place: str
    blocks: dict[str, str]
    first: dict[str, str]
    later: dict[str, str]
    outside: dict[str, str]
    eps: float = BATCH_NORM_EPS


NAMINGS = {
    "timm": Naming(
        mark="blocks.0.0.conv_pw.weight",
        unlike="blocks.0.0.conv_pwl.weight",
        place=r"blocks\.(\d+\.\d+)\.",
        blocks={theirs: ours for ours, theirs, _ in _BLOCKS},
        first={"bn1.": "bn2.", "conv_pw.": "conv_pwl.", "bn2.": "bn3."},
        later={},
        outside={},
    ),
    "torchvision": Naming(
        mark="features.1.block.0.0.weight",
        unlike="conv_stem.weight",
        place=r"features\.([1-9]\d*)\.",
        blocks={theirs: ours for ours, _, theirs in _BLOCKS},
        first={
            "block.0.0.": "conv_dw.",
            "block.0.1.": "bn2.",
            "block.1.0.": "conv_pwl.",
            "block.1.1.": "bn3.",
        },
        later={
            "block.0.0.": "conv_pw.",
            "block.0.1.": "bn1.",
            "block.1.0.": "conv_dw.",
            "block.1.1.": "bn2.",
            "block.2.fc1.": "se.conv_reduce.",
            "block.2.fc2.": "se.conv_expand.",
            "block.2.0.": "conv_pwl.",
            "block.2.1.": "bn3.",
            "block.3.0.": "conv_pwl.",
            "block.3.1.": "bn3.",
            "0.": "conv.",
            "1.": "bn1.",
        },
        outside={
            "features.0.0.": "conv_stem.",
            "features.0.1.": "bn1.",
            "classifier.0.": "conv_head.",
            "classifier.3.": "classifier.",
        },
        eps=1e-3,
    ),
}
# Networks that are not ours, whatever their shapes, each identified by a key.
OTHERS = (
    (r"squeeze\.0\.weight", "the first release of GhostNet, whose shortcuts and gates differ"),
)
# What a file is that has keys which the network lacks; the first that fits. GhostNetV2 and V3 have
# their attention from the third block on, and V3 has all of V2's keys.
VERSIONS = (
    (r"blocks\.\d+\.\d+\.ghost[12]\.cheap_rpr_conv\.", "GhostNetV3"),
    (r"blocks\.\d+\.\d+\.ghost1\.short_conv\.", "GhostNetV2"),
    (r"blocks\.\d+\.\d+\.ghost[12]\.fusion_bn\.", "RepGhostNet"),
)


def read(path: Path, graph: Graph) -> dict[str, Array]:
    """The weights of a file for exactly this network.

    Raises:
        InputError: as `read_any`, or they are another network's; the message says how.
    """
    found = read_any(path)
    needed = {key: shape for node in graph.nodes for key, shape in weight_shapes(node).items()}
    wrong = [key for key in needed if key in found and found[key].shape != needed[key]]
    last = graph.nodes[-1]
    if isinstance(last.op, Dense) and f"{last.name}.weight" in wrong:
        classes = len(found[f"{last.name}.weight"])
        if classes != last.op.out_features:
            raise InputError(
                f"{path}: knows {classes} classes, but the network has {last.op.out_features}"
            )
    missing = sorted(needed.keys() - found.keys())
    unknown = sorted(found.keys() - needed.keys())
    faults = [
        f"{len(keys)} {what}, the first is {short(keys[0])}"
        for keys, what in ((missing, "missing"), (unknown, "unknown"))
        if keys
    ]
    if wrong:
        key = wrong[0]
        faults.append(f"{key} has shape {found[key].shape}, needs {needed[key]}"[:120])
    if faults:
        other = next((f", {name}" for mark, name in VERSIONS if _any(mark, unknown)), "")
        raise InputError(f"{path}: weights of another network{other}: {'; '.join(faults)}")
    return {key: found[key] for key in needed}


def read_any(path: Path) -> dict[str, Array]:
    """All weights of a .safetensors file or of one that PyTorch wrote, under our keys, as float32.

    The first bytes tell the file type. A pickle yields only tensors and plain values; anything
    else in it is refused and never run.

    Raises:
        InputError: it is damaged, holds anything but weights, or is a network with other layers.
    """
    content = read_bytes(path)
    if content[8:9] != b"{" and content.startswith((b"PK", b"\x80")):
        found = weights.finite(_tensors(content, path), str(path))
    else:
        found = weights.parse(content, str(path))
    return _renamed(_without_prefixes(found), path)


def preprocessing_of(path: Path) -> Preprocessing | None:
    """What the file says its network expects of an image; PyTorch's files say nothing.

    Raises:
        InputError: it is damaged.
    """
    content = read_bytes(path)
    if content[8:9] != b"{":
        return None
    return weights.parse_preprocessing(content, str(path))


def find_with_weights(
    name: str, width: float | None, resolution: int | None, file: Path | None
) -> tuple[Arch, Mapping[str, Array], Preprocessing | None]:
    """The network, its weights, and what they expect of an image if their file says so.

    The weights are those of `file`, of a training's folder, or those that a search exported. At
    another `resolution` they run with the strides they were trained with.

    Raises:
        InputError: as `find`, or there are no weights, or they are another network's, or this
            resolution needs other strides than those they were trained with.
    """
    folder = Path(name)
    arch = zoo.find(name, width)
    if resolution is not None and resolution != arch.resolution:
        other = zoo.find(name, width, resolution)
        if other.dropped_strides != arch.dropped_strides:
            raise InputError(
                f"{name}: its weights are for {arch.resolution} px with {arch.dropped_strides} "
                f"strides dropped; {resolution} px drops {other.dropped_strides}, which makes it "
                "another network; train that one: ghostnas train ... --resolution "
                f"{resolution}"
            )
        arch = other
    if file is None and folder.is_dir() and name not in zoo.ZOO:
        searched = (folder / "best.json").exists()
        file = (folder / "export" if searched else folder) / "model.safetensors"
    if file is None:
        known = ".safetensors or .pth"
        raise InputError(f"{name} has no weights of its own; give a {known} file with --weights")
    return arch, read(file, lower(arch)), preprocessing_of(file)


def _tensors(content: bytes, path: Path) -> dict[str, Array]:
    """The state dict in a file by ``torch.save``, without step counters."""
    import pickle

    import torch

    refused = f"{path}: holds more than weights, or is damaged; save only its state_dict()"
    try:
        if content[:2] == b"PK":
            _check_archive(content, path)
        loaded = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except InputError:
        raise
    except pickle.UnpicklingError as error:
        raise InputError(refused) from error
    except Exception as error:  # damaged pickles raise whatever their opcodes meet
        raise InputError(
            f"{path}: is not a complete PyTorch file ({type(error).__name__})"
        ) from error
    found = _unwrapped(loaded, path)
    arrays = {}
    for key, tensor in found.items():
        if not isinstance(key, str) or not isinstance(tensor, torch.Tensor):
            raise InputError(f"{path}: {short(key)} is {type(tensor).__name__}, not a tensor")
        if key.endswith(weights.STEP_COUNTER):
            continue
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            raise InputError(f"{path}: {short(key)} is not a plain tensor")
        if not tensor.is_floating_point() or tensor.element_size() < 2:
            raise InputError(f"{path}: {short(key)} is of type {tensor.dtype}, not a float")
        if tensor.numel() * tensor.element_size() > len(content):
            raise InputError(f"{path}: {short(key)} claims to be larger than the file")
        arrays[key] = tensor.detach().to(torch.float32).numpy()
    return arrays


def _check_archive(content: bytes, path: Path) -> None:
    """PyTorch does not compress; a compressed file could grow without bound.

    A wrong checksum is damage, which PyTorch itself does not check for.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            raise InputError(f"{path}: is a compressed archive, not a torch.save file")
        if (damaged := archive.testzip()) is not None:
            raise InputError(f"{path}: is damaged in {short(damaged)}")


def _unwrapped(loaded: Any, path: Path) -> Mapping[Any, Any]:
    """The innermost dict that the known wrappers lead to."""
    while isinstance(loaded, Mapping):
        inner = [loaded[key] for key in WRAPPERS if isinstance(loaded.get(key), Mapping)]
        if not inner:
            return loaded
        loaded = inner[0]
    raise InputError(f"{path}: holds {type(loaded).__name__}, not weights by their keys")


def _without_prefixes(found: Mapping[str, Array]) -> dict[str, Array]:
    while prefixes := [each for each in PREFIXES if all(key.startswith(each) for key in found)]:
        found = {key.removeprefix(prefixes[0]): array for key, array in found.items()}
    return dict(found)


def _renamed(found: dict[str, Array], path: Path) -> dict[str, Array]:
    for mark, what in OTHERS:
        if _any(mark, found):
            raise InputError(
                f"{path}: is {what}; the network known here is that of the authors' "
                "ghostnet_pytorch/ghostnet.py"
            )
    for naming in NAMINGS.values():
        if naming.mark in found and naming.unlike not in found:
            found = _translated(found, naming, path)
    return {key: _shaped(key, array) for key, array in found.items()}


def _any(mark: str, keys: Iterable[str]) -> bool:
    return any(re.match(mark, key) for key in keys)


def _translated(found: dict[str, Array], naming: Naming, path: Path) -> dict[str, Array]:
    places = [(re.match(naming.place, key), key) for key in found]
    if {match[1] for match, _ in places if match} != set(naming.blocks):
        raise InputError(f"{path}: is a MobileNetV3 whose blocks are not those of Large")
    translated = {}
    for match, key in places:
        array = found[key]
        if key.endswith(".running_var"):
            array = array + np.float32(naming.eps - BATCH_NORM_EPS)
        if match:
            ours = naming.blocks[match[1]]
            table = naming.first if ours == FIRST else naming.later
            name = f"blocks.{ours}.{_replaced(key[match.end() :], table)}"
        else:
            name = _replaced(key, naming.outside)
        translated[name] = array
    return translated


def _replaced(key: str, table: Mapping[str, str]) -> str:
    for start, ours in table.items():
        if key.startswith(start):
            return ours + key.removeprefix(start)
    return key


def _shaped(key: str, array: Array) -> Array:
    """A fully connected layer as a 1x1 convolution, or vice versa, as our networks have it."""
    convolution = key.endswith(("conv_head.weight", "conv_reduce.weight", "conv_expand.weight"))
    if convolution and array.ndim == 2:
        return array[:, :, None, None]
    if key == "classifier.weight" and array.ndim == 4 and array.shape[2:] == (1, 1):
        return array[:, :, 0, 0]
    return array
