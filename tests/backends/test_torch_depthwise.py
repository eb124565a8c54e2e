import pytest
import torch
from torch import nn

from ghostnas.backends.torch_depthwise import DepthwiseConv2d


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
