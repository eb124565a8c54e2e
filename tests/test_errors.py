"""Errors about an unknown name suggest what was meant."""

import pytest

from ghostnas.data import datasets
from ghostnas.errors import InputError, did_you_mean
from ghostnas.latency import table
from ghostnas.networks import space, zoo
from ghostnas.training import recipe

KNOWN = ["cortex-a76", "cortex-a76-int8", "pixel4-cpu1-fp32", "s10-cpu1-fp32"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("pixel4", "pixel4-cpu1-fp32"),
        ("Pixel4-CPU1-fp32 ", "pixel4-cpu1-fp32"),
        ("cortex", "cortex-a76 or cortex-a76-int8"),
        ("cotrex-a76", "cortex-a76 or cortex-a76-int8"),
    ],
)
def test_prefixes_and_similar_spellings_are_suggested(name: str, meant: str) -> None:
    assert did_you_mean(name, KNOWN) == f"; did you mean {meant}?"


@pytest.mark.parametrize("name", ["", " ", "zzz", "/no/such/table.csv"])
def test_a_name_like_no_other_gets_no_suggestion(name: str) -> None:
    assert did_you_mean(name, KNOWN) == ""


@pytest.mark.parametrize(
    ("find", "name", "meant"),
    [
        (table.load, "pixel4", "pixel4-cpu1-fp32"),
        (zoo.find, "gostnet", "ghostnet"),
        (zoo.named, "mobilenetv3", "mobilenetv3-large"),
        (space.load, "gostnet", "ghostnet"),
        (recipe.load, "cifar-shrt", "cifar-short"),
        (datasets.load, "cifar11:x", "cifar10"),
        (datasets.locate, "imagnet:x", "imagenet"),
    ],
)
def test_every_kind_of_name_gets_suggestions(find, name: str, meant: str) -> None:
    with pytest.raises(InputError, match=rf"did you mean .*\b{meant}\b.*\?$"):
        find(name)
