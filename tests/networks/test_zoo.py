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


# Millions of multiply-adds in the names of the authors' released files.
REPGHOST = {0.5: 43, 0.58: 60, 0.8: 96, 1.0: 142, 1.11: 170, 1.3: 231, 1.5: 301, 2.0: 516}


@pytest.mark.parametrize(("width", "millions"), REPGHOST.items())
def test_repghostnet_deployed_costs_what_the_release_costs(width, millions):
    assert round(count(zoo.repghostnet(width)).macs / 1e6) == millions


@pytest.mark.parametrize(
    ("width", "millions", "params"), [(1.0, 167, 6.1), (1.3, 269, 8.9), (1.6, 399, 12.3)]
)
def test_ghostnetv2_costs_what_the_paper_prints(width, millions, params):
    counted = count(zoo.ghostnetv2(width))
    assert round(counted.macs / 1e6) == millions
    assert counted.params / 1e6 == pytest.approx(params, abs=0.1)


@pytest.mark.parametrize("width", [0.5, 1.0, 1.3, 1.6])
def test_ghostnetv3_is_ghostnetv2_when_deployed_but_for_the_sums_of_its_biases(width):
    merged, plain = count(zoo.ghostnetv3(width)), count(zoo.ghostnetv2(width))
    assert merged.macs == plain.macs
    assert 0 < plain.params - merged.params < 0.005 * plain.params
