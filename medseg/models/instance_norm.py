"""Instance norm (Ulyanov et al. 2016) of images whose channels lie innermost, on processors.

torch computes it as a batch norm of one sample with N * C channels, for which it rearranges images with their
channels outermost, and the convolution behind it lays them out back; an activation in place behind that reshaped
tensor copies it twice more. A batch norm of each sample alone gives the same numbers and moves nothing. Its mean and
variance are taken here: torch's batch norm adds up such images number by number, and of 64^3 voxels that are mostly 0
the variance was wrong by 2e-3.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

aten = torch.ops.aten
LAYOUTS = {4: torch.channels_last, 5: torch.channels_last_3d}
# What torch's batch norm takes: numbers of the image -> numbers of scale and shift.
MIXED = {torch.float32: torch.float32, torch.float64: torch.float64, torch.bfloat16: torch.float32}


class InstanceNorm(nn.Module):
    """torch's instance norm with scale and shift, 2-D or 3-D: with its parameters, and to rounding its numbers."""

    def __init__(self, of: nn.InstanceNorm2d | nn.InstanceNorm3d) -> None:
        super().__init__()
        self.weight, self.bias, self.eps = of.weight, of.bias, of.eps

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, S) to (N, C, S), in the same layout where channels lie innermost."""
        if torch.compiler.is_compiling() or not _innermost(x) or MIXED.get(x.dtype) != self.weight.dtype:
            return F.instance_norm(x, weight=self.weight, bias=self.bias, eps=self.eps)
        normed: Tensor = _SampleBySample.apply(x, self.weight, self.bias, self.eps)  # type: ignore[no-untyped-call]
        return normed


class _SampleBySample(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, eps: float) -> Tensor:
        axes = tuple(range(2, x.ndim))
        means = x.mean(axes, keepdim=True, dtype=scale.dtype)
        variances = (x - means).square_().mean(axes)
        means, spreads = means.flatten(1), (variances + eps).rsqrt()
        out, unused = torch.empty_like(x), scale.new_empty(0)
        for n in range(len(x)):
            results = {"out": out[n : n + 1], "save_mean": unused, "save_invstd": unused}
            known = (means[n], variances[n], False, 0.0, eps)
            aten.native_batch_norm.out(x[n : n + 1], scale, shift, *known, **results)
        ctx.save_for_backward(x, scale, means, spreads)
        ctx.eps = eps
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, scale, means, spreads = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=LAYOUTS[x.ndim])
        towards, scales, shifts = torch.empty_like(x), torch.empty_like(means), torch.empty_like(means)
        for n in range(len(x)):
            results = {"out0": towards[n : n + 1], "out1": scales[n], "out2": shifts[n]}
            sample = (gradient[n : n + 1], x[n : n + 1], scale, None, None, means[n], spreads[n])
            aten.native_batch_norm_backward.out(*sample, True, ctx.eps, [True, True, True], **results)
        return towards, scales.sum(0), shifts.sum(0), None


def _innermost(x: Tensor) -> bool:
    """Whether channels lie innermost, in the memory of a processor, and each has several voxels to average."""
    several = x.device.type == "cpu" and x.ndim in LAYOUTS and x[0, 0].numel() > 1
    return several and x.is_contiguous(memory_format=LAYOUTS[x.ndim]) and not x.is_contiguous()


def with_instance_norm(network: nn.Module) -> nn.Module:
    """The network with this module for torch's wherever there is scale and shift; parameters are the same ones."""
    made: dict[nn.Module, InstanceNorm] = {}
    for parent in list(network.modules()):
        for name, layer in parent.named_children():
            if not isinstance(layer, nn.InstanceNorm2d | nn.InstanceNorm3d):
                continue
            if layer.affine and not layer.track_running_stats:
                setattr(parent, name, made.setdefault(layer, InstanceNorm(layer)))
    return network
