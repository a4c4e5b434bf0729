"""Every transform against scipy's, MONAI's or scikit-image's on the same parameters, in 2-D and 3-D."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import ndimage
from scipy.interpolate import BSpline

from medseg.augment import appearance, colour, field, lookup, resolution
from medseg.augment.draws import Numbers
from medseg.augment.mirror import mirror, quarter_turn
from medseg.augment.moves import Moves, cells, rotations
from medseg.augment.warp import _basis, spline_field, warp

SHAPES = [(16, 21), (9, 12, 14)]


def keyed(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows_of(shape: tuple[int, ...], count: int = 4) -> torch.Tensor:
    return torch.randn(count, *shape, generator=keyed(3)) * 2 + 5


def turned(dims: int, count: int = 3, seed: int = 1) -> Numbers:
    planes = [(0, 1)] if dims == 2 else [(1, 2), (0, 2), (0, 1)]
    rng = np.random.default_rng(seed)
    angles, zoom = rng.uniform(-3, 3, (count, len(planes))), rng.uniform(0.7, 1.3, (count, 1, 1))
    return rotations(angles.astype(np.float32), planes, dims) * zoom.astype(np.float32)


def stretched(dims: int) -> Numbers:
    """Without turns: these are looked up axis by axis. Two look beyond the image, the last mirrors it."""
    rows = np.array([[1.3, 0.71, 1.63], [1.4, 1.4, 1.4], [-0.77, 0.83, -0.6]], dtype=np.float32)[:, :dims]
    return rows[:, :, None] * np.eye(dims, dtype=np.float32)


@pytest.mark.parametrize("maps", [turned, stretched])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 1.0, 0.5)])
@pytest.mark.parametrize("margin", [0, 3])
@pytest.mark.parametrize("gpu", [False, True])
def test_maps_as_in_scipy(
    maps: Callable[[int], Numbers],
    shape: tuple[int, ...],
    spacing: tuple[float, ...],
    margin: int,
    gpu: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By gathering and as on a GPU, where all is looked up by ``grid_sample``."""
    if gpu:
        monkeypatch.setattr(lookup, "_gathers", lambda device, dims: False)
    dims, space = len(shape), spacing[: len(shape)]
    larger = tuple(n + 2 * margin for n in shape)
    images = torch.randn(3, 2, *larger, generator=keyed(5))
    labels = torch.randint(0, 4, (3, *larger), generator=keyed(6))
    matrix = maps(dims)
    moved, looked = warp(images, labels, Moves(np.ones(3, dtype=bool), matrix), shape, space)
    inside = tuple(slice(margin, margin + n) for n in shape)
    centre = (np.array(larger) - 1) / 2
    for n in range(3):
        linear = np.diag(1 / np.array(space)) @ matrix[n].astype(float) @ np.diag(space)
        options = {"offset": centre - linear @ centre, "cval": 0, "mode": "grid-constant"}
        for channel in range(2):
            expected = ndimage.affine_transform(images[n, channel].numpy(), linear, order=1, **options)[inside]
            np.testing.assert_allclose(moved[n, channel], expected, atol=3e-4)
        nearest = ndimage.affine_transform(labels[n].numpy(), linear, order=0, **options)[inside]
        # Voxels on a border between two may round either way in single precision.
        assert (looked[n].numpy() == nearest).mean() > 0.995


def test_volumes_axis_by_axis_are_those_voxel_by_voxel() -> None:
    shape = SHAPES[1]
    images = torch.randn(1, 2, *[n + 4 for n in shape], generator=keyed(5))
    labels = torch.randint(0, 4, (1, 1, *images.shape[2:]), generator=keyed(6), dtype=torch.uint8)
    cpu = torch.device("cpu")
    for matrix in (*stretched(3)[:, None], np.eye(3, dtype=np.float32)[None]):
        lines, voxels = lookup.places_of(matrix, shape, images.shape[2:], cpu), lookup.grid_of(matrix, shape, cpu)
        assert [len(line) for line in lines] == list(shape)
        assert lookup.nearest(labels, lines).dtype == torch.uint8
        torch.testing.assert_close(lookup.linear(images, lines), lookup.linear(images, voxels), atol=1e-4, rtol=1e-4)
        assert (lookup.nearest(labels, lines) == lookup.nearest(labels, voxels)).float().mean() > 0.995
    turns = lookup.places_of(turned(3, 1), shape, images.shape[2:], cpu)
    assert isinstance(turns, torch.Tensor), "turns have no places per plane"
    assert torch.equal(lookup.linear(images, lines), images[..., 2:-2, 2:-2, 2:-2]), "the last moved nothing"


