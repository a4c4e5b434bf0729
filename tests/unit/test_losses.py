"""Losses against formulas written out by hand in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

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
