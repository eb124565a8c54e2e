"""NAS-Bench-Macro's networks as ours: their published counts, and their keys."""

import importlib.util
import json
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ghostnas.errors import InputError
from ghostnas.ir import cost
from ghostnas.networks import zoo
from ghostnas.networks.arch import fit_to, from_json, lower, to_json

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "experiments" / "nas_bench_macro.py"
PUBLISHED = {  # parameters and FLOPs, from the published file
    "00000000": (387_882, 7_713_280),
    "11111111": (1_588_874, 53_246_464),
    "12101011": (1_398_858, 50_790_912),
    "20120210": (1_348_266, 51_593_728),
    "22222222": (2_932_586, 105_660_928),
}


def load_script():
    spec = importlib.util.spec_from_file_location("nas_bench_macro", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look up their module
    spec.loader.exec_module(module)
    return module


macro = load_script()


@pytest.mark.parametrize(("key", "published"), PUBLISHED.items())
def test_counts_agree_with_the_published_ones_to_the_unit(key, published):
    counts = cost.count(lower(macro.arch_of(key)))
    assert (counts.params, counts.macs) == published


def test_a_network_has_one_key():
    searched, rng = macro.load_space(), random.Random(0)
    for _ in range(50):
        params = searched.sample(rng)
        key = macro.key_of_params(params)
        assert macro.params_of(key) == params
        assert macro.key_of(searched.decode(params)) == key
    assert macro.key_of_params({}) == "11111111"
    assert len(set(macro.keys())) == 3**8
    larger = fit_to(macro.arch_of("12101011"), resolution=224, classes=3)
    assert macro.key_of(from_json(to_json(larger))) == "12101011"


@pytest.mark.parametrize("key", ["1210101", "121010111", "12101013", "1210101x"])
def test_another_key_is_refused(key):
    with pytest.raises(InputError, match="is not a key of NAS-Bench-Macro"):
        macro.params_of(key)


def test_another_network_is_refused():
    one = macro.arch_of("12101011")
    for other in (zoo.ghostnet(), replace(one, stem=replace(one.stem, stride=2))):
        with pytest.raises(InputError, match="is not one of NAS-Bench-Macro"):
            macro.key_of(other)


def test_the_command_compares_a_file(tmp_path):
    rows = {
        key: {"test_acc": [90.0, 91.0, 92.0], "params": params, "flops": macs + (key[0] == "0")}
        for key, (params, macs) in PUBLISHED.items()
    }
    path = tmp_path / "file.json"
    path.write_text(json.dumps(rows))
    printed = subprocess.run(
        [sys.executable, SCRIPT, "12101011", "00000000", "--file", path],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "12101011: 1,398,858 parameters, 50,790,912 MACs, 91.00 %" in printed
    assert "1 networks' counts differ" in printed
    assert macro.load_rows(path)["22222222"].accuracies == (90.0, 91.0, 92.0)
