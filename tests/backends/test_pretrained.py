"""Published files give, under our keys, the logits of the networks that they were saved from."""

import collections
import json
import subprocess
import sys

import numpy as np
import official_networks as official
import pytest
import torch
from safetensors.torch import save_file

from ghostnas.backends import pretrained
from ghostnas.backends.torch_module import Net, net_of, weights_of
from ghostnas.errors import InputError
from ghostnas.ir import weights
from ghostnas.ir.preprocessing import IMAGENET
from ghostnas.ir.random_weights import random_weights
from ghostnas.networks import zoo
from ghostnas.networks.arch import Arch, Head, Stage, Stem, lower, to_json
from ghostnas.networks.blocks import GhostBlock

SMALL = Arch(
    stem=Stem(channels=8),
    stages=(
        Stage(blocks=(GhostBlock(hidden_channels=8, out_channels=8),)),
        Stage(
            blocks=(
                GhostBlock(hidden_channels=24, out_channels=9, stride=2, se_ratio=0.25),
                GhostBlock(hidden_channels=20, out_channels=9, ghost_ratio=3, cheap_kernel=5),
                GhostBlock(hidden_channels=20, out_channels=12, kernel=5),
            )
        ),
    ),
    head=Head(channels=24, features=32),
    classes=10,
    resolution=32,
)


@pytest.fixture(scope="module")
def saved():
    """A small official GhostNet, its graph and its state dict."""
    net = official.trained(official.GhostNet(SMALL))
    return net, lower(SMALL), net.state_dict()


def assert_equal_logits(net, graph, values):
    images = torch.from_numpy(np.random.default_rng(1).normal(size=(2, *graph.input_shape))).float()
    with torch.inference_mode():
        expected, found = net(images), net_of(graph, values)(images)
    assert expected.std() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("width", [1.0, 0.5])
def test_the_authors_ghostnet_keeps_its_logits(tmp_path, width):
    arch = zoo.ghostnet(width, 32)
    net = official.trained(official.GhostNet(arch))
    torch.save(net.state_dict(), tmp_path / "state_dict_73.98.pth")
    graph = lower(arch)
    assert_equal_logits(net, graph, pretrained.read(tmp_path / "state_dict_73.98.pth", graph))


# The first logits of timm 1.0.31's ghostnetv2_100, ghostnetv3_100 and repghostnet_100, which took
# these weights strictly, for this image.
TIMM = {
    "ghostnetv2": [0.32313, -0.15389, -0.01595, 0.12344, -0.38694, -0.35681, 0.13895, -0.20439],
    "ghostnetv3": [0.28741, -0.14185, -0.4196, -0.07166, 0.06568, 0.0873, -0.25388, 0.03472],
    "repghostnet": [-0.16761, 0.23471, -0.03567, -0.21366, 0.02052, -0.2957, -0.12243, 0.05249],
}


@pytest.mark.parametrize(("name", "logits"), TIMM.items())
def test_what_came_after_ghostnet_has_timms_keys_and_logits(tmp_path, name, logits):
    graph = lower(zoo.named(name, 1.0, 64))
    state = {k: torch.from_numpy(v) for k, v in random_weights(graph, 0).items()}
    torch.save({"state_dict": state}, tmp_path / f"{name}_100.pth")
    found = pretrained.read(tmp_path / f"{name}_100.pth", graph)
    image = np.random.default_rng(0).normal(size=(1, 3, 64, 64)).astype(np.float32)
    with torch.inference_mode():
        ours = net_of(graph, found)(torch.from_numpy(image))[0, :8]
    assert ours.numpy() == pytest.approx(logits, abs=2e-5)


def test_torchvisions_mobilenetv3_keeps_its_logits_with_its_own_epsilon(tmp_path):
    arch = zoo.mobilenetv3_large(0.5, 32, 10)
    net = official.trained(official.MobileNetV3(arch))
    torch.save(net.state_dict(), tmp_path / "mobilenet_v3_large-8738ca79.pth")
    graph = lower(arch)
    found = pretrained.read(tmp_path / "mobilenet_v3_large-8738ca79.pth", graph)
    assert_equal_logits(net, graph, found)
    spoilt = {k: v - np.float32(1e-3) if k.endswith("_var") else v for k, v in found.items()}
    with pytest.raises(AssertionError):
        assert_equal_logits(net, graph, spoilt)


