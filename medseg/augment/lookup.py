"""Values of batches between their voxels: linear for images, nearest for labels, zeros outside.

torch's ``grid_sample`` does it, but on processors it goes through volumes voxel by voxel. There, whole arrays of
neighbours are gathered, and what is stretched but not turned is looked up axis by axis (figures in docs/notebook.md).
So places are counted in two ways, which ``coordinates`` gives: as ``grid_sample`` takes them, or, of volumes on
processors, in voxels from the centre of what is looked up. What is described by few numbers is computed in numpy, which
is quicker there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medseg.augment.draws import Numbers

# One place per plane across each axis, (P_a,): what is not turned.
Lines = tuple[Numbers, ...]
# One place per voxel, (n, d, P), in ``coordinates``, or those of one sample on a processor that is not turned.
Places = Tensor | Lines

VOLUME = 3
# Voxels that are looked up at once.
SLAB = 2**16
# Rows whose columns are taken at once.
ROWS = 2**10


def places_of(matrix: Numbers, shape: Sequence[int], size: Sequence[int], device: torch.device) -> Places:
    """Where the voxels of a patch lie after linear maps about its centre.

    Args:
        matrix: (n, d, d), in voxels.
        shape: of the patch.
        size: of what is looked up.
        device: where it is.
    """
    # Of slices, nothing is gained.
    if _gathers(device, len(size)) and len(matrix) == 1:
        stretch = matrix[0].diagonal()
        if np.array_equal(matrix[0], np.diag(stretch)):
            return tuple(_line(n, by) for n, by in zip(shape, stretch.tolist(), strict=True))
    return grid_of(coordinates(matrix, size, device), shape, device)


def coordinates(vectors: Numbers, size: Sequence[int], device: torch.device) -> Numbers:
    """Vectors (n, d, ...) in voxels, in the units and the order of axes in which ``linear`` and ``nearest`` count.

    Those of ``grid_sample`` where it is used: the last axis first, from -1 to 1 between the outer edges.
    """
    if _gathers(device, len(size)):
        return vectors
    unit = np.array([2 / n for n in size], dtype=np.float32)
    return (vectors * unit.reshape(-1, *[1] * (vectors.ndim - 2)))[:, ::-1]


def _gathers(device: torch.device, dims: int) -> bool:
    return device.type == "cpu" and dims == VOLUME


def grid_of(matrix: Numbers, shape: Sequence[int], device: torch.device) -> Tensor:
    """Places (n, d, shape) of all voxels after maps (n, d, d) into ``coordinates``."""
    dims = len(shape)
    # What each axis adds, (n, d, ..., length, ...): only the last sum is as large as the patch.
    along = [
        (matrix[:, :, axis, None] * _line(n, 1)).reshape(-1, dims, *[n if a == axis else 1 for a in range(dims)])
        for axis, n in enumerate(shape)
    ]
    start, end = (torch.from_numpy(part).to(device) for part in (sum(along[1:-1], along[0]), along[-1]))
    return torch.add(start, end)


def _line(length: int, by: float) -> Numbers:
    return (np.arange(length, dtype=np.float32) - np.float32((length - 1) / 2)) * np.float32(by)


def linear(values: Tensor, places: Places) -> Tensor:
    """Values (n, C, S) float at places, by linear interpolation: (n, C, P)."""
    if isinstance(places, tuple):
        return _axis_by_axis(values, places)
    if _gathers(places.device, places.shape[1]):
        # Zeros around, as far as the neighbours of what is clamped to the first of them.
        return _slab_by_slab(_trilinear, F.pad(values, (1, 2) * VOLUME), values.shape[2:], places)
    return F.grid_sample(values, places.movedim(1, -1), "bilinear", "zeros", align_corners=False)


def nearest(values: Tensor, places: Places) -> Tensor:
    """Values (n, C, S), integers below 2^24, at the voxels nearest to places: (n, C, P)."""
    if isinstance(places, tuple):
        return _all_axes(values, places)
    if _gathers(places.device, places.shape[1]):
        return _slab_by_slab(_closest, F.pad(values, (1, 1) * VOLUME), values.shape[2:], places)
    # The nearest voxel is copied, and whole numbers below 2^24 are exact in single precision.
    looked = F.grid_sample(values.float(), places.movedim(1, -1), "nearest", "zeros", align_corners=False)
    return looked.to(values.dtype)


def enlarged(values: Tensor, shape: Sequence[int]) -> Tensor:
    """Values (1, 1, S) on a finer grid of equal extent, by linear interpolation; beyond the outer voxels as these."""
    if values.device.type != "cpu" or len(shape) != VOLUME:
        return F.interpolate(values, shape, mode="bilinear" if len(shape) == 2 else "trilinear")
    ends = [(m - 1) / 2 for m in values.shape[2:]]
    lines = [_line(n, m / n).clip(-end, end) for n, m, end in zip(shape, values.shape[2:], ends, strict=True)]
    return linear(values, tuple(lines))


def _axis_by_axis(values: Tensor, lines: Lines) -> Tensor:
    """Values (n, C, S) between the planes across one axis after the other."""
    values, indices = _indexed(values, lines)
    for axis, index in enumerate(indices, start=2):
        low = np.floor(index)
        weight = torch.from_numpy(index - low).reshape(-1, *[1] * (values.ndim - 1 - axis))
        high = np.minimum(low + 1, values.shape[axis] - 1)
        values = _planes(values, axis, low).lerp_(_planes(values, axis, high), weight)
    return values


def _all_axes(values: Tensor, lines: Lines) -> Tensor:
    """Values (n, C, S) nearest to places: a step less to look up each than axis by axis."""
    values, indices = _indexed(values, lines)
    index = np.zeros((), dtype=np.int64)
    for size, along in zip(values.shape[2:], indices, strict=True):
        index = np.add.outer(index * size, np.rint(along).astype(np.int64))
    flat, where = values.flatten(2).flatten(0, 1), torch.from_numpy(index.ravel())
    return torch.stack([channel.index_select(0, where) for channel in flat]).reshape(*values.shape[:2], *index.shape)


def _indexed(values: Tensor, lines: Lines) -> tuple[Tensor, list[Numbers]]:
    """Values with zeros around them, where these are seen, and the places in voxels from the first."""
    padding: list[int] = []
    indices = []
    for size, line in zip(values.shape[2:], lines, strict=True):
        index = (line + np.float32((size - 1) / 2)).clip(-1, size)
        before, after = int(index.min() < 0), int(index.max() > size - 1)
        padding = [before, after, *padding]
        indices.append(index + np.float32(before))
    return F.pad(values, padding) if any(padding) else values, indices


def _planes(values: Tensor, axis: int, index: Numbers) -> Tensor:
    """The planes across an axis that whole numbers name, several times as fast as one ``index_select`` takes them."""
    outer, inner, size = values.shape[:axis], values.shape[axis + 1 :], values.shape[axis]
    index = index.astype(np.int64)
    if inner:
        # Rows of a matrix, each copied as a whole.
        rows = np.add.outer(np.arange(outer.numel()) * size, index).ravel()
        taken = values.reshape(-1, inner.numel()).index_select(0, torch.from_numpy(rows))
    else:
        taken, where = values.new_empty(outer.numel(), len(index)), torch.from_numpy(index)
        for slab, out in zip(torch.split(values.reshape(-1, size), ROWS), torch.split(taken, ROWS), strict=True):
            torch.index_select(slab, 1, where, out=out)
    return taken.reshape(*outer, -1, *inner)


def _slab_by_slab(
    look: Callable[[Tensor, Tensor, Tensor], None], padded: Tensor, shape: Sequence[int], places: Tensor
) -> Tensor:
    """Slabs of the samples, one after the other, so that caches hold what is worked on.

    Args:
        look: takes padded volumes (C, D, H, W), voxel indices in these (3, P) and what they are to be looked up into.
        padded: (n, C, D, H, W), by one voxel before the first along each axis.
        shape: without the padding.
        places: (n, 3, P).
    """
    out = torch.empty(*padded.shape[:2], *places.shape[2:], dtype=padded.dtype)
    first = torch.tensor([(n - 1) / 2 + 1 for n in shape]).reshape(-1, 1, 1, 1)
    last = [n + 1 for n in shape]
    thick = max(1, SLAB // (places.shape[3] * places.shape[4]))
    for sample in range(len(padded)):
        for slab in range(0, places.shape[2], thick):
            index = places[sample, :, slab : slab + thick] + first
            for along, end in zip(index, last, strict=True):
                along.clamp_(0, end)
            look(padded[sample], index, out[sample, :, slab : slab + thick])
    return out


def _trilinear(padded: Tensor, index: Tensor, out: Tensor) -> None:
    """Between the eight voxels around each index."""
    low = index.floor()
    depth, height, width = (index - low).flatten(1)
    first = _flat(low, padded.shape[1:])
    row, plane = padded.shape[3], padded.shape[2] * padded.shape[3]
    for channel, looked in zip(padded.flatten(1), out, strict=True):

        def across(start: int, channel: Tensor = channel) -> Tensor:
            """Between two voxels of a row."""
            return _from(channel, start, first).lerp_(_from(channel, start + 1, first), width)

        def within(start: int) -> Tensor:
            """Between two rows of a plane."""
            return across(start).lerp_(across(start + row), height)

        torch.lerp(within(0), within(plane), depth, out=looked.view(-1))


def _closest(padded: Tensor, index: Tensor, out: Tensor) -> None:
    """The voxel nearest to each index."""
    first = _flat(index.round_(), padded.shape[1:])
    for channel, looked in zip(padded.flatten(1), out, strict=True):
        torch.index_select(channel, 0, first, out=looked.view(-1))


def _flat(voxels: Tensor, shape: Sequence[int]) -> Tensor:
    """Flat indices of voxels (3, P), which are whole numbers."""
    # Rows are fewer than 2^24, to which single precision counts; sums of 32 bits are quick, and so are looks by 64.
    rows = (voxels[0] * shape[1]).add_(voxels[1]).int()
    return rows.mul_(shape[2]).add_(voxels[2].int()).flatten().long()


def _from(flat: Tensor, start: int, index: Tensor) -> Tensor:
    """The values that lie ``start`` behind an index."""
    return flat[start:].index_select(0, index)
