"""Fully connected conditional random field with Gaussian edges, by mean field (Kraehenbuehl & Koltun 2011).

Every voxel is tied to every other, the more the nearer they are (position kernel) and the nearer and more alike they
are (appearance kernel). Voxels of different classes pay the tie's weight (Potts). Both kernels are normalised
symmetrically, D^(-1/2) K D^(-1/2) with D the sums of K's rows, as in the authors' program.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from medseg.config import CrfConfig
from medseg.postprocess.permutohedral import Lattice

# Probabilities below the smallest number of 16 bits are taken to be that.
TINY = 2.0**-24
# Standard deviations after which the position kernel is cut off (at less than 1/2900 of its peak).
REACH = 4.0


def dense_crf(probabilities: Tensor, image: Tensor, spacing: Sequence[float], options: CrfConfig) -> Tensor:
    """Refine class probabilities by what the image shows.

    Args:
        probabilities: (K, S), which sum to one over K; on any device, 2-D or 3-D.
        image: (C, S) in the units of ``options.intensity_sigma``, on the same device.
        spacing: distance of voxels along each axis, in the unit of the two distances in ``options``.
        options: kernels and iterations.

    Returns:
        (K, S) float32: the mean field's marginals. Equal bits for equal input, device and number of threads.

    Raises:
        ValueError: if shapes do not fit, or there are too many channels for such small deviations.
    """
    return MeanField(image, spacing, options).refine(probabilities)


class MeanField:
    """The kernels of one image, to refine any number of predictions of it; arguments as for ``dense_crf``."""

    def __init__(self, image: Tensor, spacing: Sequence[float], options: CrfConfig) -> None:
        if len(spacing) != image.ndim - 1:
            raise ValueError(f"{len(spacing)} spacings for an image (C, S) of shape {tuple(image.shape)}")
        self.options = options
        self._shape = image.shape[1:]
        device = image.device
        with _repeatable():
            self._position = PositionKernel(self._shape, [options.position_sigma / s for s in spacing], device)
            self._lattice, self._norm = None, torch.empty(0)
            if options.appearance_weight > 0:
                self._lattice = appearance_lattice(image, spacing, options)
                self._norm = _row_norm(self._lattice, math.prod(self._shape), device)

    def refine(self, probabilities: Tensor) -> Tensor:
        """(K, S) -> (K, S), see ``dense_crf``."""
        if probabilities.shape[1:] != self._shape:
            raise ValueError(f"probabilities {tuple(probabilities.shape)} of an image of shape {tuple(self._shape)}")
        with _repeatable():
            unary = probabilities.float().flatten(1).clamp_min(TINY).log_()
            found = unary.softmax(dim=0)
            sums = self._splat(found)
            for _ in range(self.options.iterations):
                sums = self._update(unary, found, sums)
        return found.reshape(probabilities.shape)

    def _splat(self, found: Tensor) -> Tensor:
        """The marginals (K, N), normalised, at the corners of the appearance kernel's lattice."""
        if self._lattice is None:
            return torch.empty(0)
        sums = self._lattice.empty(len(found))
        for place in self._lattice.places():
            rows = slice(place.first, place.last)
            self._lattice.splat(found[:, rows] * self._norm[rows], place, sums)
        return sums

    def _update(self, unary: Tensor, found: Tensor, sums: Tensor) -> Tensor:
        """One iteration, all voxels at once; overwrites the marginals ``found`` (K, N) and returns their sums."""
        energy = unary.clone()
        if self.options.position_weight > 0:
            for row, marginal in zip(energy, found, strict=True):
                message = self._position.filter(marginal.reshape(self._shape)).flatten()
                row.add_(message, alpha=self.options.position_weight)
        if self._lattice is None:
            found.copy_(energy.softmax(dim=0))
            return sums
        blurred, after = self._lattice.blur(sums), self._lattice.empty(len(found))
        for place in self._lattice.places():
            rows, norm = slice(place.first, place.last), self._norm[place.first : place.last]
            message = self._lattice.slice(blurred, place) * norm
            found[:, rows] = energy[:, rows].add_(message, alpha=self.options.appearance_weight).softmax(dim=0)
            # While these points are placed: what the next iteration begins with.
            self._lattice.splat(found[:, rows] * norm, place, after)
        return after


class PositionKernel:
    """exp(-|p - q|^2 / (2 sigma^2)) over the places of all voxels, normalised; one axis after the other.

    Args:
        shape: S; deviations: sigma in voxels, per axis; device: where values lie.
    """

    def __init__(self, shape: Sequence[int], deviations: Sequence[float], device: torch.device) -> None:
        self._taps = []
        for size, sigma in zip(shape, deviations, strict=True):
            reach = min(size - 1, math.ceil(REACH * sigma))
            self._taps.append([math.exp(-0.5 * (r / sigma) ** 2) for r in range(1, reach + 1)])
        self._norm = self._convolve(torch.ones(tuple(shape), device=device)).rsqrt()

    def filter(self, values: Tensor) -> Tensor:
        """(S) -> (S)."""
        return self._convolve(values * self._norm) * self._norm

    def _convolve(self, values: Tensor) -> Tensor:
        # Sums of shifted copies: their order, and so every bit, is independent of the number of threads.
        for axis, taps in enumerate(self._taps):
            out = values.clone()
            for step, weight in enumerate(taps, start=1):
                rest = values.shape[axis] - step
                out.narrow(axis, step, rest).add_(values.narrow(axis, 0, rest), alpha=weight)
                out.narrow(axis, 0, rest).add_(values.narrow(axis, step, rest), alpha=weight)
            values = out
        return values


def appearance_lattice(image: Tensor, spacing: Sequence[float], options: CrfConfig) -> Lattice:
    """The lattice of place and intensities, in deviations of the kernel; features are made a chunk at a time."""
    shape, flat = image.shape[1:], image.flatten(1)
    scale = [s / options.appearance_sigma for s in spacing]

    def features(first: int, last: int) -> Tensor:
        index = torch.arange(first, last, device=image.device)
        rows: list[Tensor] = []
        for size, factor in zip(reversed(shape), reversed(scale), strict=True):
            rows.insert(0, (index % size).float() * factor)
            index = index // size
        return torch.cat([torch.stack(rows), flat[:, first:last].float() / options.intensity_sigma])

    return Lattice(features, flat.shape[1])


def _row_norm(lattice: Lattice, points: int, device: torch.device) -> Tensor:
    """D^(-1/2) (N) of the kernel that a lattice approximates."""
    sums, norm = lattice.empty(1), torch.ones(1, points, device=device)
    for place in lattice.places():
        lattice.splat(norm[:, place.first : place.last], place, sums)
    blurred = lattice.blur(sums)
    for place in lattice.places():
        norm[:, place.first : place.last] = lattice.slice(blurred, place).rsqrt()
    return norm[0]


@contextlib.contextmanager
def _repeatable() -> Iterator[None]:
    """Sums on a GPU in a fixed order, and no gradients."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        with torch.inference_mode():
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
