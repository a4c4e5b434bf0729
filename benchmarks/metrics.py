"""Seconds and memory of HD, HD95, ASSD, MASD and NSD of three labels: this package, MONAI, surface-distance.

    OMP_NUM_THREADS=1 python benchmarks/metrics.py --peers FOLDER

FOLDER holds surface-distance (``pip install --no-deps --target FOLDER surface-distance``). Two made-up cases: 128^3
voxels of 2.5 x 0.8 x 0.8 mm with organs of 213,000, 54,000 and 700 voxels and one false voxel far away, and a CT of
300 x 512 x 512 voxels of 1.5 x 0.8 x 0.8 mm. Every measurement is a process of its own with one thread, all systems
take turns, and the fastest of ``--repeats`` counts. Label maps are in memory before the clock starts; memory is the
process's peak above what it held then.
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

from medseg.files import write_json
from medseg.provenance import environment

ROOT = Path(__file__).resolve().parents[1]
TOLERANCE = 2.0
# Case -> shape, spacing, and centre and radii (voxels) of each organ.
Organ = tuple[tuple[int, int, int], tuple[float, float, float]]
CASES: Mapping[str, tuple[tuple[int, int, int], tuple[float, float, float], tuple[Organ, ...]]] = {
    "small": (
        (128, 128, 128),
        (2.5, 0.8, 0.8),
        (((40, 50, 60), (22.0, 48.0, 48.0)), ((95, 60, 70), (14.0, 30.0, 30.0)), ((120, 110, 110), (4.0, 6.5, 6.5))),
    ),
    "ct": (
        (300, 512, 512),
        (1.5, 0.8, 0.8),
        (
            ((150, 200, 180), (60.0, 110.0, 105.0)),
            ((120, 330, 360), (35.0, 60.0, 50.0)),
            ((220, 400, 200), (8, 14, 15)),
        ),
    ),
}
Labels = NDArray[np.uint8]
Found = dict[str, list[float]]


def label_map(case: str, seed: int) -> Labels:
    """Organs with a rough surface; both seeds share their centres."""
    shape, _, organs = CASES[case]
    out = np.zeros(shape, np.uint8)
    for value, (centre, radii) in enumerate(organs, start=1):
        box = tuple(
            slice(max(0, int(c - 1.4 * r) - 2), min(n, int(c + 1.4 * r) + 3))
            for c, r, n in zip(centre, radii, shape, strict=True)
        )
        offsets = np.ogrid[box]
        scaled = [(o - c) / r for o, c, r in zip(offsets, centre, radii, strict=True)]
        rng = np.random.default_rng([seed, value])
        waves = sum(
            0.02 * np.sin(f * scaled[0] + g * scaled[1] + h * scaled[2] + p)
            for f, g, h, p in rng.uniform(-12, 12, (4, 4))
        )
        out[box][np.sqrt(sum(s**2 for s in scaled)) + waves < 1] = value
    if seed:
        out[-3, -3, 3] = 1
    return out


# Systems: (reference, prediction, spacing) -> metric -> value per label.


def medseg_voxels(reference: Labels, prediction: Labels, spacing: tuple[float, ...]) -> Found:
    return medseg_metrics(reference, prediction, spacing, ("hd", "hd95", "assd", "masd", "nsd"))


def medseg_two(reference: Labels, prediction: Labels, spacing: tuple[float, ...]) -> Found:
    return medseg_metrics(reference, prediction, spacing, ("assd", "nsd"))


def medseg_faces(reference: Labels, prediction: Labels, spacing: tuple[float, ...]) -> Found:
    return medseg_metrics(reference, prediction, spacing, ("assd_faces", "nsd_faces"))


def medseg_metrics(reference: Labels, prediction: Labels, spacing: tuple[float, ...], names: tuple[str, ...]) -> Found:
    from medseg.metrics.counts import overlap_counts
    from medseg.metrics.pair import pairs, value_of
    from medseg.metrics.table import METRICS

    members = [(1,), (2,), (3,)]
    counts = overlap_counts(reference, prediction, 4, members)
    found: Found = {name: [] for name in names}
    for pair in pairs(reference, prediction, members, spacing, [TOLERANCE] * 3, counts):
        for name in names:
            found[name].append(value_of(METRICS[name], pair))
    return found


def monai(reference: Labels, prediction: Labels, spacing: tuple[float, ...]) -> Found:
    import torch
    from monai import metrics as peer

    masks = [torch.from_numpy(np.stack([labels == k for k in (1, 2, 3)]))[None] for labels in (prediction, reference)]
    common: dict[str, Any] = {"include_background": True, "spacing": spacing}
    there, back = (peer.compute_average_surface_distance(*pair, **common)[0].numpy() for pair in (masks, masks[::-1]))
    found = {
        "hd": peer.compute_hausdorff_distance(*masks, **common),
        "hd95": peer.compute_hausdorff_distance(*masks, percentile=95, **common),
        "assd": peer.compute_average_surface_distance(*masks, symmetric=True, **common),
        "nsd": peer.compute_surface_dice(*masks, [TOLERANCE] * 3, **common),
    }
    return {"masd": ((there + back) / 2).tolist()} | {name: value[0].tolist() for name, value in found.items()}


def monai_four(reference: Labels, prediction: Labels, spacing: tuple[float, ...]) -> Found:
    """Without MASD, for which MONAI has no function of its own."""
    import torch
    from monai import metrics as peer

    masks = [torch.from_numpy(np.stack([labels == k for k in (1, 2, 3)]))[None] for labels in (prediction, reference)]
    common: dict[str, Any] = {"include_background": True, "spacing": spacing}
    found = {
        "hd": peer.compute_hausdorff_distance(*masks, **common),
        "hd95": peer.compute_hausdorff_distance(*masks, percentile=95, **common),
        "assd": peer.compute_average_surface_distance(*masks, symmetric=True, **common),
        "nsd": peer.compute_surface_dice(*masks, [TOLERANCE] * 3, **common),
    }
    return {name: value[0].tolist() for name, value in found.items()}


def surface_distance(reference: Labels, prediction: Labels, spacing: tuple[float, ...]) -> Found:
    import surface_distance as peer

    found: Found = {"hd": [], "hd95": [], "assd": [], "masd": [], "nsd": []}
    for k in (1, 2, 3):
        distances = peer.compute_surface_distances(reference == k, prediction == k, spacing)
        there, back = peer.compute_average_surface_distance(distances)
        areas = [float(distances[f"surfel_areas_{side}"].sum()) for side in ("gt", "pred")]
        found["hd"].append(float(peer.compute_robust_hausdorff(distances, 100)))
        found["hd95"].append(float(peer.compute_robust_hausdorff(distances, 95)))
        found["assd"].append(float((there * areas[0] + back * areas[1]) / sum(areas)))
        found["masd"].append(float(there + back) / 2)
        found["nsd"].append(float(peer.compute_surface_dice_at_tolerance(distances, TOLERANCE)))
    return found


SYSTEMS: Mapping[str, Callable[[Labels, Labels, tuple[float, ...]], Found]] = {
    "medseg": medseg_voxels,
    "medseg_assd_nsd": medseg_two,
    "medseg_faces": medseg_faces,
    "monai": monai,
    "monai_without_masd": monai_four,
    "surface_distance": surface_distance,
}
# At this size the peers take minutes and gigabytes, and the target is one of its own.
ALONE = ("medseg", "medseg_assd_nsd", "medseg_faces")


def child(system: str, case: str, folder: Path) -> None:
    """Measure one system once; print JSON."""
    warnings.simplefilter("ignore")
    if system.startswith("monai"):
        import monai.metrics  # noqa: F401
        import torch

        torch.set_num_threads(1)
    function = SYSTEMS[system]
    labels = [np.load(folder / f"{case}{seed}.npy") for seed in (0, 1)]
    # What is imported, and what is computed once for a spacing, is not measured.
    tiny = np.zeros((9, 9, 9), np.uint8)
    tiny[2:5, 2:5, 2:5], tiny[6, 6, 6], tiny[7, 1, 1] = 1, 2, 3
    function(tiny, tiny, CASES[case][1])
    # The kernel's record of the peak begins anew; a process inherits that of the one that started it.
    Path("/proc/self/clear_refs").write_text("5")
    before = resident_mib("VmRSS")
    wall, cpu = time.perf_counter(), time.process_time()
    values = function(labels[0], labels[1], CASES[case][1])
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = resident_mib("VmHWM")
    print(json.dumps({"wall_s": wall, "cpu_s": cpu, "start_mib": before, "peak_mib": peak, **values}))


def resident_mib(name: str) -> float:
    """A line of the kernel's record of this process's memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


