"""The page: tables as plain values, and the template that turns them into one HTML file."""

from __future__ import annotations

import base64
import importlib.resources
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2

from medseg.files import digest_of
from medseg.image.labels import LabelTable
from medseg.plan.plan import flat_values
from medseg.report.figures import model_colours
from medseg.report.overlays import class_colour
from medseg.report.sources import Run, Study

# Order of the workflow's jobs in the table of run times.
STAGES = (
    "phantoms",
    "ingest",
    "fingerprint",
    "plan",
    "preprocess",
    "train",
    "predict",
    "postprocess",
    "evaluate",
)

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
# Numbers of the data alone.
HIDDEN = {"statistics"}
# Fields with one number per axis.
CROSSED = {"patch", "spacing"}
# Whether predictions are means over mirror images, in words.
MIRRORED = {True: "averaged in predictions", False: "not used in predictions", None: "–"}


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture of the page: file name stem, caption, text for those who do not see it, PNG bytes, model."""

    name: str
    caption: str
    alt: str
    light: bytes
    dark: bytes | None = None
    model: str = ""

    @property
    def files(self) -> dict[str, bytes]:
        """File name -> bytes."""
        files = {f"{self.name}.png": self.light}
        return files if self.dark is None else {**files, f"{self.name}-dark.png": self.dark}


@dataclass(frozen=True, slots=True)
class OverlayRow:
    """One case with the overlays of all models."""

    standing: str
    case: str
    score: float
    figures: tuple[Figure, ...]


def render(
    study: Study,
    boxes: Mapping[str, Sequence[Figure]],
    curves: Mapping[str, Sequence[Figure]],
    overlays: Mapping[str, Sequence[OverlayRow]],
) -> str:
    """The page as HTML; every value from data passes through autoescape."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"score": score, "signed": signed, "p": p_value, "uri": data_uri, "span": duration}
    environment.filters |= {"amount": amount, "sentence": sentence}
    template = importlib.resources.files("medseg.report").joinpath("report.html.j2").read_text(encoding="utf-8")
    colours = model_colours(list(study.config.models))
    return environment.from_string(template).render(
        study=study,
        missing=study.missing,
        config=study.config,
        colours=colours,
        class_colours={
            d: {n: class_colour(k) for k, n in enumerate(m.labels.class_names, start=1)}
            for d, m in study.manifests.items()
        },
        budget=_budget(study),
        boards={d: _board(study, d) for d in study.datasets},
        classes={d: _classes(study, d) for d in study.datasets},
        pairs={d: _of(study, "pairs", d) for d in study.datasets},
        secondary={d: _secondary(study, d) for d in study.datasets},
        winners={d: _of(study, "winners", d) for d in study.datasets},
        tails={d: _tails(study, d) for d in study.datasets},
        statements=study.statements,
        boxes=boxes,
        curves=curves,
        overlays=overlays,
        times={d: [_times(study, d, m) for m in _in_order(study, d)] for d in study.datasets},
        stages=_stages(study),
        plans={d: _plans(study, d) for d in study.datasets},
        orders={d: _in_order(study, d) for d in study.datasets},
        data=[_data(study, d) for d in study.datasets],
        definitions=study.summary["definitions"],
        provenance=_provenance(study.runs),
        digests=[*study.digests.items(), ("configuration", digest_of(study.config.model_dump(mode="json")))],
        config_text=_config_text(study),
    )


def score(value: float | str | None) -> str:
    """Three decimals, or ``undefined``."""
    if value is None or value == "" or (isinstance(value, float) and not math.isfinite(value)):
        return "undefined"
    return f"{float(value):.3f}"


def signed(value: float | None) -> str:
    """Three decimals with a sign (a true minus), or ``undefined``."""
    return "undefined" if value is None else f"{value:+.3f}".replace("-", "\N{MINUS SIGN}")


def p_value(value: float | None) -> str:
    """A p-value as journals print it."""
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def amount(value: float | str | None) -> str:
    """Three significant digits."""
    return "–" if value is None or value == "" else f"{float(value):.3g}"


def sentence(text: str) -> str:
    """The text as a sentence: a full stop at its end."""
    return text if text.endswith(".") else f"{text}."


def data_uri(image: bytes) -> str:
    """PNG bytes as a ``data:`` address, so that the page needs no other file."""
    return "data:image/png;base64," + base64.b64encode(image).decode("ascii")