def test_timms_mobilenetv3_is_renamed(tmp_path):
    """timm's stages have 1, 2, 3, 4, 2, 3 blocks and the last convolution; its first block is a
    depthwise and a 1x1 convolution by these names."""
    graph = lower(zoo.mobilenetv3_large(0.5, 32, 10))
    ours = random_weights(graph, 0)
    places = [f"{s}.{b}" for s, count in enumerate((1, 2, 3, 4, 2, 3, 1)) for b in range(count)]
    blocks = list(dict.fromkeys(".".join(k.split(".")[1:3]) for k in ours if k[:6] == "blocks"))
    theirs = {}
    for key, array in ours.items():
        if key.startswith("blocks."):
            _, stage, block, inside = key.split(".", 3)
            place = places[blocks.index(f"{stage}.{block}")]
            if place == "0.0":
                for our, their in (("bn2.", "bn1."), ("conv_pwl.", "conv_pw."), ("bn3.", "bn2.")):
                    if inside.startswith(our):
                        inside = their + inside.removeprefix(our)
                        break
            key = f"blocks.{place}.{inside}"
        theirs[key] = torch.from_numpy(array)
    assert len(theirs) == len(ours)
    assert theirs.keys() != ours.keys()
    save_file(theirs, tmp_path / "timm.safetensors")
    found = pretrained.read(tmp_path / "timm.safetensors", graph)
    assert found.keys() == ours.keys()
    for key, array in ours.items():
        np.testing.assert_array_equal(found[key], array)


def with_prefix(prefix):
    return lambda state: {prefix + key: value for key, value in state.items()}


def drifted(state):
    return {key: value + 1 if value.is_floating_point() else value for key, value in state.items()}


