"""Validation during training: whole images on the prepared grid, for the curves only; nothing is chosen by it."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from torch import nn

from medseg.decoders import decoder_of
from medseg.engine.group import ALONE, Group
from medseg.engine.placement import autocast
from medseg.image.labels import LabelTable
from medseg.metrics.counts import OverlapCounts, dice_of_counts, overlap_counts
from medseg.patches.tiling import predict_slabs, slab_axis
from medseg.plan.plan import Plan
from medseg.preprocess.store import PreparedCase
from medseg.train.state import TrainState


def validate(
    network: nn.Module, cases: Sequence[PreparedCase], plan: Plan, labels: LabelTable, group: Group = ALONE
) -> dict[str, float]:
    """Dice per class or region, annotated voxels pooled over ``cases``, and their mean.

    A class that no reference of these cases shows is left out, whatever was predicted.

    The processes of a group share the cases.
    """
    network.eval()
    names, decoder = labels.target_names, decoder_of(labels, plan.network.head)
    sums = [OverlapCounts(0, 0, 0)] * len(names)
    with torch.inference_mode(), autocast(plan.machine.device, plan.machine.precision):
        for case in cases[group.rank :: group.size]:
            image = torch.from_numpy(case.read_image()).to(plan.machine.device)
            axis = slab_axis(image.shape[1:], plan.window)
            slabs = predict_slabs(
                network, image, plan.window, axis=axis, batch=plan.training.batch, slice_axis=plan.grid.slice_axis
            )
            predicted = torch.cat([decoder.labels(slab, labels) for slab in slabs], dim=axis).numpy()
            counts = overlap_counts(case.read_labels(), predicted, plan.network.classes, labels.members)
            sums = [OverlapCounts(a.tp + b.tp, a.fp + b.fp, a.fn + b.fn) for a, b in zip(sums, counts, strict=True)]
    network.train()
    total = iter(group.add([n for c in sums for n in (c.tp, c.fp, c.fn)]))
    sums = [OverlapCounts(tp, fp, fn) for tp, fp, fn in zip(total, total, total, strict=True)]
    scores = {f"val/dice/{name}": dice_of_counts(c) for name, c in zip(names, sums, strict=True) if c.reference}
    return {**scores, "val/dice/mean": sum(scores.values()) / len(scores)} if scores else {}


def is_due(state: TrainState) -> bool:
    """Whether the curves get a point after the step that was just made; never without cases to predict."""
    if not state.cases.watch:
        return False
    return state.finished or state.done % state.plan.training.validate_every == 0


def validate_state(state: TrainState) -> dict[str, float]:
    """The scores of a training's weights, or of their mean if it is kept; the last weights are the mean already."""
    mean = state.average.in_place() if state.average and not state.finished else contextlib.nullcontext()
    with state.phases.phase("validate"), mean:
        return validate(state.network, state.cases.watch, state.plan, state.cases.labels, state.group)
