"""``NetworkSpec``: what a network is built from. Free of torch, since a plan holds one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class NetworkSpec:
    """Everything that a network is built from; one of the groups of a ``Plan``.

    Attributes:
        dims: spatial dimensions, 2 or 3.
        in_channels: image channels C.
        classes: label classes K, background included.
        widths: feature channels per resolution stage, finest first.
        strides: stride of each stage's first convolution, per axis; the first stage's is 1.
        kernels: convolution kernel of each stage, per axis.
        patch: voxels per axis of the images it is trained on.
        options: what the configuration chose of the row's options.
        regions: the classes that each region unites, where regions are predicted in place of classes.
        name: row of the table of networks; empty where a builder is called directly.
    """

    dims: int
    in_channels: int
    classes: int
    widths: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    patch: tuple[int, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    regions: tuple[tuple[int, ...], ...] = ()
    name: str = ""

    @property
    def out_channels(self) -> int:
        """Channels of the output: regions if there are any, else classes."""
        return len(self.regions) or self.classes

    def width(self, wanted: int | None) -> int:
        """Channels in place of a paper's first 64: as ``wanted``, or twice the plan's first width."""
        return wanted or 2 * self.widths[0]


def total_stride(strides: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Product of the strides of all stages, per axis."""
    return tuple(math.prod(axis) for axis in zip(*strides, strict=True))
