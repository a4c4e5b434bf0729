"""Numbers that checks take of voxels and grids, each in one pass and bounded memory."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.image.geometry import Geometry

# Voxels handled at once when counting, so that wide copies stay in the processor's cache.
BLOCK = 1 << 18
# Greatest label value for which a table of counts is kept instead of sorting.
MAX_BINS = 1 << 24
# Voxels per channel from which its spread is taken.
SAMPLES = 1 << 14
# Points per axis at which fields of view are compared.
LATTICE = 12


def count_values(labels: NDArray[Any]) -> dict[int, int]:
    """Value -> voxels of an integer map, in the order of values."""
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= MAX_BINS:
        values, counts = np.unique(labels, return_counts=True)
        return {int(v): int(n) for v, n in zip(values, counts, strict=True)}
    flat = labels.ravel(order="K")
    bins = np.zeros(high + 1, dtype=np.int64)
    for start in range(0, flat.size, max(BLOCK, bins.size)):
        bins += np.bincount(flat[start : start + max(BLOCK, bins.size)], minlength=bins.size)
    return {int(v): int(bins[v]) for v in np.flatnonzero(bins)}


def digest_voxels(voxels: NDArray[Any]) -> str:
    """SHA-256 (hex) of the shape and numbers of an image (C,*S), however a file packs them.

    Volumes are taken first axis first, pictures last axis first: so most files have them, and nothing is copied.
    """
    digest = hashlib.sha256(repr(voxels.shape).encode())
    for channel in voxels:
        digest.update(np.ascontiguousarray(channel.T if channel.ndim == 3 else channel).data)
    return digest.hexdigest()


def digest_labels(labels: NDArray[Any]) -> str:
    """SHA-256 (hex) of the shape and values of a label map (*S), in whichever type and order it is stored."""
    digest = hashlib.sha256(repr(labels.shape).encode())
    for plane in labels:
        digest.update(np.ascontiguousarray(plane, dtype="<i8").data)
    return digest.hexdigest()


def first_voxel(labels: NDArray[Any], value: int) -> tuple[int, ...]:
    """Index of the first voxel with this value."""
    return tuple(int(i) for i in np.unravel_index(int(np.argmax(labels == value)), labels.shape))


def spread(channel: NDArray[Any]) -> float:
    """The 5th to 95th percentile range of a channel (S), from at most ``SAMPLES`` evenly spaced finite voxels."""
    flat = channel.ravel(order="K")
    sample = flat[:: max(1, flat.size // SAMPLES)].astype(np.float64)
    sample = sample[np.isfinite(sample)]
    low, high = np.percentile(sample, (5, 95)) if sample.size else (0.0, 0.0)
    return float(high - low)


def right_angles(grid: Geometry) -> float:
    """Largest absolute cosine between two axes of a grid: 0 if all meet at right angles."""
    linear = grid.affine[:-1, :-1]
    unit = linear / np.linalg.norm(linear, axis=0)
    return float(np.abs(unit.T @ unit - np.eye(grid.dims)).max())


def field_of_view(first: Geometry, other: Geometry) -> float:
    """Share of the voxels of ``first`` that are inside ``other``, from a lattice of points."""
    axes = [np.linspace(0, n - 1, min(n, LATTICE)) for n in first.shape]
    points = np.stack(
        [a.ravel() for a in np.meshgrid(*axes, indexing="ij")] + [np.ones(np.prod([len(a) for a in axes]))]
    )
    found = (np.linalg.inv(other.affine) @ first.affine @ points)[:-1].T
    inside = ((found >= -0.5 - 1e-6) & (found <= np.array(other.shape) - 0.5 + 1e-6)).all(axis=1)
    return float(inside.mean())
