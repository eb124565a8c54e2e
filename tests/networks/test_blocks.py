import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ghostnas.ir.graph import (
    Activation,
    AvgPool,
    BatchNorm,
    Builder,
    Concat,
    Conv,
    Narrow,
    weight_shapes,
)
from ghostnas.networks import blocks
from ghostnas.networks.blocks import (
    BLOCK_TYPES,
    GhostBlock,
    GhostV2Block,
    GhostV3Block,
    MBConv,
    RepGhostBlock,
    SkipBlock,
    make_divisible,
)
from ghostnas.networks.blocks.layers import efficient_attention_kernel


def build(block, channels=16, size=8, stride=None):
    builder = Builder((channels, size, size))
    block.build(builder, 0, "b", stride)
    return builder.build()


def ops(graph):
    return {node.name: node.op for node in graph.nodes}


def weights(graph):
    return {key: shape for node in graph.nodes for key, shape in weight_shapes(node).items()}


@pytest.mark.parametrize(
    ("value", "divisor", "expected"),
    [(16, 4, 16), (8.8, 4, 8), (10, 4, 12), (22, 16, 32), (1, 4, 4), (20.8, 4, 20), (18, 8, 24)],
)
def test_make_divisible(value, divisor, expected):
    assert make_divisible(value, divisor) == expected


@given(value=st.floats(0.1, 2000), divisor=st.integers(1, 64))
def test_make_divisible_never_removes_more_than_a_tenth(value, divisor):
    rounded = make_divisible(value, divisor)
    assert rounded % divisor == 0
    assert 0.9 * value <= rounded <= value + divisor


def test_a_ghost_block_of_stride_1_that_keeps_its_width_is_two_ghost_modules_and_a_sum():
    graph = build(GhostBlock(hidden_channels=48, out_channels=16))
    convs = {node.name: node.op for node in graph.nodes if isinstance(node.op, Conv)}
    assert convs == {
        "b.ghost1.primary_conv.0": Conv(in_channels=16, out_channels=24),
        "b.ghost1.cheap_operation.0": Conv(in_channels=24, out_channels=24, kernel=3, groups=24),
        "b.ghost2.primary_conv.0": Conv(in_channels=48, out_channels=8),
        "b.ghost2.cheap_operation.0": Conv(in_channels=8, out_channels=8, kernel=3, groups=8),
    }
    relus = [node.name for node in graph.nodes if isinstance(node.op, Activation)]
    assert relus == ["b.ghost1.primary_conv.2", "b.ghost1.cheap_operation.2"]
    assert graph.nodes[-1].name == "b.add"
    assert 0 in graph.nodes[-1].inputs


def test_a_ghost_module_puts_the_convolved_maps_before_the_cheap_ones():
    graph = build(GhostBlock(hidden_channels=48, out_channels=16))
    concat = next(node for node in graph.nodes if isinstance(node.op, Concat))
    assert [graph.nodes[source].name for source in concat.inputs] == [
        "b.ghost1.primary_conv.2",
        "b.ghost1.cheap_operation.2",
    ]


def test_a_ghost_block_of_stride_2_has_a_depthwise_convolution_and_a_convolved_shortcut():
    graph = build(GhostBlock(hidden_channels=48, out_channels=24, kernel=5, stride=2))
    named = ops(graph)
    wide = Conv(in_channels=48, out_channels=48, kernel=5, stride=2, groups=48)
    assert named["b.conv_dw"] == wide
    assert named["b.shortcut.0"] == Conv(
        in_channels=16, out_channels=16, kernel=5, stride=2, groups=16
    )
    assert named["b.shortcut.2"] == Conv(in_channels=16, out_channels=24)
    assert graph.output_shape == (24, 4, 4)


def test_a_ghost_block_that_widens_at_stride_1_has_a_shortcut_but_no_depthwise_convolution():
    named = ops(build(GhostBlock(hidden_channels=48, out_channels=24)))
    assert "b.shortcut.0" in named
    assert "b.conv_dw" not in named


@pytest.mark.parametrize(
    ("block", "channels", "same"),
    [
        (GhostBlock(hidden_channels=48, out_channels=16), 16, True),
        (GhostBlock(hidden_channels=48, out_channels=16), 12, False),
        (GhostBlock(hidden_channels=48, out_channels=16, stride=2), 16, False),
    ],
)
def test_the_kernel_changes_nothing_exactly_where_the_shortcut_is_the_identity(
    block, channels, same
):
    other = GhostBlock(
        hidden_channels=block.hidden_channels,
        out_channels=block.out_channels,
        stride=block.stride,
        kernel=7,
    )
    assert block.keeps_shape(channels) is same
    assert (build(block, channels) == build(other, channels)) is same


