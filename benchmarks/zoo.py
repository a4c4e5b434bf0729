"""Gather a finished run of config/zoo.yaml: one JSON, one picture, and the table in docs/models.md.

    python benchmarks/zoo.py --results results/zoo

Every family had the same minutes on the same machine. Scores are those of the validation folds, whole images, native
grid; intervals are the study's own (bootstrap over subjects).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

from medseg.files import write_bytes, write_text
from medseg.networks import NETWORKS
from medseg.plan.plan import Plan

ROOT = Path(__file__).resolve().parents[1]
MARK = re.compile(r"(<!-- zoo: table -->\n).*?(<!-- zoo: end -->)", re.DOTALL)


def collect(results: Path) -> dict[str, Any]:
    """What the trainings of a finished study took and reached, best first within each data set."""
    config = json.loads((results / "config.json").read_text())
    summary = json.loads((results / "compare/summary.json").read_text())["rows"]
    rows = []
    for dataset in config["datasets"]:
        trained = [n for n, m in config["models"].items() if m["datasets"] is None or dataset in m["datasets"]]
        for folder in sorted(results / dataset / "train" / name for name in trained):
            folders = [f for n in config["folds"]["run"] for f in sorted(folder.glob(f"fold{n}-seed*"))]
            runs = [json.loads((f / "model.json").read_text()) for f in folders]
            timings = [json.loads((f / "timing.json").read_text()) for f in folders]
            scores = {
                r["metric"]: r
                for r in summary
                if (r["dataset"], r["model"], r["label"]) == (dataset, folder.name, "mean")
            }
            plan, jobs = (
                Plan.from_json(runs[0]["plan"]),
                _job_seconds(results / "benchmarks" / dataset, [f"{folder.name}-{f.name}" for f in folders]),
            )
            rows.append(
                {
                    "dataset": dataset,
                    "model": folder.name,
                    "network": plan.network.name,
                    "dims": plan.network.dims,
                    "dice": {k: scores["dice_subject"][k] for k in ("mean", "low", "high", "n")},
                    "iou": {k: scores["iou_subject"][k] for k in ("mean", "low", "high")},
                    "parameters": runs[0]["parameters"],
                    "width": plan.network.widths[0],
                    "batch": plan.training.batch,
                    "patch": plan.network.patch,
                    "steps": plan.training.steps,
                    "train_s": [t["seconds"] for t in timings],
                    **jobs,
                }
            )
    rows.sort(key=lambda r: (list(config["datasets"]).index(r["dataset"]), -r["dice"]["mean"]))
    facts = runs[0]["provenance"]
    return {
        "minutes": config["budget"]["minutes"],
        "folds": config["folds"]["run"],
        "rows": rows,
        "hardware": {
            "processor": facts["processor"],
            "cores": os.cpu_count(),
            "threads": timings[0]["threads"],
            "device": timings[0]["device"],
            "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        },
        "versions": {k: facts[k] for k in ("medseg", "git", "python", "torch", "monai")},
    }


def _job_seconds(folder: Path, names: list[str]) -> dict[str, list[float]]:
    """Wall-clock of the whole training and prediction jobs, start of the interpreter included."""
    return {
        f"{stage}_job_s": [
            float((folder / stage / f"{n}.tsv").read_text().splitlines()[1].split("\t")[0]) for n in names
        ]
        for stage in ("train", "predict")
    }


def table(found: dict[str, Any]) -> str:
    """The leaderboard as Markdown."""
    lines = []
    folds = f"fold{'s' if len(found['folds']) > 1 else ''} {', '.join(str(f) for f in found['folds'])}"
    hardware = found["hardware"]
    lines += [
        f"## The families side by side: {found['minutes']:g} minute{'s' if found['minutes'] != 1 else ''} each",
        "",
        f"`config/zoo.yaml` on {hardware['cores']} cores ({hardware['processor']}, {hardware['device']}), {folds}:"
        " every network gets the same wall-clock, start and validation included, and is planned for it (width, patch,"
        " batch and steps). This compares what the ideas give *at this budget*;"
        " it is no ranking of what they can reach.",
        "",
    ]
    for dataset in dict.fromkeys(r["dataset"] for r in found["rows"]):
        rows = [r for r in found["rows"] if r["dataset"] == dataset]
        lines += [
            f"### {dataset} ({rows[0]['dims']}-D, {rows[0]['dice']['n']} cases)",
            "",
            "| model | Dice (95 % interval) | IoU | parameters | first width | steps | training, s |",
            "|---|---|---|---|---|---|---|",
        ]
        for r in rows:
            dice, iou = r["dice"], r["iou"]["mean"]
            lines.append(
                f"| {r['model']} | **{dice['mean']:.3f}** ({dice['low']:.3f} to {dice['high']:.3f}) | {iou:.3f} "
                f"| {r['parameters'] / 1e6:.2f} M | {r['width']} | {r['steps']} | {statistics.mean(r['train_s']):.0f} |"
            )
        lines.append("")
    lines += ["![Dice of every family](models/zoo.svg)", ""]
    return "\n".join(lines)


def picture(found: dict[str, Any], out: Path) -> None:
    """Dice with intervals, a panel per data set."""
    datasets = list(dict.fromkeys(r["dataset"] for r in found["rows"]))
    most = max(sum(r["dataset"] == d for r in found["rows"]) for d in datasets)
    size = (4.6 * len(datasets), 0.3 * most + 1)
    fig, axes = plt.subplots(1, len(datasets), figsize=size, layout="constrained", squeeze=False)
    for ax, dataset in zip(axes[0], datasets, strict=True):
        rows = [r for r in found["rows"] if r["dataset"] == dataset][::-1]
        means = [r["dice"]["mean"] for r in rows]
        errors = [
            [m - r["dice"]["low"] for m, r in zip(means, rows, strict=True)],
            [r["dice"]["high"] - m for m, r in zip(means, rows, strict=True)],
        ]
        ax.errorbar(means, range(len(rows)), xerr=errors, fmt="o", color="#20558a", ecolor="#8fb4d9", capsize=2)
        ax.set_yticks(range(len(rows)), [r["model"] for r in rows], fontsize=8)
        ax.set_title(f"{dataset}, {found['minutes']:g} min each", fontsize=9, loc="left")
        ax.set_xlabel("Dice, mean over cases, 95 % interval", fontsize=8)
        ax.grid(axis="x", alpha=0.3)
        ax.spines[["top", "right"]].set_visible(False)
    with plt.rc_context({"svg.hashsalt": "zoo"}):
        fig.savefig(path := out.with_suffix(".tmp"), format="svg", metadata={"Date": None})
    write_bytes(out, path.read_bytes())
    path.unlink()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, required=True, help="results/<experiment> of a finished study")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/zoo.json")
    options = parser.parse_args()
    found = collect(options.results)
    unknown = {r["network"] for r in found["rows"]} - NETWORKS.keys()
    assert not unknown, unknown
    write_text(options.out, json.dumps(found, indent=2) + "\n")
    picture(found, ROOT / "docs/models/zoo.svg")
    page = ROOT / "docs/models.md"
    write_text(page, MARK.sub(lambda m: m[1] + table(found) + m[2], page.read_text()))
    print(table(found))


if __name__ == "__main__":
    main()