WRAPPED = {
    "plain": lambda state: state,
    "ordered": collections.OrderedDict,
    "parameters": lambda state: {
        key: torch.nn.Parameter(value, requires_grad=False) for key, value in state.items()
    },
    "state_dict": lambda state: {"epoch": 3, "state_dict": state, "optimizer": {"lr": 0.1}},
    "model": lambda state: {"model": state, "best": 0.5},
    "the average before the last step": lambda state: {
        "state_dict": drifted(state),
        "state_dict_ema": state,
    },
    "two deep": lambda state: {"model": {"state_dict": with_prefix("module.")(state)}},
    "parallel": with_prefix("module."),
    "compiled and parallel": with_prefix("_orig_mod.module."),
    "lightning": lambda state: {"state_dict": with_prefix("model.")(state)},
    "double": lambda state: {
        k: v.double() if v.is_floating_point() else v for k, v in state.items()
    },
    "classifier as 1x1 convolution": lambda state: {
        **state,
        "classifier.weight": state["classifier.weight"][:, :, None, None],
    },
    "head as a matrix": lambda state: {
        **state,
        "conv_head.weight": state["conv_head.weight"][:, :, 0, 0],
    },
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("wrapped", WRAPPED)
def test_any_wrapping_gives_the_same_logits(tmp_path, saved, wrapped, zipped):
    net, graph, state = saved
    path = tmp_path / "checkpoint.pth.tar"
    torch.save(WRAPPED[wrapped](state), path, _use_new_zipfile_serialization=zipped)
    assert_equal_logits(net, graph, pretrained.read(path, graph))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_halves_are_read_as_float32(tmp_path, saved, kind, suffix):
    _, graph, state = saved
    halves = {k: v.to(kind) if v.is_floating_point() else v for k, v in state.items()}
    path = tmp_path / f"half.{suffix}"
    if suffix == "pth":
        torch.save(halves, path)
    else:
        save_file(halves, path)
    found = pretrained.read(path, graph)
    for key, array in found.items():
        assert array.dtype == np.float32
        np.testing.assert_array_equal(array, halves[key].float().numpy())


def test_a_files_type_is_told_by_its_content_not_its_name(tmp_path, saved):
    net, graph, state = saved
    torch.save(state, tmp_path / "net.safetensors")
    save_file(state, tmp_path / "net.pth")
    for name in ("net.safetensors", "net.pth"):
        assert_equal_logits(net, graph, pretrained.read(tmp_path / name, graph))


def test_the_preprocessing_of_a_file_is_read_where_it_has_one(tmp_path, saved):
    _, graph, state = saved
    values = random_weights(graph, 0)
    weights.save(values, tmp_path / "with.safetensors", preprocessing=IMAGENET)
    weights.save(values, tmp_path / "without.safetensors")
    torch.save(state, tmp_path / "net.pth")
    assert pretrained.preprocessing_of(tmp_path / "with.safetensors") == IMAGENET
    assert pretrained.preprocessing_of(tmp_path / "without.safetensors") is None
    assert pretrained.preprocessing_of(tmp_path / "net.pth") is None


def renamed(old, new):
    return lambda state: {key.replace(old, new): value for key, value in state.items()}


# Of the authors' ghostnetv2.py and ghostnetv3.py: the first two blocks are without attention.
OF_V2 = {"blocks.2.0.ghost1.short_conv.0.weight": torch.ones(1)}
OF_V3 = {
    "blocks.0.0.ghost1.primary_rpr_conv.0.conv.weight": torch.ones(1),
    "blocks.0.0.ghost1.cheap_rpr_conv.0.conv.weight": torch.ones(1),
}
REFUSED = {
    "other classes": (
        lambda state: {
            **state,
            "classifier.weight": torch.ones(5, 32),
            "classifier.bias": torch.ones(5),
        },
        "knows 5 classes, but the network has 10",
    ),
    "a missing key": (
        lambda state: {k: v for k, v in state.items() if k != "bn1.bias"},
        "1 missing, the first is bn1.bias",
    ),
    "an unknown key": (
        lambda state: {**state, "extra\nline": torch.ones(1)},
        r"1 unknown, the first is extra\\nline",
    ),
    "another shape": (
        lambda state: {**state, "bn1.bias": torch.ones(3)},
        r"bn1.bias has shape \(3,\), needs \(8,\)",
    ),
    "whole numbers": (
        lambda state: {**state, "bn1.bias": torch.ones(8, dtype=torch.int64)},
        "bn1.bias is of type torch.int64",
    ),
    "complex numbers": (
        lambda state: {**state, "bn1.bias": torch.ones(8, dtype=torch.complex64)},
        "bn1.bias is of type torch.complex64",
    ),
    "a sparse tensor": (
        lambda state: {**state, "bn1.bias": torch.ones(8).to_sparse()},
        "bn1.bias is not a plain tensor",
    ),
    "a tensor larger than the file": (
        lambda state: {**state, "bn1.bias": torch.ones(1).expand(1 << 40)},
        "bn1.bias claims to be larger than the file",
    ),
    "no number": (
        lambda state: {**state, "bn1.bias": torch.full((8,), torch.nan)},
        "bn1.bias holds numbers that are not finite",
    ),
    "beyond float32": (
        lambda state: {**state, "bn1.bias": torch.full((8,), 1e300, dtype=torch.float64)},
        "bn1.bias holds numbers that are not finite",
    ),
    "a negative variance": (
        lambda state: {**state, "bn1.running_var": torch.full((8,), -1.0)},
        "bn1.running_var holds a variance below 0",
    ),
    "the first release": (
        lambda state: {**state, "squeeze.0.weight": torch.ones(1)},
        "is the first release of GhostNet",
    ),
    "version 2": (
        lambda state: {**state, **OF_V2},
        "weights of another network, GhostNetV2: 1 unknown",
    ),
    "version 2 in parallel": (
        lambda state: with_prefix("module.")({**state, **OF_V2}),
        "NetV2: 1 unknown",
    ),
    "version 3": (
        lambda state: {**state, **OF_V2, **OF_V3},
        "another network, GhostNetV3: 3 unknown",
    ),
    "MobileNetV3-Small": (
        lambda _: {
            "features.1.block.0.0.weight": torch.ones(1),
            "features.2.block.0.0.weight": torch.ones(1),
        },
        "is a MobileNetV3 whose blocks are not those of Large",
    ),
    "a list": (lambda state: list(state.values()), "holds list, not weights"),
    "a tensor alone": (lambda state: state["bn1.bias"], "holds Tensor, not weights"),
    "names that are numbers": (lambda _: {1: torch.ones(1)}, "1 is Tensor, not a tensor"),
    "nothing": (lambda _: {}, "holds no weights"),
    "a whole module": (lambda _: torch.nn.Linear(1, 1), "holds more than weights"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_named_in_one_line(tmp_path, saved, case):
    change, message = REFUSED[case]
    path = tmp_path / "other.pth"
    torch.save(change(dict(saved[2])), path)
    with pytest.raises(InputError, match=message) as caught:
        pretrained.read(path, saved[1])
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_weights_of_a_training_are_read_back(tmp_path, saved):
    _, graph, _ = saved
    values = weights_of(Net(graph))
    weights.save(values, tmp_path / "own.safetensors")
    found = pretrained.read(tmp_path / "own.safetensors", graph)
    assert found.keys() == values.keys()


def test_safetensors_need_no_torch(tmp_path, saved):
    weights.save(random_weights(saved[1], 0), tmp_path / "net.safetensors")
    script = (
        "import sys; from pathlib import Path; from ghostnas.backends import pretrained\n"
        f"pretrained.read_any(Path({str(tmp_path / 'net.safetensors')!r}))\n"
        "print('torch' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "False\n"


def write_run(folder, arch_name, weights_name, values):
    (folder / arch_name).write_text(json.dumps(to_json(SMALL)))
    weights.save(values, folder / weights_name, preprocessing=IMAGENET)
    return str(folder)


@pytest.mark.parametrize(
    ("arch_name", "weights_name"),
    [("arch.json", "model.safetensors"), ("best.json", "export/model.safetensors")],
    ids=["training", "search"],
)
def test_a_folder_has_a_network_weights_and_preprocessing(tmp_path, arch_name, weights_name):
    values = random_weights(lower(SMALL), 0)
    name = write_run(tmp_path, arch_name, weights_name, values)
    arch, found, preprocessing = pretrained.find_with_weights(name, None, None, None)
    assert (arch, preprocessing) == (SMALL, IMAGENET)
    assert found.keys() == values.keys()
    assert pretrained.find_with_weights(name, None, 64, None)[0].resolution == 64
    with pytest.raises(InputError, match="--width is for the named networks"):
        pretrained.find_with_weights(name, 0.5, None, None)


def test_a_file_of_weights_takes_precedence_over_those_of_a_folder(tmp_path, saved):
    net, graph, state = saved
    name = write_run(tmp_path, "arch.json", "model.safetensors", random_weights(graph, 0))
    torch.save(state, tmp_path / "net.pth")
    _, found, preprocessing = pretrained.find_with_weights(name, None, None, tmp_path / "net.pth")
    assert preprocessing is None
    assert_equal_logits(net, graph, found)


def test_a_named_network_takes_a_published_file_and_has_none_of_its_own(tmp_path):
    values = random_weights(lower(zoo.ghostnet(0.25)), 0)
    torch.save({k: torch.from_numpy(v) for k, v in values.items()}, tmp_path / "net.pth")
    arch, found, _ = pretrained.find_with_weights("ghostnet", 0.25, None, tmp_path / "net.pth")
    assert arch == zoo.ghostnet(0.25)
    np.testing.assert_array_equal(found["bn1.bias"], values["bn1.bias"])
    with pytest.raises(InputError, match=r"of another network: .*has shape"):
        pretrained.find_with_weights("ghostnet", 0.5, None, tmp_path / "net.pth")
    with pytest.raises(InputError, match="has no weights of its own"):
        pretrained.find_with_weights("ghostnet", None, None, None)
