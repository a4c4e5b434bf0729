"""Blocks of the networks: what the library computes wrongly, and that ours do not."""

from __future__ import annotations

import pytest
import torch

from medseg.engine.placement import autocast
from medseg.models.blocks import GroupedConv2d, conv
from medseg.models.memory_layout import memory_format


def soil_memory() -> None:
    """Give memory back that holds NaN, for others to find."""
    spoiled = [torch.full((size,), float("nan")) for size in (1 << 20, 1 << 16) for _ in range(40)]
    del spoiled


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("dilation", [1, 2, 4, 6, 12])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_gradients_of_depthwise_kernels_are_those_of_double_precision(dims: int, dilation: int, precision: str) -> None:
    torch.manual_seed(0)
    layer = conv(dims, 16, 16, dilation=dilation, groups=16, norm="none", act=None)
    assert (dims == 2) == isinstance(layer.conv, GroupedConv2d)
    side = 32 if dims == 2 else 12
    x = torch.randn(2, 16, *[side] * dims).contiguous(memory_format=memory_format(dims))
    g = torch.randn(2, 16, *[side] * dims)
    exact = conv(dims, 16, 16, dilation=dilation, groups=16, norm="none", act=None).double()
    exact.load_state_dict(layer.state_dict())
    exact(x.double()).backward(g.double())
    wanted = exact.conv.weight.grad
    for _ in range(3):
        soil_memory()
        layer.zero_grad()
        with autocast("cpu", precision):
            out = layer(x)
        assert out.dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)
        out.backward(g.to(out.dtype).contiguous(memory_format=memory_format(dims)))
        error = (layer.conv.weight.grad.double() - wanted).abs().max() / wanted.abs().max()
        assert float(error) < 0.02
