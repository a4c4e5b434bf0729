"""Augmentation: scipy as the oracle for what is interpolated, exactness for labels, keys for draws."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from medseg.augment import policy
from medseg.augment.draws import Draws, Share
from medseg.augment.intensity import brightness_contrast, gamma, noise
from medseg.augment.policy import AUGMENTATIONS, Setting
from medseg.augment.spatial import apply_affine, draw_affine
from medseg.augment.tables import TABLES

SHAPES = [(16, 21), (9, 12, 14)]


def keyed(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch_of(shape: tuple[int, ...], count: int = 3, channels: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.randn(count, channels, *shape, generator=keyed(5))
    return images, torch.randint(0, 4, (count, *shape), generator=keyed(6))


def drawn(dims: int, count: int = 3, seed: int = 0, **changes) -> torch.Tensor:
    options = {"rotation_deg": 60.0, "scale": (0.8, 1.25), "probability": 1.0}
    return draw_affine(count, dims, keyed(seed), **{**options, **changes})


@pytest.mark.parametrize("shape", SHAPES)
def test_identity_changes_nothing(shape: tuple[int, ...]) -> None:
    images, labels = batch_of(shape)
    eye = torch.eye(len(shape)).repeat(3, 1, 1)
    moved, looked = apply_affine(images, labels, eye, (1.0, 2.5, 0.5)[: len(shape)])
    torch.testing.assert_close(moved, images, atol=1e-5, rtol=1e-5)
    assert torch.equal(looked, labels)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 1.0, 0.5)])
def test_images_move_as_in_scipy(shape: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    dims = len(shape)
    images, labels = batch_of(shape)
    matrix = drawn(dims)
    moved, looked = apply_affine(images, labels, matrix, spacing[:dims])
    size = np.diag(spacing[:dims])
    centre = (np.array(shape) - 1) / 2
    for n in range(len(images)):
        # Output voxel -> physical offset -> turned and scaled -> input voxel.
        linear = np.linalg.inv(size) @ matrix[n].numpy() @ size
        options = {"offset": centre - linear @ centre, "cval": 0, "mode": "grid-constant"}
        for channel in range(images.shape[1]):
            expected = ndimage.affine_transform(images[n, channel].numpy(), linear, order=1, **options)
            np.testing.assert_allclose(moved[n, channel], expected, atol=2e-4)
        nearest = ndimage.affine_transform(labels[n].numpy(), linear, order=0, **options)
        # Voxels on a border between two may round either way in single precision.
        assert (looked[n].numpy() == nearest).mean() > 0.995


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int64])
@settings(max_examples=15)
@given(seed=st.integers(0, 500), dims=st.sampled_from([2, 3]))
def test_labels_stay_labels(dtype: torch.dtype, seed: int, dims: int) -> None:
    images, labels = batch_of(SHAPES[dims - 2])
    labels = (labels * 80).to(dtype)
    _, looked = apply_affine(images, labels, drawn(dims, seed=seed), (1.0,) * dims)
    assert looked.dtype == dtype
    assert looked.shape == labels.shape
    assert set(looked.unique().tolist()) <= set(labels.unique().tolist()) | {0}


@pytest.mark.parametrize("dims", [2, 3])
def test_image_and_label_move_together(dims: int) -> None:
    shape = (32, 28) if dims == 2 else (20, 24, 18)
    labels = torch.zeros(4, *shape, dtype=torch.int64)
    labels[:, 5:14, 7:21] = 1
    images = labels[:, None].float()
    matrix = drawn(dims, count=4, rotation_deg=40.0)
    spacing = (2.0, 1.0, 1.0)[:dims]
    moved, looked = apply_affine(images, labels, matrix, spacing)
    assert not torch.equal(looked, labels)
    agree = ((moved[:, 0] > 0.5) == (looked > 0)).float().mean()
    assert agree > 0.99
    # Where interpolation is sure, there is no exception at all.
    assert ((moved[:, 0] > 0.999) <= (looked > 0)).all()


def test_direction_of_a_quarter_turn_and_of_zoom() -> None:
    """Maps go from output to input: a factor of 2 in the matrix shrinks what is seen."""
    image = torch.zeros(1, 1, 9, 9)
    image[0, 0, 1, 4] = 1.0
    turn = torch.tensor([[[0.0, -1.0], [1.0, 0.0]]])
    moved, _ = apply_affine(image, image[:, 0].long(), turn, (1.0, 1.0))
    assert torch.nonzero(moved[0, 0] > 0.5).tolist() == [[4, 7]]
    larger = drawn(2, scale=(2.0, 2.0), rotation_deg=0.0)
    torch.testing.assert_close(larger, torch.eye(2).repeat(3, 1, 1) / 2)
    block = torch.zeros(1, 1, 16, 16)
    block[0, 0, 4:12, 4:12] = 1.0
    _, shrunk = apply_affine(block, block[:, 0].long(), 2 * torch.eye(2)[None], (1.0, 1.0))
    assert int(shrunk.sum()) == 16


@settings(max_examples=25)
@given(seed=st.integers(0, 1000), dims=st.sampled_from([2, 3]))
def test_drawn_maps_are_turns_times_scale(seed: int, dims: int) -> None:
    matrix = drawn(dims, count=5, seed=seed).double()
    scale = matrix.det() ** (1 / dims)
    assert ((scale > 1 / 1.25 - 1e-5) & (scale < 1 / 0.8 + 1e-5)).all()
    unit = matrix / scale[:, None, None]
    torch.testing.assert_close(unit @ unit.mT, torch.eye(dims).double().repeat(5, 1, 1), atol=1e-5, rtol=0)


def test_limits_and_shares_of_the_draw() -> None:
    quiet = drawn(2, count=400, probability=0.0)
    torch.testing.assert_close(quiet, torch.eye(2).repeat(400, 1, 1))
    half = drawn(2, count=400, probability=0.5)
    moved = (half - torch.eye(2)).abs().amax(dim=(1, 2)) > 1e-6
    assert 0.4 < moved.float().mean() < 0.6
    small = drawn(2, count=400, rotation_deg=15.0, scale=(1.0, 1.0))
    angles = torch.rad2deg(torch.atan2(small[:, 1, 0], small[:, 0, 0]))
    assert angles.abs().max() <= 15.0
    assert angles.min() < -10 < 10 < angles.max()
    assert (drawn(3, count=200).det() > 0).all()


@pytest.mark.parametrize("change", [gamma, brightness_contrast, noise])
def test_intensity_changes_are_keyed_per_sample_and_can_be_off(change) -> None:
    images, _ = batch_of(SHAPES[0], count=8)
    torch.testing.assert_close(change(images, keyed(), 0.0), images, atol=1e-5, rtol=1e-5)
    once = change(images, keyed(1), 1.0)
    assert torch.equal(once, change(images, keyed(1), 1.0))
    assert not torch.equal(once, change(images, keyed(2), 1.0))
    assert once.shape == images.shape
    assert once.dtype == images.dtype
    some = (change(images, keyed(3), 0.5) - images).abs().amax(dim=(1, 2, 3)) > 1e-4
    assert 0 < int(some.sum()) < 8


def test_gamma_keeps_range_and_order() -> None:
    images, _ = batch_of(SHAPES[0], count=4, channels=1)
    out = gamma(images, keyed(), 1.0)
    for before, after in zip(images.reshape(4, -1), out.reshape(4, -1), strict=True):
        assert after.min() == pytest.approx(float(before.min()), abs=1e-4)
        assert after.max() == pytest.approx(float(before.max()), abs=1e-4)
        assert (after[before.argsort()].diff() >= -1e-5).all()


def test_contrast_and_noise_have_the_sizes_they_say() -> None:
    images = torch.randn(200, 1, 24, 24, generator=keyed(9)) * 3 + 10
    out = brightness_contrast(images, keyed(), 1.0)
    gain = out.std(dim=(1, 2, 3)) / images.std(dim=(1, 2, 3))
    shift = (out.mean(dim=(1, 2, 3)) - images.mean(dim=(1, 2, 3))) / images.std(dim=(1, 2, 3))
    assert 0.75 - 1e-3 < gain.min() < 0.8
    assert 1.2 < gain.max() < 1.25 + 1e-3
    assert shift.abs().max() <= 0.2 + 1e-3
    level = (noise(images, keyed(), 1.0) - images).std(dim=(1, 2, 3)) / images.std(dim=(1, 2, 3))
    assert level.max() < 0.12
    assert level.max() > 0.08


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_recipes_are_functions_of_their_key(name: str, dims: int) -> None:
    images, labels = batch_of(SHAPES[dims - 2])
    before = images.clone(), labels.clone()
    options = ((1.0,) * dims, dims == 3)
    x, y = AUGMENTATIONS[name](images, labels, keyed(1), Setting(*options))
    again = AUGMENTATIONS[name](images, labels, keyed(1), Setting(*options))
    assert torch.equal(x, again[0])
    assert torch.equal(y, again[1])
    assert (x.shape, y.shape, y.dtype) == (images.shape, labels.shape, labels.dtype)
    assert torch.isfinite(x).all()
    assert torch.equal(images, before[0])
    assert torch.equal(labels, before[1])
    other, _ = AUGMENTATIONS[name](images, labels, keyed(2), Setting(*options))
    assert torch.equal(x, other) == (name == "none")


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_share_of_a_batch_becomes_what_it_becomes_in_the_whole(name: str, dims: int) -> None:
    images, labels = batch_of(SHAPES[dims - 2], count=7, channels=3)
    spacing = (1.0,) * dims
    often = {row: {"probability": 0.7} for row in TABLES.get(name, {})}
    x, y = AUGMENTATIONS[name](images, labels, keyed(1), Setting(spacing, False, None, often))
    for positions in (range(7), range(3), range(3, 7), range(6, 7), range(1, 7, 3)):
        share = Share(7, positions)
        some, their = images[share.rows].clone(), labels[share.rows].clone()
        some_x, some_y = AUGMENTATIONS[name](some, their, keyed(1), Setting(spacing, False, None, often, share))
        assert torch.equal(some_x, x[share.rows])
        assert torch.equal(some_y, y[share.rows])


def test_draws_of_some_samples_are_those_of_all() -> None:
    some, every = Draws(5, keyed(), slice(1, 5, 2)), Draws(5, keyed())
    np.testing.assert_array_equal(some.uniform(3), every.uniform(3)[1::2])
    field = dict(every.normal(np.ones(5, dtype=np.float32), (4, 20), np.ones(5, dtype=bool)))
    there = dict(some.normal(np.ones(2, dtype=np.float32), (4, 20), np.ones(2, dtype=bool)))
    assert torch.equal(there[0], field[1])
    assert torch.equal(there[1], field[3])
    np.testing.assert_array_equal(some.chance(0.5), every.chance(0.5)[1::2])


@pytest.mark.parametrize(
    ("shape", "spacing", "positions"),
    [
        ((6, 6), (1.0, 1.0), 8),
        ((3, 6, 6), (2.0, 1.0, 1.0), 16),
        ((6, 3, 6), (1.0, 2.0, 1.0), 16),
        ((4, 4, 3), (1.0, 1.0, 1.0), 16),
    ],
)
def test_square_patches_without_orientation_take_their_positions_alike(
    shape: tuple[int, ...], spacing: tuple[float, ...], positions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for change in ("gamma", "brightness_contrast", "noise"):
        monkeypatch.setattr(policy, change, lambda images, *_: images)
    count = 200 * positions
    labels = torch.arange(math.prod(shape)).reshape(1, *shape).expand(count, *shape).contiguous()
    x, y = AUGMENTATIONS["default"](labels[:, None].float(), labels, keyed(), Setting(spacing, False))
    assert torch.equal(x[:, 0].long(), y)
    found, hits = y.flatten(1).unique(dim=0, return_counts=True)
    assert len(found) == positions
    assert torch.equal(found.sort(dim=1).values, torch.arange(math.prod(shape)).expand_as(found))
    assert 140 < hits.min() <= hits.max() < 260


@pytest.mark.parametrize(("shape", "spacing"), [((10, 12), (1.0, 1.0)), ((12, 12), (1.0, 2.0))])
def test_other_patches_without_orientation_turn_by_any_angle(
    shape: tuple[int, ...], spacing: tuple[float, ...]
) -> None:
    labels = torch.zeros(400, *shape, dtype=torch.int64)
    labels[:, 2:4, 3:5] = 1
    _, moved = AUGMENTATIONS["default"](labels[:, None].float(), labels, keyed(), Setting(spacing, False))
    found, hits = moved.flatten(1).unique(dim=0, return_counts=True)
    four = torch.stack([labels[0].flip(axes) for axes in ([], [0], [1], [0, 1])]).flatten(1)
    plain = [int(hits[(found == one).all(dim=1)]) for one in four]
    assert 140 < sum(plain) < 260
    assert min(plain) > 25
    assert len(found) > 40


def test_oriented_volumes_are_never_mirrored() -> None:
    """A marker in one corner half stays in its half: turned by 15 degrees at most, never flipped."""
    labels = torch.zeros(60, 12, 12, 12, dtype=torch.int64)
    labels[:, 1:5, 4:8, 4:8] = 1
    images = labels[:, None].float()
    _, kept = AUGMENTATIONS["default"](images, labels, keyed(), Setting((1.0,) * 3, True))
    _, mixed = AUGMENTATIONS["default"](images, labels, keyed(), Setting((1.0,) * 3, False))
    assert not kept[:, 7:].any()
    flipped = mixed[:, 7:].flatten(1).any(dim=1).float().mean()
    assert 0.25 < flipped < 0.9
    assert math.isclose(float(kept.sum()), 60 * 64, rel_tol=0.3)
