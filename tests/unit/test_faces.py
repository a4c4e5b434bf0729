"""Distances between surfaces of voxel faces: closed forms on boxes, sampled points and finer voxels elsewhere."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from medseg.metrics import envelope, faces
from medseg.metrics.faces import face_distances
from medseg.metrics.pair import Pair
from medseg.metrics.surface import assd_faces, nsd_faces
from medseg.metrics.tolerance import TIE

SPACINGS = [(1.0, 1.0, 1.0), (2.5, 0.8, 0.7), (0.3, 1.9, 1.1), (0.5, 3.0, 0.5)]


def box(shape: tuple[int, ...], start: tuple[int, ...], size: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))] = True
    return mask


def both(a: np.ndarray, b: np.ndarray, spacing: tuple[float, ...], tolerance: float = 1.0) -> tuple[float, float]:
    """ASSD, and the share of the area that lies at most ``tolerance`` away, without the margin for ties."""
    pair = Pair(a, b, spacing, tolerance=tolerance / (1 + TIE))
    return assd_faces(pair), nsd_faces(pair)


# Boxes


@pytest.mark.parametrize(
    ("side", "step", "tolerance", "share"),
    [(20, 2, 1.0, 0.6650), (20, 2, 1.5, 0.69625), (5, 1, 0.5, 0.66), (20, 4, 2.0, 0.66)],
)
def test_shifted_cubes_have_the_values_of_the_closed_form(side: int, step: int, tolerance: float, share: float) -> None:
    one = box((30, 30, 30), (2, 2, 2), (side,) * 3)
    two = box((30, 30, 30), (2 + step, 2, 2), (side,) * 3)
    a, d = side, step
    mean = (d * a**2 + (a**3 - (a - 2 * d) ** 3) / 6 + 2 * a * d**2) / (6 * a**2)
    assert both(one, two, (1.0, 1.0, 1.0), tolerance) == pytest.approx((mean, share), abs=1e-9)
    # Voxels of half the size, the same bodies.
    fine = [np.kron(mask, np.ones((2, 2, 2), bool)) for mask in (one, two)]
    assert both(*fine, (0.5, 0.5, 0.5), tolerance) == pytest.approx((mean, share), abs=1e-9)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_shifted_boxes_of_any_spacing_are_exact(spacing: tuple[float, ...], axis: int) -> None:
    size = (13, 14, 16)
    start = [2, 2, 2]
    start[axis] += 1
    one, two = box((20, 20, 20), (2, 2, 2), size), box((20, 20, 20), tuple(start), size)
    sides = np.array(size) * spacing
    a, (b, c) = sides[axis], np.delete(sides, axis)
    d = spacing[axis]
    assert 2 * d <= min(a, b, c)

    def inside(depth: float) -> float:
        """Integral of the smaller of ``depth`` and the distance to the rim, over a face that lies inside."""
        return depth * b * c - depth**2 * (b + c) + 4 * depth**3 / 3

    area = 2 * (a * b + b * c + c * a)
    mean = (d * b * c + inside(d) + d**2 * (b + c)) / area
    tau = 0.4 * d
    beyond = b * c + (b - 2 * tau) * (c - 2 * tau) + 2 * (d - tau) * (b + c)
    assert both(one, two, spacing, tau) == pytest.approx((mean, 1 - beyond / area), abs=1e-9)


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (2.5, 0.8), (0.3, 1.9)])
def test_shifted_rectangles_are_exact(spacing: tuple[float, ...]) -> None:
    one, two = box((20, 20), (2, 2), (12, 14)), box((20, 20), (3, 2), (12, 14))
    a, b = 12 * spacing[0], 14 * spacing[1]
    d, tau = spacing[0], 0.4 * spacing[0]
    mean = (d * b + d * b - d**2 + d**2) / (2 * (a + b))
    beyond = b + (b - 2 * tau) + 2 * (d - tau)
    assert both(one, two, spacing, tau) == pytest.approx((mean, 1 - beyond / (2 * (a + b))), abs=1e-9)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_nested_boxes_are_exact_where_edges_and_corners_are_nearest(spacing: tuple[float, ...]) -> None:
    outer, inner = box((17, 18, 19), (1, 1, 1), (12, 12, 12)), box((17, 18, 19), (3, 4, 5), (5, 6, 7))
    low = np.array([2, 3, 4]) * spacing
    size = np.array([5, 6, 7]) * spacing
    high = np.array([12, 12, 12]) * spacing - low - size
    total = area = 0.0
    x, w = np.polynomial.legendre.leggauss(40)
    for k, end in itertools.product(range(3), (0, 1)):
        u, v = (j for j in range(3) if j != k)
        # Outside the inner box every point sees a face, an edge or a corner of it.
        depth = (low if end == 0 else high)[k]
        for one, two in itertools.product(range(3), repeat=2):
            parts = []
            for j, part in ((u, one), (v, two)):
                length = (low[j], size[j], high[j])[part]
                parts.append(((x + 1) / 2 * length if part != 1 else np.zeros(len(x)), w / 2 * length))
            (du, wu), (dv, wv) = parts
            total += float(wu @ np.sqrt(depth**2 + du[:, None] ** 2 + dv[None] ** 2) @ wv)
        area += float(np.prod([12 * spacing[j] for j in (u, v)]))
    # From the inner box the nearest side of the outer one counts; margins of 2 to 5 voxels around faces of 5 to 7.
    margins = np.stack([low, high], axis=1)
    for k, end in itertools.product(range(3), (0, 1)):
        u, v = (j for j in range(3) if j != k)
        n = 1200
        grid = [(np.arange(n) + 0.5) / n * size[j] for j in (u, v)]
        rims = [np.minimum(margins[j, 0] + g, margins[j, 1] + size[j] - g) for j, g in zip((u, v), grid, strict=True)]
        nearest = np.minimum(margins[k, end], np.minimum(rims[0][:, None], rims[1][None]))
        total += float(nearest.mean() * size[u] * size[v])
        area += float(size[u] * size[v])
    assert both(outer, inner, spacing)[0] == pytest.approx(total / area, rel=1e-6)


def test_boxes_far_apart_see_each_others_faces_edges_and_corners() -> None:
    spacing = (2.0, 0.5, 1.0)
    one, two = box((30, 40, 30), (1, 1, 1), (3, 4, 5)), box((30, 40, 30), (20, 2, 25), (3, 4, 3))
    ends = []
    for start, size in (((1, 1, 1), (3, 4, 5)), ((20, 2, 25), (3, 4, 3))):
        ends.append((np.array(start) * spacing, (np.array(start) + size) * spacing))
    total = area = 0.0
    x, w = np.polynomial.legendre.leggauss(12)
    for (low, high), (other_low, other_high) in (ends, ends[::-1]):
        for k, end in itertools.product(range(3), (0, 1)):
            u, v = (j for j in range(3) if j != k)
            # Voxel by voxel, so that each piece is smooth.
            for i, j in itertools.product(*(range(round((high[t] - low[t]) / spacing[t])) for t in (u, v))):
                points = np.zeros((12, 12, 3))
                points[..., k] = (low, high)[end][k]
                points[..., u] = (low[u] + (i + (x + 1) / 2) * spacing[u])[:, None]
                points[..., v] = low[v] + (j + (x + 1) / 2) * spacing[v]
                gap = np.maximum(np.maximum(other_low - points, points - other_high), 0)
                total += float(w @ np.linalg.norm(gap, axis=-1) @ w) / 4 * spacing[u] * spacing[v]
                area += spacing[u] * spacing[v]
    assert both(one, two, spacing)[0] == pytest.approx(total / area, abs=1e-9)


# Any shape


def faces_of(mask: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Direction and lower corner of every face, one by one."""
    padded = np.pad(mask, 1)
    found = []
    for k in range(mask.ndim):
        for place in np.argwhere(np.diff(padded.astype(int), axis=k)):
            corner = place - 1
            corner[k] += 1
            found.append((k, corner))
    return found


