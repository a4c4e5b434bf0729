"""Regions that may be objects, found without knowing any class, as in selective search (Uijlings et al. 2013), in n-D.

An image is cut into superpixels (SLIC, Achanta et al. 2012). The two most similar neighbours are merged, again and
again, until the image is one region. The last merges give the proposals: the finest partition that the number of
proposals allows, and every union made from there on. So they form a tree, they cover the image at the finest level, and
each is connected.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
Indices = NDArray[np.int64]
Numbers = TypeVar("Numbers", Array, Indices)

SUPERPIXELS = 512
# Superpixels smaller than this have no useful histogram.
LEAST_VOXELS = 16
# Of SLIC, for intensities in 0..1: superpixels leave their compact shape for edges of about this height.
COMPACTNESS = 0.3
ITERATIONS = 10
# Smoothing in voxels, before superpixels are grown and gradients taken.
SMOOTHING = 0.5
# Percentiles that become 0 and 1, so that a bright speck does not darken everything else.
STRETCH = (0.5, 99.5)
COLOUR_BINS = 16
TEXTURE_BINS = 8


@dataclass(frozen=True, slots=True)
class Proposals:
    """The regions of one image. R is their number, L = (R + 1) // 2 that of the finest ones ("leaves").

    Attributes:
        leaves: which leaf a voxel is in (S).
        members: which leaves make up a region (R, L). The leaves themselves come first, the whole image last; it is
            repeated where there are fewer regions than R.
        boxes: bounding boxes (R, 2, dims): first voxel, and one past the last.
    """

    leaves: Indices
    members: NDArray[np.bool_]
    boxes: Indices


def propose(image: NDArray[np.floating], most: int) -> Proposals:
    """At most ``most`` regions of an image (C, S)."""
    # Whatever is not finite makes the network's output so, which the training loop reports.
    picture = np.stack([_stretched(c) for c in np.nan_to_num(np.asarray(image, dtype=np.float64))])
    labels = superpixels(picture, max(SUPERPIXELS, (most + 1) // 2))
    forest = Forest(picture, labels)
    merges = forest.merge()
    count = len(merges) + 1
    finest = min(count, (most + 1) // 2)
    early = count - finest
    owner = np.arange(count + early)
    for merge in reversed(range(early)):
        owner[list(merges[merge])] = owner[count + merge]
    nodes = [int(n) for n in np.unique(owner[:count])]
    leaves = np.searchsorted(nodes, owner[:count])[labels]
    members = np.zeros((most, (most + 1) // 2), dtype=bool)
    members[np.arange(finest), np.arange(finest)] = True
    for left, right in merges[early:]:
        members[len(nodes)] = members[nodes.index(left)] | members[nodes.index(right)]
        nodes.append(count + early + len(nodes) - finest)
    members[len(nodes) :] = members[len(nodes) - 1]
    nodes += [nodes[-1]] * (most - len(nodes))
    return Proposals(leaves, members, np.stack([forest.low[nodes], forest.high[nodes]], axis=1))


def superpixels(picture: Array, most: int = SUPERPIXELS) -> Indices:
    """Connected superpixels 0..n-1 (S), about ``most`` or fewer, of an image (C, S) with values in 0..1."""
    from skimage.measure import label
    from skimage.segmentation import slic

    wanted = max(1, min(most, picture[0].size // LEAST_VOXELS))
    segments = slic(
        picture,
        wanted,
        compactness=COMPACTNESS,
        max_num_iter=ITERATIONS,
        sigma=SMOOTHING,
        convert2lab=False,
        start_label=0,
        channel_axis=0,
    )
    # Renumbered, since SLIC guarantees neither consecutive numbers nor connected superpixels.
    numbered: Indices = label(segments, background=-1, connectivity=1).astype(np.int64) - 1
    return numbered


class Forest:
    """Superpixels and the regions that they are merged into.

    Attributes:
        size, low, high, histogram: voxels, bounding box and descriptor of n superpixels and then n - 1 unions. A
            histogram has colours and then gradients (texture), either summing to one.
    """

    def __init__(self, picture: Array, labels: Indices) -> None:
        from scipy.ndimage import find_objects, gaussian_gradient_magnitude

        count = int(labels.max()) + 1
        self.voxels = labels.size
        self.size = _twice(np.bincount(labels.ravel()).astype(np.float64))
        boxes = find_objects(labels + 1)
        self.low = _twice(np.array([[axis.start for axis in box] for box in boxes]))
        self.high = _twice(np.array([[axis.stop for axis in box] for box in boxes]))
        edges = [_stretched(gaussian_gradient_magnitude(c, SMOOTHING)) for c in picture]
        colours = [_histograms(c, labels, count, COLOUR_BINS) for c in picture]
        textures = [_histograms(e, labels, count, TEXTURE_BINS) for e in edges]
        self.histogram = _twice(np.concatenate([*colours, *textures], axis=1) / len(picture))
        self.neighbours: list[set[int]] = [set() for _ in range(2 * count - 1)]
        for left, right in _adjacent(labels, count):
            self.neighbours[left].add(right)
            self.neighbours[right].add(left)
        self.count = count

    def similarity(self, region: int, others: list[int]) -> Array:
        """Of a region with others: colour + texture + size + fill (Uijlings et al. 2013, equations 1 to 6)."""
        alike = np.minimum(self.histogram[region], self.histogram[others]).sum(axis=1)
        sizes = self.size[region] + self.size[others]
        low = np.minimum(self.low[region], self.low[others])
        high = np.maximum(self.high[region], self.high[others])
        boxes = np.prod(high - low, axis=1)
        result: Array = alike + (1 - sizes / self.voxels) + (1 - (boxes - sizes) / self.voxels)
        return result

    def merge(self) -> list[tuple[int, int]]:
        """Merge until one region is left; the pairs, in order. The i-th makes region n + i."""
        queue = [
            (-float(s), region, other)
            for region in range(self.count)
            if (later := sorted(o for o in self.neighbours[region] if o > region))
            for s, other in zip(self.similarity(region, later), later, strict=True)
        ]
        heapq.heapify(queue)
        merges: list[tuple[int, int]] = []
        merged: set[int] = set()
        while queue:
            _, left, right = heapq.heappop(queue)
            if left in merged or right in merged:
                continue
            union = self.count + len(merges)
            self._join(left, right, union)
            merged |= {left, right}
            merges.append((left, right))
            others = sorted(self.neighbours[union])
            if others:
                for s, other in zip(self.similarity(union, others), others, strict=True):
                    heapq.heappush(queue, (-float(s), other, union))
        return merges

    def _join(self, left: int, right: int, union: int) -> None:
        pair = [left, right]
        self.size[union] = self.size[pair].sum()
        self.low[union] = self.low[pair].min(axis=0)
        self.high[union] = self.high[pair].max(axis=0)
        self.histogram[union] = self.size[pair] @ self.histogram[pair] / self.size[union]
        around = (self.neighbours[left] | self.neighbours[right]) - {left, right}
        self.neighbours[union] = around
        for other in around:
            self.neighbours[other] = (self.neighbours[other] - {left, right}) | {union}


def _twice(values: Numbers) -> Numbers:
    """Rows of superpixels, and room for those of their unions."""
    return np.concatenate([values, np.zeros_like(values[:-1])])


def _stretched(channel: Array) -> Array:
    """Intensities (S) with the percentiles ``STRETCH`` at 0 and 1; zeros if it has no contrast."""
    low, high = np.percentile(channel, STRETCH)
    if not high > low:
        low, high = channel.min(), channel.max()
    spread = high - low
    return np.clip((channel - low) / spread, 0, 1) if spread > 0 else np.zeros_like(channel)


def _histograms(values: Array, labels: Indices, count: int, bins: int) -> Array:
    """Histograms (count, bins) of values (S) in 0..1, each summing to one.

    A value is shared between the two bins that it lies between, so that a slight shift of it changes them slightly.
    """
    place = values.ravel() * (bins - 1)
    lower = np.minimum(place.astype(np.int64), bins - 2)
    share, index = place - lower, labels.ravel() * bins + lower
    sums = np.bincount(index, 1 - share, count * bins) + np.bincount(index + 1, share, count * bins)
    table = sums.reshape(count, bins)
    result: Array = table / table.sum(axis=1, keepdims=True)
    return result


def _adjacent(labels: Indices, count: int) -> list[tuple[int, int]]:
    """Pairs of labels, smaller first, that share a face of voxels."""
    codes = []
    for axis in range(labels.ndim):
        before, after = (np.take(labels, r, axis).ravel() for r in _shifted(labels.shape[axis]))
        differ = before != after
        low, high = np.minimum(before, after)[differ], np.maximum(before, after)[differ]
        codes.append(low * count + high)
    return [(int(c) // count, int(c) % count) for c in np.unique(np.concatenate(codes))]


def _shifted(length: int) -> tuple[Indices, Indices]:
    """All positions of an axis but the last, and all but the first."""
    positions = np.arange(length)
    return positions[:-1], positions[1:]


@torch.library.custom_op(
    "medseg::regions", mutates_args=(), schema="(Tensor images, int most) -> (Tensor, Tensor, Tensor)"
)
def regions(images: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """``propose`` for every image of a batch (N, C, S), on the processor.

    An operator of its own, so that what traces the network (the estimate of its memory, a compiler) sees the shapes of
    the proposals and does not look for them.

    Returns:
        leaves (N, S) int64, members (N, R, L) bool and boxes (N, R, 2, dims) int64, as in ``Proposals``.
    """
    found = [propose(image, most) for image in images.detach().float().cpu().numpy()]
    parts = ([p.leaves for p in found], [p.members for p in found], [p.boxes for p in found])
    leaves, members, boxes = (torch.from_numpy(np.stack(part)).to(images.device) for part in parts)
    return leaves, members, boxes


@regions.register_fake
def _(images: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    count, *size = images.shape[0], *images.shape[2:]
    return (
        images.new_empty((count, *size), dtype=torch.int64),
        images.new_empty((count, most, (most + 1) // 2), dtype=torch.bool),
        images.new_empty((count, most, 2, len(size)), dtype=torch.int64),
    )
