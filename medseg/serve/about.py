"""What is said of the models of a service to those who send it images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from medseg.predict.trainings import Training
from medseg.serve.request import SUFFIXES


def about_models(trainings: Sequence[Training], options: Sequence[str]) -> dict[str, Any]:
    """Facts of trainings that predict together, as plain JSON values.

    Args:
        trainings: at least one.
        options: that a request may give.
    """
    made = trainings[0].checkpoint
    return {
        "dims": made.plan.grid.dims,
        "channels": list(made.channels),
        "unit": made.plan.grid.unit,
        "labels": made.labels.to_json(),
        "allowed": sorted(set.intersection(*(set(one.checkpoint.accepts) for one in trainings))),
        "suffixes": list(SUFFIXES),
        "options": list(options),
        "models": [_about(one) for one in trainings],
    }


def _about(training: Training) -> dict[str, Any]:
    made = training.checkpoint
    return {
        "dataset": made.dataset,
        "model": made.plan.model,
        "network": made.plan.network.name,
        "fold": made.fold,
        "seed": made.seed,
        "spacing": list(made.plan.grid.spacing),
        "fingerprint": made.fingerprint,
        "weights_sha256": training.weights_sha256,
    }
