"""What the compare job asks a cluster for follows from the cases, classes and trainings that it reads scores of."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from medseg.config import Config, load_config
from medseg.ingest.recorded import write_table
from medseg.jobs import START_MINUTES, Job
from medseg.metrics.quantities import QUANTITIES
from medseg.metrics.table import METRICS
from medseg.results.paths import Results
from medseg.workload import score_rows

# Rows of a class of a case, at most; of objects, too, where labels number them.
OBJECTS = len(METRICS) + len(QUANTITIES)
EACH = sum("objects" not in row.needs for rows in (METRICS, QUANTITIES) for row in rows.values())


def make(models: str = "m", **more: Any) -> Config:
    datasets = {name: {"layout": "pairs", "path": name} for name in ("d", "e")}
    networks = {name: {"network": "unet"} for name in models}
    return load_config(
        [], {"experiment": "x", "datasets": datasets, "models": networks, "budget": {"steps": 1}, **more}
    )


def ingested(name: str, cases: int, classes: int, regions: int = 0, instances: bool = False) -> None:
    files = Results(Path("results/x")).ingest(name)
    affine = [[float(i == j) for j in range(4)] for i in range(4)]
    grid = json.dumps({"shape": [8, 8, 8], "voxel_to_world": affine}).replace('"', '""')
    table = "case\tgeometry\n" + "".join(f'c{k}\t"{grid}"\n' for k in range(cases))
    labels = {"names": {f"k{k}": k + 1 for k in range(classes)}, "regions": [[f"r{k}", [1]] for k in range(regions)]}
    labels["instances"] = instances
    write_table(files.manifest, table, files.dataset, {"channels": ["CT"], "labels": labels})


def test_compare_asks_for_more_with_cases_classes_and_trainings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folds = {"count": 5, "run": [0, 1, 2, 3, 4]}
    one, three = make(folds=folds), make("abc", folds=folds, seeds=[0, 1])
    assert (Job(one, "compare", 1, False).memory_mb(), Job(one, "compare", 1, False).minutes()) == (2000, START_MINUTES)
    ingested("d", 250, 100)
    assert score_rows(one) == 250 * 100 * EACH
    assert score_rows(make(folds={"count": 5, "run": [3]})) == 50 * 100 * EACH
    assert score_rows(three) == 6 * 250 * 100 * EACH
    ingested("e", 10, 7, regions=3)
    rows = 6 * (250 * 100 + 10 * 3) * EACH
    assert score_rows(three) == rows
    asked = Job(three, "compare", 1, False)
    assert asked.memory_mb() == pytest.approx(600 + 2500 * rows / 1e6, abs=100)
    assert asked.minutes() == START_MINUTES + math.ceil(rows / 50_000)


def test_objects_have_more_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ingested("d", 10, 1, instances=True)
    assert score_rows(make(folds={"count": 5, "run": [0, 1, 2, 3, 4]})) == 10 * OBJECTS > 20 * EACH


def test_a_file_without_classes_gives_the_plain_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ingested("d", 10, 2)
    files = Results(Path("results/x")).ingest("d")
    write_table(files.manifest, files.manifest.read_text(), files.dataset, {"channels": ["CT"]})
    assert Job(make(), "compare", 1, False).memory_mb() == 2000
