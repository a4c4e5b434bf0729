"""What a plan says about a network's shape."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """Shape of a network.

    Attributes:
        dims: spatial dimensions, 2 or 3.
        in_channels: image channels C.
        out_channels: classes K, background included.
        widths: feature channels per resolution stage, finest first.
        strides: stride of each stage's first convolution, per axis; the first stage's is 1.
        kernels: convolution kernel of each stage, per axis.
        patch: voxels per axis of the images it is trained on.
        options: what the configuration chose of the row's options.
    """

    dims: int
    in_channels: int
    out_channels: int
    widths: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    patch: tuple[int, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    def width(self, wanted: int | None) -> int:
        """Channels in place of a paper's first 64: as ``wanted``, or twice the plan's first width."""
        return wanted or 2 * self.widths[0]
