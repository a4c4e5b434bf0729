"""Decoding of objects as it is tuned for a trained network, and how much of the training cases is looked at."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import nn

from medseg.heads import HEADS
from medseg.image.labels import LabelTable
from medseg.late import resolve
from medseg.objects.decoding import Decoding
from medseg.plan.plan import Plan
from medseg.preprocess.store import PreparedCase

# Cases and voxels of them, the first case always: a few seconds on a processor.
MOST_CASES = 16
MOST_VOXELS = {2: 3_000_000, 3: 8_000_000}


def tuned_voxels(shapes: Sequence[Sequence[int]], dims: int) -> float:
    """About how many voxels are looked at, of cases of these shapes."""
    median = float(np.median([np.prod(shape) for shape in shapes]))
    return max(median, min(MOST_VOXELS[dims], median * min(MOST_CASES, len(shapes))))


def tuned_decoding(
    network: nn.Module, cases: Sequence[PreparedCase], plan: Plan, labels: LabelTable, seed: int
) -> tuple[Decoding | None, str]:
    """The settings for a trained network, and the beginning of a line that says how they were chosen;
    None and nothing for one without objects.

    Arguments as for ``tuning.tune``.
    """
    if not plan.network.learns_objects:
        return None, ""
    found: tuple[Decoding, str] = resolve(HEADS[plan.network.head].tune)(network, cases, plan, labels, seed)
    return found
