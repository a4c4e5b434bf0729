"""``NetworkSpec``: what a network is built from. Free of torch, since a plan holds one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medseg.heads import HEADS, SEMANTIC


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
        head: row of ``HEADS``, for object data; empty: data with classes or regions.
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
    head: str = ""

    @property
    def out_channels(self) -> int:
        """Channels of the output: maps of the head if it has one, regions if there are any, else classes."""
        return HEADS[self.head].channels(self.dims, self.classes) if self.head else len(self.regions) or self.classes

    @property
    def learns_objects(self) -> bool:
        """Whether its maps tell objects apart, and are learnt from codes of objects."""
        return self.head not in ("", SEMANTIC)

    @property
    def sigmoids(self) -> int:
        """Channels of the output, from the first on, that are sigmoids; 0: all are one softmax."""
        return HEADS[self.head].sigmoids if self.head else len(self.regions)

    def width(self, wanted: int | None) -> int:
        """Channels in place of a paper's first 64: as ``wanted``, or twice the plan's first width."""
        return wanted or 2 * self.widths[0]


def total_stride(strides: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Product of the strides of all stages, per axis."""
    return tuple(math.prod(axis) for axis in zip(*strides, strict=True))
