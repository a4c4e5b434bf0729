"""Two maps of objects as partitions of the reference's foreground: adapted Rand error and variation of information.

Voxels that the reference leaves to the background are left out; predicted background counts as one more object. Both
are the definitions of scikit-image with ``ignore_labels=(0,)``.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medseg.metrics.pair import Pair

Values = NDArray[np.float64]


def are(pair: Pair) -> float:
    """Adapted Rand error: 1 - F1 of the pairs of voxels that are together in both maps (Arganda-Carreras 2015)."""
    together, true, said = (float((n * (n - 1)).sum()) for n in _tables(pair))
    # Objects of single voxels have no pairs that could be wrong.
    return 1 - 2 * together / (true + said) if true + said else 0.0


def vi_split(pair: Pair) -> float:
    """Conditional entropy of the predicted objects, given the reference's, in bits (Meila 2007)."""
    cells, true, _ = _tables(pair)
    return max(_entropy(cells) - _entropy(true), 0.0)


def vi_merge(pair: Pair) -> float:
    """Conditional entropy of the reference's objects, given the predicted ones, in bits (Meila 2007)."""
    cells, _, said = _tables(pair)
    return max(_entropy(cells) - _entropy(said), 0.0)


def _tables(pair: Pair) -> tuple[Values, Values, Values]:
    """Voxels of the reference's foreground: of each pair of objects, of each reference and of each predicted object."""
    found = pair.objects
    left = found.reference_sizes.astype(np.float64)
    left -= np.bincount(found.rows, weights=found.intersections, minlength=found.n_reference)
    said = np.bincount(found.columns, weights=found.intersections, minlength=found.n_prediction)
    cells = np.concatenate([found.intersections, left])
    return cells, found.reference_sizes.astype(np.float64), np.append(said, left.sum())


def _entropy(voxels: Values) -> float:
    """In bits, of a partition into parts of so many voxels."""
    shares = voxels[voxels > 0] / voxels.sum()
    return float(-(shares * np.log2(shares)).sum())
