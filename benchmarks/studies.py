"""The shipped studies on real data: run, time, and keep their scores with the hardware as JSON.

    python benchmarks/studies.py nuclei hippocampus --data-root FOLDER
    python benchmarks/studies.py nuclei --collect FOLDER_IT_RAN_IN --wall-s SECONDS

Each study runs by the plain command in a folder of its own; wall-clock is that of the whole command, checks to report.
Scores are those of the validation fold, whole images, native grid.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from medseg.plan.plan import Plan
from medseg.report.statements import read_statements

ROOT = Path(__file__).resolve().parents[1]
METRICS = ("dice_subject", "dice_case", "dice_pooled", "iou_subject", "iou_pooled")
PLANNED = ("name", "patch", "batch", "widths", "precision", "lr", "augment", "augmentation")


def run(study: str, data_root: Path, folder: Path) -> float:
    """Run one study in ``folder``; seconds of the whole command."""
    # Files that configurations name lie beside them.
    (folder / "config").symlink_to(ROOT / "config")
    command = [
        str(Path(sys.executable).parent / "snakemake"),
        *("--snakefile", str(ROOT / "Snakefile"), "--workflow-profile", str(ROOT / "profiles/default")),
        *("--cores", str(os.cpu_count()), "--configfile", str(ROOT / f"config/{study}.yaml")),
        *("--config", f"data_root={data_root.resolve()}"),
    ]
    begun = time.monotonic()
    subprocess.run(command, cwd=folder, check=True)
    return time.monotonic() - begun


def collect(study: str, folder: Path, wall_s: float) -> dict[str, Any]:
    """What a finished study has to say."""
    results = folder / "results" / study
    summary = json.loads((results / "compare/summary.json").read_text())
    rows = [row for row in summary["rows"] if row["metric"] in METRICS]
    trained = sorted(results.glob("*/train/*/*/model.json"))
    facts = json.loads(trained[0].read_text())
    timing = json.loads((trained[0].parent / "timing.json").read_text())
    keys = ("model", "metric", "label", "mean", "low", "high", "n", "n_subjects", "note")
    told = {name: dict(lines) for name, lines in read_statements(results).items()}
    return {
        "study": study,
        "wall_s": round(wall_s),
        "train_s": timing["seconds"],
        "steps": timing["steps"],
        "threads": timing["threads"],
        "parameters": facts["parameters"],
        "plan": {k: Plan.from_json(facts["plan"]).value(k) for k in PLANNED},
        "scores": [{k: row[k] for k in keys} for row in rows],
        "tails": summary["tails"],
        "statements": told,
        "hardware": {
            "processor": facts["provenance"]["processor"],
            "cores": os.cpu_count(),
            "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
        },
        "versions": {k: facts["provenance"][k] for k in ("medseg", "git", "python", "torch", "monai")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", nargs="+")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--collect", type=Path, help="folder that the study already ran in")
    parser.add_argument("--wall-s", type=float, help="with --collect: what the command took")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results")
    options = parser.parse_args()
    for study in options.studies:
        if options.collect:
            found = collect(study, options.collect, options.wall_s)
        else:
            with tempfile.TemporaryDirectory(prefix=f"medseg-{study}-") as folder:
                found = collect(study, Path(folder), run(study, options.data_root, Path(folder)))
        options.out.mkdir(parents=True, exist_ok=True)
        (options.out / f"study-{study}.json").write_text(json.dumps(found, indent=2) + "\n")
        print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
