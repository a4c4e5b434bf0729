"""Labels on the image's own voxels: as if all logits had been resampled at once, and each axis as it came."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from medseg.decoders import decoder_of
from medseg.image.geometry import Geometry
from medseg.image.labels import LabelTable
from medseg.image.resample import resample_labels
from medseg.predict import native
from medseg.preprocess.inverse import InverseRecord


def record(fine: tuple[int, ...], prepared: tuple[int, ...]) -> InverseRecord:
    dims = len(fine)
    grid = Geometry.from_spacing(fine, (1.0,) * dims, "mm" if dims == 3 else "px")
    return InverseRecord(grid, tuple(range(dims)), (False,) * dims, (0,) * dims, fine, prepared)


def at_once(logits: torch.Tensor, fine: tuple[int, ...], coarse: int | None) -> np.ndarray:
    """All logits on the fine grid, by scipy."""
    values = logits.double().numpy()
    if coarse is not None:
        index = resample_labels(np.arange(values.shape[coarse + 1]), (fine[coarse],))
        values = values.take(index, axis=coarse + 1)
    factors = [n / m for n, m in zip(fine, values.shape[1:], strict=True)]
    return np.stack([ndimage.zoom(v, factors, order=1, mode="nearest", grid_mode=True) for v in values])


@st.composite
def cases(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], int, int | None, list[int], int]:
    dims = draw(st.sampled_from([2, 3]))
    sizes = st.tuples(*[st.integers(1, 9)] * dims)
    prepared, axis = draw(sizes), draw(st.integers(0, dims - 1))
    cuts = sorted(draw(st.sets(st.integers(1, max(1, prepared[axis] - 1)))) | {0, prepared[axis]})
    slabs = [b - a for a, b in zip(cuts, cuts[1:], strict=False) if b <= prepared[axis]]
    coarse = draw(st.none() | st.integers(0, dims - 1))
    return draw(sizes), prepared, axis, coarse, slabs, draw(st.integers(1, 60))


CLASSES = LabelTable.create({"a": 1, "b": 2})
REGIONS = LabelTable.create({"a": 1, "b": 2, "c": 3}, regions={"bac": [2, 1, 3], "ac": [1, 3], "c": [3]})


@pytest.mark.parametrize("table", [CLASSES, REGIONS])
@given(case=cases())
def test_slabs_give_what_all_at_once_would(case: tuple, table: LabelTable) -> None:
    fine, prepared, axis, coarse, slabs, limit = case
    logits = torch.randn(3, *prepared, generator=torch.Generator().manual_seed(sum(prepared)))
    whole = at_once(logits, fine, coarse)
    before, native.SLAB_VALUES = native.SLAB_VALUES, limit
    try:
        parts = native.native_slabs(
            iter(logits.split(slabs, dim=axis + 1)), axis, record(fine, prepared), coarse=coarse
        )
        found = np.full(fine, 255, dtype=np.uint8)
        for rows, part in parts:
            found[(slice(None),) * axis + (rows,)] = decoder_of(table).labels(part, table).numpy()
    finally:
        native.SLAB_VALUES = before
    expected = decoder_of(table).labels(torch.from_numpy(whole), table).numpy()
    # Rounding may decide where two logits (or a logit and zero) are as good as equal.
    ordered = np.sort(whole, axis=0)
    sure = (np.abs(whole) > 1e-4).all(axis=0) if table.regions else ordered[-1] - ordered[-2] > 1e-4
    np.testing.assert_array_equal(found[sure], expected[sure])


def test_the_fine_logits_never_exist_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "SLAB_VALUES", 10_000)
    logits = torch.randn(4, 10, 10, 10)
    slabs = native.native_slabs(logits.split(2, dim=1), 0, record((40, 30, 20), (10, 10, 10)))
    sizes = [part.numel() for _, part in slabs]
    assert sum(sizes) == 4 * 40 * 30 * 20
    assert max(sizes) <= 10_000