def duration(seconds: float | None) -> str:
    """Seconds as people say them."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _in_order(study: Study, dataset: str) -> list[str]:
    """The evaluated models of a data set in the order of the configuration."""
    return list(dict.fromkeys(run.model for run in study.runs if run.dataset == dataset))


def _budget(study: Study) -> str:
    given = study.config.budget.model_dump(exclude_none=True)
    return ", ".join(f"{v:g} {'GB of memory' if k == 'memory_gb' else k}" for k, v in given.items())


def _board(study: Study, dataset: str) -> dict[str, Any]:
    """Leaderboard rows with the place of mean and interval on a common axis, in percent."""
    rows = [dict(row) for row in study.leaderboard if row["dataset"] == dataset]
    bounds = [float(row[c]) for row in rows for c in ("dice_subject", "dice_low", "dice_high") if row[c]]
    low = max(0.0, math.floor(min(bounds, default=0.0) * 20 - 0.2) / 20)
    high = min(1.0, math.ceil(max(bounds, default=1.0) * 20 + 0.2) / 20)
    scale = 100 / max(high - low, 1e-9)
    for row in rows:
        at = {c: (float(row[c]) - low) * scale for c in ("dice_subject", "dice_low", "dice_high") if row[c]}
        row["at"] = f"{at['dice_subject']:.2f}" if "dice_subject" in at else ""
        interval = "dice_low" in at
        row["left"] = f"{at['dice_low']:.2f}" if interval else ""
        row["width"] = f"{at['dice_high'] - at['dice_low']:.2f}" if interval else ""
    shown = {
        "score": any(row["score_subject"] != row["dice_subject"] for row in rows),
        "by_case": any(row["dice_case"] != row["dice_subject"] for row in rows),
        "lacking": any(int(row["n_lacking"]) for row in rows),
    }
    notes = list(dict.fromkeys(row["note"] for row in rows if row["note"]))
    return {"rows": rows, "low": f"{low:.2f}", "high": f"{high:.2f}", "shown": shown, "notes": notes}


def _classes(study: Study, dataset: str) -> list[dict[str, Any]]:
    """Dice and IoU summaries per class and model; classes in the data set's order, best model first."""
    found = {(r["label"], r["model"], r["metric"]): r for r in study.summary["rows"] if r["dataset"] == dataset}
    return [
        {
            "label": label,
            "model": model,
            "dice": found[label, model, "dice_subject"],
            "iou": found[label, model, "iou_subject"],
            "pooled": found[label, model, "dice_pooled"],
        }
        for label in study.manifests[dataset].labels.target_names
        for model in study.models(dataset)
        if (label, model, "dice_subject") in found
    ]


def _of(study: Study, table: str, dataset: str) -> list[dict[str, Any]]:
    """Rows of a table of ``summary.json`` about one data set."""
    return [row for row in study.summary[table] if row["dataset"] == dataset]


def _secondary(study: Study, dataset: str) -> list[dict[str, Any]]:
    """The secondary family, pairs in ranked order, with the name of each row's metric in words."""
    titles = {"dice_subject": "Dice", "iou_subject": "IoU"}
    rows = []
    for row in _of(study, "secondary", dataset):
        mean = "m" if row["metric"] == "iou_subject" else "mean "
        what = (
            f"{mean}{titles[row['metric']]}" if row["label"] == "mean" else f"{titles[row['metric']]}, {row['label']}"
        )
        rows.append({**row, "what": what})
    return rows


def _tails(study: Study, dataset: str) -> list[dict[str, Any]]:
    """How the mean of each model depends on its worst cases, best model first."""
    order = study.models(dataset)
    return sorted(_of(study, "tails", dataset), key=lambda row: order.index(row["model"]))


def _labels(table: LabelTable) -> str:
    """Classes with their values, what regions unite, and which value means that nobody annotated."""
    names = {value: name for name, value in table.names}
    text = ", ".join(f"{name} = {value}" for name, value in table.names)
    regions = ", ".join(f"{name} = {' + '.join(names[v] for v in values)}" for name, values in table.regions)
    text += f"; regions: {regions}" if regions else ""
    return text + (f"; not annotated = {table.ignore}" if table.ignore is not None else "")


def _times(study: Study, dataset: str, model: str) -> dict[str, Any]:
    runs = study.runs_of(dataset, model)
    seconds = [float(run.timing["seconds"]) for run in runs]
    steps = sum(int(run.timing["steps"]) for run in runs)
    return {
        "model": model,
        "runs": len(runs),
        "steps": _distinct(run.timing["steps"] for run in runs),
        "mean": sum(seconds) / len(seconds),
        "total": sum(seconds),
        "per_step": f"{1000 * sum(seconds) / steps:.0f} ms" if steps else "–",
        "attempts": sum(int(run.timing["attempts"]) for run in runs),
        "device": _distinct(run.timing["device"] for run in runs),
        "threads": _distinct(run.timing["threads"] for run in runs),
    }


