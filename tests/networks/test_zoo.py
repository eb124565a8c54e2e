import pytest

from ghostnas import api
from ghostnas.errors import InputError
from ghostnas.ir import cost
from ghostnas.ir.graph import Graph
from ghostnas.networks import zoo
from ghostnas.networks.arch import lower


def count(arch):
    return cost.count(lower(arch))


def test_ghostnet_costs_what_the_release_costs():
    counted = count(zoo.ghostnet())
    assert (counted.params, counted.macs) == (5_182_508, 141_150_512)


def test_ghostnet_at_half_width_is_the_papers_table_7():
    counted = count(zoo.ghostnet(0.5))
    assert round(counted.macs / 1e6) == 42
    assert round(counted.params / 1e6, 1) == 2.6


def test_ghostnet_at_width_1_3_follows_the_released_rounding():
    # Table 7 prints 226 M and 7.3 M.
    counted = count(zoo.ghostnet(1.3))
    assert (counted.params, counted.macs) == (7_358_820, 227_003_256)
    assert counted.macs == pytest.approx(226e6, rel=0.01)


def test_ghostnet_1_1_without_its_last_layers_is_the_backbone_of_table_8():
    graph = lower(zoo.ghostnet(1.1))
    backbone = Graph(
        tuple(node for node in graph.nodes if node.name not in ("conv_head", "classifier"))
    )
    assert round(cost.count(backbone).macs / 1e6) == 164


def test_mobilenetv3_large_costs_what_the_release_costs():
    counted = count(zoo.mobilenetv3_large())
    assert (counted.params, counted.macs) == (5_483_032, 216_589_760)


@pytest.mark.parametrize("name", sorted(zoo.ZOO))
def test_named_passes_on_width_resolution_and_classes(name):
    arch = zoo.named(name, width=0.5, resolution=64, classes=10)
    assert (arch.resolution, arch.classes) == (64, 10)
    assert arch == zoo.ZOO[name](0.5, 64, 10)
    assert count(arch).params < count(zoo.named(name, classes=10)).params
    assert lower(arch).output_shape == (10,)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(InputError, match=r"'ghostnt'.*ghostnet.*mobilenetv3-large"):
        zoo.named("ghostnt")


def test_a_network_that_is_no_architecture_can_be_shown_and_says_so() -> None:
    shown = api.show("resnet50", target="arm")
    assert shown["params"] == 25_557_032
    assert shown["latency_ms"] > 0
    assert api.show("resnet50", resolution=160)["resolution"] == 160
    assert api.show("mobilenetv2", width=0.5)["macs"] < api.show("mobilenetv2")["macs"]
    with pytest.raises(InputError, match="resnet50 can be shown, and trained by ghostnas paper"):
        zoo.find("resnet50")


def test_an_architectures_graph_is_the_same_by_either_way() -> None:
    assert zoo.graph("ghostnet", 0.5) == lower(zoo.ghostnet(0.5))
