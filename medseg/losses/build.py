"""Losses of the table ``LOSSES``, built: MONAI's terms where they exist and are right.

Each term exists for classes that exclude one another (softmax) and for overlapping regions (sigmoid). Voxels labelled
``IGNORE`` add nothing to a loss and get no gradient; a batch without an annotated voxel has loss 0. A confident and
right answer has loss 0, any other more.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medseg.errors import PlanError
from medseg.heads import HEADS
from medseg.late import resolve
from medseg.losses.supervision import OutputLoss, deeply_supervised
from medseg.losses.table import LOSSES
from medseg.losses.targets import Loss, RegionLoss, Term, annotated, multi_hot


def build_loss(name: str, regions: Sequence[Sequence[int]] = (), *, ignore: bool = False) -> OutputLoss:
    """The loss of a table row, from what a network gives and integer labels (N, S) to a scalar.

    Args:
        name: row of ``LOSSES``.
        regions: classes that each output channel unites; empty: channel k is class k.
        ignore: whether labels may be ``IGNORE``.

    Returns:
        A function of logits (N, K, S), or (N, R, S) with regions, and labels 0..K-1 or ``IGNORE``. Instead of one
        tensor of logits it takes several at their own resolutions, finest first (deep supervision). Logits of 16 bits
        are widened to float32 first.

    Raises:
        PlanError: if the table has no such row.
    """
    terms = _terms(name)
    return deeply_supervised(_of_regions(terms, regions) if regions else _of_classes(terms, ignore))


def build_object_loss(
    name: str, head: str, spacing: Sequence[float], classes: int, *, blank: bool = False
) -> OutputLoss:
    """The loss of a head for objects, from what a network gives and codes of objects (N, S) to a scalar.

    Args:
        name: row of ``LOSSES``, whose terms the foreground takes.
        head: row of ``HEADS``.
        spacing: voxel size along the axes of the patch.
        classes: of the label map, background included.
        blank: whether targets have no content, only their size.

    Raises:
        PlanError: if the table of losses has no such row.
    """
    of_objects = resolve("medseg.losses.objects:of_objects")
    targets, loss = resolve(HEADS[head].loss)(_region_terms(_terms(name)))
    if blank:
        targets = resolve("medseg.losses.objects:blank_targets")(len(HEADS[head].maps(len(spacing))))
    made: OutputLoss = of_objects((targets, loss), spacing, classes)
    return made


def _terms(name: str) -> list[Term]:
    """The terms of a row; ``PlanError`` if the table has none such."""
    if name not in LOSSES:
        raise PlanError(
            f"training.loss: found '{name}'; expected one of {', '.join(LOSSES)}; if another version of medseg made "
            "the plan, delete it and run `medseg plan` again"
        )
    return [resolve(where) for where in LOSSES[name]]


def _of_classes(rows: Sequence[Term], ignore: bool) -> Loss:
    terms = [term.classes(ignore) for term in rows]

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        logits = _widened(logits)
        return sum((term(logits, labels) for term in terms[1:]), terms[0](logits, labels))

    return loss


def _of_regions(rows: Sequence[Term], regions: Sequence[Sequence[int]]) -> Loss:
    terms = _region_terms(rows)

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        return terms(_widened(logits), multi_hot(labels, regions), annotated(labels))

    return loss


def _region_terms(rows: Sequence[Term]) -> RegionLoss:
    """The sum of the terms for overlapping regions."""
    terms = [term.regions() for term in rows]

    def loss(logits: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
        return sum((term(logits, targets, mask) for term in terms[1:]), terms[0](logits, targets, mask))

    return loss


def _widened(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
