"""Mask R-CNN: features and overlaps of boxes, what proposals learn, detections as maps, and the network."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from medseg.engine.step import Step, build_optimizer
from medseg.errors import PlanError
from medseg.image.labels import IGNORE
from medseg.image.objects import STEP, encode
from medseg.metrics.matching import Matching
from medseg.models.detection import painting
from medseg.models.detection.boxes import best_of_overlapping, generalised_loss, overlaps, refined, refinements
from medseg.models.detection.objects import objects_of
from medseg.models.detection.proposals import all_boxes, assigned, proposed
from medseg.models.detection.pyramid import Level
from medseg.models.detection.roi_align import roi_align
from medseg.models.detection.sampling import masks_in_boxes, sampled
from medseg.models.head import init_foreground_prior
from medseg.models.objective import own_objective
from medseg.models.spec import NetworkSpec
from medseg.models.zoo import build_model
from medseg.objects.decode import decode
from medseg.objects.decoding import Decoding

LEVELS = (Level(4, 0.0), Level(8, 0.0), Level(16, 0.0))


def spec_of(classes: int = 2, channels: int = 1, head: str = "boundary", **options: Any) -> NetworkSpec:
    strides = ((1, 1), *[(2, 2)] * 3)
    return NetworkSpec(
        2, channels, classes, (8, 16, 32, 64), strides, ((3, 3),) * 4, (64, 64), options, name="mask_rcnn", head=head
    )


def built(seed: int = 0, **given: Any) -> Any:
    torch.manual_seed(seed)
    return build_model("mask_rcnn", spec_of(**{"width": 8, **given}))


def boxes_of(count: int, size: int, seed: int, batch: int = 1) -> Tensor:
    draws = torch.Generator().manual_seed(seed)
    low = torch.rand(batch, count, 2, generator=draws) * size
    return torch.cat([low, low + torch.rand(batch, count, 2, generator=draws) * size / 2 + 0.1], dim=-1)


def discs(size: tuple[int, int], *centres: tuple[float, float, float]) -> np.ndarray:
    """Numbers of discs (row, column, radius), later ones over earlier ones."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    numbers = np.zeros(size, dtype=np.int64)
    for number, (row, column, radius) in enumerate(centres, start=1):
        numbers[np.hypot(rows + 0.5 - row, columns + 0.5 - column) < radius] = number
    return numbers


def codes_of(*maps: np.ndarray, channels: np.ndarray | None = None) -> Tensor:
    each = [encode(m, (m > 0).astype(np.int64) if channels is None else channels) for m in maps]
    return torch.from_numpy(np.stack(each)).long()


# Features of boxes