def _stages(study: Study) -> dict[str, dict[str, Any]]:
    """Workflow jobs per stage and data set: how many, how long, how much memory."""
    place = {stage: k for k, stage in enumerate(STAGES)}
    rows: dict[str, dict[str, Any]] = {}
    for stage in sorted({j.stage for j in study.jobs}, key=lambda s: (place.get(s, len(place)), s)):
        for dataset in study.datasets:
            jobs = [j for j in study.jobs if (j.dataset, j.stage) == (dataset, stage)]
            seconds = [j.seconds for j in jobs if j.seconds is not None]
            peak = max((j.peak_mb for j in jobs if j.peak_mb is not None), default=None)
            cell = {
                "jobs": len(jobs),
                "total": sum(seconds) if seconds else None,
                "peak": "–" if peak is None else f"{peak:,.0f} MB",
            }
            rows.setdefault(stage, {}).update({dataset: cell} if jobs else {})
    return rows


def _plans(study: Study, dataset: str) -> dict[str, Any]:
    """Plan entries of all models side by side, and the reasons the planner gave."""
    plans = {m: study.plans[dataset, m] for m in _in_order(study, dataset)}
    counts = {m: _parameters(study.runs_of(dataset, m)) for m in plans}
    fields = {m: {k.split(".")[1]: v for k, v in flat_values(p).items()} for m, p in plans.items()}
    rows = [("Parameters", list(counts.values()))]
    for name in next(iter(fields.values()), {}):
        if name not in HIDDEN:
            values = [_shown(f.get(name), " × " if name in CROSSED else ", ") for f in fields.values()]
            rows.append((HEADINGS.get(name, name.replace("_", " ").capitalize()), values))
    mirrored = [_distinct(MIRRORED[run.mirror] for run in study.runs_of(dataset, m)) for m in plans]
    rows.append(("Mirror images", mirrored))
    reasons = {m: {str(k): str(v) for k, v in p.get("reasons", {}).items()} for m, p in plans.items()}
    shown = [{"heading": name, "values": values, "differ": len(set(values)) > 1} for name, values in rows]
    return {"rows": shown, "reasons": reasons}


def _parameters(runs: Sequence[Run]) -> str:
    facts = [{**run.facts.get("provenance", {}), **run.facts} for run in runs]
    return _distinct(_shown(f["parameters"]) for f in facts if "parameters" in f)


def _shown(value: Any, between: str = ", ") -> str:
    """A plan entry as text: lists joined, lists within lists by crosses, large numbers in groups."""
    if value is None or value in ([], {}):
        return "–"
    if isinstance(value, dict):
        return between.join(f"{key}: {_shown(v)}" for key, v in value.items())
    if isinstance(value, list):
        return between.join(_shown(v, "×") for v in value)
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10_000:
        return f"{value:,}"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _data(study: Study, dataset: str) -> dict[str, Any]:
    manifest, splits = study.manifests[dataset], study.splits[dataset]
    units = {c.geometry.unit for c in manifest.cases}
    spacing = [c.geometry.spacing for c in manifest.cases]
    used = sorted({run.fold for run in study.runs if run.dataset == dataset})
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
    }


def _range(rows: Sequence[Sequence[float]], form: str) -> str:
    """Smallest to largest value per axis, axes joined by crosses."""
    axes = []
    for values in zip(*rows, strict=True):
        low, high = format(min(values), form), format(max(values), form)
        axes.append(low if low == high else f"{low}–{high}")
    return " × ".join(axes)


def _distinct(values: Any) -> str:
    return ", ".join(dict.fromkeys(str(v) for v in values)) or "–"


def _provenance(runs: Sequence[Run]) -> list[tuple[str, str]]:
    """What the checkpoints say about where they come from; differing values side by side."""
    keys = dict.fromkeys(key for run in runs for key in run.facts.get("provenance", {}))
    return [(k, _distinct(run.facts.get("provenance", {}).get(k, "–") for run in runs)) for k in keys]


def _config_text(study: Study) -> str:
    """The configuration as JSON; what stands before ``@`` in an address (user, password) is left out."""
    text = json.dumps(study.config.model_dump(mode="json"), indent=2, ensure_ascii=False)
    return re.sub(r"(://)[^/@\s\"]*@", r"\1…@", text)
