"""Sliding windows: they cover everything, and what they blend is what one window would have said."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.patches.tiling import gaussian_window, predict_slabs, predict_tiled, slab_axis, window_starts

sizes = st.integers(1, 70)
overlaps = st.sampled_from([0.0, 0.25, 0.5, 0.7])


@st.composite
def scenes(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], float, int]:
    dims = draw(st.sampled_from([2, 3]))
    limit = 40 if dims == 2 else 14
    shape = draw(st.tuples(*[st.integers(1, limit)] * dims))
    window = draw(st.tuples(*[st.integers(1, limit // 2)] * dims))
    return shape, window, draw(overlaps), draw(st.integers(1, 5))


@pytest.mark.parametrize(
    ("size", "window", "expected"), [(110, 64, [0, 23, 46]), (64, 64, [0]), (10, 64, [0]), (65, 64, [0, 1])]
)
def test_published_positions(size: int, window: int, expected: list[int]) -> None:
    assert window_starts(size, window) == expected


@given(sizes, sizes, overlaps)
def test_windows_cover_everything_and_overlap_as_asked(size: int, window: int, overlap: float) -> None:
    starts = window_starts(size, window, overlap)
    covered = {v for s in starts for v in range(s, s + window)}
    assert covered >= set(range(size))
    assert starts[0] == 0
    assert starts[-1] == max(0, size - window)
    steps = [b - a for a, b in zip(starts, starts[1:], strict=False)]
    assert all(0 < step <= max(1, int(window * (1 - overlap))) for step in steps)
    assert not steps or max(steps) - min(steps) <= 1


@pytest.mark.parametrize("window", [(8,), (7, 16), (6, 9, 12)])
def test_blending_weights_are_a_gaussian(window: tuple[int, ...]) -> None:
    weights = gaussian_window(window)
    assert weights.shape == window
    assert weights.min() >= 1e-3
    torch.testing.assert_close(weights, weights.flip(tuple(range(len(window)))))
    for axis, n in enumerate(window):
        line = weights.movedim(axis, 0)[:, *[m // 2 for i, m in enumerate(window) if i != axis]]
        middle, aside = float(line[n // 2]), float(line[n // 2 - n // 4])
        x = torch.tensor([n // 2, n // 2 - n // 4]) - (n - 1) / 2
        expected = torch.exp(-0.5 * (x / (n / 8)) ** 2)
        assert aside / middle == pytest.approx(float(expected[1] / expected[0]), rel=1e-5)
        assert int(line.argmax()) in {(n - 1) // 2, n // 2}


@settings(max_examples=30)
@given(scenes())
def test_tiling_of_ones_gives_ones(scene: tuple) -> None:
    shape, window, overlap, batch = scene

    def ones(x: torch.Tensor) -> torch.Tensor:
        assert x.shape[1:] == (1, *window)
        assert len(x) <= batch
        return torch.ones(len(x), 2, *window)

    out = predict_tiled(ones, torch.zeros(1, *shape), window, overlap=overlap, batch=batch)
    assert out.shape == (2, *shape)
    torch.testing.assert_close(out, torch.ones_like(out), rtol=0, atol=1e-6)


@settings(max_examples=30)
@given(scenes())
def test_tiling_of_a_voxelwise_function_is_that_function(scene: tuple) -> None:
    shape, window, overlap, batch = scene
    image = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))

    def voxelwise(x: torch.Tensor) -> torch.Tensor:
        return torch.stack([x[:, 0] * 3 - x[:, 1], x[:, 1] ** 2, x[:, 0].sin()], dim=1)

    out = predict_tiled(voxelwise, image, window, overlap=overlap, batch=batch)
    torch.testing.assert_close(out, voxelwise(image[None])[0], rtol=1e-5, atol=1e-5)


def test_short_axes_are_padded_with_zeros_on_both_sides() -> None:
    seen = []
    image = torch.ones(1, 3, 9)
    predict_tiled(lambda x: seen.append(x) or x, image, (8, 4))
    rows = seen[0][0, 0].sum(dim=1) > 0
    assert rows.tolist() == [False] * 2 + [True] * 3 + [False] * 3


def test_blend_trusts_the_middle_of_a_window_more_than_its_border() -> None:
    """A network that is wrong near its window's border: blending leaves less of the error than a plain mean."""
    window = (16,) * 2
    wrong = torch.ones(window)
    wrong[4:12, 4:12] = 0.0
    out = predict_tiled(lambda x: wrong.expand(len(x), 1, *window), torch.zeros(1, 48, 48), window)
    inner = out[0, 12:-12, 12:-12]
    assert float(inner.mean()) < 0.35


def test_half_precision_outputs_are_blended_in_full() -> None:
    out = predict_tiled(lambda x: torch.full_like(x, 0.1).bfloat16(), torch.zeros(1, 50, 50), (16, 16))
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, torch.full_like(out, float(torch.tensor(0.1).bfloat16())), atol=1e-6, rtol=0)


# Slabs and slices


@settings(max_examples=30)
@given(scenes(), st.data())
def test_slabs_along_any_axis_are_the_whole(scene: tuple, data: st.DataObject) -> None:
    shape, window, overlap, batch = scene
    axis = data.draw(st.integers(0, len(shape) - 1))
    image = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    # What it says of a voxel depends on where in its window that stands, so blending shows.
    place = torch.rand(window, generator=torch.Generator().manual_seed(1))

    def network(x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x * place, x + place], dim=1)

    whole = predict_tiled(network, image, window, overlap=overlap, batch=batch)
    slabs = list(predict_slabs(network, image, window, axis=axis, overlap=overlap, batch=batch))
    torch.testing.assert_close(torch.cat(slabs, dim=axis + 1), whole, rtol=1e-5, atol=1e-5)


def test_slabs_are_cut_where_windows_are_thinnest() -> None:
    assert slab_axis((40, 400, 50), (40, 64, 40)) == 1
    assert slab_axis((200, 200, 9), (128, 128, 1)) == 2
    slabs = predict_slabs(lambda x: x, torch.zeros(1, 8, 100), (8, 10), axis=1, batch=1)
    assert max(s.shape[2] for s in slabs) <= 10


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_a_volume_in_slices_is_the_stack_of_its_slices(axis: int, batch: int) -> None:
    source = torch.Generator().manual_seed(0)
    image = torch.randn(2, 9, 11, 7, generator=source)
    network = torch.nn.Conv2d(2, 3, 3, padding=1).eval()
    window = [6, 8]
    with torch.inference_mode():
        whole = predict_tiled(network, image, [*window[:axis], 1, *window[axis:]], batch=batch, slice_axis=axis)
        slices = [predict_tiled(network, s, window, batch=batch) for s in image.unbind(axis + 1)]
    assert whole.shape == (3, 9, 11, 7)
    torch.testing.assert_close(whole, torch.stack(slices, dim=axis + 1), rtol=1e-5, atol=1e-6)


def test_slices_of_several_places_go_through_the_network_together() -> None:
    seen = []

    def network(x: torch.Tensor) -> torch.Tensor:
        seen.append(tuple(x.shape))
        return x

    image = torch.randn(1, 8, 8, 10)
    out = predict_tiled(network, image, (8, 8, 1), batch=4, slice_axis=2)
    assert seen == [(4, 1, 8, 8), (4, 1, 8, 8), (2, 1, 8, 8)]
    torch.testing.assert_close(out, image)