def measure(case: str, systems: list[str], folder: Path, peers: str, repeats: int) -> dict[str, Any]:
    """The fastest of several turns of each system."""
    for seed in (0, 1):
        np.save(folder / f"{case}{seed}.npy", label_map(case, seed))
    turns: dict[str, list[dict[str, Any]]] = {system: [] for system in systems}
    for _ in range(repeats):
        for system in systems:
            command = [sys.executable, __file__, "--child", system, case, str(folder), "--peers", peers]
            turns[system].append(json.loads(subprocess.run(command, check=True, capture_output=True).stdout))
    out: dict[str, Any] = {}
    for system, found in turns.items():
        best = min(found, key=lambda turn: turn["cpu_s"])
        values = {k: [round(v, 4) for v in best[k]] for k in best if isinstance(best[k], list)}
        out[system] = {
            "cpu_s": round(best["cpu_s"], 4),
            "wall_s": round(min(turn["wall_s"] for turn in found), 4),
            "mib_above_start": round(min(turn["peak_mib"] - turn["start_mib"] for turn in found), 1),
            "mib_peak": round(min(turn["peak_mib"] for turn in found), 1),
            "values": values,
        }
        print(case, system, json.dumps(out[system]), flush=True)
    sizes = [np.bincount(np.load(folder / f"{case}{seed}.npy").ravel(), minlength=4)[1:].tolist() for seed in (0, 1)]
    return {"shape": CASES[case][0], "spacing_mm": CASES[case][1], "voxels": sizes, "systems": out}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--peers", default="", help="folder with surface-distance; empty: without peers")
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "metrics.json")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peers:
        sys.path.append(given.peers)
    if given.child:
        child(given.child[0], given.child[1], Path(given.child[2]))
        return
    result: dict[str, Any] = {"environment": environment(), "threads": 1, "repeats": given.repeats}
    with tempfile.TemporaryDirectory() as folder:
        for case in given.cases:
            systems = list(SYSTEMS) if given.peers and case == "small" else list(ALONE)
            result[case] = measure(case, systems, Path(folder), given.peers, given.repeats)
    for case in given.cases:
        seconds = {name: row["cpu_s"] for name, row in result[case]["systems"].items()}
        ratios = {name: round(value / seconds["medseg"], 1) for name, value in seconds.items() if name not in ALONE}
        result[case]["times_as_long"] = ratios
        result[case]["faces_over_voxels"] = round(seconds["medseg_faces"] / seconds["medseg_assd_nsd"], 1)
        print(case, ratios)
    write_json(given.out, result)


if __name__ == "__main__":
    main()