def sample_at(image: Tensor, row: float, column: float) -> Tensor:
    """Bilinear between voxels' middles (C), those of the edge beyond it."""
    found = torch.zeros(image.shape[0], dtype=image.dtype)
    row = min(max(row - 0.5, 0), image.shape[1] - 1)
    column = min(max(column - 0.5, 0), image.shape[2] - 1)
    for r in (int(row), int(row) + 1):
        for c in (int(column), int(column) + 1):
            weight = max(0, 1 - abs(row - r)) * max(0, 1 - abs(column - c))
            if weight:
                found += weight * image[:, r, c]
    return found


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_features_of_a_box_are_means_of_bilinear_samples(samples: int) -> None:
    image = torch.randn(2, 3, 9, 13, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    boxes = torch.tensor(
        [[[1.2, 0.3, 6.9, 11.0], [-2.0, 5.0, 3.0, 17.5]], [[0, 0, 9, 13], [4.0, 4.0, 4.2, 4.1]]]
    ).double()
    found = roi_align(image, boxes, 4, samples=samples)
    assert found.shape == (4, 3, 4, 4)
    for number, (which, box) in enumerate((n, b) for n in (0, 1) for b in boxes[n].tolist()):
        steps = [(box[a + 2] - box[a]) / (4 * samples) for a in (0, 1)]
        for row in range(4):
            for column in range(4):
                points = [
                    sample_at(image[which], box[0] + (row * samples + i + 0.5) * steps[0],
                              box[1] + (column * samples + j + 0.5) * steps[1])
                    for i in range(samples)
                    for j in range(samples)
                ]  # fmt: skip
                torch.testing.assert_close(found[number, :, row, column], torch.stack(points).mean(dim=0))


@pytest.mark.parametrize(("stride", "centre"), [(4, 0.0), (2, 0.5), (8, 3.5)])
def test_features_are_taken_from_where_they_lie_in_the_image(stride: int, centre: float) -> None:
    """Of features that are the coordinates of their own place."""
    lines = torch.arange(20) * stride + centre + 0.5
    features = torch.stack(torch.meshgrid(lines, lines, indexing="ij"))[None]
    box = torch.tensor([[[2.5, 3.0, 4.5, 7.0]]]) * stride
    found = roi_align(features, box, 2, stride, centre)[0]
    torch.testing.assert_close(found[0, :, 0], torch.tensor([3.0, 4.0]) * stride)
    torch.testing.assert_close(found[1, 0], torch.tensor([4.0, 6.0]) * stride)


# Overlaps and coding


def test_overlaps_are_those_of_the_boxes_voxels() -> None:
    boxes = torch.tensor([[[0, 0, 4, 4], [2, 1, 6, 9], [3, 3, 3, 5]]]).float()
    masks = torch.zeros(3, 10, 10)
    for mask, (r, c, rr, cc) in zip(masks, boxes[0].long().tolist(), strict=True):
        mask[r:rr, c:cc] = 1
    shared = torch.einsum("ahw,bhw->ab", masks, masks)
    union = masks.sum((1, 2))[:, None] + masks.sum((1, 2)) - shared
    torch.testing.assert_close(overlaps(boxes, boxes)[0], shared / union.clamp_min(1))


@given(st.integers(0, 10_000))
def test_a_refinement_gives_the_wanted_box_back(seed: int) -> None:
    boxes, wanted = boxes_of(20, 50, seed)[0], boxes_of(20, 50, seed + 1)[0]
    # Growth is limited.
    sides = (wanted[:, 2:] - wanted[:, :2]) / (boxes[:, 2:] - boxes[:, :2])
    fits = (sides < 8).all(dim=1)
    torch.testing.assert_close(refined(boxes, refinements(boxes, wanted))[fits], wanted[fits], atol=1e-3, rtol=1e-4)
    torch.testing.assert_close(refined(boxes, torch.zeros(20, 4)), boxes)


def test_the_loss_of_boxes_is_0_for_equal_ones_and_larger_for_farther_ones() -> None:
    box = torch.tensor([2.0, 2.0, 6.0, 6.0])
    near, far = box + 1, box + 40
    same, one, two = (float(generalised_loss(box, other)) for other in (box, near, far))
    assert same == pytest.approx(0)
    assert 0 < one < 1 < two < 2
    # Empty boxes have no overlap, and a gradient that is finite.
    empty = torch.tensor([3.0, 3.0, 3.0, 3.0], requires_grad=True)
    generalised_loss(empty, box).backward()
    assert torch.isfinite(empty.grad).all()


@given(st.integers(0, 10_000), st.sampled_from([0.1, 0.3, 0.5, 0.7]))
def test_suppression_for_a_batch_at_once_is_that_of_one_box_after_another(seed: int, threshold: float) -> None:
    boxes = boxes_of(40, 30, seed, batch=3)
    valid = torch.rand(3, 40, generator=torch.Generator().manual_seed(seed)) < 0.9
    found = best_of_overlapping(boxes, valid, threshold)
    for image in range(3):
        kept: list[int] = []
        table = overlaps(boxes[image : image + 1], boxes[image : image + 1])[0]
        for box in range(40):
            if valid[image, box] and not any(table[other, box] > threshold for other in kept):
                kept.append(box)
        assert found[image].nonzero().flatten().tolist() == kept


# What proposals learn


def test_objects_are_read_off_codes_with_box_number_and_class() -> None:
    numbers = discs((20, 30), (5, 6, 4), (14, 20, 5))
    channels = np.array([0, 2, 1])[numbers]
    channels[:, 28:] = IGNORE
    # Augmentation leaves gaps between numbers.
    numbers[numbers == 2] = 900
    found = objects_of(codes_of(numbers, np.zeros_like(numbers), channels=channels), 5)
    assert found.numbers[0].tolist() == [1, 900, 0, 0, 0]
    assert found.channels[0].tolist() == [2, 1, 0, 0, 0]
    assert found.boxes[0, :2].tolist() == [[1, 2, 9, 10], [9, 15, 19, 25]]
    assert not found.there[1].any()
    # The largest, where there are too many.
    assert objects_of(codes_of(numbers), 1).numbers.tolist() == [[900]]


def test_every_object_is_proposed_by_the_voxel_next_to_its_centre_on_the_level_of_its_size() -> None:
    numbers = discs((128, 128), (20, 20, 1.0), (50, 50, 10), (90, 90, 30), (21, 100, 6), (30, 101, 5))
    objects = objects_of(codes_of(numbers), 8)
    wanted = assigned(objects, LEVELS, (128, 128))
    sizes = [level.size((128, 128)) for level in LEVELS]
    assert wanted.shape == (1, sum(a * b for a, b in sizes))
    starts = np.cumsum([0, *[a * b for a, b in sizes]])
    for row, level in [(0, 0), (1, 0), (2, 1), (3, 0), (4, 0)]:
        places = (wanted[0] == row).nonzero().flatten()
        assert 1 <= len(places) <= 9
        assert ((places >= starts[level]) & (places < starts[level + 1])).all()
        points = LEVELS[level].points((128, 128), torch.device("cpu"))[places - starts[level]]
        centre = (objects.boxes[0, row, :2] + objects.boxes[0, row, 2:]) / 2
        assert (points - centre).abs().max() <= 1.5 * LEVELS[level].stride + 0.5
        assert (points - centre).abs().amax(dim=1).min() <= LEVELS[level].stride / 2
    assert (wanted >= -1).all()


def test_proposals_are_the_best_boxes_that_do_not_overlap() -> None:
    """Scores that mark objects, and edges that are right, give their boxes back."""
    numbers = discs((64, 64), (12, 12, 7), (40, 40, 9), (12, 50, 5))
    objects, size = objects_of(codes_of(numbers), 4), (64, 64)
    wanted = assigned(objects, LEVELS, size)
    points = torch.cat([level.points(size, torch.device("cpu")) for level in LEVELS])
    goal = objects.boxes[0, wanted[0].clamp_min(0)]
    strides = torch.cat([torch.full((int(np.prod(v.size(size))), 1), float(v.stride)) for v in LEVELS])
    distances = torch.cat([points - goal[:, :2], goal[:, 2:] - points], dim=1)
    edges = (distances / (2 * strides)).clamp_min(1e-3).log()[None]
    scores = torch.where(wanted >= 0, 3.0, -3.0)
    boxes, valid = proposed(scores, all_boxes(edges, LEVELS, size), 3, size)
    assert valid.all()
    assert sorted(boxes[0].round().tolist()) == sorted(objects.boxes[0, :3].tolist())


# The second stage


def test_samples_are_of_objects_and_of_annotated_background() -> None:
    numbers = discs((64, 64), (12, 12, 7), (40, 40, 9))
    channels = (numbers > 0).astype(np.int64)
    channels[:, 50:] = IGNORE
    codes = codes_of(numbers, channels=channels)
    objects = objects_of(codes, 4)
    proposals = torch.tensor([[[5.0, 5, 20, 20], [0, 25, 10, 40], [0, 52, 10, 62], [31, 31, 49, 49]]])
    torch.manual_seed(0)
    sample = sampled(proposals, torch.ones(1, 4, dtype=torch.bool), objects, codes, 8)
    used = sample.boxes[sample.used].tolist()
    # Both objects' own boxes, the proposals close to them, one of background; not what nobody annotated.
    assert sorted(used) == sorted([*objects.boxes[0, :2].tolist(), *proposals[0, [0, 1, 3]].tolist()])
    assert sample.classes[sample.used].tolist().count(0) == 1
    torch.manual_seed(0)
    again = sampled(proposals, torch.ones(1, 4, dtype=torch.bool), objects, codes, 8)
    assert all(torch.equal(a, b) for a, b in zip(sample, again, strict=True) if isinstance(a, Tensor))


def test_masks_of_boxes_are_those_of_their_object_alone() -> None:
    numbers = discs((32, 32), (10, 10, 6), (10, 18, 6))
    found = masks_in_boxes(codes_of(numbers), torch.tensor([[[2.0, 3.0, 18.0, 27.0]]]), torch.tensor([[2]]), 8)
    voxels = (numbers == 2)[2:18, 3:27]
    # Middles of bins of 2 x 3 voxels.
    assert torch.equal(found[0, 0], torch.from_numpy(voxels[1::2, 1::3]))


# Painting


def bins_of(mask: np.ndarray, box: Tensor, bins: int = 28) -> Tensor:
    """The mask of a whole image in the bins of a box."""
    image = torch.from_numpy(mask.astype(np.float32))[None, None]
    return roi_align(image, box[None, None], bins, samples=1)[0, 0]


def test_masks_are_enlarged_bilinearly_in_their_boxes() -> None:
    mask = torch.rand(1, 7, 7, generator=torch.Generator().manual_seed(0))
    box = torch.tensor([[3.0, 5.0, 17.0, 26.0]])
    found = painting.enlarged(mask, box, (20, 30))[0]
    inner = torch.nn.functional.interpolate(mask[None], size=(14, 21), mode="bilinear", align_corners=False)[0, 0]
    torch.testing.assert_close(found[3:17, 5:26], inner)
    assert found.sum() == pytest.approx(float(inner.sum()))
    # However thin a box is, it has a voxel.
    assert (painting.enlarged(torch.ones(1, 7, 7), torch.tensor([[4.1, 4.2, 4.2, 4.3]]), (9, 9)) > 0.5).sum() == 1


def test_what_is_painted_is_decoded_as_the_same_objects() -> None:
    """Touching discs of several sizes; the mask of each is known in its box alone."""
    numbers = discs(
        (96, 90), (15, 15, 8), (15, 30, 8), (30, 22, 9), (60, 60, 18), (60, 25, 12), (88, 10, 3), (80, 85, 9)
    )
    objects = objects_of(codes_of(numbers), 7)
    masks = torch.stack([bins_of(numbers == n, objects.boxes[0, n - 1]) for n in range(1, 8)])
    boxes = objects.boxes[0]
    scores = torch.linspace(0.6, 0.9, 7)
    owner = painting.owners(masks, scores, boxes, numbers.shape)
    near = Matching.of(numbers, owner.numpy()).at(0.8)
    assert (near.tp, near.fp, near.fn) == (7, 0, 0)
    logits = painting.logits_of(painting.foreground(masks, torch.ones(7), boxes, numbers.shape), owner)
    maps = (logits.sigmoid() * 1024).round().short().numpy()
    found = decode("boundary", maps, (1.0, 1.0), Decoding(min_size=4))
    matches = Matching.of(owner.numpy(), found.astype(np.int64)).at(0.85)
    assert (matches.tp, matches.fp, matches.fn) == (7, 0, 0)


def test_a_detection_of_the_same_object_once_more_is_dropped() -> None:
    numbers = discs((40, 40), (20, 20, 9))
    box = torch.tensor([[11.0, 11.0, 29.0, 29.0], [9.0, 11.0, 26.0, 29.0]])
    masks = torch.stack([bins_of(numbers == 1, b) for b in box])
    owner = painting.owners(masks, torch.tensor([0.7, 0.9]), box, (40, 40))
    assert owner.unique().tolist() == [0, 2]


def test_an_image_without_detections_is_background() -> None:
    nothing = torch.zeros(0, 28, 28)
    owner = painting.owners(nothing, torch.zeros(0), torch.zeros(0, 4), (9, 7))
    logits = painting.logits_of(painting.foreground(nothing, torch.zeros(0), torch.zeros(0, 4), (9, 7)), owner)
    assert logits.shape == (2, 9, 7)
    assert (logits.sigmoid() < 0.05).all()


# The network

SCENES: dict[str, Tensor] = {
    "nothing": codes_of(np.zeros((40, 52), dtype=np.int64)),
    "one voxel": codes_of(discs((40, 52), (20.5, 20.5, 0.6))),
    "smaller than a stride": codes_of(discs((3, 2), (1.5, 1.0, 1.0))),
    "everything": codes_of(np.ones((40, 52), dtype=np.int64)),
    "not annotated": torch.full((1, 40, 52), IGNORE * STEP),
    "many": codes_of(np.arange(1, 40 * 52 + 1).reshape(40, 52)),
}


@pytest.mark.parametrize("scene", SCENES)
def test_whatever_there_is_the_loss_and_its_gradient_are_finite(scene: str) -> None:
    codes = SCENES[scene]
    network = built(seed=1).train()
    loss = network.objective(network(torch.randn(1, 1, *codes.shape[1:])), codes)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)
    with torch.inference_mode():
        maps = network.eval()(torch.randn(1, 1, *codes.shape[1:]))
    assert maps.shape == (1, 2, *codes.shape[1:])
    assert torch.isfinite(maps).all()