@pytest.mark.parametrize("count", [1, 3, 5])
def test_splines_as_in_scipy(count: int) -> None:
    length = 23
    basis = _basis(length, count / length, count)
    place = (np.arange(length) - (length - 1) / 2) * count / length + count / 2
    expected = BSpline.design_matrix(place, np.arange(-3, count + 4), 3).toarray()
    np.testing.assert_allclose(basis, expected, atol=1e-5)


@pytest.mark.parametrize(("shape", "spacing"), [((24, 31), (1.0, 2.0)), ((10, 24, 20), (2.5, 1.0, 1.0))])
@pytest.mark.parametrize("gpu", [False, True])
def test_bends_as_in_scipy(
    shape: tuple[int, ...], spacing: tuple[float, ...], gpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if gpu:
        monkeypatch.setattr(lookup, "_gathers", lambda device, dims: False)
    dims = len(shape)
    counts, size = cells(shape, spacing)
    rng, reach = np.random.default_rng(4), size * 0.25
    points = rng.uniform(-reach, reach, (2, dims, *[c + 3 for c in counts])).astype(np.float32)
    matrix = turned(dims, count=2)
    images, labels = torch.randn(2, 1, *shape, generator=keyed(7)), torch.zeros(2, *shape, dtype=torch.int64)
    moved, _ = warp(images, labels, Moves(np.ones(2, dtype=bool), matrix, points), shape, spacing)
    displaced = spline_field(torch.from_numpy(points), shape, spacing).double().numpy()
    offsets = np.stack(np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in shape], indexing="ij"))
    column = (-1, *[1] * dims)
    for n in range(2):
        physical = offsets * np.reshape(spacing, column) + displaced[n]
        place = np.einsum("ab,b...->a...", matrix[n].astype(float), physical) / np.reshape(spacing, column)
        place += np.reshape([(m - 1) / 2 for m in shape], column)
        expected = ndimage.map_coordinates(images[n, 0].numpy(), place, order=1, mode="grid-constant")
        np.testing.assert_allclose(moved[n, 0], expected, atol=3e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_blur_as_in_scipy(shape: tuple[int, ...]) -> None:
    rows = rows_of(shape)
    sigma = 0.2 + 1.3 * torch.rand(4, len(shape), generator=keyed(8))
    sigma[0] = 0
    blurred = resolution.blur(rows.clone(), sigma)
    for row, deviation, out in zip(rows, sigma.tolist(), blurred, strict=True):
        expected = ndimage.gaussian_filter(row.numpy(), deviation, mode="mirror", truncate=resolution.TRUNCATE)
        np.testing.assert_allclose(out, expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(blurred[0], rows[0])


def test_blur_of_axes_shorter_than_the_kernel() -> None:
    for shape in ((2, 12), (1, 9, 2)):
        rows = rows_of(shape, 1)
        out = resolution.blur(rows.clone(), torch.full((1, len(shape)), 1.4))
        expected = ndimage.gaussian_filter(rows[0].numpy(), 1.4, mode="mirror", truncate=3.0)
        np.testing.assert_allclose(out[0], expected, atol=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_low_resolution_as_in_monai(shape: tuple[int, ...]) -> None:
    from monai.transforms import RandSimulateLowResolution

    rows, zoom = rows_of(shape), torch.tensor([0.5, 0.61, 0.87, 1.0])
    out = resolution.low_resolution(rows.clone(), zoom)
    for row, share, ours in zip(rows, zoom.tolist(), out, strict=True):
        mode = "bilinear" if len(shape) == 2 else "trilinear"
        theirs = RandSimulateLowResolution(1.0, "nearest-exact", mode, (share, share))
        torch.testing.assert_close(ours, torch.as_tensor(theirs(row[None]))[0], atol=1e-5, rtol=1e-5)
    assert torch.equal(out[3], rows[3])


def test_low_resolution_enlarges_as_scipy() -> None:
    row = rows_of((12, 16), 1)
    small = row[0, 1::2, 1::2].numpy()  # nearest to the centre of two voxels, the later one
    expected = ndimage.zoom(small, 2, order=1, grid_mode=True, mode="nearest")
    np.testing.assert_allclose(resolution.low_resolution(row.clone(), torch.tensor([0.5]))[0], expected, atol=1e-5)


def test_low_resolution_spares_the_coarse_axis() -> None:
    row = torch.zeros(1, 5, 16, 16)
    row[0, 2] = 1.0
    out = resolution.low_resolution(row.clone(), torch.tensor([0.5]), spared=0)
    assert torch.equal(out, row)
    assert not torch.equal(resolution.low_resolution(row.clone(), torch.tensor([0.5])), row)


@pytest.mark.parametrize("shape", SHAPES)
def test_brightness_and_contrast_as_in_monai(shape: tuple[int, ...]) -> None:
    from monai.transforms import ScaleIntensityFixedMean

    rows, factor = rows_of(shape), torch.tensor([0.75, 1.0, 1.1, 1.25])
    torch.testing.assert_close(
        appearance.brightness(rows.clone(), factor), rows * factor.reshape(-1, *[1] * len(shape)), atol=0, rtol=0
    )
    out = appearance.contrast(rows.clone(), factor)
    for row, scale, ours in zip(rows, factor.tolist(), out, strict=True):
        theirs = torch.as_tensor(ScaleIntensityFixedMean(scale - 1, preserve_range=True)(row))
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert torch.equal(out[1], rows[1])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("inverted", [False, True])
def test_gamma_as_in_monai(shape: tuple[int, ...], inverted: bool) -> None:
    from monai.transforms import AdjustContrast

    rows, power = rows_of(shape), torch.tensor([0.7, 1.0, 1.2, 1.5])
    out = appearance.gamma(rows.clone(), power, inverted=inverted)
    for row, exponent, ours in zip(rows, power.tolist(), out, strict=True):
        theirs = torch.as_tensor(AdjustContrast(exponent, invert_image=inverted, retain_stats=True)(row))
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)
        assert float(ours.mean()) == pytest.approx(float(row.mean()), abs=1e-4)
        assert float(ours.std()) == pytest.approx(float(row.std()), rel=1e-4)
    assert torch.equal(out[1], rows[1])


@pytest.mark.parametrize("power", [0.1, 10.0])
@pytest.mark.parametrize("scale", [1e-3, 65535.0])
def test_the_furthest_exponents_of_any_intensities_keep_mean_and_deviation(power: float, scale: float) -> None:
    row = scale * torch.rand(1, 32, 32, generator=keyed(2))
    out = appearance.gamma(row.clone(), torch.tensor([power]))
    assert float(out.mean()) == pytest.approx(float(row.mean()), rel=1e-3)
    assert float(out.std()) == pytest.approx(float(row.std()), rel=1e-3)


@pytest.mark.parametrize("value", [-1024.0, 65503.7, 1e7])
def test_gamma_of_a_large_constant_row_stays_finite(value: float) -> None:
    """The mean of many equal numbers is not quite that number: there is a spread, and no curve to give it to."""
    row = torch.full((1, 128, 128, 128), value)
    for inverted in (False, True):
        out = appearance.gamma(row.clone(), torch.tensor([1.4]), inverted=inverted)
        torch.testing.assert_close(out, row, rtol=1e-5, atol=0)


def test_gamma_is_exact_where_the_spread_is_small() -> None:
    """One bright voxel on a nearly flat row: sums of squares about 0 would lose the spread."""
    row = torch.full((1, 64, 64), 1000.0) + 0.01 * torch.randn(1, 64, 64, generator=keyed(2))
    row[0, 3, 3] = 1001.0
    out = appearance.gamma(row.clone(), torch.tensor([1.4])).double()
    assert float(out.std()) == pytest.approx(float(row.double().std()), rel=0.02)


def legendre(shape: tuple[int, ...], coefficients: list[float]) -> np.ndarray:
    table = np.zeros((field.DEGREE + 1,) * 2)
    for term, value in zip(field.terms(2), coefficients, strict=True):
        table[term] = value
    return np.polynomial.legendre.leggrid2d(*[np.linspace(-1, 1, n) for n in shape], table)


@pytest.mark.parametrize("shape", SHAPES)
def test_bias_field_as_in_monai_and_numpy(shape: tuple[int, ...]) -> None:
    from monai.transforms import RandBiasField

    rows, number = rows_of(shape), len(field.terms(len(shape)))
    rows[:, 0] = 0.0  # the smallest value: fields are multiplied about it
    rows.clamp_min_(0)
    coefficients = torch.rand(4, number, generator=keyed(4)) - 0.5
    coefficients[2] = 0
    out = field.bias_field(rows, coefficients)
    theirs = RandBiasField(degree=field.DEGREE)
    for row, drawn, ours in zip(rows, coefficients.tolist(), out, strict=True):
        # In 2-D, MONAI takes the products up to degree (3, 3) with i >= j, which are not those of a total degree.
        three = len(shape) == 3
        logs = theirs._generate_random_field(shape, field.DEGREE, [0.0, *drawn]) if three else legendre(shape, drawn)
        gain = np.exp(logs)
        np.testing.assert_allclose(ours, row.numpy() * gain, rtol=1e-4, atol=1e-5)
    assert torch.equal(out[2], rows[2])


def test_stains_as_in_skimage() -> None:
    from skimage.color import hed2rgb, rgb2hed

    images = 0.05 + 0.95 * torch.rand(2, 3, 9, 8, generator=keyed(1))
    last = images.movedim(1, -1).numpy()
    # scikit-image clips negative amounts, and counts densities in units of that of 1e-6.
    unit = -np.log(1e-6)
    ours = colour.to_stains(images)
    np.testing.assert_allclose(ours.clamp_min(0).movedim(1, -1) / unit, rgb2hed(last), atol=1e-5)
    positive = ours.clamp_min(0)
    expected = hed2rgb(positive.movedim(1, -1).numpy() / unit)
    np.testing.assert_allclose(colour.from_stains(positive).movedim(1, -1), expected, atol=1e-5)
    torch.testing.assert_close(colour.from_stains(ours), images, atol=1e-5, rtol=1e-5)


def test_stain_changes_one_stain_alone() -> None:
    images = 0.3 + 0.6 * torch.rand(2, 3, 6, 7, generator=keyed(1))
    gain, shift = torch.tensor([[1.3, 1.0, 1.0], [1.0, 1.0, 1.0]]), torch.tensor([[0.1, 0, 0], [0, 0.0, 0.0]])
    out = colour.stain(images, gain, shift)
    before, after = colour.to_stains(images), colour.to_stains(out)
    unclipped = ((out > 0) & (out < 1)).all(dim=1)
    torch.testing.assert_close(after[:, 1:].movedim(1, -1)[unclipped], before[:, 1:].movedim(1, -1)[unclipped])
    torch.testing.assert_close(
        after[0, 0][unclipped[0]], (before[0, 0] * 1.3 + 0.1)[unclipped[0]], atol=1e-4, rtol=1e-4
    )
    torch.testing.assert_close(out[1], images[1], atol=1e-5, rtol=1e-5)


def test_hue_and_saturation_as_in_skimage() -> None:
    from skimage.color import hsv2rgb, rgb2hsv

    images = torch.rand(3, 3, 9, 8, generator=keyed(1))
    images[0, :, :2] = 0.4  # grey
    hsv = colour.to_hsv(images)
    np.testing.assert_allclose(hsv.movedim(1, -1), rgb2hsv(images.movedim(1, -1).numpy()), atol=1e-5)
    torch.testing.assert_close(colour.from_hsv(hsv), images, atol=1e-5, rtol=1e-5)
    hue, saturation = torch.tensor([0.1, -0.3, 0.0]), torch.tensor([0.5, 1.2, 1.0])
    out = colour.colour(images, hue, saturation).movedim(1, -1)
    changed = rgb2hsv(images.movedim(1, -1).numpy())
    changed[..., 0] = (changed[..., 0] + hue.numpy()[:, None, None]) % 1
    changed[..., 1] = np.clip(changed[..., 1] * saturation.numpy()[:, None, None], 0, 1)
    np.testing.assert_allclose(out, hsv2rgb(changed), atol=1e-5)


def test_colours_outside_0_to_1_keep_their_range() -> None:
    images = torch.randn(2, 3, 9, 8, generator=keyed(1)) * 2
    out = colour.colour(images, torch.tensor([0.2, 0.0]), torch.ones(2))
    assert out.min() >= images.min() - 1e-4
    assert out.max() <= images.max() + 1e-4
    torch.testing.assert_close(out[1], images[1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_mirrors_as_in_numpy(shape: tuple[int, ...]) -> None:
    images, labels = torch.randn(6, 2, *shape, generator=keyed(1)), torch.randint(0, 5, (6, *shape), generator=keyed(2))
    flips = torch.rand(6, len(shape), generator=keyed(3)) < 0.5
    flips[0] = False
    x, y = mirror(images.clone(), labels.clone(), flips)
    for n, drawn in enumerate(flips.tolist()):
        axes = [a for a, flip in enumerate(drawn) if flip]
        np.testing.assert_array_equal(x[n], np.flip(images[n].numpy(), [a + 1 for a in axes]))
        np.testing.assert_array_equal(y[n], np.flip(labels[n].numpy(), axes))


@pytest.mark.parametrize(("shape", "plane"), [((7, 7), (0, 1)), ((5, 8, 8), (1, 2)), ((6, 3, 6), (0, 2))])
def test_quarter_turns_as_in_numpy(shape: tuple[int, ...], plane: tuple[int, int]) -> None:
    images, labels = torch.randn(4, 2, *shape, generator=keyed(1)), torch.randint(0, 5, (4, *shape), generator=keyed(2))
    x, y = quarter_turn(images.clone(), labels.clone(), torch.arange(4), plane)
    for k in range(4):
        np.testing.assert_array_equal(x[k], np.rot90(images[k].numpy(), k, (plane[0] + 1, plane[1] + 1)))
        np.testing.assert_array_equal(y[k], np.rot90(labels[k].numpy(), k, plane))