def sampled(a: np.ndarray, b: np.ndarray, spacing: tuple[float, ...], tolerance: float, n: int) -> tuple[float, float]:
    """Both values by n points per axis of each face, each against each rectangle of the other surface."""
    sides = np.array(spacing)
    total = within = area = 0.0
    for mine, others in ((faces_of(a), faces_of(b)), (faces_of(b), faces_of(a))):
        low = np.array([corner for _, corner in others]) * sides
        high = low + sides * [[j != k for j in range(a.ndim)] for k, _ in others]
        for k, corner in mine:
            steps = [(np.arange(n) + 0.5) / n if j != k else np.zeros(1) for j in range(a.ndim)]
            points = (np.stack(np.meshgrid(*steps, indexing="ij"), axis=-1).reshape(-1, a.ndim) + corner) * sides
            gap = np.maximum(np.maximum(low - points[:, None], points[:, None] - high), 0)
            nearest = np.linalg.norm(gap, axis=-1).min(axis=1)
            weight = math.prod(s for j, s in enumerate(spacing) if j != k)
            total += nearest.mean() * weight
            within += (nearest <= tolerance).mean() * weight
            area += weight
    return total / area, within / area


@pytest.mark.parametrize("dims", [2, 3])
def test_random_volumes_have_the_values_of_points_sampled_on_their_faces(dims: int) -> None:
    rng = np.random.default_rng(dims)
    for _ in range(8):
        spacing = tuple(rng.choice([0.5, 0.7, 1.0, 2.5], dims))
        masks = [np.pad(rng.random((3,) * dims) < p, 2) for p in rng.choice([0.1, 0.3, 0.7], 2)]
        masks[1] = np.roll(masks[1], rng.integers(-2, 3, dims), tuple(range(dims)))
        for mask in masks:
            mask[(3,) * dims] = True
        tolerance = 0.83 * spacing[0]
        n = 400 if dims == 2 else 20
        mean, share = sampled(*masks, spacing, tolerance, n)
        found = both(*masks, spacing, tolerance)
        assert found[0] == pytest.approx(mean, abs=4e-4 * max(spacing)), (masks, spacing)
        assert found[1] == pytest.approx(share, abs=1e-2), (masks, spacing)


