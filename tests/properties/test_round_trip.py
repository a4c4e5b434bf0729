"""There and back: oriented, cropped, resampled and returned, everything is where it was in the world."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.image.geometry import Geometry, canonical_axes
from medseg.image.resample import resample_channel
from medseg.plan.plan import Grid
from medseg.preprocess.inverse import InverseRecord
from medseg.preprocess.prepare import prepare_image, prepare_labels, restore_labels

CLASSES = 3
# Axis order and signs of the stored grid: canonical, and two that are neither.
TURNS = [((0, 1, 2), (1, 1, 1)), ((2, 0, 1), (-1, 1, -1)), ((1, 0, 2), (-1, -1, 1))]
few = settings(max_examples=6, deadline=None)


def tilted(
    extent: tuple[float, ...], spacing: tuple[float, ...], angles: tuple[float, float], turn: int = 0
) -> Geometry:
    """A grid over ``extent`` (mm), rotated about two axes, its axes stored in the order of ``TURNS``."""
    (axes, signs), (a, b) = TURNS[turn], angles
    about_x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    about_z = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]])
    steps = [spacing[axis] for axis in axes]
    affine = np.eye(4)
    affine[:3, :3] = about_x @ about_z @ np.eye(3)[:, list(axes)] @ np.diag(np.array(steps) * signs)
    affine[:3, 3] = (31.0, -80.0, 12.5)
    return Geometry.create([round(extent[axis] / spacing[axis]) for axis in axes], affine)


def blobs(grid: Geometry, seed: int) -> np.ndarray:
    """Ellipsoids side by side, drawn in the world, so that they look the same on any grid; (S) uint8."""
    rng = np.random.default_rng(seed)
    world = grid.affine[:3, :3] @ np.indices(grid.shape).reshape(3, -1) + grid.affine[:3, 3:]
    middle = (world.max(axis=1) + world.min(axis=1)) / 2
    labels = np.zeros(world.shape[1], dtype=np.uint8)
    for value, shift in zip(range(1, CLASSES + 1), ((-22, -8, 0), (20, -14, 4), (6, 22, -4)), strict=True):
        centre = middle + shift + rng.uniform(-3, 3, 3)
        radius = rng.uniform(15, 19, 3)
        labels[(((world - centre[:, None]) / radius[:, None]) ** 2).sum(axis=0) < 1] = value
    return labels.reshape(grid.shape)


def there(labels: np.ndarray, grid: Geometry, target: tuple[float, ...]) -> tuple[np.ndarray, InverseRecord]:
    # The image is 0 along one side, which is cropped away.
    image = np.ones((1, *grid.shape), dtype=np.float32)
    image[:, :2] = 0
    _, record = prepare_image(image, grid, Grid("mm", True, target, ("none",), ({},)))
    return prepare_labels(labels, record), record


def back(prepared: np.ndarray, record: InverseRecord) -> np.ndarray:
    """The way of a prediction: per class linearly to the kept box, the largest wins, into the native grid."""
    one_hot = F.one_hot(torch.from_numpy(prepared.astype(np.int64)), CLASSES + 1).movedim(-1, 0).float()
    scores = F.interpolate(one_hot[None], size=record.shape, mode="trilinear", align_corners=False)[0]
    return restore_labels(scores.argmax(0).numpy().astype(np.uint8), record)


def require_overlap(labels: np.ndarray, grid: Geometry, target: tuple[float, ...], least: float = 0.98) -> None:
    prepared, record = there(labels, grid, target)
    found = back(prepared, InverseRecord.from_json(record.to_json()))
    assert found.shape == grid.shape
    assert record.native == grid
    assert record.native.voxel_to_world == grid.voxel_to_world
    assert set(np.unique(found)) <= set(range(CLASSES + 1))
    for value in range(1, CLASSES + 1):
        a, b = found == value, labels == value
        assert 2 * (a & b).sum() / (a.sum() + b.sum()) >= least


@pytest.mark.parametrize("turn", range(len(TURNS)))
@pytest.mark.parametrize(
    ("spacing", "target"),
    [
        ((0.8, 0.9, 3.0), (0.9, 0.9, 3.0)),  # CT: coarse slices stay, resampled within
        ((0.8, 0.8, 3.2), (0.8, 0.8, 2.0)),  # slices made up by nearest neighbour
        ((1.0, 1.2, 2.0), (1.0, 1.0, 1.0)),
        ((1.5, 1.0, 1.0), (1.0, 1.0, 1.5)),
        ((1.2, 1.2, 1.2), (0.7, 1.3, 1.0)),
        ((0.8, 0.8, 3.0), (0.9, 0.9, 0.0)),  # 0: each image's own, as for a 2-D model on volumes
    ],
)
def test_labels_overlap_after_resampling_there_and_back(
    spacing: tuple[float, ...], target: tuple[float, ...], turn: int
) -> None:
    grid = tilted((96, 90, 84), spacing, (0.24, -0.17), turn)
    require_overlap(blobs(grid, turn), grid, target)


numbers = st.floats(1.0, 1.6)


@few
@given(
    spacing=st.tuples(numbers, numbers, st.floats(1.0, 3.5)),
    finer=st.tuples(*[st.floats(0.6, 1.0)] * 3),
    angles=st.tuples(*[st.floats(-0.35, 0.35)] * 2),
    turn=st.integers(0, len(TURNS) - 1),
)
def test_any_oblique_grid_survives_a_grid_that_is_no_coarser(
    spacing: tuple[float, ...], finer: tuple[float, ...], angles: tuple[float, float], turn: int
) -> None:
    grid = tilted((96, 90, 84), spacing, angles, turn)
    canonical = grid.reoriented(*canonical_axes(grid)).spacing
    target = tuple(s * f for s, f in zip(canonical, finer, strict=True))
    require_overlap(blobs(grid, 0), grid, target)


@few
@given(angles=st.tuples(*[st.floats(-0.6, 0.6)] * 2), turn=st.integers(0, len(TURNS) - 1))
def test_shape_and_affine_come_back_exactly_whatever_the_grid(angles: tuple[float, float], turn: int) -> None:
    """Reorientation moves numbers, it does not recompute them: the record gives back the very bits of the header."""
    grid = tilted((20, 17, 14), (0.7, 1.1, 2.3), angles, turn)
    labels = np.random.default_rng(turn).integers(0, CLASSES + 1, grid.shape).astype(np.uint8)
    axes, flips = canonical_axes(grid)
    prepared, record = there(labels, grid, grid.reoriented(axes, flips).spacing)
    restored = restore_labels(prepared, record)
    kept = np.zeros(grid.shape, dtype=bool)
    kept[2:] = True
    np.testing.assert_array_equal(restored, np.where(kept, labels, 0))
    assert InverseRecord.from_json(record.to_json()).native == grid


@few
@given(st.data())
def test_an_image_comes_back_from_a_finer_grid(data: st.DataObject) -> None:
    """A smooth image (no detail below four voxels) loses next to nothing on a finer grid."""
    shape = tuple(data.draw(st.integers(24, 40)) for _ in range(3))
    fine = tuple(round(n * data.draw(st.floats(1.0, 1.8))) for n in shape)
    place = np.meshgrid(*[np.linspace(0, n / 8 * 2 * np.pi, n) for n in shape], indexing="ij")
    image = sum(np.sin(p + k) for k, p in enumerate(place)).astype(np.float32)
    returned = resample_channel(resample_channel(image, fine), shape)
    inner = tuple(slice(6, n - 6) for n in shape)
    np.testing.assert_allclose(returned[inner], image[inner], atol=0.1)
