"""The dense CRF against sums over all pairs, and its laws."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from medseg.config import CrfConfig
from medseg.postprocess import permutohedral
from medseg.postprocess.crf import MeanField, PositionKernel, appearance_lattice, dense_crf
from medseg.postprocess.permutohedral import Lattice, elevate

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
OPTIONS = CrfConfig(
    position_weight=3.0, position_sigma=2.0, appearance_weight=5.0, appearance_sigma=6.0, intensity_sigma=0.15
)
# shape, channels, spacing
GRIDS = [
    ((30, 34), 1, (1.0, 1.0)),
    ((30, 34), 3, (1.0, 2.0)),
    ((12, 13, 11), 1, (1.0, 1.0, 2.0)),
    ((12, 13, 11), 2, (0.5, 1.0, 1.0)),
]


def scene(shape: tuple[int, ...], channels: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A ball brighter than what is around it, with noise: the image (C, S) and the ball (S, bool)."""
    source = torch.Generator().manual_seed(seed)
    place = torch.meshgrid(*[torch.linspace(-1, 1, n) for n in shape], indexing="ij")
    ball = sum(p * p for p in place) < 0.4
    clean = torch.stack([ball * (0.5 + 0.3 * c) for c in range(channels)])
    return clean + 0.05 * torch.randn(clean.shape, generator=source), ball


def uncertain(labels: Tensor, classes: int = 2, seed: int = 0) -> Tensor:
    """Noisy probabilities (K, S) that favour the class that is there."""
    noise = torch.randn(classes, *labels.shape, generator=torch.Generator().manual_seed(seed))
    right = torch.nn.functional.one_hot(labels.long(), classes).movedim(-1, 0)
    return (noise + 2 * right).softmax(dim=0)


# By sums over all pairs of voxels, in double precision


def exact_kernel(image: Tensor, spacing: Any, options: CrfConfig, *, appearance: bool) -> Tensor:
    """D^(-1/2) K D^(-1/2), (N, N)."""
    axes = [torch.arange(n, dtype=torch.float64) * s for n, s in zip(image.shape[1:], spacing, strict=True)]
    place = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1).T
    features = place / options.position_sigma
    if appearance:
        intensities = image.flatten(1).T.double() / options.intensity_sigma
        features = torch.cat([place / options.appearance_sigma, intensities], dim=1)
    kernel = torch.exp(-0.5 * (features[:, None] - features[None]).square().sum(dim=-1))
    norm = kernel.sum(dim=1).rsqrt()
    return norm[:, None] * kernel * norm


def exact_crf(probabilities: Tensor, image: Tensor, spacing: Any, options: CrfConfig) -> Tensor:
    unary = probabilities.double().flatten(1).log()
    both = options.position_weight * exact_kernel(image, spacing, options, appearance=False)
    both = both + options.appearance_weight * exact_kernel(image, spacing, options, appearance=True)
    found = unary.softmax(dim=0)
    for _ in range(options.iterations):
        found = (unary + found @ both).softmax(dim=0)
    return found.reshape(probabilities.shape)


def filtered(lattice: Lattice, values: Tensor) -> Tensor:
    """(K, N) filtered and normalised as the mean field does."""

    def plain(rows: Tensor) -> Tensor:
        sums = lattice.empty(len(rows))
        for place in lattice.places():
            lattice.splat(rows[:, place.first : place.last], place, sums)
        blurred = lattice.blur(sums)
        return torch.cat([lattice.slice(blurred, place) for place in lattice.places()], dim=1)

    norm = plain(torch.ones(1, values.shape[1])).rsqrt()
    return plain(values * norm) * norm


@pytest.mark.parametrize(("shape", "channels", "spacing"), GRIDS)
@pytest.mark.parametrize("sigma", [3.0, 12.0])
def test_the_lattice_filters_like_all_pairs(shape: Any, channels: int, spacing: Any, sigma: float) -> None:
    options = OPTIONS.model_copy(update={"appearance_sigma": sigma})
    image, ball = scene(shape, channels)
    noise = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    values = torch.stack([noise, 0.8 * ball + 0.1]).flatten(1)
    expected = values.double() @ exact_kernel(image, spacing, options, appearance=True)
    gap = (filtered(appearance_lattice(image, spacing, options), values) - expected).abs()
    assert float((gap.mean(dim=1) / expected.mean(dim=1)).max()) < 0.03
    assert float((gap.amax(dim=1) / expected.amax(dim=1)).max()) < 0.10


@pytest.mark.parametrize(("shape", "channels", "spacing"), GRIDS)
@pytest.mark.parametrize("sigma", [0.1, 2.0, 50.0])
def test_the_position_kernel_is_all_pairs(shape: Any, channels: int, spacing: Any, sigma: float) -> None:
    options = OPTIONS.model_copy(update={"position_sigma": sigma})
    values = torch.rand(shape, generator=torch.Generator().manual_seed(1))
    kernel = PositionKernel(shape, [sigma / s for s in spacing], values.device)
    expected = exact_kernel(values[None], spacing, options, appearance=False) @ values.double().flatten()
    np.testing.assert_allclose(kernel.filter(values).flatten(), expected, rtol=2e-3)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize(("shape", "channels", "spacing"), GRIDS)
