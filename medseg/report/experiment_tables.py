"""Tables of what was done, as plain values: plans side by side, run times, data, provenance, configuration."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from medseg.compare.text import UNITS
from medseg.image.labels import LabelTable
from medseg.ingest.label_source import sources_in_words
from medseg.plan.plan import flat_values
from medseg.report.filters import distinct
from medseg.report.sources import Experiment, Run

# Order of the workflow's jobs in the table of run times.
STAGES = (
    "phantoms",
    "ingest",
    "fingerprint",
    "plan",
    "preprocess",
    "train",
    "predict",
    "choose",
    "postprocess",
    "evaluate",
)

# Groups of a plan in the order of the table.
GROUPS = ("network", "training", "grid", "machine")
# Headings of a plan's fields where the name says too little. Every field is shown but those of ``HIDDEN``.
HEADINGS = {
    "name": "Network",
    "dims": "Dimensions",
    "in_channels": "Image channels",
    "lr": "Learning rate",
    "clip": "Largest gradient norm",
    "average": "Mean of weights",
    "augment": "Augmentation",
    "augmentation": "Changes of the augmentation",
    "foreground": "Foreground share",
    "warmup": "Warm-up share",
    "freeze": "Frozen parts",
    "ignore": "Sparse annotations",
}
# Numbers of the data alone; and what stands beside the spacing.
HIDDEN = {"statistics", "unit"}
# Stands for a field without a value.
NOTHING = "–"
# Fields with one number per axis.
CROSSED = {"patch", "spacing"}
# Headings of what was tuned of the step from maps to objects; and how.
DECODING = {
    "foreground": "Foreground from",
    "seed": "Seeds above",
    "min_size": "Smallest object (voxels)",
    "max_hole": "Largest hole filled (voxels)",
}
TUNED = (
    "How objects are read off a network's maps was tuned after its training, on some of its own training cases, by "
    "mean AP (0.5 to 0.9) of their objects together; the cases that are scored had no part in it. Folds may differ."
)
# Whether predictions are means over mirror images, in words.
MIRRORED = {True: "averaged in predictions", False: "not used in predictions", None: "–"}


def in_order(experiment: Experiment, dataset: str) -> list[str]:
    """The evaluated models with a plan of a data set, in the order of the configuration; of many, the first by rank."""
    drawn = experiment.first_models(dataset)
    every = list(dict.fromkeys(run.model for run in experiment.runs if run.dataset == dataset))
    return [model for model in (every if len(every) <= len(drawn) else drawn) if (dataset, model) in experiment.plans]


def budget(experiment: Experiment) -> str:
    """The budget of each training, in words."""
    given = experiment.config.budget.model_dump(exclude_none=True)
    return ", ".join(f"{v:g} {'GB of memory' if k == 'memory_gb' else k}" for k, v in given.items())


def times(experiment: Experiment, dataset: str, model: str) -> dict[str, Any]:
    """Seconds, steps and attempts of the trainings of one model, in sum and on average."""
    runs = experiment.runs_of(dataset, model)
    seconds = [float(run.timing["seconds"]) for run in runs]
    steps = sum(int(run.timing["steps"]) for run in runs)
    return {
        "model": model,
        "runs": len(runs),
        "steps": distinct(run.timing["steps"] for run in runs),
        "mean": sum(seconds) / len(seconds),
        "total": sum(seconds),
        "per_step": f"{1000 * sum(seconds) / steps:.0f} ms" if steps else "–",
        "attempts": sum(int(run.timing["attempts"]) for run in runs),
        "device": distinct(run.timing["device"] for run in runs),
        "threads": distinct(run.timing["threads"] for run in runs),
    }


def stages(experiment: Experiment) -> dict[str, dict[str, Any]]:
    """Workflow jobs per stage and data set: how many, how long, how much memory."""
    place = {stage: k for k, stage in enumerate(STAGES)}
    rows: dict[str, dict[str, Any]] = {}
    for stage in sorted({j.stage for j in experiment.jobs}, key=lambda s: (place.get(s, len(place)), s)):
        for dataset in experiment.datasets:
            jobs = [j for j in experiment.jobs if (j.dataset, j.stage) == (dataset, stage)]
            seconds = [j.seconds for j in jobs if j.seconds is not None]
            peak = max((j.peak_mb for j in jobs if j.peak_mb is not None), default=None)
            cell = {
                "jobs": len(jobs),
                "total": sum(seconds) if seconds else None,
                "peak": "–" if peak is None else f"{peak:,.0f} MB",
            }
            rows.setdefault(stage, {}).update({dataset: cell} if jobs else {})
    return rows


def plans(experiment: Experiment, dataset: str) -> dict[str, Any]:
    """Every field of the plans that any model has, side by side, and the reasons that the planner gave."""
    found = {m: experiment.plans[dataset, m] for m in in_order(experiment, dataset)}
    fields = {m: flat_values(plan) for m, plan in found.items()}
    names = [key for key in next(iter(fields.values()), {}) if key.split(".")[1] not in HIDDEN]
    names.sort(key=lambda key: (GROUPS.index(key.split(".")[0]), key != "network.name"))
    rows = []
    for key in names:
        name = key.split(".")[1]
        values = [_shown(f.get(key), " × " if name in CROSSED else ", ") for f in fields.values()]
        if name == "spacing":
            values = [
                f"{text} {UNITS.get(f['grid.unit'], f['grid.unit'])}"
                for text, f in zip(values, fields.values(), strict=True)
            ]
        if set(values) != {NOTHING}:
            rows.append((HEADINGS.get(name, name.replace("_", " ").capitalize()), values))
    runs = {m: experiment.runs_of(dataset, m) for m in found}
    rows.insert(1, ("Parameters", [_parameters(runs[m]) for m in found]))
    tuned = {m: [run.facts["decoding"] for run in runs[m] if run.facts.get("decoding")] for m in found}
    if any(tuned.values()):
        rows += [
            (text, [distinct(_shown(d[name]) for d in tuned[m]) for m in found]) for name, text in DECODING.items()
        ]
    rows.append(("Mirror images", [distinct(MIRRORED[run.mirror] for run in runs[m]) for m in found]))
    reasons = {m: {str(k): str(v) for k, v in p.get("reasons", {}).items()} for m, p in found.items()}
    shown = [{"heading": name, "values": values, "differ": len(set(values)) > 1} for name, values in rows]
    return {"rows": shown, "reasons": reasons, "decoding": TUNED if any(tuned.values()) else ""}


def data(experiment: Experiment, dataset: str) -> dict[str, Any]:
    """Cases, geometry, classes and folds of a data set."""
    manifest, splits = experiment.manifests[dataset], experiment.splits[dataset]
    units = {c.geometry.unit for c in manifest.cases}
    spacing = [c.geometry.spacing for c in manifest.cases]
    used = {run.fold for run in experiment.runs if run.dataset == dataset}
    folds = [
        {
            "fold": k,
            "train": len(fold["train"]),
            "val": len(fold["val"]),
            "used": k in used,
        }
        for k, fold in enumerate(splits["folds"])
    ]
    return {
        "name": dataset,
        "dims": manifest.dims,
        "cases": len(manifest.cases),
        "subjects": len({c.subject for c in manifest.cases}),
        "channels": ", ".join(manifest.channels),
        "labels": _labels(manifest.labels),
        "instances": manifest.labels.instances,
        "shape": _range([c.geometry.shape for c in manifest.cases], "d"),
        "spacing": f"{_range(spacing, '.3g')} {' / '.join(sorted(units))}",
        "folds": folds,
        "group": splits["group"],
        "seed": splits["seed"],
        "allowed": manifest.allowed,
        "excluded": manifest.excluded,
        "references": sources_in_words(case.source for case in manifest.cases),
    }


def provenance(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """What the checkpoints say about where they come from; differing values side by side."""
    keys = dict.fromkeys(key for run in runs for key in run.facts.get("provenance", {}))
    return [(k, distinct(run.facts.get("provenance", {}).get(k, "–") for run in runs)) for k in keys]


def config_text(experiment: Experiment) -> str:
    """The configuration as JSON; what stands before ``@`` in an address (user, password) is left out."""
    text = json.dumps(experiment.config.model_dump(mode="json"), indent=2, ensure_ascii=False)
    return re.sub(r"(://)[^/@\s\"]*@", r"\1…@", text)


def _parameters(runs: Sequence[Run]) -> str:
    """How many weights the networks have."""
    facts = [{**run.facts.get("provenance", {}), **run.facts} for run in runs]
    return distinct(_shown(f["parameters"]) for f in facts if "parameters" in f)


def _shown(value: Any, between: str = ", ") -> str:
    """A plan entry as text: lists joined, lists within lists by crosses, large numbers in groups."""
    if value is None or value in ([], {}):
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return between.join(f"{key}: {_shown(v)}" for key, v in value.items())
    if isinstance(value, list):
        return between.join(_shown(v, "×") for v in value)
    if isinstance(value, int) and abs(value) >= 10_000:
        return f"{value:,}"
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return str(value)


def _labels(table: LabelTable) -> str:
    """Classes with their values, what regions unite, and which value means that nobody annotated."""
    names = {value: name for name, value in table.names}
    text = ", ".join(f"{name} = {value}" for name, value in table.names)
    regions = ", ".join(f"{name} = {' + '.join(names[v] for v in values)}" for name, values in table.regions)
    text += f"; regions: {regions}" if regions else ""
    return text + (f"; not annotated = {table.ignore}" if table.ignore is not None else "")


def _range(rows: Sequence[Sequence[float]], form: str) -> str:
    """Smallest to largest value per axis, axes joined by crosses."""
    axes = []
    for values in zip(*rows, strict=True):
        low, high = format(min(values), form), format(max(values), form)
        axes.append(low if low == high else f"{low}–{high}")
    return " × ".join(axes)
