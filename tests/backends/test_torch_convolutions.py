import pytest
import torch
from torch import nn

from ghostnas.backends.torch_convolutions import (
    DepthwiseConv2d,
    PointwiseConv2d,
    native_bfloat16,
    use_bfloat16,
)


@pytest.mark.parametrize("kernel", [1, 3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("copies", [1, 2, 3])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("size", [1, 8, 9])
def test_values_and_gradients_are_those_of_pytorchs(kernel, stride, copies, bias, size):
    torch.manual_seed(0)
    shape = (4, 4 * copies, kernel, stride, kernel // 2)
    plain = nn.Conv2d(*shape, groups=4, bias=bias)
    quick = DepthwiseConv2d(*shape, groups=4, bias=bias)
    quick.load_state_dict(plain.state_dict())
    x = torch.randn(3, 4, size, size).to(memory_format=torch.channels_last)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    outputs = [net(each) for net, each in zip((plain, quick), inputs, strict=True)]
    torch.testing.assert_close(*outputs)
    upstream = torch.randn_like(outputs[0])
    for each in outputs:
        each.backward(upstream)
    torch.testing.assert_close(inputs[0].grad, inputs[1].grad)
    for mine, theirs in zip(quick.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad)
    own_way = type(outputs[1].grad_fn) is not type(outputs[0].grad_fn)
    assert own_way == (copies > 1 or kernel > 3)
    torch.testing.assert_close(quick.eval()(x), outputs[0])


def pair(bias: bool) -> tuple[nn.Conv2d, PointwiseConv2d]:
    torch.manual_seed(0)
    plain, mixed = nn.Conv2d(24, 40, 1, bias=bias), PointwiseConv2d(24, 40, 1, bias=bias)
    mixed.load_state_dict(plain.state_dict())
    return plain, mixed


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("size", [1, 2, 7])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_learning_in_bfloat16_rounds_and_no_more(bias, size, layout):
    plain, mixed = pair(bias)
    use_bfloat16(nn.Sequential(mixed))
    x = torch.randn(3, 24, size, size).contiguous(memory_format=layout)
    inputs = [x.clone().requires_grad_() for _ in range(2)]
    wanted, found = (net(each) for net, each in zip((plain, mixed), inputs, strict=True))
    upstream = torch.randn_like(wanted)
    wanted.backward(upstream)
    found.backward(upstream)
    pairs = [(found, wanted), (inputs[1].grad, inputs[0].grad)]
    pairs += zip(
        (each.grad for each in mixed.parameters()),
        (each.grad for each in plain.parameters()),
        strict=True,
    )
    for mine, true in pairs:
        assert mine.dtype == torch.float32
        assert mine.shape == true.shape
        error = (mine - true).norm() / true.norm()
        assert error < 0.006  # bfloat16 has 8 bits
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert not torch.equal(found, wanted)
    if bias:
        torch.testing.assert_close(mixed.bias.grad, plain.bias.grad)


@pytest.mark.parametrize("way", ["not told to", "evaluation", "without gradients"])
def test_otherwise_it_is_pytorchs_convolution_to_the_bit(way):
    plain, mixed = pair(bias=True)
    x = torch.randn(3, 24, 5, 5)
    if way != "not told to":
        use_bfloat16(mixed)
    if way == "evaluation":
        mixed.eval()
    with torch.set_grad_enabled(way != "without gradients"):
        assert torch.equal(mixed(x), plain(x))


def test_a_part_of_a_larger_network_whose_input_needs_no_gradient():
    _, mixed = pair(bias=False)
    use_bfloat16(mixed)
    mixed(torch.randn(2, 24, 3, 3)).sum().backward()
    assert mixed.weight.grad.abs().sum() > 0


def test_an_older_pytorch_that_cannot_tell_gets_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not native_bfloat16()
    monkeypatch.setattr(
        torch.cpu,
        "get_capabilities",
        lambda: {"avx512_bf16": True},
        raising=False,
    )
    assert native_bfloat16()
