"""SDS: regions and objects, leaves and coarse masks, the network and its machines."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from medseg.engine.step import Step, build_optimizer
from medseg.errors import PlanError, TrainingError
from medseg.image.labels import IGNORE
from medseg.image.objects import STEP, encode
from medseg.metrics.matching import Matching
from medseg.models.detection.objects import objects_of
from medseg.models.detection.regions import (
    at_leaves,
    examples_of,
    leaves_of,
    overlaps_of_regions,
    region_boxes,
    region_overlaps,
    true_regions,
    widened,
)
from medseg.models.finish import finishing
from medseg.models.proposals import regions
from medseg.models.spec import NetworkSpec
from medseg.models.zoo import build_model
from medseg.objects.decode import decode
from medseg.objects.decoding import Decoding

SIZE = (40, 48)


def spec_of(classes: int = 2, head: str = "boundary", **options: Any) -> NetworkSpec:
    strides, kernels = ((1, 1), (2, 2), (2, 2)), ((3, 3),) * 3
    return NetworkSpec(2, 1, classes, (8, 16, 32), strides, kernels, SIZE, options, name="sds", head=head)


def built(seed: int = 0, **given: Any) -> Any:
    torch.manual_seed(seed)
    return build_model("sds", spec_of(**{"width": 8, "regions": 64, **given}))


def scene(*centres: tuple[float, float, float], seed: int = 0, classes: int = 1) -> tuple[Tensor, Tensor]:
    """An image (1, 1, S) of bright discs, and its codes (1, S)."""
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
    numbers = np.zeros(SIZE, dtype=np.int64)
    for number, (row, column, radius) in enumerate(centres, start=1):
        numbers[np.hypot(rows + 0.5 - row, columns + 0.5 - column) < radius] = number
    channels = np.where(numbers > 0, (numbers - 1) % classes + 1, 0)
    image = 2.0 * channels + 0.2 * np.random.default_rng(seed).standard_normal(SIZE)
    return torch.from_numpy(image)[None, None].float(), torch.from_numpy(encode(numbers, channels))[None].long()


DISCS = ((10, 10, 7), (28, 14, 8), (20, 36, 9))


# Regions


def test_overlaps_of_regions_and_objects_are_those_of_their_voxels() -> None:
    image, codes = scene(*DISCS)
    leaves, members, _ = regions(image, 40)
    objects = objects_of(codes, 5)
    known = leaves_of(leaves, members.shape[2], objects, codes)
    masks = torch.stack([members[0, r][leaves[0]] for r in range(40)]).flatten(1).double()
    truth = torch.stack([codes[0] % STEP == n for n in (1, 2, 3)]).flatten(1).double()
    shared = masks @ truth.T
    expected = shared / (masks.sum(1)[:, None] + truth.sum(1) - shared)
    torch.testing.assert_close(region_overlaps(members, known)[0, :, :3].double(), expected)
    assert not region_overlaps(members, known)[0, :, 3:].any()
    mutual = masks @ masks.T
    expected = mutual / (masks.sum(1)[:, None] + masks.sum(1) - mutual)
    torch.testing.assert_close(overlaps_of_regions(members[0], known.sizes[0]).double(), expected)


def test_leaves_know_their_size_their_middle_and_what_is_not_annotated() -> None:
    leaves = torch.zeros(1, 4, 6, dtype=torch.int64)
    leaves[0, :, 4:] = 1
    codes = torch.zeros(1, 4, 6, dtype=torch.int64)
    codes[0, :, 5] = IGNORE * STEP
    known = leaves_of(leaves, 3, objects_of(codes, 2), codes)
    assert known.sizes.tolist() == [[16, 8, 0]]
    assert known.centres[0, :2].tolist() == [[2, 2], [2, 5]]
    assert known.unknown.tolist() == [[0, 4, 0]]
    assert known.shares.shape == (1, 3, 2)


def test_regions_made_of_leaves_have_the_boxes_of_the_merged_ones() -> None:
    image, codes = scene(*DISCS)
    leaves, members, boxes = regions(image, 40)
    known = leaves_of(leaves, members.shape[2], objects_of(codes, 5), codes)
    assert torch.equal(region_boxes(members, known), boxes.float())
    true = true_regions(known)
    assert true.any(dim=2).tolist() == [[True, True, True, False, False]]
    # The best that leaves can give, so no region has more of an object.
    shared = (true.float() @ known.shares)[0].diagonal()
    assert (shared >= 0.5 * known.shares.sum(dim=1)[0]).all()


def test_examples_are_near_objects_or_far_annotated_and_counted_once() -> None:
    image, codes = scene(*DISCS)
    leaves, members, _ = regions(image, 100)
    objects = objects_of(codes, 5)
    known = leaves_of(leaves, members.shape[2], objects, codes)
    overlap = region_overlaps(members, known).amax(dim=2)
    near, far = examples_of(members, overlap, known)
    assert near.any()
    assert far.any()
    assert (overlap[near] >= 0.2).all()
    assert (overlap[far] < 0.4).all()
    # 40 x 48 voxels have fewer superpixels than 50; the whole image is repeated at the end.
    repeated = (members[0, 1:] == members[0, :-1]).all(dim=1)
    assert repeated.any()
    assert not (near | far)[0, 1:][repeated].any()
    unknown = torch.full_like(codes, IGNORE * STEP)
    known = leaves_of(leaves, members.shape[2], objects_of(unknown, 5), unknown)
    assert not any(kind.any() for kind in examples_of(members, region_overlaps(members, known).amax(dim=2), known))


def test_a_coarse_mask_is_read_where_a_leaf_is() -> None:
    ramp = torch.arange(10).float().expand(10, 10)[None, None]
    boxes = torch.tensor([[[[0, 0], [20, 20]]]])
    found, inside = at_leaves(ramp, boxes.float(), torch.tensor([[[5.0, 1.0], [5.0, 6.0], [5.0, 25.0]]]))
    torch.testing.assert_close(found[0, 0], torch.tensor([0.0, 2.5, 9.0]))
    assert inside[0, 0].tolist() == [True, True, False]


def test_boxes_are_widened_by_a_share_of_their_side_and_two_voxels() -> None:
    assert widened(torch.tensor([[4, 4], [24, 6]]), 0.25).tolist() == [[-1, 2], [29, 8]]


# The network


@pytest.mark.parametrize("what", ["nothing", "one voxel", "tiny image", "everything", "not annotated"])
def test_whatever_there_is_the_loss_and_its_gradient_are_finite(what: str) -> None:
    image, codes = scene((20.5, 20.5, 0.6))
    if what == "tiny image":
        image, codes = image[..., 19:22, 19:21], codes[:, 19:22, 19:21]
    elif what != "one voxel":
        codes = torch.full_like(codes, {"nothing": 0, "everything": STEP + 1, "not annotated": IGNORE * STEP}[what])
    network = built(regions=16).train()
    loss = network.objective(network(image), codes)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(p.grad).all() for p in network.parameters() if p.grad is not None)
    with torch.inference_mode():
        maps = network.eval()(image)
    assert maps.shape == (1, 2, *image.shape[2:])
    assert torch.isfinite(maps).all()


def test_a_few_steps_and_the_machines_find_the_objects_of_plain_scenes() -> None:
    scenes = [scene(*DISCS, seed=1), scene((12, 30, 8), (30, 36, 7), (25, 10, 9), seed=2)]
    network = built(regions=120)
    step = Step(network, build_optimizer("adamw", network.parameters(), 0.003, 0.0), network.objective, "cpu", "fp32")
    for number in range(30):
        torch.manual_seed(number)
        step(*scenes[number % 2])
    network.finish(scenes)
    network.eval()
    for image, codes in scenes:
        with torch.inference_mode():
            maps = (network(image)[0].sigmoid() * 1024).round().short().numpy()
        found = decode("boundary", maps, (1.0, 1.0), Decoding()).astype(np.int64)
        matched = Matching.of((codes[0] % STEP).numpy(), found).at(0.5)
        assert (matched.tp, matched.fp, matched.fn) == (3, 0, 0)


def test_a_step_is_a_function_of_the_seed() -> None:
    image, codes = scene(*DISCS)

    def loss_of(seed: int) -> float:
        network = built(sample=6)
        torch.manual_seed(seed)
        return float(network.objective(network(image), codes).detach())

    assert loss_of(1) == loss_of(1)
    assert loss_of(1) != loss_of(2)


def test_machines_replace_the_classifier_and_draw_nothing() -> None:
    batches = [scene(*DISCS, seed=s) for s in range(2)]
    first, second = built(), built()
    assert finishing(first) is first
    torch.manual_seed(1)
    first.finish(batches)
    torch.manual_seed(2)
    second.finish(batches)
    assert torch.equal(first.classifier.weight, second.classifier.weight)
    assert not first.classifier.weight[0].any()
    assert first.classifier.weight[1].any()
    unfitted = built(svm=False)
    assert finishing(unfitted) is None


def test_machines_without_an_annotated_voxel_say_so() -> None:
    image, codes = scene(*DISCS)
    with pytest.raises(TrainingError, match="no annotated voxel"):
        built().finish([(image, torch.full_like(codes, IGNORE * STEP))])


def test_several_classes_have_a_map_each() -> None:
    image, codes = scene(*DISCS, classes=2)
    network = built(classes=3)
    loss = network.objective(network(image), codes)
    loss.backward()
    assert torch.isfinite(loss)
    with torch.inference_mode():
        assert network.eval()(image).shape == (1, 4, *SIZE)


def test_other_heads_are_refused_by_name() -> None:
    with pytest.raises(PlanError, match=r"head 'boundary', found 'distance'"):
        build_model("sds", spec_of(head="distance"))
