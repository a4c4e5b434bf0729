"""Processor seconds and peak memory of ``medseg compare`` on made-up score tables of many models and cases.

    python benchmarks/compare.py                       # the sizes of SIZES, one after the other
    python benchmarks/compare.py --sizes 24x10000x5    # models x cases x classes

A model's Dice of a case is what the case allows, less what the model lacks, less noise; every class but the first is
absent from a tenth of the references, from other ones for each class, so that no two classes are shown by the same
subjects. Five folds; metrics are the default ones. ``--complete``: every reference shows every class. ``--seeds``:
trainings of each fold. Each size is a process of its own on one thread; memory is its peak.
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

import numpy as np
import pandas as pd

from medseg.evaluate.score import ABSENT, COLUMNS, OK, SPURIOUS
from medseg.evaluate.table import write_table
from medseg.files import write_json
from medseg.metrics.quantities import QUANTITIES
from medseg.metrics.table import METRICS
from medseg.provenance import environment

ROOT = Path(__file__).resolve().parents[1]
SIZES = ("24x10000x5", "200x1000x5")
FOLDS, VOXELS, DIAGONAL, ABSENT_SHARE = 5, 10_000, 50.0, 0.1


def dice_of(models: int, cases: int, classes: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """(M, N, C) Dice; models differ by up to 0.05."""
    generator = np.random.default_rng(0)
    allowed = 0.6 + 0.35 * generator.beta(4, 1.5, size=(1, cases, classes))
    lacking = np.linspace(0, 0.05, models)[:, None, None]
    return np.clip(allowed - lacking - np.abs(generator.normal(0, 0.02, size=(models, cases, classes))), 0.01, 0.999)


def training(model: int, fold: int, seed: int, dice: Any, shown: Any) -> pd.DataFrame:
    """Score rows of one training, from its (N, C) Dice and where the reference shows the class."""
    cases, classes = dice.shape
    n = cases * classes
    generator = np.random.default_rng([model, fold, seed])
    empty = generator.random((cases, classes)) < 0.8
    tp = np.where(shown, np.rint(dice * VOXELS), 0).ravel()
    missed = np.where(shown.ravel(), VOXELS - tp, 0)
    invented = np.where(shown.ravel(), VOXELS - tp, np.where(empty.ravel(), 0, 50))
    real = np.where(shown.ravel(), tp / VOXELS, np.nan)
    values = {
        "dice": real,
        "iou": real / (2 - real),
        "tp": tp,
        "fp": invented,
        "fn": missed,
        "volume_ref": (tp + missed) / 1e3,
        "volume_pred": (tp + invented) / 1e3,
    }
    for name, metric in METRICS.items():
        if metric.scope == "default" and not {"tolerance", "objects"} & set(metric.needs):
            values[name] = 20 * (1 - real) * generator.uniform(0.8, 1.2, n)
    status = np.where(shown.ravel(), OK, np.where(empty.ravel(), ABSENT, SPURIOUS))
    about = {"dataset": "made-up", "split": "val", "model": f"model{model:03d}", "fold": fold, "seed": seed}
    names = [f"case{FOLDS * k + fold:05d}" for k in range(cases)]
    parts = []
    for metric, value in values.items():
        row = METRICS.get(metric)
        definition = row.definition if row is not None else QUANTITIES[metric].definition
        unit = (
            row.unit_of("mm")
            if row is not None
            else {"volume": "ml"}.get(QUANTITIES[metric].unit, QUANTITIES[metric].unit)
        )
        parts.append(
            pd.DataFrame(
                {
                    **about,
                    "case": pd.Categorical.from_codes(np.repeat(np.arange(cases), classes), names),
                    "subject": pd.Categorical.from_codes(np.repeat(np.arange(cases), classes), names),
                    "label": [f"class{k}" for k in range(classes)] * cases,
                    "metric": metric,
                    "definition": definition,
                    "value": value,
                    "unit": unit,
                    "status": status,
                    "n_ref": (tp + missed).astype(np.int64),
                    "n_pred": (tp + invented).astype(np.int64),
                    "spacing": "1 x 1 x 1 mm",
                    "diagonal": DIAGONAL,
                    "prediction": pd.Categorical.from_codes(
                        np.repeat(np.arange(cases), classes), [f"{model:04x}{fold:02x}{k:058x}" for k in range(cases)]
                    ),
                    "fingerprint": f"{model:032x}{fold:016x}{seed:016x}",
                }
            )
        )
    order = np.argsort(np.tile(np.arange(n), len(parts)), kind="stable")
    return pd.concat(parts, ignore_index=True).iloc[order][list(COLUMNS)]


def make(folder: Path, size: str, complete: bool, seeds: int) -> None:
    """Score tables of every training, as evaluate writes them."""
    models, cases, classes = map(int, size.split("x"))
    dice = dice_of(models, cases, classes)
    shown = np.random.default_rng(1).random((cases, classes)) >= (0 if complete else ABSENT_SHARE)
    shown[:, 0] = True
    for model in range(models):
        for fold in range(FOLDS):
            for seed in range(seeds):
                mine = slice(fold, None, FOLDS)
                luck = 0.003 * np.random.default_rng([model, fold, seed]).normal()
                table = training(model, fold, seed, np.clip(dice[model, mine] + luck, 0.01, 0.999), shown[mine])
                write_table(folder / f"{model}-{fold}-{seed}.parquet", table)


def measured(folder: Path, out: Path) -> dict[str, Any]:
    """Run compare on a folder of tables in a process of its own."""
    code = (
        "import sys, time; from pathlib import Path; from medseg.compare.run import run;"
        "run(sorted(Path(sys.argv[1]).glob('*.parquet')), Path(sys.argv[2]))"
    )
    start = time.perf_counter()
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    done = subprocess.Popen([sys.executable, "-c", code, str(folder), str(out)], env={**os.environ, **threads})
    _, status, used = os.wait4(done.pid, 0)
    if status:
        raise SystemExit(f"compare ended with status {status}")
    files = {path.name: path.stat().st_size for path in sorted(out.glob("[!.]*"))}
    return {
        "cpu_s": round(used.ru_utime + used.ru_stime, 1),
        "wall_s": round(time.perf_counter() - start, 1),
        "peak_mb": round(used.ru_maxrss * 1024 / 1e6),
        "bytes": files,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=list(SIZES))
    parser.add_argument("--complete", action="store_true")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/compare.json")
    parser.add_argument("--keep", type=Path, help="folder for the tables, made unless they are there")
    given = parser.parse_args()
    for size in given.sizes:
        name = size + ("-complete" if given.complete else "") + (f"-{given.seeds}seeds" if given.seeds > 1 else "")
        with tempfile.TemporaryDirectory() as temporary:
            folder = (given.keep or Path(temporary)) / name
            if not folder.is_dir():
                folder.mkdir(parents=True)
                make(folder, size, given.complete, given.seeds)
            row = measured(folder, Path(temporary) / "out")
        print(name, json.dumps(row), flush=True)
        known = json.loads(given.out.read_text())["sizes"] if given.out.is_file() else {}
        write_json(given.out, {"sizes": {**known, name: row}, "environment": environment()})


if __name__ == "__main__":
    main()
