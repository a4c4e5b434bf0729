"""How fast a data set is checked: MiB of compressed files per second and core, beside what the bare steps cost.

    python benchmarks/ingest.py [--cases 12] [--repeats 3] [--out benchmarks/results/ingest.json]

CT-like volumes are generated into a temporary folder: smooth structure and noise in int16 inside a body, air with less
noise around it, packed by gzip at level 6 (to about half), with smooth label maps beside them. Everything is then timed
on the same files in the same run, one after the other, and the best of ``--repeats`` counts: a machine does other
things, too; processor time suffers less from that than wall-clock.

* ``check_one_core``: ``medseg ingest --check`` with one worker: read, hash, unpack, checksum, parse, count, compare.
* ``check_all_cores``: the same with a worker per core.
* ``gunzip``: reading, unpacking and checksum alone, with Python's zlib.
* ``nibabel``: ``get_fdata`` of image and label with nibabel, which is what most tools do and which checks nothing.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from scipy.ndimage import gaussian_filter, zoom

from medseg.config import Config
from medseg.files import write_json
from medseg.ingest.run import check

ROOT = Path(__file__).resolve().parents[1]
SHAPE = (512, 512, 96)


def generate(folder: Path, cases: int) -> None:
    """Write ``cases`` volumes and label maps in the decathlon layout."""
    axes = np.meshgrid(*[np.linspace(-1, 1, n, dtype=np.float32) for n in SHAPE[:2]], indexing="ij")
    names = []
    for case in range(cases):
        rng = np.random.default_rng(case)
        coarse = gaussian_filter(rng.standard_normal([n // 8 for n in SHAPE]), 2.0)
        smooth = zoom((coarse / coarse.std()).astype(np.float32), 8, order=1)
        body = np.hypot(axes[0] / rng.uniform(0.75, 0.9), axes[1] / rng.uniform(0.55, 0.7)) < 1
        noise = rng.standard_normal(SHAPE, dtype=np.float32)
        inside = 40 + 120 * smooth + 25 * noise
        image = np.where(body[..., None], inside, np.maximum(-1024, -1010 + 15 * noise)).round().astype(np.int16)
        labels = (np.digitize(smooth, [1.0, 1.8]) * body[..., None]).astype(np.uint8)
        name = f"ct_{case:03d}.nii.gz"
        for place, values in (("imagesTr", image), ("labelsTr", labels)):
            (folder / place).mkdir(parents=True, exist_ok=True)
            volume = nibabel.Nifti1Image(values, np.diag([0.8, 0.8, 2.5, 1.0]))
            (folder / place / name).write_bytes(gzip.compress(volume.to_bytes(), 6))
        names.append(name)
    index = {
        "modality": {"0": "CT"},
        "labels": {"0": "background", "1": "organ", "2": "lesion"},
        "training": [{"image": f"./imagesTr/{n}", "label": f"./labelsTr/{n}"} for n in names],
    }
    (folder / "dataset.json").write_text(json.dumps(index))


def config(root: Path) -> Config:
    return Config.model_validate(
        {
            "experiment": "benchmark",
            "data_root": str(root),
            "datasets": {"ct": {"layout": "decathlon", "path": "ct", "subject": "(.*)"}},
            "models": {"unet": {"network": "unet"}},
            "folds": {"count": 2},
            "budget": {"steps": 1},
        }
    )


def best_of(repeats: int, job: Callable[[], Any]) -> tuple[float, float]:
    """Least wall-clock and least processor seconds of a job."""
    wall, cpu = [], []
    for _ in range(repeats):
        begun, used = time.perf_counter(), time.process_time()
        job()
        wall.append(time.perf_counter() - begun)
        cpu.append(time.process_time() - used)
    return min(wall), min(cpu)


def measure(root: Path, repeats: int) -> dict[str, Any]:
    files = sorted((root / "ct").rglob("*.nii.gz"))
    packed = sum(f.stat().st_size for f in files) / 2**20
    cores = os.cpu_count() or 1
    settings = config(root)
    jobs: dict[str, tuple[int, Callable[[], Any]]] = {
        "check_one_core": (1, lambda: check(settings, "ct", 1)),
        "check_all_cores": (cores, lambda: check(settings, "ct", cores)),
        "gunzip": (1, lambda: [gzip.decompress(f.read_bytes()) for f in files]),
        "nibabel": (1, lambda: [nibabel.load(f).get_fdata() for f in files]),
    }
    rows: dict[str, Any] = {}
    for name, (workers, job) in jobs.items():
        wall, cpu = best_of(repeats, job)
        rows[name] = {
            "workers": workers,
            "wall_s": round(wall, 2),
            "cpu_s": round(cpu, 2),
            "mib_per_s_and_core": round(packed / wall / workers, 1),
            "mib_per_cpu_s": round(packed / cpu, 1),
        }
    # Processor time: other programs on the machine lengthen the wall-clock of one job more than of another.
    one = rows["check_one_core"]["cpu_s"]
    return {
        "files": len(files),
        "compressed_mib": round(packed, 1),
        "unpacked_mib": round(sum(nibabel.load(f).get_data_dtype().itemsize for f in files) * np.prod(SHAPE) / 2**20),
        "runs": rows,
        "check_cpu_seconds_per_cpu_second_of": {
            name: round(one / rows[name]["cpu_s"], 2) for name in ("gunzip", "nibabel")
        },
    }


def hardware() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "load_average": round(os.getloadavg()[0], 1),
        "processor": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=12)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/ingest.json")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        generate(root / "ct", given.cases)
        found = measure(root, given.repeats)
    found |= {"hardware": hardware(), "python": platform.python_version(), "numpy": np.__version__}
    write_json(given.out, found)
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
