"""Processor seconds of object metrics at 1,000 and 10,000 objects: this package and MONAI's panoptic quality.

    OMP_NUM_THREADS=1 python benchmarks/objects.py

Made-up maps of touching disks or balls, moved and resized at random for the prediction. Every measurement is a process
of its own with one thread, systems take turns, and the fastest of ``--repeats`` counts; maps are in memory before the
clock starts. MONAI's functions are for two dimensions and one mask per object, so it takes part at 1,000 objects alone.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from medseg.files import write_json
from medseg.provenance import environment

ROOT = Path(__file__).resolve().parents[1]
# Case -> objects along each axis, voxels between their centres, dimensions.
CASES: Mapping[str, tuple[int, int, int]] = {"2d_1000": (32, 25, 2), "2d_10000": (100, 24, 2), "3d_10000": (22, 11, 3)}
Numbers = NDArray[np.uint32]


def scene(case: str) -> tuple[Numbers, Numbers]:
    """Reference and prediction: each voxel belongs to the nearest centre within its radius."""
    along, cell, dims = CASES[case]
    rng = np.random.default_rng(0)
    centres = (np.stack(np.meshgrid(*[np.arange(along)] * dims, indexing="ij"), -1).reshape(-1, dims) + 0.5) * cell
    centres += rng.uniform(-0.15, 0.15, centres.shape) * cell
    radii = rng.uniform(0.3, 0.62, len(centres)) * cell
    moved = centres + rng.normal(0, 0.08, centres.shape) * cell
    return _drawn(centres, radii, along * cell), _drawn(moved, radii * rng.uniform(0.9, 1.1, len(radii)), along * cell)


def _drawn(centres: NDArray[np.float64], radii: NDArray[np.float64], side: int) -> Numbers:
    dims = centres.shape[1]
    points = np.stack(np.meshgrid(*[np.arange(side)] * dims, indexing="ij"), -1).reshape(-1, dims)
    distance, nearest = cKDTree(centres).query(points)
    return np.where(distance < radii[nearest], nearest + 1, 0).reshape((side,) * dims).astype(np.uint32)


# Systems: (reference, prediction) -> metric -> value.


def medseg(reference: Numbers, prediction: Numbers) -> dict[str, float]:
    from medseg.metrics.object_table import OBJECT_METRICS
    from medseg.metrics.pair import Pair, value_of

    pair = Pair(reference > 0, prediction > 0, (1.0,) * reference.ndim, numbers=(reference, prediction))
    return {name: value_of(row, pair) for name, row in OBJECT_METRICS.items() if row.scope != "named"}


def monai(reference: Numbers, prediction: Numbers) -> dict[str, float]:
    import torch
    from monai.metrics import compute_panoptic_quality

    maps = [torch.from_numpy(labels.astype(np.int64)) for labels in (prediction, reference)]
    return {"pq": float(compute_panoptic_quality(*maps, metric_name="pq"))}


SYSTEMS: Mapping[str, Callable[[Numbers, Numbers], dict[str, float]]] = {"medseg": medseg, "monai": monai}
WITH_MONAI = ("2d_1000",)


def child(system: str, case: str, folder: Path) -> None:
    """Measure one system once; print JSON."""
    warnings.simplefilter("ignore")
    if system == "monai":
        import monai.metrics  # noqa: F401
        import torch

        torch.set_num_threads(1)
    maps = [np.load(folder / f"{case}-{side}.npy") for side in ("reference", "prediction")]
    # What is imported when it is first used is not measured.
    SYSTEMS[system](np.eye(4, dtype=np.uint32), np.eye(4, dtype=np.uint32))
    start = time.process_time()
    values = SYSTEMS[system](*maps)
    print(json.dumps({"seconds": time.process_time() - start, "values": values}))


def measure(case: str, folder: Path, repeats: int) -> dict[str, Any]:
    """The fastest of several turns of each system."""
    maps = scene(case)
    for side, numbers in zip(("reference", "prediction"), maps, strict=True):
        np.save(folder / f"{case}-{side}.npy", numbers)
    systems = [name for name in SYSTEMS if name == "medseg" or case in WITH_MONAI]
    turns: dict[str, list[dict[str, Any]]] = {system: [] for system in systems}
    for _ in range(repeats):
        for system in systems:
            command = [sys.executable, __file__, "--child", system, case, str(folder)]
            turns[system].append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
    best = {system: min(found, key=lambda turn: turn["seconds"]) for system, found in turns.items()}
    row: dict[str, Any] = {"shape": list(maps[0].shape), "objects": len(np.unique(maps[0])) - 1}
    row |= {"seconds": round(best["medseg"]["seconds"], 4)}
    row |= {"values": {name: round(value, 6) for name, value in best["medseg"]["values"].items()}}
    if "monai" in best:
        row |= {
            "monai_seconds": round(best["monai"]["seconds"], 2),
            "monai_pq": round(best["monai"]["values"]["pq"], 6),
        }
        row |= {"times_as_fast": round(row["monai_seconds"] / row["seconds"])}
    return row


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "objects.json")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child[0], given.child[1], Path(given.child[2]))
        return
    result: dict[str, Any] = {"environment": environment(), "threads": 1, "repeats": given.repeats}
    with tempfile.TemporaryDirectory() as folder:
        for case in CASES:
            result[case] = measure(case, Path(folder), given.repeats)
            print(case, json.dumps(result[case]), flush=True)
    write_json(given.out, result)


if __name__ == "__main__":
    main()
