"""The preprocess stage."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from medseg.config import Config
from medseg.ingest.manifest import Case, read_manifest
from medseg.outputs import writing
from medseg.plan.fingerprint import read_fingerprint
from medseg.plan.grid import plan_grid
from medseg.preprocess.cases import Preparation, kept, prepare_case
from medseg.preprocess.lost import report_lost_classes
from medseg.preprocess.memory import MemoryGate, case_bytes, host_budget, require_fit
from medseg.preprocess.store import write_index
from medseg.progress import Progress
from medseg.results.folders import StoreFolder
from medseg.shards import Shard, read_shards


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

    Complete cases that were prepared from the same inputs, grid and code are kept. Workers wait for one another where
    their cases together would exceed the host budget.

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
    preparation = read_preparation(config, model, manifest_path, fingerprint_path, code)
    manifest = preparation.manifest
    cases = list(manifest.cases) if shard is None else shard.of(manifest.cases)
    part = "" if shard is None else f" {shard.index}/{shard.count}"
    index = StoreFolder(out).index
    with writing(index, out) if shard is None else shard.writing(shard.record(out), out):
        budget = host_budget(config.budget.host_gb)
        entries = _prepare(cases, preparation, out, workers, budget, f"preprocess {manifest.dataset}{part}")
        allow = config.dataset(manifest.dataset).allow
        report_lost_classes(manifest, entries, preparation.grid, preparation.folder, allow)
        if shard is None:
            write_index(out, manifest.dataset, preparation.grid, entries)
        else:
            shard.write(out, {"dataset": manifest.dataset, "cases": [case.id for case in cases]})


def join(
    config: Config,
    model: str,
    manifest_path: Path,
    fingerprint_path: Path,
    out: Path,
    code: str,
    workers: int,
    count: int,
) -> None:
    """Join ``count`` shards in ``out``: check every prepared case, prepare again what is damaged, write the index.

    Raises:
        DataError: if a shard is not done. Others: see ``run``.
    """
    read_shards(out, count, "preprocess")
    run(config, model, manifest_path, fingerprint_path, out, code, workers)


def read_preparation(config: Config, model: str, manifest_path: Path, fingerprint_path: Path, code: str) -> Preparation:
    """Put together what the configuration and the stages before say; arguments as for ``run``."""
    manifest = read_manifest(manifest_path)
    wanted = config.model(model)
    grid = plan_grid(read_fingerprint(fingerprint_path), wanted.dims, wanted.plan)
    return Preparation(manifest, grid, config.folder_of(manifest.dataset), code)


def _prepare(
    cases: Sequence[Case], preparation: Preparation, out: Path, workers: int, budget: int, label: str
) -> dict[str, dict[str, Any]]:
    """Prepare the cases that are not in ``out`` yet, several at a time as far as ``budget`` (bytes) allows.

    Returns:
        What the index says of each of the cases, in their order.
    """
    # The workers are the parallelism: threads of the linear algebra would only get into their way.
    with threadpool_limits(1), ThreadPoolExecutor(workers) as pool:
        entries = dict(
            zip([c.id for c in cases], pool.map(lambda case: kept(case, preparation, out), cases), strict=True)
        )
        todo = [case for case in cases if entries[case.id] is None]
        found = len(cases) - len(todo)
        note = f"({found} kept)" if found else ""
        bar = Progress(label, len(cases), start=found)
        objects = preparation.manifest.labels.instances
        needs = {case.id: case_bytes(case, preparation.grid, preparation.folder, objects=objects) for case in todo}
        require_fit(needs, budget, preparation.manifest.cases, preparation.grid)
        gate = MemoryGate(budget)

        def prepare_within_budget(case: Case) -> dict[str, Any]:
            with gate.hold(needs[case.id]):
                return prepare_case(case, preparation, out)

        for done, (case, entry) in enumerate(zip(todo, pool.map(prepare_within_budget, todo), strict=True), found + 1):
            entries[case.id] = entry
            bar.update(done, note)
        if not todo:
            bar.update(found, note)
    return {case: entry for case, entry in entries.items() if entry is not None}
