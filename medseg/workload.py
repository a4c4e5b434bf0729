"""How much work a study is: sizes of its cases, steps of its trainings, rows of its scores, as far as files say.

Free of torch, numpy and pandas, since every remote job parses the Snakefile again.
"""

from __future__ import annotations

import collections
import csv
import functools
import io
import json
import math
import re
import statistics
from dataclasses import dataclass
from pathlib import Path

from medseg.config import Config, ensemble_runs
from medseg.errors import MedsegError
from medseg.ingest.recorded import MAKER, read_table
from medseg.metrics.quantities import QUANTITIES
from medseg.metrics.row import met
from medseg.metrics.table import METRICS
from medseg.records import read_record
from medseg.results.paths import Results

# What reading a file of an earlier version, a cut or an edited one raises.
UNREADABLE = (LookupError, TypeError, ValueError, OSError, csv.Error, MedsegError)


@dataclass(frozen=True, slots=True)
class CaseSize:
    """What the manifest says of a case's size.

    Attributes:
        voxels: of one channel, on the native grid.
        prepared: of one channel, on a grid with the median spacing of the data set.
        channels: of the image.
    """

    voxels: int
    prepared: int
    channels: int


def case_sizes(manifest: Path, dataset: Path) -> tuple[CaseSize, ...]:
    """Sizes of all cases of a ``manifest.tsv`` with its ``dataset.json``; none while ingest has not run.

    None either for files of another version or damaged ones: a limit must not stop the job that writes them again.
    """
    if not (manifest.is_file() and dataset.is_file()):
        return ()
    try:
        return _case_sizes(manifest, dataset, manifest.stat().st_mtime_ns, dataset.stat().st_mtime_ns)
    except UNREADABLE:
        return ()


@functools.lru_cache(maxsize=64)
def _case_sizes(manifest: Path, dataset: Path, *changed_ns: int) -> tuple[CaseSize, ...]:
    channels = len(read_record(dataset, MAKER)["channels"])
    rows = csv.DictReader(io.StringIO(read_table(manifest), newline=""), delimiter="\t")
    # Remarks and file names of a case may be longer than csv's limit for a field, which holds for the whole process.
    longest = csv.field_size_limit(2**30)
    try:
        grids = [json.loads(row["geometry"]) for row in rows]
    finally:
        csv.field_size_limit(longest)
    volumes = [_voxel_volume(grid["voxel_to_world"]) for grid in grids]
    usual = statistics.median(volumes) if volumes else 1.0
    sizes = zip([math.prod(grid["shape"]) for grid in grids], volumes, strict=True)
    return tuple(CaseSize(voxels, math.ceil(voxels * volume / usual), channels) for voxels, volume in sizes)


def _voxel_volume(voxel_to_world: list[list[float]]) -> float:
    """Volume of a voxel: the product of the lengths of its edges."""
    axes = len(voxel_to_world) - 1
    return math.prod(math.hypot(*(voxel_to_world[row][axis] for row in range(axes))) for axis in range(axes))


@dataclass(frozen=True, slots=True)
class Planned:
    """What a plan says of the work of a training.

    Attributes:
        step_gb: memory of a step, as the plan counted it, in GB; None: it does not say.
        operations: arithmetic operations of a step; None: it does not say.
        steps: of the training.
        voxels: of a step: of all patches of the batch.
    """

    step_gb: float | None
    operations: float | None
    steps: int
    voxels: int


def planned(plan: Path) -> Planned | None:
    """What there is to know of a training from its plan; None while there is no plan that can be read."""
    if not plan.is_file():
        return None
    try:
        return _planned(plan, plan.stat().st_mtime_ns)
    except UNREADABLE:
        return None


@functools.lru_cache(maxsize=256)
def _planned(plan: Path, changed_ns: int) -> Planned:
    value = read_record(plan, "medseg plan")
    reasons, training = value["reasons"], value["training"]
    gigabytes = re.match(r"(\d+\.\d+) GB for a training step", str(reasons.get("memory")))
    operations = re.match(r"(\d+\.\d+) GFLOP for a training step", str(reasons.get("work")))
    return Planned(
        float(gigabytes[1]) if gigabytes else None,
        1e9 * float(operations[1]) if operations else None,
        int(training["steps"]),
        int(training["batch"]) * math.prod(value["network"]["patch"]),
    )


@dataclass(frozen=True, slots=True)
class Compared:
    """What compare works on, of one data set.

    Attributes:
        cases, classes: of it.
        rows: most score rows.
        paired: most rows of its paired comparisons.
        products: most products of two classes that all pairs of models need of a case in a resample.
    """

    cases: int
    classes: int
    rows: int
    paired: int
    products: int


def compared(config: Config) -> list[Compared]:
    """What compare works on, of each data set whose cases ingest has counted."""
    results, found = Results.of(config), []
    trainings = collections.Counter(dataset for dataset, *_ in [*config.runs(), *ensemble_runs(config)])
    for name in config.datasets:
        files = results.ingest(name)
        cases = len(case_sizes(files.manifest, files.dataset))
        # A training scores the cases of one fold.
        scored = math.ceil(cases * trainings[name] / config.folds.count)
        if not scored:
            continue
        classes, metrics, each = _scored(files.dataset)
        pairs = math.comb(len(config.models) + len(config.ensembles), 2)
        # The means over classes of every metric and of the score, and one metric class by class.
        kinds, products = metrics + 1 + classes, (metrics + 1) * math.comb(classes + 1, 2) + classes
        found.append(Compared(cases, classes, scored * each * classes, pairs * kinds, pairs * products))
    return found


def score_rows(config: Config) -> int:
    """Most score rows that compare reads, of all data sets whose cases ingest has counted."""
    return sum(one.rows for one in compared(config))


def _scored(dataset: Path) -> tuple[int, int, int]:
    """Regions or classes of a data set, and most metrics and score rows of each in a case; 0 for an unreadable file."""
    try:
        labels = read_record(dataset, MAKER)["labels"]
        metrics = sum(met(one.needs, objects=labels["instances"]) for one in METRICS.values())
        counts = sum(met(one.needs, objects=labels["instances"]) for one in QUANTITIES.values())
        return len(labels["regions"] or labels["names"]), metrics, metrics + counts
    except UNREADABLE:
        return 0, 0, 0
