"""The table of post-processing that was chosen: what was adopted, what it gained where, and its price."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medseg.postprocess.choose import described
from medseg.report.chosen_steps import ChosenSteps
from medseg.report.sources import Experiment, Run


def chosen_table(experiment: Experiment, dataset: str) -> dict[str, Any]:
    """Rows of the trainings on a data set whose post-processing was chosen, by rank of the model; none: no rows."""
    runs = [run for model in experiment.listed_models(dataset) for run in experiment.runs_of(dataset, model)]
    chosen = [(run, run.chosen) for run in runs if run.chosen is not None]
    if not chosen:
        return {"rows": [], "rule": ""}
    return {"rows": [_row(run, one) for run, one in chosen], "rule": chosen[0][1].choice["rule"]}


def _row(run: Run, one: ChosenSteps) -> dict[str, Any]:
    tried: Sequence[Mapping[str, Any]] = one.choice["candidates"]
    adopted = [described(candidate) for candidate in tried if candidate["adopted"]]
    own, inner = one.effect["gain"], one.choice.get("gain")
    return {
        "model": run.model,
        "fold": run.fold,
        "seed": run.seed,
        "adopted": ", ".join(adopted) or one.choice["said"] or "nothing",
        "inner": _gain(inner),
        "inner_subjects": one.choice.get("subjects", 0),
        "own": _gain(own),
        "own_subjects": one.effect["subjects"],
        "seconds": one.effect["cpu_seconds"],
        "tried": [
            {
                "name": described(candidate),
                "gain": _gain(candidate),
                "classes": ", ".join(f"{name} {_signed(gain)}" for name, gain in candidate["classes"].items()),
                "why": "adopted" if candidate["adopted"] else candidate["why"],
            }
            for candidate in tried
        ],
    }


def _gain(found: Mapping[str, Any] | None) -> str:
    """A gain of the score and its interval, as text."""
    if found is None:
        return "–"
    score = found["score"]
    ends = "" if score["low"] is None else f" [{score['low']:+.4f}, {score['high']:+.4f}]"
    return f"{_signed(score)}{ends}"


def _signed(gain: Mapping[str, Any]) -> str:
    return "–" if gain["mean"] is None else f"{gain['mean']:+.4f}"