def organ(seed: int, shape: tuple[int, ...] = (16, 20, 18)) -> np.ndarray:
    """A rough ball."""
    rng = np.random.default_rng(seed)
    places = np.stack(np.meshgrid(*[np.linspace(-1, 1, n) for n in shape], indexing="ij"))
    waves = sum(np.sin(f * places[k] * 5 + p) for k, (f, p) in enumerate(rng.random((len(shape), 2)) + 0.5))
    return np.sqrt((places**2).sum(axis=0)) + 0.1 * waves < 0.75


@pytest.mark.parametrize("spacing", SPACINGS)
def test_smaller_voxels_of_the_same_bodies_change_nothing(spacing: tuple[float, ...]) -> None:
    masks = organ(0), organ(1)
    coarse = both(*masks, spacing, 0.9)
    fine = [np.kron(mask, np.ones((2, 1, 2), bool)) for mask in masks]
    assert both(*fine, (spacing[0] / 2, spacing[1], spacing[2] / 2), 0.9) == pytest.approx(coarse, rel=2e-5)
    assert coarse[0] > 0


def test_axes_and_sides_may_be_swapped() -> None:
    masks, spacing = (organ(0), organ(1)), (2.5, 0.8, 0.7)
    plain = both(*masks, spacing)
    assert both(*masks[::-1], spacing) == pytest.approx(plain, rel=1e-9)
    for axes in itertools.permutations(range(3)):
        turned = [np.flip(mask.transpose(axes), 1) for mask in masks]
        assert both(*turned, tuple(spacing[k] for k in axes)) == pytest.approx(plain, rel=1e-4)


