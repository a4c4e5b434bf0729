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

ROOT = Path(__file__).resolve().parents[2]
# Rows of a class of a case, at most; of objects, too, where labels number them.
OBJECTS = len(METRICS) + len(QUANTITIES)
METRICS_OF_CLASSES = sum("objects" not in row.needs for row in METRICS.values())
EACH = sum("objects" not in row.needs for rows in (METRICS, QUANTITIES) for row in rows.values())


def make(models: str = "m", **more: Any) -> Config:
    datasets = {name: {"layout": "pairs", "path": name} for name in ("d", "e")}
    networks = {name: {"network": "unet"} for name in models}
    return load_config(
        [], {"experiment": "x", "datasets": datasets, "models": networks, "budget": {"steps": 1}, **more}
    )


def ingested(name: str, cases: int, classes: int, regions: int = 0, instances: bool = False, side: int = 8) -> None:
    files = Results(Path("results/x")).ingest(name)
    affine = [[float(i == j) for j in range(4)] for i in range(4)]
    grid = json.dumps({"shape": [side] * 3, "voxel_to_world": affine}).replace('"', '""')
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
    # Every two of three models: of every metric and the score, and one metric class by class.
    paired = [3 * (METRICS_OF_CLASSES + 1 + classes) for classes in (100, 3)]
    needed = 1100 + (50 * rows + 25_000 * 250 + 4000 * sum(paired)) / 1e6
    assert asked.memory_mb() == pytest.approx(max(2000, needed), abs=100)
    products = [3 * ((METRICS_OF_CLASSES + 1) * classes * (classes + 1) / 2 + classes) for classes in (100, 3)]
    seconds = rows / 200_000 + (products[0] * 250 + products[1] * 10) * 10_000 / 10e9
    assert asked.minutes() == START_MINUTES + math.ceil(seconds / 60)
    # Label maps of 8 x 8 x 8 voxels are nothing; of a large volume, all models' are held at once.
    assert Job(three, "report", 1, False).memory_mb() == 2000


def test_a_large_comparison_gets_more_than_it_was_measured_to_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    many = make("abcdefghijklmnopqrstuvwx", folds={"count": 5, "run": [0, 1, 2, 3, 4]})
    ingested("d", 10_000, 5)
    asked = Job(many, "compare", 1, False)
    measured = json.loads((ROOT / "benchmarks/results/compare.json").read_text())["sizes"]["24x10000x5"]
    assert measured["peak_mb"] < asked.memory_mb() < 4 * measured["peak_mb"]
    assert measured["cpu_s"] < 60 * (asked.minutes() - START_MINUTES)


def test_the_report_holds_the_label_maps_of_all_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    many = make("abcdefghijklmnopqrstuvwx", folds={"count": 5, "run": [0]})
    ingested("d", 10, 3, side=256)
    expected = 1100 + (26 + 4 * 24) * 256**3 / 1e6
    assert Job(many, "report", 1, False).memory_mb() == pytest.approx(expected, abs=150)


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
