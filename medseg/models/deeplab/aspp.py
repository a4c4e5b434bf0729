"""Atrous spatial pyramid pooling with an image-level branch (Chen et al. 2017, section 3.3; 2018, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medseg.models.atrous import dilate
from medseg.models.blocks import Act, conv, separable
from medseg.networks import Norm


class ASPP(nn.Module):
    """A 1-wide convolution, 3-wide ones at several rates and the mean of the whole map, concatenated and projected."""

    def __init__(
        self,
        dims: int,
        inputs: int,
        outputs: int,
        rates: Sequence[Sequence[int]],
        *,
        norm: Norm,
        act: Act = "relu",
        depthwise: bool = False,
    ) -> None:
        super().__init__()
        wide = separable if depthwise else conv
        branches = [conv(dims, inputs, outputs, 1, norm=norm, act=act)]
        branches += [dilate(wide(dims, inputs, outputs, 3, norm=norm, act=act), rate) for rate in rates]
        self.branches = nn.ModuleList(branches)
        # No norm here: instance norm of a single voxel would erase it, batch norm of a batch of one as well.
        self.image_level = conv(dims, inputs, outputs, 1, norm="none", act=act)
        # The image-level branch is the same in all voxels, so that instance norm after it would remove it.
        joint: Norm = "group" if norm == "instance" else norm
        self.project = conv(dims, outputs * (len(branches) + 1), outputs, 1, norm=joint, act=act)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, S) to (N, C', S)."""
        pooled = self.image_level(x.mean(dim=tuple(range(2, x.ndim)), keepdim=True))
        parts = [branch(x) for branch in self.branches]
        out: Tensor = self.project(torch.cat([*parts, pooled.expand(-1, -1, *x.shape[2:])], dim=1))
        return out
