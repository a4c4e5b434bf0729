"""The preprocess stage."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from medseg.config import Config
from medseg.errors import ConfigError
from medseg.files import digest_of, read_json, write_json, writer_lock
from medseg.image.labels import IGNORE
from medseg.ingest.cases import read_case_image, read_case_labels
from medseg.ingest.manifest import Case, Manifest, read_manifest
from medseg.patches.sampling import generator
from medseg.plan.fingerprint import Fingerprint
from medseg.plan.grid import plan_grid
from medseg.plan.plan import Grid
from medseg.preprocess.lost import report_lost_classes
from medseg.preprocess.memory import MemoryGate, case_bytes, host_budget, require_fit
from medseg.preprocess.prepare import prepare_image, prepare_labels
from medseg.preprocess.store import case_is_valid, write_case, write_index
from medseg.progress import Progress

# Foreground voxels remembered per class and case, to centre training patches on.
LOCATIONS_PER_CLASS = 1000
# What a manifest says of a case that its prepared arrays do not depend on (files count by their digests).
NO_PART_OF_KEY = ("id", "subject", "site", "images", "labels", "label_counts", "remarks")


@dataclass(frozen=True, slots=True)
class Shard:
    """One of ``count`` parts of a data set: cases ``index``, ``index + count``, …"""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``i/n``, 0 <= i < n; raise ``ConfigError`` for anything else."""
        found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
        if not found or int(found[1]) >= int(found[2]):
            raise ConfigError(f"shard {text!r}: expected i/n with i from 0 to n - 1, e.g. 0/4, 1/4, 2/4 and 3/4")
        return cls(int(found[1]), int(found[2]))

    @property
    def name(self) -> str:
        """As in the name of the file that says that this part is done."""
        return f"shard-{self.index}-of-{self.count}"


@dataclass(frozen=True)
class Work:
    """What is to be prepared, and how.

    Attributes:
        manifest: the data set.
        grid: the grid that its cases are brought to.
        folder: where its files lie.
        code: digest of the code that prepares, part of each case's key.
    """

    manifest: Manifest
    grid: Grid
    folder: Path
    code: str


def read_work(config: Config, model: str, manifest_path: Path, fingerprint_path: Path, code: str) -> Work:
    """Put together what the stages before and the configuration say; see ``run``."""
    manifest = read_manifest(manifest_path)
    grid = plan_grid(Fingerprint.from_json(read_json(fingerprint_path)), config.model(model))
    return Work(manifest, grid, Path(config.data_root) / config.dataset(manifest.dataset).path, code)


def run(
    config: Config,
    model: str,
    manifest_path: Path,
    fingerprint_path: Path,
    out: Path,
    code: str,
    workers: int,
    shard: Shard | None = None,
) -> None:
    """Prepare every case of a data set on the grid of ``model`` into ``out`` and write ``out/index.json``.

    Cases that are there, whole, from the same inputs, grid and code are kept. Workers wait for one another where their
    cases together would take more memory than the host budget allows.

    Args:
        config: the experiment.
        model: any of the models that share the grid.
        manifest_path, fingerprint_path: results of the stages before.
        out: folder of the store.
        code: digest of the code that prepares, part of each case's key.
        workers: cases prepared side by side; changes nothing in the result.
        shard: prepare this part only and write ``out/shard-i-of-n.json`` instead of the index; shards may run at the
            same time on different machines.

    Raises:
        DataError: if a single case needs more memory than the budget, before any is read; or a file is not as checked.
        DatasetFaults: if a class of a case is lost on this grid, and ``lost-class`` is not allowed by name.
    """
    work = read_work(config, model, manifest_path, fingerprint_path, code)
    cases = work.manifest.cases if shard is None else work.manifest.cases[shard.index :: shard.count]
    part = "" if shard is None else f" {shard.index}/{shard.count}"
    lock = writer_lock(out if shard is None else out / f".{shard.name}")
    # The workers are the parallelism: threads of the linear algebra would only get into their way.
    with lock, threadpool_limits(1), ThreadPoolExecutor(workers) as pool:
        there = list(pool.map(lambda case: is_prepared(case, work, out), cases))
        kept, todo = sum(there), [case for case, done in zip(cases, there, strict=True) if not done]
        note = f"({kept} kept)" if kept else ""
        bar = Progress(f"preprocess {work.manifest.dataset}{part}", len(cases), start=kept)
        budget = host_budget(config.budget.host_gb)
        needs = {case.id: case_bytes(case, work.grid, work.folder) for case in todo}
        require_fit(needs, budget)
        gate = MemoryGate(budget)

        def prepare_within_budget(case: Case) -> None:
            with gate.hold(needs[case.id]):
                prepare_case(case, work, out)

        for done, _ in enumerate(pool.map(prepare_within_budget, todo), start=kept + 1):
            bar.update(done, note)
        if not todo:
            bar.update(kept, note)
        allow = config.dataset(work.manifest.dataset).allow
        report_lost_classes(work.manifest, cases, work.grid, work.folder, out, allow)
        ids = [case.id for case in cases]
        if shard is None:
            write_index(out, work.manifest.dataset, work.grid, ids)
        else:
            write_json(out / f"{shard.name}.json", {"dataset": work.manifest.dataset, "cases": ids})


def case_key(case: Case, manifest: Manifest, grid: Grid, code: str) -> str:
    """Digest of everything a prepared case depends on."""
    facts = {name: value for name, value in asdict(case).items() if name not in NO_PART_OF_KEY}
    return digest_of({"case": facts, "labels": manifest.labels.to_json(), "grid": grid.preparation, "code": code})


def is_prepared(case: Case, work: Work, out: Path) -> bool:
    """Whether ``out/{id}`` holds the case, whole, prepared from the same inputs in the same way."""
    return case_is_valid(out / case.id, case_key(case, work.manifest, work.grid, work.code))


def prepare_case(case: Case, work: Work, out: Path) -> None:
    """Prepare one case into ``out/{id}``."""
    key = case_key(case, work.manifest, work.grid, work.code)
    # The native image goes before the labels come.
    image, record = prepare_image(read_case_image(case, work.folder), case.geometry, work.grid)
    table = work.manifest.labels
    if case.labels:
        labels = prepare_labels(table.to_channels(read_case_labels(case, work.folder)), record)
    else:
        labels = np.zeros(record.prepared_shape, dtype=np.uint8)
    locations = _locations(labels, table.classes, key)
    write_case(out / case.id, key, image, labels, locations, record, work.grid.slice_axis)


def _locations(labels: NDArray[Any], classes: int, key: str) -> NDArray[np.int32]:
    """Up to ``LOCATIONS_PER_CLASS`` voxels of each foreground class, rows (class, voxel); drawn by the case's key.

    Where some voxels are not annotated, rows of class 0 are voxels that are, of any class: patches are taken there.
    """
    flat, rows = labels.ravel(), []
    for channel in range(0 if IGNORE in flat else 1, classes):
        voxels = np.flatnonzero(flat == channel if channel else flat != IGNORE)
        if len(voxels) > LOCATIONS_PER_CLASS:
            rng = generator(int(key[:8], 16), channel)
            voxels = voxels[np.sort(rng.choice(len(voxels), LOCATIONS_PER_CLASS, replace=False))]
        rows.append(np.column_stack([np.full(len(voxels), channel), *np.unravel_index(voxels, labels.shape)]))
    return np.concatenate(rows).astype(np.int32)