def test_a_volume_of_one_slice_is_that_slice_between_two_covers() -> None:
    flat = organ(0)[8], organ(1)[8]
    flat_faces = face_distances(*flat, (0.8, 0.7), 1.0)
    thick = face_distances(*(mask[None] for mask in flat), (1e3, 0.8, 0.7), 1.0)
    covers = 2 * sum(mask.sum() for mask in flat) * 0.8 * 0.7
    assert thick.area == pytest.approx(flat_faces.area * 1e3 + covers)
    assert thick.integral / 1e3 == pytest.approx(flat_faces.integral, rel=1e-2)


@pytest.mark.parametrize("shape", [(4, 5, 6), (1, 1, 1), (1, 5, 1), (4, 5), (1, 1), (3,)])
def test_equal_masks_are_at_distance_zero_also_where_they_fill_the_array(shape: tuple[int, ...]) -> None:
    full = np.ones(shape, bool)
    spacing = (2.0, 0.5, 1.0)[: len(shape)]
    assert both(full, full, spacing, 0.1) == (0.0, 1.0)
    edges = np.array(shape) * spacing
    area = 2 * 2 * sum(math.prod(np.delete(edges, k)) for k in range(len(shape)))
    assert face_distances(full, full, spacing, None).area == pytest.approx(area)


def test_a_step_of_one_voxel_is_half_seen_by_voxels_and_measured_by_faces() -> None:
    # The bodies' tops are one voxel apart everywhere; the tolerance lies between no and one voxel.
    one, two = box((8, 40, 40), (1, 0, 0), (5, 40, 40)), box((8, 40, 40), (1, 0, 0), (6, 40, 40))
    mean, share = both(one, two, (1.0, 1.0, 1.0), 0.5)
    area = 2 * 40 * 40 * 2 + 4 * 40 * (5 + 6)
    # Each top is 1 from the other, less near the rim: from below, the other body's wall is nearer there.
    rim = 40**3 / 6 - 38**3 / 6
    assert mean == pytest.approx((40 * 40 + rim + 4 * 40 / 2) / area, abs=1e-9)
    assert share == pytest.approx(1 - (40 * 40 + 39 * 39 + 4 * 40 * 0.5) / area, abs=1e-9)


# Bounds


def test_a_share_is_never_larger_than_one() -> None:
    # The areas add up to 1.0000000000000002 times themselves: those within are added in another order than all.
    one, two = box((5, 6, 6), (0, 0, 1), (3, 6, 3)), box((5, 6, 6), (0, 0, 0), (4, 5, 6))
    assert nsd_faces(Pair(one, two, (0.3, 0.3, 1.0), tolerance=8.0)) == 1.0


def test_blocks_of_cells_give_what_all_cells_at_once_give(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    a, b = organ(0), rng.random((16, 20, 18)) < 0.02
    spacing, sizes = (2.5, 0.8, 0.7), []
    plain = face_distances(a, b, spacing, 0.9)
    block_means = envelope._block_means

    def measured(terms: envelope.Terms, limit: float | None) -> tuple[np.ndarray, np.ndarray]:
        n, m = terms.c.shape
        sizes.append((n, n * m * envelope._breaks(terms, limit).shape[1]))
        return block_means(terms, limit)

    monkeypatch.setattr(envelope, "_block_means", measured)
    monkeypatch.setattr(envelope, "BLOCK", 5000)
    monkeypatch.setattr(faces, "HELD", 2000)
    found = face_distances(a, b, spacing, 0.9)
    assert (found.area, found.integral, found.within) == pytest.approx(
        (plain.area, plain.integral, plain.within), rel=1e-12
    )
    # No array has more numbers than a block, but that of a single cell may.
    assert len(sizes) > 20
    assert all(numbers <= 5000 for cells, numbers in sizes if cells > 1)
