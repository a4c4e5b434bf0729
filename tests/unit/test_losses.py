"""Losses against formulas written out by hand in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medseg.image.labels import IGNORE
from medseg.losses.targets import multi_hot
from medseg.losses.zoo import LOSSES, build_loss

SMOOTH = 1e-5


def softmax(logits: np.ndarray) -> np.ndarray:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


def numpy_ce(logits: np.ndarray, labels: np.ndarray) -> float:
    picked = np.take_along_axis(softmax(logits), labels[:, None], axis=1)
    return float(-np.log(picked).mean())


def numpy_dice(logits: np.ndarray, labels: np.ndarray) -> float:
    """1 - mean over foreground classes of 2 sum(p t) / (sum(p) + sum(t)), sums over the batch and all voxels."""
    probabilities = softmax(logits)
    terms = []
    for k in range(1, logits.shape[1]):
        p, t = probabilities[:, k], (labels == k).astype(np.float64)
        terms.append(1 - (2 * (p * t).sum() + SMOOTH) / (p.sum() + t.sum() + SMOOTH))
    return float(np.mean(terms))


ORACLES = {"ce": numpy_ce, "dice": numpy_dice, "dice_ce": lambda x, y: numpy_ce(x, y) + numpy_dice(x, y)}


def sample(shape: tuple[int, ...], classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(2, classes, *shape, generator=source, dtype=torch.float64)
    return logits.float(), torch.randint(0, classes, (2, *shape), generator=source)


def test_every_loss_has_an_oracle() -> None:
    assert set(ORACLES) == set(LOSSES)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("shape", [(7, 9), (4, 5, 6)])
def test_loss_is_its_formula(name: str, classes: int, shape: tuple[int, ...]) -> None:
    logits, labels = sample(shape, classes)
    # One class is absent from the labels altogether.
    labels[labels == classes - 1] = 0
    value = build_loss(name)(logits, labels)
    assert value.shape == ()
    assert float(value) == pytest.approx(ORACLES[name](logits.double().numpy(), labels.numpy()), rel=1e-5)


@pytest.mark.parametrize("name", LOSSES)
def test_loss_falls_to_zero_for_a_sure_and_right_answer(name: str) -> None:
    _, labels = sample((8, 8), 3)
    sure = 40.0 * torch.nn.functional.one_hot(labels, 3).movedim(-1, 1).float()
    assert float(build_loss(name)(sure, labels)) == pytest.approx(0.0, abs=1e-4)
    assert float(build_loss(name)(-sure, labels)) > 0.9


@pytest.mark.parametrize("name", LOSSES)
def test_loss_has_a_gradient_and_does_not_depend_on_sample_order(name: str) -> None:
    logits, labels = sample((6, 6), 3)
    logits.requires_grad_()
    loss = build_loss(name)(logits, labels)
    loss.backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
    assert logits.grad.abs().sum() > 0
    turned = build_loss(name)(logits.detach().flip(0), labels.flip(0))
    assert float(turned) == pytest.approx(float(loss.detach()), rel=1e-6)


def test_dice_is_pooled_over_the_batch() -> None:
    """A patch without foreground, well predicted, must not count as a Dice of 0 beside one with foreground."""
    labels = torch.zeros(2, 8, 8, dtype=torch.int64)
    labels[0, 2:6, 2:6] = 1
    sure = 40.0 * torch.nn.functional.one_hot(labels, 2).movedim(-1, 1).float()
    assert float(build_loss("dice")(sure, labels)) == pytest.approx(0.0, abs=1e-4)


# Voxels without annotation


def spoilt(labels: torch.Tensor, share: float = 0.4) -> torch.Tensor:
    """Some voxels of the labels without annotation."""
    gone = torch.rand(labels.shape, generator=torch.Generator().manual_seed(5)) < share
    return torch.where(gone, IGNORE, labels)


def alone(logits: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The annotated voxels of a batch in one row, as a batch of their own."""
    kept = labels != IGNORE
    return logits.movedim(1, -1)[kept].T[None], labels[kept][None]


REGIONS = ((1, 2, 3), (1, 3), (3,))


