"""The preprocess stage."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.config import Config
from medseg.files import digest_of, read_json, writer_lock
from medseg.ingest.cases import read_case_image, read_case_labels
from medseg.ingest.manifest import Case, Manifest, read_manifest
from medseg.patches.sampling import generator
from medseg.plan.fingerprint import Fingerprint
from medseg.plan.grid import plan_grid
from medseg.plan.plan import GridPlan
from medseg.preprocess.prepare import prepare_image, prepare_labels
from medseg.preprocess.store import case_is_valid, write_case, write_index
from medseg.progress import Progress

# Foreground voxels remembered per class and case, to centre training patches on.
LOCATIONS_PER_CLASS = 1000


def run(
    config: Config,
    model: str,
    manifest_path: Path,
    fingerprint_path: Path,
    out: Path,
    code: str,
    workers: int,
) -> None:
    """Prepare every case of a data set on the grid of ``model`` into ``out`` and write ``out/index.json``.

    Args:
        config: the experiment.
        model: any of the models that share the grid.
        manifest_path, fingerprint_path: results of the stages before.
        out: folder of the store.
        code: digest of the code that prepares, part of each case's key.
        workers: cases prepared side by side.
    """
    manifest = read_manifest(manifest_path)
    grid = plan_grid(Fingerprint.from_json(read_json(fingerprint_path)), config.model(model))
    dataset = config.dataset(manifest.dataset)
    folder = Path(config.data_root) / dataset.path
    bar = Progress(f"preprocess {manifest.dataset}", len(manifest.cases))
    with writer_lock(out), ThreadPoolExecutor(workers) as pool:
        jobs = pool.map(lambda case: _prepare(case, manifest, grid, folder, out, code), manifest.cases)
        kept = 0
        for done, reused in enumerate(jobs, start=1):
            kept += reused
            bar.update(done, f"({kept} kept)" if kept else "")
        write_index(out, manifest.dataset, grid, [case.id for case in manifest.cases])


def case_key(case: Case, manifest: Manifest, grid: GridPlan, code: str) -> str:
    """Digest of everything a prepared case depends on."""
    facts: Mapping[str, Any] = {
        "images": case.images_sha256,
        "labels_of_case": case.labels_sha256,
        "labels": manifest.labels.to_json(),
        "grid": grid.to_json(),
        "code": code,
    }
    return digest_of(facts)


def _prepare(
    case: Case,
    manifest: Manifest,
    grid: GridPlan,
    folder: Path,
    out: Path,
    code: str,
) -> bool:
    """Prepare one case unless it is there; return whether it was."""
    key = case_key(case, manifest, grid, code)
    if case_is_valid(out / case.id, key):
        return True
    image, record = prepare_image(read_case_image(case, folder), case.geometry, grid)
    native = np.zeros(case.geometry.shape, dtype=np.uint8)
    if case.labels:
        native = manifest.labels.to_channels(read_case_labels(case, folder))
    labels = prepare_labels(native, record)
    write_case(out / case.id, key, image, labels, _locations(labels, manifest.labels.channels, key), record)
    return False


def _locations(labels: NDArray[Any], classes: int, key: str) -> NDArray[np.int32]:
    """Up to ``LOCATIONS_PER_CLASS`` voxels of each foreground class, rows (class, voxel); drawn by the case's key."""
    rows = []
    for channel in range(1, classes):
        voxels = np.argwhere(labels == channel)
        if len(voxels) > LOCATIONS_PER_CLASS:
            rng = generator(int(key[:8], 16), channel)
            voxels = voxels[np.sort(rng.choice(len(voxels), LOCATIONS_PER_CLASS, replace=False))]
        rows.append(np.column_stack([np.full(len(voxels), channel), voxels]))
    return np.concatenate(rows).astype(np.int32)
