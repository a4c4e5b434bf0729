"""The model card: what a model was made from, how good it is, and where it must not be trusted; facts, then words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medseg.export.study import Study
from medseg.ingest.manifest import read_manifest
from medseg.networks import NETWORKS
from medseg.train.checkpoint import Checkpoint

FORMAT = "medseg-card-1"
NAMES = ("card.json", "MODEL_CARD.md")
UNKNOWN, UNSTATED = "not known", "not stated"
USE = (
    "Research. Made to segment images like those it was trained on and scored on. It is no medical device: nobody has "
    "shown that it is safe or useful in the care of patients."
)


def card_of(
    made: Checkpoint, facts: Mapping[str, Any], name: str, licence: str, authors: Sequence[str], study: Study | None
) -> dict[str, Any]:
    """The facts of the card.

    Args:
        made: the model.
        facts: its ``model.json``.
        name: what the export is called.
        licence: SPDX identifier; empty: not stated.
        authors: names; empty: not stated.
        study: the study that the model lies in; None: it lies in none, and its scores are not known.
    """
    plan = made.plan
    row = NETWORKS[plan.network.name]
    return {
        "format": FORMAT,
        "model": {
            "name": name,
            "network": plan.network.name,
            "paper": row.paper,
            "parameters": facts["parameters"],
            "fold": made.fold,
            "seed": made.seed,
            "weights_sha256": facts["weights_sha256"],
            "fingerprint": made.fingerprint,
        },
        "licence": licence or UNSTATED,
        "authors": list(authors) or UNSTATED,
        "intended_use": USE,
        "data": _data(made, study),
        "labels": made.labels.to_json(),
        "training": _training(made),
        "preparation": _preparation(made),
        "limits": _limits(made),
        "scores": study.scores(made) if study else UNKNOWN,
        "code": {key: made.provenance.get(key, UNKNOWN) for key in ("medseg", "git", "torch")},
    }


def _data(made: Checkpoint, study: Study | None) -> dict[str, Any]:
    """The data set in numbers: what the weights have seen, and what the whole study has."""
    found: dict[str, Any] = {"name": made.dataset, "channels": list(made.channels)}
    if made.trained_on is None:
        found["trained_on"] = UNKNOWN
    else:
        subjects = made.trained_on.subjects
        found["trained_on"] = {
            "cases": sum(map(len, subjects.values())),
            "subjects": len(subjects),
            "data_sets": sorted({dataset for dataset, _ in subjects}),
            "complete": made.trained_on.complete,
        }
    found["study"] = _cohort(study.manifest(made)) if study else UNKNOWN
    found["voxel_sizes"] = made.voxel_sizes.to_json() if made.voxel_sizes else UNKNOWN
    return found


def _cohort(manifest: Path) -> dict[str, Any] | str:
    if not manifest.is_file():
        return UNKNOWN
    cases = read_manifest(manifest).cases
    sites = {case.site for case in cases if case.site}
    return {
        "cases": len(cases),
        "subjects": len({case.subject for case in cases}),
        "sites": len(sites) if sites else UNKNOWN,
    }


def _training(made: Checkpoint) -> dict[str, Any]:
    plan = made.plan
    names = ("loss", "optimizer", "lr", "augment", "batch", "steps", "schedule")
    return {
        **{name: getattr(plan.training, name) for name in names},
        "patch": list(plan.network.patch),
        "widths": list(plan.network.widths),
        "precision": plan.machine.precision,
        "starts_from_other_weights": bool(made.allowed) or _has_weights(made),
        "allowed": list(made.allowed),
    }


def _has_weights(made: Checkpoint) -> bool:
    datasets = {dataset for dataset, _ in made.trained_on.subjects} if made.trained_on else set()
    return bool(made.plan.network.options.get("weights")) or bool(datasets - {made.dataset})


def _preparation(made: Checkpoint) -> dict[str, Any]:
    grid = made.plan.grid
    return {
        "orientation": "RAS+" if grid.dims == 3 else "as stored",
        "crop": "to the box of voxels that are not 0",
        "normalization": list(grid.normalization),
        "spacing": [size or "each image's own" for size in grid.spacing],
        "unit": grid.unit,
        "window": list(made.plan.window),
    }


def _limits(made: Checkpoint) -> dict[str, Any]:
    """What an image must be; where it is something else, ``medseg predict`` refuses it or asks."""
    grid, sizes = made.plan.grid, made.voxel_sizes
    return {
        "dims": grid.dims,
        "channels": len(made.channels),
        "unit": grid.unit,
        "voxel_sizes_seen": UNKNOWN if sizes is None else str(sizes),
        "allowed_doubts": list(made.accepts),
    }
