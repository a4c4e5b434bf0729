"""What a run gets of scores: metrics, tables, the description, and pictures; all from what compare computes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from medseg.compare.quantity import MEAN, SCORE, Quantity, quantity
from medseg.compare.text import value
from medseg.compare.tolerance import behind_mean, class_tolerances, common_tolerance, tolerance_of
from medseg.metrics.table import METRICS
from medseg.results.paths import Results
from medseg.text import cell
from medseg.tracking.finished import Trained
from medseg.tracking.names import (
    LONGEST_TEXT,
    PREFIX,
    beside_mean,
    column_name,
    score_name,
    shortened,
    tolerance_tag,
)
from medseg.tracking.spec import RunSpec

if TYPE_CHECKING:
    import pandas as pd

CASE_KEYS = ["case", "subject", "label"]
# Tag of a run: the unit of its metrics that are lengths.
LENGTH_UNIT = "medseg.length_unit"
LENGTHS = frozenset({"mm", "um", "px"})
# Of a description: its longest statement, and what stands for rows that have no place in it.
LONGEST_STATEMENT = 500
MORE = "\nand {} more: in the report, and among the metrics"


def training_metrics(scores: pd.DataFrame) -> dict[str, float]:
    """Means and counts of one training's scores, by the comparison's own functions; undefined ones are left out."""
    from medseg.compare.block import blocks
    from medseg.compare.scored import of_frame
    from medseg.compare.summary import counts, means

    (block,) = blocks(of_frame(scores))
    found = {score_name(metric, label): mean for (metric, label), mean in means(block).items()}
    out = {name: mean for name, mean in found.items() if mean is not None}
    return {**out, **{f"{PREFIX}/{name}": float(n) for name, n in counts(block).items()}}


def length_unit(units: Iterable[str]) -> dict[str, str]:
    """A tag with the unit of the metrics that are lengths; none without such metrics."""
    found = sorted({unit for unit in units if unit in LENGTHS})
    return {LENGTH_UNIT: ", ".join(found)} if found else {}


def training_tolerances(scores: pd.DataFrame) -> dict[str, str]:
    """Tags with the tolerance of each metric and class of a training that has one."""
    found = scores[["metric", "label", "definition"]].drop_duplicates().itertuples(index=False)
    return {tolerance_tag(m, label): size for m, label, text in found if (size := tolerance_of(text))}


def summary_tolerances(rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """The same from the rows of the comparison."""
    mine = [r for r in rows if r["label"] != MEAN and r["tolerance"]]
    return {tolerance_tag(r["metric"].rpartition("_")[0], r["label"]): r["tolerance"] for r in mine}


def case_table(scores: pd.DataFrame) -> bytes:
    """CSV with a row per case and class, a column per metric, and a note where the status is not ``ok``.

    A metric that needs a tolerance has a column ``…_tolerance`` beside its values.
    """
    from medseg.evaluate.score import OK

    wide = scores.pivot(index=CASE_KEYS, columns="metric", values="value")
    sizes = scores.assign(tolerance=scores["definition"].map(tolerance_of))
    for metric, mine in sizes[sizes["tolerance"] != ""].groupby("metric", sort=True):
        wide[f"{metric}_tolerance"] = mine.set_index(CASE_KEYS)["tolerance"].reindex(wide.index).fillna("")
    notes = scores[scores["status"] != OK].groupby(CASE_KEYS)["status"].agg(lambda s: "; ".join(sorted(set(s))))
    wide["note"] = notes.reindex(wide.index).fillna("")
    table = wide.round(6).reset_index()
    for name in (*CASE_KEYS, "note"):
        table[name] = table[name].map(cell)
    text: str = table.to_csv(index=False, lineterminator="\n")
    return text.encode()


def summary_metrics(rows: Iterable[Mapping[str, Any]], prefix: str = PREFIX) -> dict[str, float]:
    """Metrics of a parent run from the rows of a comparison; undefined ones are left out."""
    out: dict[str, float | None] = {}
    for row in rows:
        metric = row["metric"]
        out[score_name(metric, row["label"], prefix)] = row["mean"]
        if row["label"] == MEAN:
            out |= {beside_mean(metric, end, prefix): row[end] for end in ("low", "high")}
            if row["unit"] in LENGTHS:
                out[beside_mean(metric, "median", prefix)] = row["median"]
            if metric == f"{SCORE}_subject":
                out |= {f"{prefix}/{n}": row[n] for n in ("n_missed", "n_failed", "n_spurious", "left_empty")}
    return {name: float(number) for name, number in out.items() if number is not None and math.isfinite(number)}


def note_card(spec: RunSpec, rows: Sequence[Mapping[str, Any]], trained: Iterable[Trained], report: str = "") -> str:
    """The description of a parent run, in markdown: what it is, where the report is, and its scores."""
    folds = ", ".join(t.folder.name for t in trained)
    params = spec.parent_params
    facts = ", ".join(f"{k} {params[k]}" for k in ("members", "patch", "batch", "loss", "lr", "steps") if k in params)
    lines = [f"**{params.get('network', spec.model)}** on **{spec.dataset}** ({folds})", "", facts, ""]
    lines += [f"[Report of the experiment]({report})", ""] if report else []
    # Means first, since of many classes not all have a place.
    shown = sorted((row for row in rows if _in_note(row)), key=lambda row: row["label"] != MEAN)
    behind = filter(None, (behind_mean(rows, _quantity_of(row)) for row in shown if row["label"] == MEAN))
    lines += [line for text in behind for line in (shortened(f"{text}.", LONGEST_STATEMENT), "")]
    if shown:
        lines += [
            "| metric | class | mean | 95 % interval | cases | missed | failed |",
            "|---|---|---|---|---|---|---|",
        ]
    left = LONGEST_TEXT - sum(len(line) + 1 for line in lines) - len(MORE.format(len(shown)))
    for number, row in enumerate(shown):
        mean, low, high = ("–" if row[k] is None else value(row[k], row["unit"]) for k in ("mean", "low", "high"))
        label = str(row["label"]).replace("|", "\\|")
        counted = f"{row['n']} | {row['n_missed']} | {row['n_failed']}"
        line = f"| {_named(row, rows)} | {label} | {mean} | {low} to {high} | {counted} |"
        left -= len(line) + 1
        if left < 0:
            lines.append(MORE.format(len(shown) - number))
            break
        lines.append(line)
    return "\n".join(lines).strip()


def _named(row: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> str:
    """The metric of a row as its column in the leaderboard is called, with its tolerance."""
    name = column_name(row["metric"]) if row["label"] == MEAN else str(row["metric"])
    size = common_tolerance(class_tolerances(rows, _quantity_of(row)))
    return f"{name} ({size})" if size else name


def _quantity_of(row: Mapping[str, Any]) -> Quantity:
    return quantity(str(row["metric"]).rpartition("_")[0])


def _in_note(row: Mapping[str, Any]) -> bool:
    """Whether a description shows a row: means over classes of all metrics, and the ranked metric of each class."""
    metric = str(row["metric"])
    name = metric.removesuffix("_subject")
    return name != metric and (row["label"] == MEAN or (name in METRICS and METRICS[name].ranks > 0))


def overlays_of(results: Path, spec: RunSpec, cases: Iterable[str]) -> dict[str, Path]:
    """The report's pictures of a model's worst, median and best cases, by their place in the run."""
    report = Results(results).report
    paths = [report.figure("overlay", spec.dataset, case, spec.model) for case in sorted(set(cases))]
    return {f"overlays/{path.name}": path for path in paths if path.is_file()}