def test_with_several_classes_each_object_has_its_own() -> None:
    numbers = discs((64, 64), (20, 20, 9), (44, 44, 9))
    codes = codes_of(numbers, channels=np.array([0, 1, 2])[numbers])
    network = built(classes=3)
    image = torch.from_numpy(np.array([0.0, 1.0, -1.0])[numbers]).float()[None, None]
    step = Step(network, build_optimizer("adamw", network.parameters(), 0.003, 0.0), network.objective, "cpu", "fp32")
    for number in range(60):
        torch.manual_seed(number)
        step(image, codes)
    with torch.inference_mode():
        maps = network.eval()(image)[0]
    assert maps.shape == (4, 64, 64)
    classes = maps[2:].argmax(dim=0) + 1
    inside = torch.from_numpy(numbers) > 0
    assert (classes[inside] == torch.from_numpy(np.array([0, 1, 2])[numbers])[inside]).float().mean() > 0.9


def test_a_step_is_a_function_of_the_seed() -> None:
    numbers = discs((64, 64), (20, 20, 9), (44, 44, 9), (20, 44, 7))
    image, codes = torch.randn(1, 1, 64, 64, generator=torch.Generator().manual_seed(3)), codes_of(numbers)

    def loss_of(seed: int) -> float:
        network: nn.Module = built(sample=6)
        torch.manual_seed(seed)
        own = own_objective(network)
        assert own is not None
        return float(own.objective(network(image), codes).detach())

    assert loss_of(1) == loss_of(1)
    assert loss_of(1) != loss_of(2)


@pytest.mark.parametrize(
    "options", [{"pyramid": False}, {"finest": 2, "mask": 14}, {"encoder": "vgg16", "norm": "none"}]
)
def test_options_build_and_train(options: dict[str, Any]) -> None:
    network = built(**options)
    codes = codes_of(discs((64, 50), (20, 20, 9), (44, 40, 9)))
    loss = network.objective(network(torch.randn(1, 1, 64, 50)), codes)
    loss.backward()
    assert torch.isfinite(loss)
    without = [n for n, p in network.named_parameters() if p.grad is None]
    # What only coarser maps need that are not there.
    assert not [n for n in without if not n.startswith("pyramid.encoder")]


def test_nothing_else_sets_where_its_outputs_begin() -> None:
    network = built()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    init_foreground_prior(network, 2, sigmoids=2)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_other_heads_are_refused_by_name() -> None:
    with pytest.raises(PlanError, match=r"head 'boundary', found 'flows'"):
        build_model("mask_rcnn", spec_of(head="flows"))
    with pytest.raises(PlanError, match=r"found 'classes'"):
        build_model("mask_rcnn", spec_of(head=""))
