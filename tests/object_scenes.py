"""Scenes of cells, and the maps that a network without errors would give of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy import ndimage

from medseg.image.objects import of_numbers
from medseg.objects.decoding import ONE
from medseg.objects.targets import BAND, CORE, RING, boundary_codes, flow_field, inner_distance


def cells(rng: np.random.Generator, shape: Sequence[int], count: int, radii: tuple[float, float]) -> np.ndarray:
    """(S) numbers of ellipsoids that touch, overlap and leave the array."""
    out = np.zeros(shape, dtype=np.int64)
    grid = np.indices(shape).reshape(len(shape), -1).T
    for number in range(1, count + 1):
        axes, _ = np.linalg.qr(rng.standard_normal((len(shape), len(shape))))
        centre = rng.uniform(0, shape)
        inside = (((grid - centre) @ axes / rng.uniform(*radii, len(shape))) ** 2).sum(axis=1) <= 1
        out.ravel()[inside] = number
    return out


def blobs(rng: np.random.Generator, shape: Sequence[int], labels: int, sigma: float = 2.0) -> np.ndarray:
    """(S) numbers 0..labels of smooth random regions: holes, necks, parts that do not touch."""
    fields = [ndimage.gaussian_filter(rng.standard_normal(shape), sigma) for _ in range(labels + 1)]
    return np.argmax(fields, axis=0)


def maps_of(head: str, numbers: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """(M, S) int16."""
    batch = torch.from_numpy(numbers.astype(np.int64))[None]
    mask = (numbers > 0)[None].astype(np.float64)
    if head == "boundary":
        codes = boundary_codes(batch, spacing)[0].numpy()
        maps = np.stack([np.isin(codes, (CORE, BAND)), np.isin(codes, (BAND, RING))]).astype(np.float64)
    elif head == "flows":
        maps = np.concatenate([mask, flow_field(batch, spacing)[0].numpy()])
    elif head == "distance":
        maps = np.concatenate([mask, inner_distance(batch, spacing).numpy()])
    else:
        maps = mask
    return np.rint(maps * ONE).astype(np.int16)


def noise(rng: np.random.Generator, maps: int, shape: Sequence[int]) -> np.ndarray:
    """(M, S) int16 of nothing: thresholds cut structures of all shapes from it, with many ties."""
    sigma = rng.choice([0.0, 0.7, 1.5])
    values = np.stack([ndimage.gaussian_filter(rng.standard_normal(shape), sigma) for _ in range(maps)])
    values *= 0.4 / max(float(values.std()), 1e-9)
    values[0] += rng.choice([0.2, 0.5, 0.8])
    values[1:2] += 0.3
    steps = np.rint(values.clip(-1, 1) * ONE).astype(np.int16)
    return steps // 256 * 256 if rng.random() < 0.3 else steps


def same_objects(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two maps show the same objects, whatever their numbers."""
    return bool((of_numbers(one).numbers == of_numbers(other).numbers).all())
