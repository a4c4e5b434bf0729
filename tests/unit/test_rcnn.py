"""Region-based segmentation: crops, painting, which regions are examples, and the machines fitted at the end."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medseg.engine.memory import estimate_memory
from medseg.engine.step import Step, build_optimizer
from medseg.errors import TrainingError
from medseg.image.labels import IGNORE
from medseg.losses.build import build_loss
from medseg.models.head import init_foreground_prior
from medseg.models.proposals import regions
from medseg.models.rcnn import RCNN, paint, unit_variance, warp
from medseg.models.region_svm import class_shares, fit_svms
from medseg.models.spec import NetworkSpec
from medseg.networks import RCNNOptions

SIZES = {2: (40, 33), 3: (12, 16, 9)}
Scene = Callable[[tuple[int, ...], int], tuple[np.ndarray, np.ndarray]]


def built(dims: int, classes: int = 3, channels: int = 1, **options: Any) -> RCNN:
    torch.manual_seed(0)
    strides = ((1,) * dims, (2,) * dims, (2,) * dims)
    spec = NetworkSpec(dims, channels, classes, (8, 16, 16), strides, ((3,) * dims,) * 3, (32,) * dims)
    return RCNN(spec, RCNNOptions(**{"regions": 16, **options}))


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def scenes(draw: Scene, shape: tuple[int, ...], *seeds: int) -> tuple[Tensor, Tensor]:
    images, labels = zip(*[draw(shape, s) for s in seeds], strict=True)
    return torch.from_numpy(np.stack(images))[:, None], torch.from_numpy(np.stack(labels)).long()


def dice(net: nn.Module, images: Tensor, labels: Tensor) -> list[float]:
    with torch.inference_mode():
        found = net.eval()(images).argmax(dim=1)
    net.train()
    masks = [(found == k, labels == k) for k in (1, 2)]
    return [float(2 * (one & other).sum() / (one.sum() + other.sum())) for one, other in masks]


# Painting


@pytest.mark.parametrize("dims", [2, 3])
def test_a_voxel_takes_the_best_score_of_the_regions_around_it(dims: int) -> None:
    images = noise(2, 1, *SIZES[dims])
    leaves, members, _ = regions(images, 12)
    scores = noise(2, 12, 4)
    logits = paint(scores, leaves, members)
    assert logits.shape == (2, 4, *SIZES[dims])
    for image in range(2):
        expected = torch.full((4, *SIZES[dims]), -torch.inf)
        for region in range(12):
            mask = members[image, region][leaves[image]]
            value = scores[image, region].view(4, *[1] * dims)
            expected = torch.where(mask, torch.maximum(expected, value), expected)
        assert torch.equal(logits[image], expected)


def test_the_gradient_goes_to_the_winning_regions() -> None:
    leaves, members, _ = regions(noise(1, 1, 24, 24), 8)
    scores = noise(1, 8, 2).requires_grad_()
    paint(scores, leaves, members).sum().backward()
    # Every voxel passes its gradient to one region per class.
    torch.testing.assert_close(scores.grad.sum(dim=1), torch.full((1, 2), 24.0 * 24))
    best = scores.argmax(dim=1)[0]
    assert all(scores.grad[0, best[k], k] > 0 for k in range(2))
    losers = [r for r in range(8) if not scores.grad[0, r, 0]]
    assert losers


# Crops


@pytest.mark.parametrize("dims", [2, 3])
def test_a_ramp_is_cut_out_where_it_is(dims: int) -> None:
    """On an image whose values are coordinates, crops show where their voxels come from."""
    size = (30, 21, 14)[:dims]
    place = torch.stack(torch.meshgrid(*[torch.arange(n) + 0.5 for n in size], indexing="ij"))[None]
    leaves, members, boxes = regions(noise(1, 1, *size), 8)
    crops, inside = warp(place, leaves, members, boxes, 16)
    assert crops.shape == (1, 8, dims, *[16] * dims)
    for region, (low, high) in enumerate(boxes[0]):
        for axis in range(dims):
            shape = [16 if a == axis else 1 for a in range(dims)]
            expected = low[axis] + (torch.arange(16) + 0.5) / 16 * (high - low)[axis]
            expected = expected.clamp(0.5, size[axis] - 0.5).view(shape).expand([16] * dims)
            torch.testing.assert_close(crops[0, region, axis], expected, atol=1e-3, rtol=0)
        voxel = [c.floor().long().clamp(max=n - 1) for c, n in zip(crops[0, region], size, strict=True)]
        mask = members[0, region][leaves[0]]
        assert (mask[tuple(voxel)] == inside[0, region]).float().mean() > 0.95


def test_what_is_around_a_region_is_in_the_full_crop_and_not_in_the_foreground() -> None:
    net = built(2).eval()
    images = noise(1, 1, 32, 32)
    # One region: a diagonal band, whose box is the image.
    band = (torch.arange(32)[:, None] - torch.arange(32)).abs() < 4
    found = (band[None].long(), torch.tensor([[[False, True]]]), torch.tensor([[[[0, 0], [32, 32]]]]))
    # Beyond the reach of interpolation from the band; turned around, so that the mean stays.
    far = (torch.arange(32)[:, None] - torch.arange(32)).abs() > 6
    changed = images.clone()
    changed[0, 0, far] = changed[0, 0, far].flip(0)
    with torch.no_grad():
        before, after = net.describe(images, *found)[0, 0], net.describe(changed, *found)[0, 0]
    half = len(before) // 2
    assert not torch.allclose(before[:half], after[:half], atol=1e-2)
    torch.testing.assert_close(before[half:], after[half:], atol=1e-5, rtol=1e-4)


# The network


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("options", [{}, {"encoder": "resnet18", "norm": "instance"}, {"crop": 20, "width": 8}])
def test_any_size_and_a_gradient_everywhere(dims: int, options: dict[str, Any]) -> None:
    size = (17, 23) if dims == 2 else (9, 12, 7)
    net = built(dims, channels=2, **options)
    logits = net(noise(2, 2, *size))
    assert logits.shape == (2, 3, *size)
    labels = torch.randint(0, 3, (2, *size), generator=torch.Generator().manual_seed(2))
    build_loss("dice_ce")(logits, labels).backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("dims", [2, 3])
def test_features_keep_their_scale_through_the_encoder(dims: int) -> None:
    net = built(dims)
    x = noise(16, 1, *[net.crop] * dims)
    unit_variance(net.encoder, x)
    outputs: list[float] = []
    for layer in net.encoder.modules():
        if isinstance(layer, nn.Conv2d | nn.Conv3d):
            layer.register_forward_hook(lambda _layer, _inputs, output: outputs.append(float(output.std())))
    with torch.no_grad():
        net.encoder(x)
    assert outputs == pytest.approx([1.0] * 5, rel=1e-3)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_memory_of_a_step_can_be_estimated_and_grows_with_regions(dims: int, tiny_plan: Any) -> None:
    few, many = (estimate_memory(tiny_plan("rcnn", dims, options={"regions": r})) for r in (16, 64))
    assert 1e6 < few < many < 4.5 * few


# Examples


def test_shares_are_counted_over_annotated_voxels() -> None:
    leaves = torch.tensor([[[0, 0, 1, 1], [0, 0, 2, 2]]])
    members = torch.tensor([[[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [1, 1, 1], [1, 1, 1]]]).bool()
    labels = torch.tensor([[[1, 1, IGNORE, IGNORE], [1, 0, 2, IGNORE]]])
    shares, known = class_shares(labels, leaves, members, 3)
    assert shares[0].tolist() == [
        [0.25, 0.75, 0.0],
        [0.0, 0.0, 0.0],
        [0.0, 0.0, 1.0],
        [0.25, 0.75, 0.0],
        pytest.approx([0.2, 0.6, 0.2]),
        pytest.approx([0.2, 0.6, 0.2]),
    ]
    # The second has no annotation, the last repeats the whole image.
    assert known[0].tolist() == [True, False, True, True, True, False]


def test_machines_separate_what_is_separable_and_leave_the_background_at_zero() -> None:
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 4, 240)
    centres = np.array([[0, 0, 5], [4, 0, 5], [0, 4, 5], [2, 2, 5]])
    # Of very different scale, and one that says nothing.
    features = (centres[kind] + 0.3 * rng.standard_normal((240, 3))) * [1e3, 1e-3, 0] + [5e3, 0, 1]
    shares = np.eye(4)[kind]
    # Mixed regions are counterexamples of all classes, others are left out.
    shares[kind == 3] = [0.3, 0.35, 0.35, 0.0]
    weights, biases = fit_svms(features, shares)
    assert weights.shape == (4, 3)
    assert not weights[0].any()
    assert biases[0] == 0
    scores = features @ weights.T + biases
    assert (scores[:, 1:3] > 0).tolist() == (shares[:, 1:3] > 0.5).tolist()
    # A class that no region is an example of is never seen; one that all are, always.
    assert (scores[:, 3] < 0).all()
    assert fit_svms(features, np.tile([0.0, 1.0], (240, 1)))[1].tolist() == [0.0, 1.0]
    again = fit_svms(features, shares)
    assert np.array_equal(weights, again[0])
    assert np.array_equal(biases, again[1])


def test_regions_that_are_half_one_class_are_examples_of_nothing() -> None:
    features = np.array([[0.0], [1.0], [0.4], [0.6]])
    pure = np.array([[1.0, 0.0], [0.0, 1.0], [0.4, 0.6], [0.4, 0.6]])
    weights, biases = fit_svms(features, pure)
    alone = fit_svms(features[:2], pure[:2])
    # Standardisation sees all four, the margins only the first two: the threshold stays in the middle.
    assert -biases[1] / weights[1, 0] == pytest.approx(-alone[1][1] / alone[0][1, 0], abs=0.05)


# The last stage of training


@pytest.mark.parametrize("dims", [2, 3])
def test_a_few_steps_and_the_machines_segment_a_scene(dims: int, draw_scene: Scene) -> None:
    shape = (64, 64) if dims == 2 else (20, 20, 20)
    images, labels = scenes(draw_scene, shape, 3, 4)
    net = built(dims, regions=64)
    init_foreground_prior(net, 3, sigmoids=0)
    step = Step(net, build_optimizer("adamw", net.parameters(), 0.003, 0.0), build_loss("dice_ce"), "cpu", "fp32")
    losses = [step(images, labels) for _ in range(15)]
    assert losses[-1] < losses[0]
    encoder = {n: p.clone() for n, p in net.encoder.named_parameters()}
    net.finish([(images, labels)])
    assert net.training
    assert all(torch.equal(p, encoder[n]) for n, p in net.encoder.named_parameters())
    assert min(dice(net, images, labels)) > 0.8
    # Hardly any region that is an example is told wrong.
    found = regions(images, 64)
    shares, known = class_shares(labels, found[0], found[1], 3)
    with torch.no_grad():
        scores = net.classifier(net.describe(images, *found))
    for k in (1, 2):
        sure = known & ((shares[..., k] >= 0.75) | (shares[..., k] < 0.5))
        assert ((scores[..., k] > 0) == (shares[..., k] >= 0.75))[sure].float().mean() > 0.97


def test_the_last_stage_is_exact_and_can_be_left_out(draw_scene: Scene) -> None:
    batch = scenes(draw_scene, (40, 40), 3)
    results = []
    for _ in range(2):
        net = built(2)
        net.finish([batch])
        results.append(net.classifier.weight.detach().clone())
    assert torch.equal(*results)
    left = built(2, svm=False)
    before = left.classifier.weight.detach().clone()
    left.finish([batch])
    assert torch.equal(left.classifier.weight, before)


def test_voxels_without_annotation_change_nothing(draw_scene: Scene) -> None:
    images, labels = scenes(draw_scene, (40, 40), 3, 4)
    partly = labels.clone()
    partly[1] = IGNORE
    one, both = built(2), built(2)
    one.finish([(images[:1], labels[:1])])
    both.finish([(images, partly)])
    torch.testing.assert_close(one.classifier.weight, both.classifier.weight, rtol=1e-4, atol=1e-5)
    with pytest.raises(TrainingError, match="no annotated voxel"):
        one.finish([(images, torch.full_like(labels, IGNORE))])


def test_the_last_stage_reads_no_more_than_it_may(monkeypatch: pytest.MonkeyPatch, draw_scene: Scene) -> None:
    from medseg.models import rcnn

    batch, read = scenes(draw_scene, (40, 40), 3), []

    def batches() -> Any:
        for index in range(100):
            read.append(index)
            yield batch

    monkeypatch.setattr(rcnn, "MOST_EXAMPLES", 30)
    built(2).finish(batches())
    assert read == [0, 1]
