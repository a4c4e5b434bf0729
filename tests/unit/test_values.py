"""Numbers that 32-bit floats hold, and images that are constant but for what marks missing data."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from medseg.image.values import are_numbers, constant_but_for
from medseg.ingest.doubts import voxel_doubts


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_what_computing_in_32_bits_can_hold(dtype: Any) -> None:
    values = np.array([0, -3.4e38, 3.4e38, np.nan, np.inf, -np.inf], dtype)
    assert are_numbers(values).tolist() == [True, True, True, False, False, False]
    assert are_numbers(np.array([2**63 - 1, -(2**63)])).all()
    wide = np.array([3.5e38, -1e39, 1.0])
    assert are_numbers(wide).tolist() == [False, False, True]


def image(*parts: tuple[float, int], dtype: Any = np.int16) -> np.ndarray:
    values = np.concatenate([np.full(count, value) for value, count in parts])
    return values.astype(dtype).reshape(1, 50, -1)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (image((7, 9000), (-32768, 1000)), "every voxel is 7 but for 1000 of -32768"),
        (image((-1024, 9000), (0, 1000)), "every voxel is 0 but for 9000 of -1024"),
        (image((0, 9999), (1, 1)), "every voxel is 0 but for 1 of 1"),
        (image((3, 9000), (np.nan, 1000), dtype=np.float32), "every voxel that is a number is 3"),
        (image((3, 9000), (1e39, 1000), dtype=np.float64), "every voxel that is a number is 3"),
        (image((0.5, 9000), (-9999, 1000), dtype=np.float64), "every voxel is 0.5 but for 1000 of -9999"),
    ],
)
def test_constant_but_for_a_mark(values: np.ndarray, words: str) -> None:
    doubts = {doubt.code: doubt.cause for doubt in voxel_doubts(values, None)}
    assert doubts["constant-image"] == words


@pytest.mark.parametrize(
    "values",
    [
        image((0, 5000), (255, 5000), dtype=np.uint8),
        image((0, 9900), (1, 100)),
        image((-1024, 5000), (0, 4999), (40, 1)),
        image((-1024, 4000), (-1000, 6000)),
    ],
)
def test_images_that_vary(values: np.ndarray) -> None:
    assert constant_but_for(values[0]) is None
    assert list(voxel_doubts(values, None)) == []


def test_an_image_without_a_number_is_one_doubt() -> None:
    (doubt,) = voxel_doubts(np.full((1, 4, 5), np.nan, np.float32), None)
    assert (doubt.code, doubt.cause) == ("nonfinite", "20 NaN and 0 Inf voxels, first nan at (0, 0)")


def test_one_channel_may_be_empty() -> None:
    values = np.stack([np.zeros((30, 30)), np.arange(900).reshape(30, 30)]).astype(np.float32)
    assert list(voxel_doubts(values, None)) == []