@pytest.mark.parametrize("regions", [(), REGIONS, ((1,),)])
@pytest.mark.parametrize("name", LOSSES)
def test_loss_is_that_of_the_annotated_voxels_alone(name: str, regions: tuple[tuple[int, ...], ...]) -> None:
    logits, labels = sample((5, 6, 7), 4)
    logits = logits[:, : len(regions) or 4]
    labels = spoilt(labels)
    found = build_loss(name, regions, ignore=True)(logits, labels)
    assert float(found) == pytest.approx(float(build_loss(name, regions)(*alone(logits, labels))), rel=1e-5)


@pytest.mark.parametrize("regions", [(), REGIONS])
@pytest.mark.parametrize("name", LOSSES)
def test_nothing_is_learnt_where_nobody_annotated(name: str, regions: tuple[tuple[int, ...], ...]) -> None:
    logits, labels = sample((6, 7), 4)
    logits = logits[:, : len(regions) or 4].requires_grad_()
    labels = spoilt(labels)
    build_loss(name, regions, ignore=True)(logits, labels).backward()
    assert logits.grad is not None
    by_voxel = logits.grad.abs().amax(dim=1)
    assert (by_voxel[labels == IGNORE] == 0).all()
    assert (by_voxel[labels != IGNORE] > 0).all()


@pytest.mark.parametrize("regions", [(), REGIONS])
@pytest.mark.parametrize("name", LOSSES)
def test_a_batch_without_annotation_has_loss_zero(name: str, regions: tuple[tuple[int, ...], ...]) -> None:
    logits = sample((6, 7), 4)[0][:, : len(regions) or 4].requires_grad_()
    loss = build_loss(name, regions, ignore=True)(logits, torch.full((2, 6, 7), IGNORE))
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


@pytest.mark.parametrize("name", LOSSES)
def test_masking_changes_nothing_where_all_is_annotated(name: str) -> None:
    logits, labels = sample((5, 6), 3)
    masked, plain = build_loss(name, ignore=True)(logits, labels), build_loss(name)(logits, labels)
    assert float(masked) == pytest.approx(float(plain), rel=1e-6)


# Regions


def numpy_bce(p: np.ndarray, t: np.ndarray) -> float:
    return float(-(t * np.log(p) + (1 - t) * np.log(1 - p)).mean())


def numpy_region_dice(p: np.ndarray, t: np.ndarray) -> float:
    axes = (0, *range(2, p.ndim))
    return float(np.mean(1 - (2 * (p * t).sum(axes) + SMOOTH) / (p.sum(axes) + t.sum(axes) + SMOOTH)))


REGION_ORACLES = {
    "ce": numpy_bce,
    "dice": numpy_region_dice,
    "dice_ce": lambda p, t: numpy_bce(p, t) + numpy_region_dice(p, t),
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("shape", [(7, 9), (4, 5, 6)])
def test_region_loss_is_its_formula(name: str, shape: tuple[int, ...]) -> None:
    logits, labels = sample(shape, 4)
    logits = logits[:, :3]
    targets = np.stack([np.isin(labels.numpy(), members) for members in REGIONS], axis=1).astype(np.float64)
    probabilities = 1 / (1 + np.exp(-logits.double().numpy()))
    expected = REGION_ORACLES[name](probabilities, targets)
    assert float(build_loss(name, REGIONS)(logits, labels)) == pytest.approx(expected, rel=1e-5)


def test_region_loss_by_hand() -> None:
    """Two voxels, two regions: sigmoid(0) = 1/2 everywhere, targets (1, 1) and (1, 0)."""
    logits, labels = torch.zeros(1, 2, 2), torch.tensor([[2, 1]])
    regions = ((1, 2), (2,))
    assert float(build_loss("ce", regions)(logits, labels)) == pytest.approx(np.log(2))
    # 1 - 2 (1/2 + 1/2) / (1 + 2) and 1 - 2 (1/2) / (1 + 1), on average.
    assert float(build_loss("dice", regions)(logits, labels)) == pytest.approx((1 / 3 + 1 / 2) / 2, rel=1e-4)


@pytest.mark.parametrize("name", LOSSES)
def test_region_loss_falls_to_zero_for_a_sure_and_right_answer(name: str) -> None:
    _, labels = sample((8, 8), 4)
    sure = 80.0 * (multi_hot(labels, REGIONS) - 0.5)
    assert float(build_loss(name, REGIONS)(sure, labels)) == pytest.approx(0.0, abs=1e-4)
    assert float(build_loss(name, REGIONS)(-sure, labels)) > 0.9
