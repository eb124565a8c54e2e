"""Two processes started by torchrun on this machine's CPU, compared with one."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ghostnas.errors import InputError
from ghostnas.ir import weights
from ghostnas.nas.evaluators import EvaluatorPool
from ghostnas.training import recipe
from ghostnas.training.distributed import World, join, on_cuda, synchronise

TORCHRUN = (*(sys.executable, "-m", "torch.distributed.run"), "--standalone")


def test_one_process_is_its_own_world():
    with join("cpu") as world:
        assert world == World(device=torch.device("cpu"), rank=0, size=1)
        assert world.first
        assert world.total(1.5, 2.0) == [1.5, 2.0]
        assert world.from_first(b"x") == b"x"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_cuda_is_not_taken_for_granted():
    with pytest.raises(InputError, match="use --device cpu"), join("cuda"):
        pass
    with pytest.raises(InputError, match="use --device cpu"):
        EvaluatorPool("synthetic", recipe.load("quick"), 1, device="cuda")
    assert not on_cuda("auto")


PROBE = """
import sys, torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from ghostnas.training.distributed import join, synchronise

def probe(world):
    torch.manual_seed(0)
    x = torch.randn(8, 3, 6, 6)
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.BatchNorm2d(5))
    if world.size > 1:
        synchronise(net)
    run = DistributedDataParallel(net, broadcast_buffers=False) if world.size > 1 else net
    own = x.chunk(world.size)[world.rank]
    out = run(own)
    (out.pow(3).mean()).backward()
    assert world.total(1.0) == [float(world.size)]
    assert world.from_first(b"of the first" if world.first else None) == b"of the first"
    if world.first:
        state = {**{f"grad.{k}": p.grad for k, p in net.named_parameters()}, **net.state_dict()}
        torch.save({"out": out, **state}, sys.argv[1])

def autocast():
    torch.manual_seed(0)
    x = torch.randn(8, 3, 6, 6)
    plain, shared = (nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5)) for _ in range(2))
    shared.load_state_dict(plain.state_dict())
    synchronise(shared)
    wanted = plain(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = shared(x)
    return {
        "wanted": wanted.detach(),
        "found": found.detach(),
        "wanted_variance": plain[1].running_var,
        "found_variance": shared[1].running_var,
    }

torch.set_num_threads(1)
with join("cpu") as world:
    probe(world)
    if world.size > 1:
        torch.save(autocast(), f"{sys.argv[1]}.autocast{world.rank}")
"""


@pytest.fixture(scope="module")
def probed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What PROBE saves of one process, of two together, and of each of the two."""
    folder = tmp_path_factory.mktemp("probed")
    (folder / "probe.py").write_text(PROBE)
    run([sys.executable, str(folder / "probe.py"), str(folder / "1.pt")])
    two = [*TORCHRUN, "--nproc-per-node=2", str(folder / "probe.py"), str(folder / "2.pt")]
    run(two)
    return folder


@pytest.mark.slow
def test_batch_norm_over_two_processes_equals_that_of_one(probed: Path) -> None:
    one, two = (torch.load(probed / f"{count}.pt", weights_only=True) for count in (1, 2))
    assert one.keys() == two.keys()
    torch.testing.assert_close(two.pop("out"), one.pop("out")[:4], rtol=1e-5, atol=1e-6)
    for key, tensor in one.items():
        torch.testing.assert_close(two[key], tensor, rtol=1e-4, atol=1e-6, msg=key)


@pytest.mark.slow
def test_batch_norm_over_processes_works_in_mixed_precision(probed: Path) -> None:
    for rank in (0, 1):
        each = torch.load(probed / f"2.pt.autocast{rank}", weights_only=True)
        assert each["found"].dtype == torch.bfloat16
        near = {"rtol": 0.05, "atol": 0.05}
        torch.testing.assert_close(each["found"].float(), each["wanted"], **near)
        near = {"rtol": 0.02, "atol": 1e-3}
        torch.testing.assert_close(each["found_variance"], each["wanted_variance"], **near)


@pytest.mark.parametrize("missing", ["RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"])
def test_processes_not_started_by_torchrun_are_reported(monkeypatch, missing: str) -> None:
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "WORLD_SIZE"):
        monkeypatch.setenv(name, "2")
    monkeypatch.delenv(missing)
    with pytest.raises(InputError, match=f"{missing} is not: start.*torchrun"), join("cpu"):
        pass


def test_a_network_without_batch_norm_is_left_alone() -> None:
    net = nn.Linear(2, 2)
    synchronise(net)
    assert type(net) is nn.Linear


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    recipe = tmp_path / "short.toml"
    recipe.write_text(
        "epochs = 1\nbatch_size = 64\nlearning_rate = 0.02\noptimizer = 'sgd'\n"
        "train_pictures = 640\nweight_decay = 1e-4\ncrop_padding = 2\ncutout = 8\nema = 0.5\n"
        "mixed_precision = false\n"
    )
    found, results = [], []
    for processes in (1, 2):
        out = tmp_path / f"run{processes}"
        train = ["-m", "ghostnas", "train", "ghostnet", "--width", "0.3", "--data", "synthetic"]
        more = ["--recipe", str(recipe), "--device", "cpu", "--threads", "1", "--out", str(out)]
        run([*TORCHRUN, f"--nproc-per-node={processes}", *train, *more])
        found.append(weights.load(out / "model.safetensors"))
        results.append(json.loads((out / "result.json").read_text()))
        assert (out / "curve.csv").read_text().count("\n") == 2
    one, two = found
    assert one.keys() == two.keys()
    for key, array in one.items():
        np.testing.assert_allclose(two[key], array, rtol=0.02, atol=2e-3, err_msg=key)
    assert abs(results[0]["test_accuracy"] - results[1]["test_accuracy"]) < 0.02


def run(command: list[str]) -> None:
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert ran.returncode == 0, ran.stderr[-2000:]
