"""How the objects are read off a trained network's maps: thresholds and sizes chosen on training cases alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from medseg.decoders import decoder_of
from medseg.engine.placement import autocast
from medseg.image.labels import IGNORE, LabelTable
from medseg.metrics.matching import Matching
from medseg.objects.decoding import Decoding, grid
from medseg.objects.find import find_objects, quantised
from medseg.patches.sampling import generator
from medseg.patches.tiling import predict_slabs, slab_axis
from medseg.plan.plan import Plan
from medseg.preprocess.store import PreparedCase
from medseg.train.tuned import MOST_CASES, MOST_VOXELS

THRESHOLDS = tuple(np.arange(50, 95, 5) / 100)


def tune(
    network: nn.Module, cases: Sequence[PreparedCase], plan: Plan, labels: LabelTable, seed: int
) -> tuple[Decoding, str]:
    """Choose how objects are decoded: the settings of the largest mean AP(0.5:0.05:0.9), objects of all cases pooled.

    Cases are training cases, so the fold that is scored has no part in it (as StarDist tunes its thresholds, Schmidt et
    al. 2018, on images apart). Of equally good settings, the one nearest to the default is taken.

    Args:
        network: trained.
        cases: that it was trained on.
        plan: its plan, with a head for objects.
        labels: what label maps mean.
        seed: of the draw of cases; that of the fold.

    Returns:
        The settings, and the beginning of a line that says what was chosen by which score.
    """
    chosen = _chosen(cases, seed, plan.network.dims)
    references = [_annotated(case, case.read_objects()) for case in chosen]
    sizes = np.concatenate([_sizes(reference, plan.grid.slice_axis) for reference in references])
    default = Decoding.of_sizes(sizes.tolist(), plan.network.dims)
    maps = [_maps(network, case, plan, labels) for case in chosen]
    best, highest = default, -1.0
    for setting in grid(plan.network.head, default):
        score = _mean_ap(_found(maps, chosen, plan, setting), references)
        if score > highest:
            best, highest = setting, score
    return best, (
        f"objects are read off with foreground {best.foreground:g}, seed {best.seed:g}, at least {best.min_size:g} "
        f"voxels (mean AP {highest:.3f} on {len(chosen)} training cases); "
    )


def _chosen(cases: Sequence[PreparedCase], seed: int, dims: int) -> list[PreparedCase]:
    order = generator(seed, 8).permutation(len(cases))
    chosen: list[PreparedCase] = []
    voxels = 0
    for case in (cases[int(k)] for k in order[:MOST_CASES]):
        voxels += int(np.prod(case.shape))
        if chosen and voxels > MOST_VOXELS[dims]:
            break
        chosen.append(case)
    return chosen


def _sizes(numbers: NDArray[np.uint32], slice_axis: int | None) -> NDArray[np.int64]:
    """Voxels of each object, or of each object in each slice, as a network sees them."""
    slices = [numbers] if slice_axis is None else np.moveaxis(numbers, slice_axis, 0)
    counts = np.concatenate([np.bincount(one.ravel())[1:] for one in slices])
    return counts[counts > 0]


def _annotated(case: PreparedCase, numbers: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Object numbers (S), 0 where nobody annotated."""
    return np.where(case.read_labels() == IGNORE, 0, numbers).astype(np.uint32)


def _maps(network: nn.Module, case: PreparedCase, plan: Plan, labels: LabelTable) -> NDArray[np.int16]:
    """The quantised maps (M, S) of a case on the prepared grid."""
    image = torch.from_numpy(case.read_image()).to(plan.machine.device)
    axis, decoder = slab_axis(image.shape[1:], plan.window), decoder_of(labels, plan.network.head)
    with _evaluating(network), autocast(plan.machine.device, plan.machine.precision):
        slabs = predict_slabs(
            network, image, plan.window, axis=axis, batch=plan.training.batch, slice_axis=plan.grid.slice_axis
        )
        return np.concatenate([quantised(decoder.probabilities(slab, labels)) for slab in slabs], axis=axis + 1)


@contextlib.contextmanager
def _evaluating(network: nn.Module) -> Iterator[None]:
    training = network.training
    network.eval()
    with torch.inference_mode():
        yield
    network.train(training)


def _found(
    maps: Sequence[NDArray[np.int16]], cases: Sequence[PreparedCase], plan: Plan, setting: Decoding
) -> Iterator[NDArray[np.uint32]]:
    spacing = [s or 1.0 for s in plan.grid.spacing]
    for one, case in zip(maps, cases, strict=True):
        found = find_objects(plan.network.head, one, spacing, setting, plan.grid.slice_axis)
        yield _annotated(case, found.numbers)


def _mean_ap(found: Iterator[NDArray[np.uint32]], references: Sequence[NDArray[np.uint32]]) -> float:
    """Mean over thresholds of TP / (TP + FP + FN), counts summed over the cases; 0 without any object."""
    matchings = [Matching.of(reference, one) for reference, one in zip(references, found, strict=True)]
    values = []
    for threshold in THRESHOLDS:
        tp, fp, fn = np.sum([m.at(threshold)[:3] for m in matchings], axis=0)
        values.append(tp / max(tp + fp + fn, 1))
    return float(np.mean(values))
