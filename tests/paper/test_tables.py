"""The counted tables: what agrees with the paper to its last digit, and why the rest does not."""

import pytest

from ghostnas.errors import InputError
from ghostnas.ir import cost
from ghostnas.networks import zoo
from ghostnas.paper import tables
from ghostnas.paper.subjects import Subject


def rows(name: str) -> dict[str, dict]:
    return {row["network"]: row for row in tables.counted(name)["rows"]}


def test_every_row_of_table_1_is_as_printed() -> None:
    found = tables.counted("table1")["rows"]
    assert len(found) == 21
    assert all(row["agrees"] for row in found)
    assert sum(row["params"] for row in found) == 5_182_508
    assert sum(row["macs"] for row in found) == 141_150_512


@pytest.mark.parametrize("name", ["table3", "table4"])
def test_every_row_for_vgg_agrees_to_the_digit(name: str) -> None:
    found = rows(name)
    assert len(found) == 5
    for row in found.values():
        assert row["params"]["agrees"]
        assert row["macs"]["agrees"]


def test_ghost_vgg16_counts_what_it_should() -> None:
    found = rows("table3")["d = 3"]
    assert found["params"]["ours"] == 7_651_498
    assert found["macs"]["ours"] == 158_109_696


def test_the_compressed_networks_of_others_have_no_count_of_ours() -> None:
    found = rows("table5")
    assert found["SBP-VGG-16"]["params"] is None
    assert found["l1-VGG-16"]["macs"]["ours"] is None
    assert found["l1-VGG-16"]["macs"]["agrees"] is None


def test_ghost_resnet50_is_within_the_printed_digits_of_s_2() -> None:
    found = rows("table6")
    assert found["ResNet-50"]["params"]["ours"] == 25_557_032  # torchvision's
    assert found["Ghost-ResNet-50 (s=2)"]["params"]["agrees"]
    assert found["Ghost-ResNet-50 (s=2)"]["macs"]["agrees"]
    assert found["Ghost-ResNet-50 (s=4)"]["macs"]["agrees"]


def test_what_disagrees_in_tables_5_to_7_says_why() -> None:
    for name in ("table5", "table6", "table7"):
        for row in rows(name).values():
            figures = [row[key] for key in ("params", "macs") if row[key]]
            if any(figure["agrees"] is False for figure in figures):
                assert row["note"], row["network"]


def test_parameters_of_table_7_that_others_publish() -> None:
    """As torchvision's and timm's documentation have them."""
    found = rows("table7")
    assert found["MobileNetV2 1.0x"]["params"]["ours"] == 3_504_872
    assert found["ShuffleNetV2 1.0x"]["params"]["ours"] == 2_278_604
    assert found["ShuffleNetV2 0.5x"]["params"]["ours"] == 1_366_792
    assert found["MobileNetV3-L 1.0x"]["params"]["ours"] == 5_483_032
    assert found["ProxylessNAS"]["params"]["ours"] == 4_080_512


def test_no_accuracy_is_ours_before_it_is_trained() -> None:
    for name in tables.COUNTED:
        for row in tables.counted(name)["rows"]:
            assert row["top1"]["ours"] is None
        assert "untrained" in tables.text(tables.counted(name))


def test_the_backbone_of_table_8_is_ghostnet_without_its_classifier() -> None:
    found = {(row["framework"], row["backbone"]): row for row in tables.counted("table8")["rows"]}
    ghost = found["RetinaNet", "GhostNet 1.1x"]["macs"]
    assert ghost["agrees"]
    whole = cost.count(zoo.graph("ghostnet", 1.1)).macs
    assert ghost["ours"] == whole - 1056 * 1280 - 1280 * 1000
    backbone = tables.backbone_of(Subject(network="ghostnet", width=1.1))
    assert cost.count(backbone).macs == ghost["ours"]
    assert backbone.output_shape[1:] == (7, 7)


@pytest.mark.parametrize(
    ("text", "ours", "agrees"),
    [
        ("7.7", 7_651_498, True),
        ("7.6", 7_651_498, True),
        ("7.5", 7_651_498, False),
        ("2200", 2_150_004_000, True),
        ("2100", 2_250_004_000, False),
        ("65", 65_665_296, True),
        ("0.43", 439_914, True),
        ("0.43", 440_100, False),
    ],
)
def test_figures_agree_within_a_unit_of_the_last_digit(text: str, ours: int, agrees: bool) -> None:
    found = tables.figure(text, ours)
    assert found is not None
    assert found["agrees"] is agrees


def test_an_unknown_table_is_one_line() -> None:
    with pytest.raises(InputError, match="did you mean table"):
        tables.counted("tabel3")
