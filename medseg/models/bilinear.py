"""Learnable upsampling that starts as linear interpolation (Long et al. 2015, section 3.3), voxels in their place."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medseg.models.layers import TRANSPOSED


class Deconvolution(nn.Module):
    """Transposed convolution from a coarse to a fine grid, initialised as linear interpolation of each channel.

    The first coarse voxel lies at ``offset`` on the fine grid: (factor - 1) / 2 if it lies in the middle of the fine
    voxels that it covers, 0 if it lies on the first of them. Weights of a triangle two factors wide are then exact
    linear interpolation; the border is repeated once, so that logits do not fade out at the edges of an image.
    As in the paper's networks every output channel has weights for every input channel; those between different ones
    start at zero.
    """

    def __init__(self, dims: int, channels: int, factor: int, offset: float) -> None:
        super().__init__()
        self.factor = factor
        # A whole offset puts coarse voxels on fine ones, where an odd kernel has its middle; a half needs an even one.
        kernel = 2 * factor - 1 if float(offset).is_integer() else 2 * factor
        begin = round(factor + (kernel - 1) / 2 - offset)
        self.crop = min(begin, factor + kernel - begin)
        self.begin = begin - self.crop
        self.conv = TRANSPOSED[dims](channels, channels, kernel, factor, self.crop, bias=False)
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.weight[range(channels), range(channels)] = triangle(dims, kernel, factor)

    def forward(self, x: Tensor) -> Tensor:
        """(N, K, S) to (N, K, factor S)."""
        size = [n * self.factor for n in x.shape[2:]]
        for axis in range(2, x.ndim):
            x = torch.cat([x.narrow(axis, 0, 1), x, x.narrow(axis, x.shape[axis] - 1, 1)], dim=axis)
        x = self.conv(x)
        for axis, n in enumerate(size, start=2):
            x = x.narrow(axis, self.begin, n)
        return x


def triangle(dims: int, kernel: int, factor: int) -> Tensor:
    """Weights (kernel per axis) of linear interpolation: products of 1 - distance / factor from the middle."""
    line = (1 - (torch.arange(kernel) - (kernel - 1) / 2).abs() / factor).clamp(min=0)
    weights = line
    for _ in range(dims - 1):
        weights = weights[..., None] * line
    return weights
