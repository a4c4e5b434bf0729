"""Deep supervision: weights, and which voxel a coarse output is compared with."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medseg.losses.build import build_loss
from medseg.losses.supervision import deeply_supervised


def test_one_output_is_its_loss() -> None:
    loss = build_loss("dice_ce")
    logits, labels = torch.randn(2, 3, 8, 8), torch.randint(0, 3, (2, 8, 8))
    assert loss([logits], labels) == loss(logits, labels)
    assert loss(logits.bfloat16(), labels).dtype == torch.float32


def test_weights_halve_and_sum_to_one() -> None:
    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return logits.mean()

    outputs = [torch.full((1, 2, n, n), v) for n, v in ((8, 1.0), (4, 10.0), (2, 100.0))]
    value = deeply_supervised(loss)(outputs, torch.zeros(1, 8, 8, dtype=torch.int64))
    assert float(value) == pytest.approx((4 * 1 + 2 * 10 + 1 * 100) / 7)


@pytest.mark.parametrize("size", [(4, 6), (3, 5), (2, 3), (1, 1)])
def test_coarse_outputs_see_the_label_at_their_centre(size: tuple[int, int]) -> None:
    """Labels are integers up to 255 (ignored voxels), never means of neighbours."""
    labels = torch.arange(8 * 12).reshape(1, 8, 12) % 256
    seen = []
    deeply_supervised(lambda logits, y: seen.append(y) or logits.sum())([torch.zeros(1, 2, *size)], labels)  # type: ignore[func-returns-value]
    (got,) = seen
    assert got.dtype == labels.dtype
    assert got.shape[1:] == size
    for row in range(size[0]):
        for column in range(size[1]):
            at = (int((row + 0.5) * 8 / size[0]), int((column + 0.5) * 12 / size[1]))
            assert got[0, row, column] == labels[(0, *at)]