def test_squeeze_excite_narrows_by_its_ratio_and_has_biases():
    shapes = weights(build(GhostBlock(hidden_channels=72, out_channels=16, se_ratio=0.25)))
    se = {key: shape for key, shape in shapes.items() if ".se." in key}
    assert se == {
        "b.se.conv_reduce.weight": (20, 72, 1, 1),
        "b.se.conv_reduce.bias": (20,),
        "b.se.conv_expand.weight": (72, 20, 1, 1),
        "b.se.conv_expand.bias": (72,),
    }


def test_both_ghost_modules_use_the_cheap_kernel():
    graph = build(GhostBlock(hidden_channels=48, out_channels=16, cheap_kernel=5))
    kernels = [op.kernel for name, op in ops(graph).items() if name.endswith("operation.0")]
    assert kernels == [5, 5]


def test_a_ghost_ratio_that_does_not_divide_makes_too_many_maps_and_drops_the_last():
    graph = build(GhostBlock(hidden_channels=32, out_channels=16, ghost_ratio=3))
    named = ops(graph)
    assert named["b.ghost1.primary_conv.0"].out_channels == 11
    assert named["b.ghost1.cheap_operation.0"].out_channels == 22
    assert named["b.ghost1.narrow"] == Narrow(channels=32)
    assert "b.ghost1.narrow" not in ops(build(GhostBlock(hidden_channels=32, out_channels=16)))


def test_a_ghost_ratio_of_1_is_a_plain_convolution():
    graph = build(GhostBlock(hidden_channels=32, out_channels=16, ghost_ratio=1))
    assert not any("cheap" in node.name or isinstance(node.op, Concat) for node in graph.nodes)
    assert graph.output_shape == (16, 8, 8)


@pytest.mark.parametrize(
    "block",
    [
        GhostBlock(hidden_channels=48, out_channels=16, kernel=5, stride=2, se_ratio=0.25),
        MBConv(hidden_channels=32, out_channels=16, kernel=5, stride=2, se_channels=8),
        SkipBlock(out_channels=16, stride=2),
        GhostV2Block(hidden_channels=48, out_channels=16, kernel=5, stride=2, se_ratio=0.25),
        RepGhostBlock(hidden_channels=24, out_channels=16, kernel=5, stride=2, se_ratio=0.25),
        GhostV3Block(hidden_channels=48, out_channels=16, kernel=5, stride=2),
    ],
    ids=["ghost", "mbconv", "skip", "ghostv2", "repghost", "ghostv3"],
)
def test_a_block_whose_stride_is_dropped_keeps_its_ops_and_weights_and_the_size(block):
    dropped, own = build(block, stride=1), build(block)
    assert (dropped.output_shape, own.output_shape) == ((16, 8, 8), (16, 4, 4))
    assert weights(dropped) == weights(own)
    assert [node.name for node in dropped.nodes] == [node.name for node in own.nodes]
    assert {op.stride for op in ops(dropped).values() if isinstance(op, Conv)} == {1}
    assert {op.kernel for op in ops(dropped).values() if isinstance(op, AvgPool)} <= {2}


def test_an_mbconv_expands_convolves_and_projects():
    block = MBConv(
        hidden_channels=64,
        out_channels=24,
        kernel=5,
        stride=2,
        se_channels=12,
        activation="hard_swish",
    )
    graph = build(block)
    assert [node.name.removeprefix("b.") for node in graph.nodes] == [
        *("input", "conv_pw", "bn1", "act1", "conv_dw", "bn2", "act2"),
        *("se.pool", "se.conv_reduce", "se.act1", "se.conv_expand", "se.gate", "se.scale"),
        *("conv_pwl", "bn3"),
    ]
    named = ops(graph)
    assert named["b.conv_dw"] == Conv(
        in_channels=64, out_channels=64, kernel=5, stride=2, groups=64
    )
    assert named["b.act1"] == named["b.act2"] == Activation(kind="hard_swish")
    assert named["b.se.conv_reduce"].out_channels == 12
    assert graph.output_shape == (24, 4, 4)


@pytest.mark.parametrize(
    ("hidden", "out", "stride", "expands", "adds"),
    [(16, 16, 1, False, True), (32, 16, 1, True, True), (32, 24, 1, True, False),
     (32, 16, 2, True, False)],
)  # fmt: skip
def test_an_mbconv_expands_and_adds_only_where_it_can(hidden, out, stride, expands, adds):
    named = ops(build(MBConv(hidden_channels=hidden, out_channels=out, stride=stride)))
    assert ("b.conv_pw" in named) is expands
    assert ("b.add" in named) is adds


def test_a_skipped_block_is_nothing_where_the_shape_stays():
    assert [node.name for node in build(SkipBlock(out_channels=16)).nodes] == ["input"]


