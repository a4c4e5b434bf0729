"""Features of an image at several strides, all of them rich (Lin et al. 2017, arXiv 1612.03144)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medseg.models.blocks import conv
from medseg.models.encoders.encoder import Encoder
from medseg.networks import Norm


@dataclass(frozen=True, slots=True)
class Level:
    """A map of features: its voxel i is at ``i * stride + centre`` in voxels of the image."""

    stride: int
    centre: float

    def size(self, image: Sequence[int]) -> tuple[int, ...]:
        """Voxels per axis for an image of this size."""
        return tuple(-(-n // self.stride) for n in image)

    def points(self, image: Sequence[int], device: torch.device) -> Tensor:
        """(L, 2) where its voxels are, in raster order; the image's first voxel reaches from 0 to 1."""
        lines = [torch.arange(n, device=device) * self.stride + self.centre + 0.5 for n in self.size(image)]
        return torch.stack(torch.meshgrid(*lines, indexing="ij"), dim=-1).flatten(0, 1).float()


class Pyramid(nn.Module):
    """From coarse to fine, enlarged features are added to those of the next finer level.

    Attributes:
        levels: of the maps that it gives, finest first.
    """

    def __init__(self, encoder: Encoder, finest: int, channels: int, norm: Norm, *, single: bool = False) -> None:
        super().__init__()
        self.encoder = encoder
        last = {stride: place for place, stride in enumerate(encoder.strides) if stride >= finest}
        strides = [max(last)] if single else sorted(last)
        self.taken = [last[stride] for stride in strides]
        self.levels = tuple(Level(stride, encoder.centre(stride)) for stride in strides)
        self.lateral = nn.ModuleList(
            conv(2, encoder.channels[place], channels, 1, norm=norm, act=None) for place in self.taken
        )
        self.smooth = nn.ModuleList(conv(2, channels, channels, 3, norm=norm) for _ in self.taken)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, C, S) to a map (N, C', ceil(S / stride)) for each of ``levels``."""
        features = self.encoder(x)
        sums: list[Tensor] = []
        for place, lateral in reversed(list(zip(self.taken, self.lateral, strict=True))):
            here = lateral(features[place])
            if sums:
                up = F.interpolate(sums[-1], scale_factor=2, mode="nearest")
                here = here + up[..., : here.shape[2], : here.shape[3]]
            sums.append(here)
        return [smooth(level) for smooth, level in zip(self.smooth, reversed(sums), strict=True)]
