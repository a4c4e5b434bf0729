"""Region proposals: a tree of connected regions that covers the image and finds what stands out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from skimage.measure import label
from torch._subclasses.fake_tensor import FakeTensorMode

from medseg.models.proposals import Proposals, propose, regions, superpixels


def blob(shape: tuple[int, ...], radius: float, noise: float, channels: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """A bright disc or ball on dark ground, and its mask."""
    rng = np.random.default_rng(0)
    place = np.meshgrid(*[np.arange(n) - 0.45 * n for n in shape], indexing="ij")
    mask = sum(p**2 for p in place) < radius**2
    image = mask + noise * rng.standard_normal((channels, *shape))
    return image.astype(np.float32), mask


def masks_of(found: Proposals) -> np.ndarray:
    """(R, S)."""
    return found.members[:, found.leaves]


@pytest.mark.parametrize("noise", [0.0, 0.1, 0.3])
@pytest.mark.parametrize(
    ("shape", "radius"), [((64, 64), 12), ((128, 96), 9), ((24, 24, 24), 6), ((12, 40, 40), 5)]
)  # fmt: skip
def test_what_stands_out_is_among_the_proposals(shape: tuple[int, ...], radius: float, noise: float) -> None:
    image, mask = blob(shape, radius, noise)
    masks = masks_of(propose(image, 64))
    overlaps = [(m & mask).sum() / (m | mask).sum() for m in masks]
    assert max(overlaps) >= 0.8


@pytest.mark.parametrize("most", [1, 2, 7, 64])
@pytest.mark.parametrize("shape", [(40, 33), (17, 23), (9, 12, 7), (5, 1), (1, 1), (2, 3, 1)])
def test_proposals_are_a_tree_of_connected_regions_over_leaves_that_cover_the_image(
    shape: tuple[int, ...], most: int
) -> None:
    image, _ = blob(shape, 5, 0.3, channels=2)
    found = propose(image, most)
    masks = masks_of(found)
    leaves = (most + 1) // 2
    assert masks.shape == (most, *shape)
    assert found.members.shape == (most, leaves)
    count = found.leaves.max() + 1
    assert count <= leaves
    # Each voxel is in exactly one of the finest; the last region is everything.
    assert (masks[:count].sum(axis=0) == 1).all()
    assert masks[-1].all()
    for mask in masks:
        assert mask.any()
        assert label(mask, connectivity=1).max() == 1
    for first in masks:
        for second in masks:
            common = (first & second).sum()
            assert common in (0, first.sum(), second.sum())
    # A full binary tree: one more region than twice the merges, the whole image repeated to fill up.
    different = {m.tobytes() for m in masks}
    assert len(different) == 2 * count - 1


def test_boxes_are_tight() -> None:
    found = propose(blob((30, 20, 9), 4, 0.2)[0], 32)
    for mask, (low, high) in zip(masks_of(found), found.boxes, strict=True):
        rows = np.argwhere(mask)
        assert np.array_equal(rows.min(axis=0), low)
        assert np.array_equal(rows.max(axis=0) + 1, high)


@pytest.mark.parametrize("shape", [(48, 40), (12, 20, 16)])
def test_proposals_are_a_function_of_the_image(shape: tuple[int, ...]) -> None:
    image, _ = blob(shape, 5, 0.3, channels=3)
    first, again = propose(image, 32), propose(image.copy(), 32)
    for name in ("leaves", "members", "boxes"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
    assert not np.array_equal(first.leaves, propose(blob(shape, 8, 0.3, channels=3)[0], 32).leaves)
    # Brightness and contrast of the image do not matter.
    brighter = propose(4 * image + 16, 32)
    assert (brighter.leaves == first.leaves).mean() > 0.95


@pytest.mark.parametrize("value", [0.0, 7.0, np.nan, np.inf])
def test_images_without_content_still_get_regions(value: float) -> None:
    found = propose(np.full((1, 16, 16), value, dtype=np.float32), 16)
    assert masks_of(found)[-1].all()


def test_superpixels_are_bounded_in_number_and_connected() -> None:
    image, _ = blob((40, 40), 9, 0.3)
    labels = superpixels(np.clip(image, 0, 1).astype(np.float64))
    assert np.array_equal(np.unique(labels), np.arange(labels.max() + 1))
    assert 20 < labels.max() < 200
    assert len(np.unique(label(labels, background=-1, connectivity=1))) == labels.max() + 1


@pytest.mark.parametrize("shape", [(3, 1, 24, 17), (2, 2, 8, 12, 9)])
@pytest.mark.parametrize("most", [5, 16])
def test_the_operator_has_the_shapes_that_it_claims(shape: tuple[int, ...], most: int) -> None:
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    real = regions(images, most)
    with FakeTensorMode() as mode:
        claimed = regions(mode.from_tensor(images), most)
    for made, said in zip(real, claimed, strict=True):
        assert (made.shape, made.dtype, made.stride()) == (said.shape, said.dtype, said.stride())
    torch.library.opcheck(regions, (images, most), test_utils=("test_schema", "test_faketensor"))


def test_the_operator_is_proposals_image_by_image() -> None:
    images = torch.randn(3, 1, 20, 20, generator=torch.Generator().manual_seed(0))
    leaves, members, boxes = regions(images, 16)
    for image, leaf, member, box in zip(images, leaves, members, boxes, strict=True):
        alone = propose(image.numpy(), 16)
        assert np.array_equal(alone.leaves, leaf.numpy())
        assert np.array_equal(alone.members, member.numpy())
        assert np.array_equal(alone.boxes, box.numpy())