@pytest.mark.parametrize(("out", "stride"), [(24, 1), (16, 2), (24, 2)])
def test_a_skipped_block_that_changes_the_shape_is_one_convolution(out, stride):
    graph = build(SkipBlock(out_channels=out, stride=stride))
    assert ops(graph) == {
        "input": graph.nodes[0].op,
        "b.conv": Conv(in_channels=16, out_channels=out, stride=stride),
        "b.bn": BatchNorm(channels=out),
    }


def test_block_types_are_found_by_the_name_that_files_use():
    assert {"ghost": GhostBlock, "mbconv": MBConv, "skip": SkipBlock}.items() <= BLOCK_TYPES.items()
    assert all(block_type.type_name == name for name, block_type in BLOCK_TYPES.items())
    assert list(blocks.block_types_of(blocks)) == []  # what a module only imports is not its own


def names(graph):
    return [node.name.removeprefix("b.") for node in graph.nodes]


def test_with_s_of_2_a_split_cheap_operation_is_the_same():
    block = {"hidden_channels": 32, "out_channels": 16, "stride": 2}
    assert build(GhostBlock(**block, split=True)) == build(GhostBlock(**block))


@pytest.mark.parametrize("ratio", [3, 4, 5])
def test_a_split_cheap_operation_has_a_depthwise_convolution_for_each_map(ratio):
    block = GhostBlock(hidden_channels=40, out_channels=16, ghost_ratio=ratio, split=True)
    graph = build(block)
    primary = -(-40 // ratio)
    cheap = [op for name, op in ops(graph).items() if "ghost1.cheap" in name and "0" in name[-2:]]
    assert cheap == [Conv(in_channels=primary, out_channels=primary, kernel=3, groups=primary)] * (
        ratio - 1
    )
    joint = build(GhostBlock(hidden_channels=40, out_channels=16, ghost_ratio=ratio))
    sizes = [sum(math.prod(shape) for shape in weights(each).values()) for each in (graph, joint)]
    assert sizes[0] == sizes[1]


def test_efficient_attention_is_one_kernel_along_the_channels():
    graph = build(GhostBlock(hidden_channels=48, out_channels=16, eca_kernel=3))
    at = names(graph).index("eca.pool")
    assert names(graph)[at : at + 4] == ["eca.pool", "eca.conv", "eca.gate", "eca.scale"]
    assert weights(graph)["b.eca.conv.weight"] == (1, 1, 3)
    assert not any(".se." in name for name in names(graph))
    # ECA-Net, equation 12: |log2(C) / 2 + 1 / 2|, odd
    assert [efficient_attention_kernel(n) for n in (16, 64, 128, 256, 512)] == [3, 3, 5, 5, 5]


def test_decoupled_attention_gates_the_first_module_at_half_the_size():
    graph = build(GhostV2Block(hidden_channels=48, out_channels=16), size=7)
    shapes = {name: node.shape for name, node in zip(names(graph), graph.nodes, strict=True)}
    assert shapes["ghost1.pool"] == (16, 3, 3)
    assert shapes["ghost1.short_conv.5"] == (48, 3, 3)
    assert shapes["ghost1.upsample"] == shapes["ghost1.attended"] == (48, 7, 7)
    own = weights(graph)
    assert own["b.ghost1.short_conv.2.weight"] == (48, 1, 1, 5)
    assert own["b.ghost1.short_conv.4.weight"] == (48, 1, 5, 1)
    assert not any("ghost2.short" in name for name in shapes)


def test_decoupled_attention_of_one_pixel_halves_nothing():
    graph = build(GhostV2Block(hidden_channels=48, out_channels=16), size=1)
    assert not {"ghost1.pool", "ghost1.upsample"} & set(names(graph))
    assert weights(graph) == weights(build(GhostV2Block(hidden_channels=48, out_channels=16)))


def test_a_repghost_module_adds_where_ghostnets_concatenates():
    graph = build(RepGhostBlock(hidden_channels=24, out_channels=16))
    assert names(graph)[1:9] == [
        *("ghost1.primary_conv.0", "ghost1.primary_conv.1", "ghost1.primary_conv.2"),
        *("ghost1.cheap_operation.0", "ghost1.cheap_operation.1", "ghost1.fusion_bn.0"),
        *("ghost1.fused", "ghost1.relu"),
    ]
    assert names(graph)[-2:] == ["ghost2.fused", "add"]
    assert not any(isinstance(op, Concat) for op in ops(graph).values())


def test_a_ghostv3_block_has_three_branches_of_each_convolution_and_one_of_1x1():
    graph = build(GhostV3Block(hidden_channels=48, out_channels=24, stride=2, attended=False))
    convs = [name for name, op in ops(graph).items() if isinstance(op, Conv)]
    for what, count in (("ghost1.primary", 3), ("ghost1.cheap", 4), ("dw_rpr", 4)):
        assert sum(f"b.{what}" in name for name in convs) == count
    assert "ghost1.upsample" not in names(graph)
    assert "b.ghost1.cheap_rpr_skip.weight" in weights(graph)