def test_marginals_are_those_of_all_pairs(shape: Any, channels: int, spacing: Any, classes: int) -> None:
    image, ball = scene(shape, channels)
    # With more classes: one end of the image is brighter, and another class; a third one is nowhere.
    labels = ball.long()
    if classes > 2:
        labels[..., : shape[-1] // 4] = 2
        image[..., : shape[-1] // 4] += 1.0
    probabilities = uncertain(labels, classes)
    found = dense_crf(probabilities, image, spacing, OPTIONS)
    expected = exact_crf(probabilities, image, spacing, OPTIONS)
    assert float((found.argmax(dim=0) == expected.argmax(dim=0)).float().mean()) >= 0.99
    assert float((found - expected).abs().mean()) < 0.01
    # And it is worth it: fewer are wrong than by the noisy probabilities alone.
    assert (found.argmax(dim=0) != labels).sum() < (probabilities.argmax(dim=0) != labels).sum() / 2


# The lattice itself


@pytest.mark.parametrize("dims", [1, 2, 3, 5])
def test_elevated_points_lie_in_a_plane_and_keep_their_distances(dims: int) -> None:
    points = torch.randn(dims, 50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    high = elevate(points)
    np.testing.assert_allclose(high.sum(dim=0), 0, atol=1e-9)
    scale = (dims + 1) * math.sqrt(2 / 3)
    np.testing.assert_allclose(torch.pdist(high.T), torch.pdist(points.T) * scale, rtol=1e-9)


@given(st.integers(1, 6), st.floats(0.01, 100), st.integers(0, 99))
def test_every_point_lies_within_its_simplex(dims: int, spread: float, seed: int) -> None:
    points = spread * torch.randn(dims, 40, generator=torch.Generator().manual_seed(seed))
    lattice = Lattice(lambda a, b: points[:, a:b], 40)
    (place,) = lattice.places()
    assert float(place.weight.min()) > -1e-4
    np.testing.assert_allclose(place.weight.sum(dim=0), 1, atol=1e-4)
    corners = unpack(lattice)[:, place.corner]  # (d + 1, d + 1, n)
    assert int(corners.sum(dim=0).abs().max()) == 0
    found = (corners * place.weight).sum(dim=1)
    np.testing.assert_allclose(found, elevate(points), atol=1e-4 * max(1.0, spread) * dims)


def unpack(lattice: Lattice) -> Tensor:
    """Coordinates (d + 1, corners) from the packed integers."""
    d, keys = lattice.dims, lattice._keys
    strides = [*lattice._stride[:-1], 2**62]
    quotients = [
        (keys % large) // small + low for low, small, large in zip(lattice._low, strides, strides[1:], strict=False)
    ]
    rows = [(d + 1) * quotient + keys % (d + 1) for quotient in quotients]
    return torch.stack([*rows, -torch.stack(rows).sum(dim=0)])


@given(st.integers(1, 4), st.integers(0, 99))
def test_neighbours_differ_by_one_step(dims: int, seed: int) -> None:
    points = 2 * torch.randn(dims, 60, generator=torch.Generator().manual_seed(seed))
    lattice = Lattice(lambda a, b: points[:, a:b], 60)
    corners = unpack(lattice)
    known = {tuple(c): i for i, c in enumerate(corners.T.tolist())}
    for axis, (up, down) in enumerate(lattice._neighbours):
        step = torch.ones(dims + 1, dtype=torch.long)
        step[axis] -= dims + 1
        for sign, table in ((1, up), (-1, down)):
            expected = [known.get(tuple(c), lattice.corners) for c in (corners + sign * step[:, None]).T.tolist()]
            assert table.tolist() == expected


def test_points_in_chunks_are_filtered_as_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    image, ball = scene((30, 34), 2)
    whole = dense_crf(uncertain(ball), image, (1.0, 1.0), OPTIONS)
    sizes: list[int] = []
    plain = Lattice._simplex
    monkeypatch.setattr(permutohedral, "CHUNK", 77)
    monkeypatch.setattr(permutohedral, "KEPT", 4 * 77)
    monkeypatch.setattr(Lattice, "_simplex", lambda self, a, b: sizes.append(b - a) or plain(self, a, b))
    chunked = dense_crf(uncertain(ball), image, (1.0, 1.0), OPTIONS)
    np.testing.assert_allclose(chunked, whole, atol=1e-5)
    assert max(sizes) == 77
    # All are placed to find the corners; then some are kept, the others placed anew for two passes over norms, one to
    # begin with, and one per iteration.
    points, kept = 30 * 34, 4 * 77
    assert sum(sizes) == points + kept + (3 + OPTIONS.iterations) * (points - kept)


def test_what_cannot_be_numbered_is_refused() -> None:
    with pytest.raises(ValueError, match="12 dimensions"):
        dense_crf(torch.ones(2, 8, 8), 1e4 * torch.rand(10, 8, 8), (1.0, 1.0), OPTIONS)


# Laws


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("shape", "channels", "spacing"), GRIDS)
def test_marginals_sum_to_one_and_come_again_bit_by_bit(shape: Any, channels: int, spacing: Any, device: str) -> None:
    image, ball = scene(shape, channels)
    probabilities, image = uncertain(ball, 3).to(device), image.to(device)
    before, exact = probabilities.clone(), torch.are_deterministic_algorithms_enabled()
    found = dense_crf(probabilities, image, spacing, OPTIONS)
    assert (found.dtype, found.shape, found.device) == (torch.float32, probabilities.shape, image.device)
    assert float((found.sum(dim=0) - 1).abs().max()) < 1e-5
    assert torch.equal(dense_crf(probabilities, image, spacing, OPTIONS), found)
    assert torch.equal(probabilities, before)
    # What others set is left as it was.
    assert torch.are_deterministic_algorithms_enabled() == exact


@pytest.mark.skipif("cuda" not in DEVICES, reason="no GPU")
@pytest.mark.parametrize(("shape", "channels", "spacing"), GRIDS)
def test_devices_agree(shape: Any, channels: int, spacing: Any) -> None:
    image, ball = scene(shape, channels)
    cpu = dense_crf(uncertain(ball), image, spacing, OPTIONS)
    gpu = dense_crf(uncertain(ball).cuda(), image.cuda(), spacing, OPTIONS).cpu()
    np.testing.assert_allclose(gpu, cpu, atol=1e-4)


def test_on_a_constant_image_appearance_is_position() -> None:
    """Exactly so by all pairs; through the lattice within its precision."""
    options = OPTIONS.model_copy(update={"appearance_sigma": OPTIONS.position_sigma})
    image, values = torch.full((1, 24, 26), 0.7), torch.rand(1, 24 * 26, generator=torch.Generator().manual_seed(0))
    position = PositionKernel((24, 26), [2.0, 2.0], values.device).filter(values.reshape(24, 26)).flatten()
    appearance = filtered(appearance_lattice(image, (1.0, 1.0), options), values)[0]
    assert float((appearance - position).abs().mean() / position.mean()) < 0.03


@pytest.mark.parametrize("order", [[2, 0, 1], [1, 0, 2]])
def test_classes_have_no_order(order: list[int]) -> None:
    image, ball = scene((20, 22), 1)
    probabilities = uncertain(ball, 3)
    found = dense_crf(probabilities, image, (1.0, 1.0), OPTIONS)
    np.testing.assert_allclose(dense_crf(probabilities[order], image, (1.0, 1.0), OPTIONS), found[order], atol=1e-6)


def test_without_weights_probabilities_come_back() -> None:
    image, ball = scene((20, 22), 1)
    probabilities = uncertain(ball, 3)
    off = OPTIONS.model_copy(update={"position_weight": 0.0, "appearance_weight": 0.0})
    np.testing.assert_allclose(dense_crf(probabilities, image, (1.0, 1.0), off), probabilities, atol=1e-6)


def test_probabilities_of_zero_do_no_harm() -> None:
    image, ball = scene((20, 22), 1)
    hard = torch.stack([~ball, ball]).half()
    found = dense_crf(hard, image, (1.0, 1.0), OPTIONS)
    assert torch.isfinite(found).all()
    assert torch.equal(found.argmax(dim=0), ball.long())


@pytest.mark.parametrize("factor", [0.25, 4.0, 1000.0])
def test_only_the_ratio_of_spacing_and_sigma_counts(factor: float) -> None:
    image, ball = scene((12, 13, 11), 1)
    probabilities = uncertain(ball)
    one = dense_crf(probabilities, image, (1.0, 1.0, 2.0), OPTIONS)
    scaled = OPTIONS.model_copy(
        update={k: getattr(OPTIONS, k) * factor for k in ("position_sigma", "appearance_sigma")}
    )
    np.testing.assert_allclose(dense_crf(probabilities, image, (factor, factor, 2 * factor), scaled), one, atol=1e-5)
    assert not np.allclose(dense_crf(probabilities, image, (1.0, 1.0, 0.5), OPTIONS), one, atol=1e-2)


def test_shapes_must_fit() -> None:
    image, ball = scene((20, 22), 1)
    with pytest.raises(ValueError, match="3 spacings"):
        dense_crf(uncertain(ball), image, (1.0, 1.0, 1.0), OPTIONS)
    with pytest.raises(ValueError, match="of an image of shape"):
        MeanField(image, (1.0, 1.0), OPTIONS).refine(torch.ones(2, 20, 21))
