"""Sliding-window prediction: where windows stand and how their outputs are blended."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medseg.patches.blending import Blocks, Rows, Sums

# Share of a window that its neighbour covers too (Isensee et al. 2021).
OVERLAP = 0.5


def window_starts(size: int, window: int, overlap: float = OVERLAP) -> list[int]:
    """Start positions along one axis: evenly spaced, the last window flush with the end.

    As nnU-Net places them (Isensee et al. 2021): 110 voxels and a window of 64 at overlap 0.5 give 0, 23, 46.
    """
    if window >= size:
        return [0]
    step = max(1, int(window * (1 - overlap)))
    count = math.ceil((size - window) / step) + 1
    return [round(i * (size - window) / (count - 1)) for i in range(count)]


def gaussian_window(window: Sequence[int], sigma_scale: float = 0.125) -> Tensor:
    """Blending weights (S): a Gaussian with sigma = window / 8, peak 1, never below 1e-3."""
    weights = torch.ones(())
    for n in window:
        x = torch.arange(n, dtype=torch.float32) - (n - 1) / 2
        weights = weights[..., None] * torch.exp(-0.5 * (x / (n * sigma_scale)) ** 2)
    return weights.clamp_min(1e-3)


def slab_axis(shape: Sequence[int], window: Sequence[int]) -> int:
    """The spatial axis along which windows are shortest for the image: slabs across it are thinnest."""
    return min(range(len(shape)), key=lambda a: window[a] / shape[a])


def predict_tiled(
    network: Callable[[Tensor], Tensor],
    image: Tensor,
    window: Sequence[int],
    *,
    overlap: float = OVERLAP,
    batch: int = 4,
    slice_axis: int | None = None,
) -> Tensor:
    """All of ``predict_slabs`` in one: (K, S) float32 on the CPU."""
    slabs = predict_slabs(network, image, window, overlap=overlap, batch=batch, slice_axis=slice_axis)
    return torch.cat(list(slabs), dim=1)


def predict_slabs(
    network: Callable[[Tensor], Tensor],
    image: Tensor | Blocks,
    window: Sequence[int],
    *,
    axis: int = 0,
    overlap: float = OVERLAP,
    batch: int = 4,
    slice_axis: int | None = None,
    begin: int = 0,
) -> Iterator[Tensor]:
    """Blend the network's outputs over overlapping windows; only what later windows still change is held in memory.

    Args:
        network: maps (N, C, window) to (N, K, window); without the slice axis, if there is one.
        image: (C, S), on the network's device, or blocks of it along ``axis``. An axis shorter than the window is
            padded with zeros on both sides.
        window: window shape.
        axis: spatial axis that slabs are cut along (see ``slab_axis``).
        overlap: share of a window that its neighbour covers too.
        batch: windows per network call.
        slice_axis: spatial axis of which the network sees one voxel at a time (a 2-D network on a volume): windows are
            one voxel thick there, so that slices do not overlap.
        begin: row along ``axis`` of the image from which on slabs are wanted: what is left out changes no bit of them.

    Yields:
        (K, slab) float32 on the CPU, slab after slab along ``axis``: the weighted mean of the windows' outputs, weights
        of every voxel summing to one.
    """
    blocks = Blocks.of(image, axis) if isinstance(image, Tensor) else image
    pads = [max(0, w - n) for w, n in zip(window, blocks.shape[1:], strict=True)]
    before = [p // 2 for p in pads]
    padded = [n + p for n, p in zip(blocks.shape[1:], pads, strict=True)]
    inside = [slice(b, b + n) for b, n in zip(before, blocks.shape[1:], strict=True)]
    inside[axis] = slice(before[axis] + begin, inside[axis].stop)
    grid = _Grid.of(padded, window, overlap, axis)
    weights = gaussian_window(window)
    # Calls of the network hold the same windows as they would from the image's first row on.
    place = grid.first_over(inside[axis].start) // batch * batch
    done = grid.corner(place)[axis]
    # A window that needs padded rows is the only one along the axis.
    rows = Rows(
        blocks.padded(max(0, done - before[axis]), before, [p - b for p, b in zip(pads, before, strict=True)]),
        axis,
        done,
    )
    sums: Sums | None = None
    for first in range(place, grid.count, batch):
        boxes = [grid.box(index) for index in range(first, min(first + batch, grid.count))]
        outputs = _run(network, torch.stack([rows.window(box) for box in boxes]), slice_axis)
        sums = sums or Sums(outputs.shape[1], padded, axis, window[axis], done)
        for index, (box, output) in enumerate(zip(boxes, outputs, strict=True), start=first):
            sums.add(box, output, weights)
            if (index + 1) % grid.across == 0:
                yield from sums.final(grid.end_of(index), tuple(inside))


def _run(network: Callable[[Tensor], Tensor], windows: Tensor, slice_axis: int | None) -> Tensor:
    if slice_axis is None:
        return network(windows).float().cpu()
    return network(windows.squeeze(slice_axis + 2)).float().cpu().unsqueeze(slice_axis + 2)


@dataclass(frozen=True, slots=True)
class _Grid:
    """All windows over an image, numbered so that they ascend along one axis.

    Attributes:
        along: starts along that axis.
        others: starts along the other axes, for each place along it.
        window, axis, size: window shape, that axis, and the image's length along it.
    """

    along: Sequence[int]
    others: Sequence[tuple[int, ...]]
    window: tuple[int, ...]
    axis: int
    size: int

    @classmethod
    def of(cls, shape: Sequence[int], window: Sequence[int], overlap: float, axis: int) -> _Grid:
        """The windows over a (padded) image of this shape."""
        starts = [window_starts(n, w, overlap) for n, w in zip(shape, window, strict=True)]
        others = list(itertools.product(*starts[:axis], *starts[axis + 1 :]))
        return cls(starts[axis], others, tuple(window), axis, shape[axis])

    @property
    def across(self) -> int:
        """Windows at each place along the axis."""
        return len(self.others)

    @property
    def count(self) -> int:
        """All windows."""
        return len(self.along) * self.across

    def corner(self, index: int) -> tuple[int, ...]:
        """Where a window begins."""
        place, rest = divmod(index, self.across)
        other = self.others[rest]
        return (*other[: self.axis], self.along[place], *other[self.axis :])

    def box(self, index: int) -> tuple[slice, ...]:
        """The voxels of a window."""
        return tuple(slice(s, s + w) for s, w in zip(self.corner(index), self.window, strict=True))

    def first_over(self, row: int) -> int:
        """The first window that covers this row, or a later one."""
        return next(k for k, s in enumerate(self.along) if s + self.window[self.axis] > row) * self.across

    def end_of(self, index: int) -> int:
        """The first row that windows behind this one still change."""
        place = index // self.across + 1
        return self.along[place] if place < len(self.along) else self.size
