"""Validation during training: whole images on the prepared grid, for the curves only; nothing is chosen by it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from medseg.metrics.overlap import OverlapCounts, dice, overlap_counts
from medseg.models.step import autocast
from medseg.patches.tiling import predict_tiled
from medseg.plan.plan import Plan
from medseg.preprocess.store import PreparedCase


def validate(network: nn.Module, cases: Sequence[PreparedCase], plan: Plan, names: Sequence[str]) -> dict[str, float]:
    """Dice per label, voxels pooled over ``cases``, and their mean; a class absent from all of them is left out."""
    network.eval()
    sums = [OverlapCounts(0, 0, 0)] * len(names)
    with torch.inference_mode(), autocast(plan.device, plan.precision):
        for case in cases:
            image = torch.from_numpy(case.read_image()).to(plan.device)
            predicted = predict_tiled(network, image, plan.patch, batch=plan.batch).argmax(dim=0).numpy()
            counts = overlap_counts(case.read_labels(), predicted.astype(np.uint8), plan.classes)
            sums = [OverlapCounts(a.tp + b.tp, a.fp + b.fp, a.fn + b.fn) for a, b in zip(sums, counts, strict=True)]
    network.train()
    scores = {f"val/dice/{name}": dice(c) for name, c in zip(names, sums, strict=True)}
    scores = {name: value for name, value in scores.items() if not math.isnan(value)}
    return {**scores, "val/dice/mean": sum(scores.values()) / len(scores)} if scores else {}
