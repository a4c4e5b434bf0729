"""What a plan says about a network's shape."""

from __future__ import annotations

from dataclasses import dataclass


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
    """

    dims: int
    in_channels: int
    out_channels: int
    widths: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
