"""Variances of resampled macro means from sums over the subjects of each resample."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from medseg.compare.interval import TIE, Array


@dataclass(frozen=True, slots=True)
class Weights:
    """Weights of G groups of classes, each shown by the same subjects, in R resamples of n subjects.

    Attributes:
        n: subjects.
        both: (G, G, R) drawn subjects who show two groups.
        inverse: (G, R) 1 / those who show a group.
        classes: (R,) classes that anybody shows.
        weights: (G, R) of a subject's values in the mean over all subjects.
        usual: (G,) the same of all subjects.
    """

    n: int
    both: Array
    inverse: Array
    classes: Array
    weights: Array
    usual: Array

    @classmethod
    def of(cls, both: Array, sizes: Array, usual: Array, n: int) -> Weights:
        """From the counts; ``sizes`` are the classes of each group."""
        carriers = both[range(len(both)), range(len(both))]
        classes = np.maximum((sizes[:, None] * (carriers > 0)).sum(axis=0), 1.0)
        inverse = np.where(carriers > 0, 1.0 / np.maximum(carriers, 1.0), 0.0)
        return cls(n, both, inverse, classes, n * inverse / classes, usual)

    def variances(self, linear: Array, squares: Array) -> tuple[Array, Array, Array]:
        """(K, R) sums of squared influences of resamples, what they are differences of, and deviations of the mean."""
        weights, both, groups = self.weights, self.both, range(len(self.both))
        pairs = itertools.combinations_with_replacement(groups, 2)
        means = [linear[:, g, g] * self.inverse[g] for g in groups]
        deviations = sum(means[1:], start=means[0]) / self.classes
        left, scale = np.zeros_like(deviations), np.zeros_like(deviations)
        for place, (g, h) in enumerate(pairs):
            weight = weights[g] * weights[h]
            if g == h:
                scale += weight * squares[:, place]
                left += weight * (squares[:, place] - means[g] * linear[:, g, g])
            else:
                mixed = squares[:, place] - means[g] * linear[:, g, h] - means[h] * linear[:, h, g]
                left += 2 * weight * (mixed + means[g] * means[h] * both[g, h])
        return left, len(groups) * scale, deviations

    def steady_variances(self, linear: Array, squares: Array, usual: Array) -> tuple[Array, Array, Array]:
        """The same where weights hardly differ between resamples: 1 + e times those of all subjects.

        Sums of products of two groups count e^2 times, a ten-thousandth and less, so their mean will do (``usual``).

        Args:
            linear: as of ``variances``.
            squares: (K, G, R) resampled sums of each group's weighted values times those of all groups together.
            usual: (K, G, G) sums over all subjects of the products of two groups' weighted values.
        """
        weights, both, groups = self.weights, self.both, range(len(self.both))
        means = [linear[:, g, g] * self.inverse[g] for g in groups]
        deviations = sum(means[1:], start=means[0]) / self.classes
        excess = weights / self.usual[:, None] - 1.0
        scale = squares.sum(axis=1)
        left = scale + 2 * np.einsum("kgr,gr->kr", squares, excess)
        left += np.einsum("kgh,gr,hr->kr", usual, excess, excess, optimize=True)
        for h in groups:
            common = sum(weights[g] * linear[:, h, g] for g in groups)
            others = sum(weights[g] * means[g] * both[g, h] for g in groups)
            left += weights[h] * means[h] * (others - 2 * common)
        return left, scale, deviations

    def studentised(self, left: Array, deviations: Array) -> Array:
        """(K, R) ratios of deviations to their standard errors, from sums of squared influences."""
        variances = left / (self.n * (self.n - 1))
        none = variances <= TIE**2
        no_spread = np.where(np.abs(deviations) <= TIE, 0.0, np.copysign(np.inf, deviations))
        return np.where(none, no_spread, deviations / np.sqrt(np.where(none, 1.0, variances)))
