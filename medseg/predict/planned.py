"""What predicting images would take, said before: ``medseg predict --dry-run``."""

from __future__ import annotations

from medseg.predict.batch import Batch
from medseg.predict.files import check, memories, reading
from medseg.predict.terms import open_parts
from medseg.predict.voxels import on_one_grid


def plan_batch(batch: Batch) -> list[str]:
    """Check all images of a batch as ``predict_batch`` does, and predict none: a line for each that would be predicted.

    It says how, and what memory and disk that takes at most.
    """
    lines: list[str] = []
    with reading(batch):
        each = memories(batch)
        check(batch, each)
        for one in batch.inputs:
            if one in batch.failed or one in batch.kept:
                continue
            parts = open_parts(one, batch.terms)
            channels, whole = sum(part.shape[0] for part in parts), on_one_grid(parts)
            needs = [memory.need(channels, parts[0], len(batch.maps(one)), one_grid=whole) for memory in each]
            most = max(needs, key=lambda need: need.host)
            lines.append(f"{one.shown}: {most.said(parts[0].shape[1:], each[0].device)}")
    return lines
