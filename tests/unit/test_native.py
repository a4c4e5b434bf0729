"""Labels on the image's own voxels: as if all logits had been resampled at once, and each axis as it came."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from medseg.image.geometry import Geometry
from medseg.image.resample import resample_labels
from medseg.models.head import read_labels
from medseg.predict import native
from medseg.preprocess.prepare import InverseRecord


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


@pytest.mark.parametrize("painted", [(), (2, 1, 3)])
@given(case=cases())
def test_slabs_give_what_all_at_once_would(case: tuple, painted: tuple[int, ...]) -> None:
    fine, prepared, axis, coarse, slabs, limit = case
    logits = torch.randn(3, *prepared, generator=torch.Generator().manual_seed(sum(prepared)))
    whole = at_once(logits, fine, coarse)
    before, native.SLAB_VALUES = native.SLAB_VALUES, limit
    try:
        found = native.native_labels(
            iter(logits.split(slabs, dim=axis + 1)), axis, record(fine, prepared), coarse=coarse, painted=painted
        )
    finally:
        native.SLAB_VALUES = before
    assert (found.shape, found.dtype) == (fine, np.uint8)
    expected = read_labels(torch.from_numpy(whole), painted).numpy()
    # Rounding may decide where two logits (or a logit and zero) are as good as equal.
    ordered = np.sort(whole, axis=0)
    sure = (np.abs(whole) > 1e-4).all(axis=0) if painted else ordered[-1] - ordered[-2] > 1e-4
    np.testing.assert_array_equal(found[sure], expected[sure])


def test_the_fine_logits_never_exist_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    plain = native.read_labels
    monkeypatch.setattr(native, "SLAB_VALUES", 10_000)
    monkeypatch.setattr(native, "read_labels", lambda v, p: sizes.append(v.numel()) or plain(v, p))
    logits = torch.randn(4, 10, 10, 10)
    native.native_labels(logits.split(2, dim=1), 0, record((40, 30, 20), (10, 10, 10)))
    assert sum(sizes) == 4 * 40 * 30 * 20
    assert max(sizes) <= 10_000
