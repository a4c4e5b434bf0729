"""Score rows: counted by hand, on one grid or not at all, undefined by name."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest

from medseg.config import Config, MetricsConfig
from medseg.errors import ConfigError, DataError, GeometryError, MedsegError
from medseg.evaluate import run as stage
from medseg.evaluate.choice import DEFAULT
from medseg.evaluate.score import ABSENT, COLUMNS, MISSED, NOT_ANNOTATED, OK, SPURIOUS, score_case
from medseg.files import sha256_file
from medseg.formats.read import read_labels
from medseg.formats.write import write_labels
from medseg.image.geometry import Geometry
from medseg.image.labels import LabelTable
from medseg.ingest.manifest import read_manifest, write_manifest
from medseg.metrics.quantities import QUANTITIES
from medseg.metrics.table import METRICS
from medseg.records import read_record, write_record
from medseg.results.key import RunKey
from medseg.shards import Shard

KEY = RunKey("d", "m", 1, 2)
TABLE = LabelTable.create({"ball": 1, "rod": 3})


def grid_of(shape: tuple[int, ...], volume: float = 1.0, unit: str = "px") -> Geometry:
    """A grid whose voxels have this volume, all of it along the first axis."""
    return Geometry.from_spacing(shape, (volume, *[1.0] * (len(shape) - 1)), unit)


def scored(
    reference: Any, prediction: Any, volume: float = 2.0, unit: str = "mm", failure: str = ""
) -> dict[tuple[str, str], Any]:
    truth = np.asarray(reference, dtype=np.uint8)
    predicted = None if prediction is None else np.asarray(prediction, dtype=np.uint8)
    rows = score_case(KEY, "c", "s", truth, predicted, TABLE, grid_of(truth.shape, volume, unit), failure)
    assert all(tuple(row) == COLUMNS for row in rows)
    assert all((r["dataset"], r["model"], r["fold"], r["seed"]) == ("d", "m", 1, 2) for r in rows)
    assert all((r["case"], r["subject"]) == ("c", "s") for r in rows)
    return {(row["label"], row["metric"]): row for row in rows}


def test_rows_counted_by_hand() -> None:
    rows = scored([[[1, 1, 1, 0], [2, 2, 0, 0]]], [[[1, 1, 0, 1], [2, 0, 1, 0]]], volume=500.0)
    expected = {
        ("ball", "dice"): (4 / 7, "1"),
        ("ball", "iou"): (2 / 5, "1"),
        # All voxels are boundary voxels. Distances: 0, 0, 1 from the reference, 0, 0, 1, 1 from the prediction.
        ("ball", "hd"): (1.0, "mm"),
        ("ball", "hd95"): (1.0, "mm"),
        ("ball", "assd"): (3 / 7, "mm"),
        ("ball", "masd"): (5 / 12, "mm"),
        ("ball", "tp"): (2, "voxel"),
        ("ball", "fp"): (2, "voxel"),
        ("ball", "fn"): (1, "voxel"),
        ("ball", "volume_ref"): (1.5, "ml"),
        ("ball", "volume_pred"): (2.0, "ml"),
        ("rod", "dice"): (2 / 3, "1"),
        ("rod", "iou"): (1 / 2, "1"),
        ("rod", "hd"): (1.0, "mm"),
        ("rod", "hd95"): (0.95, "mm"),
        ("rod", "assd"): (1 / 3, "mm"),
        ("rod", "masd"): (1 / 4, "mm"),
        ("rod", "tp"): (1, "voxel"),
        ("rod", "fp"): (0, "voxel"),
        ("rod", "fn"): (1, "voxel"),
        ("rod", "volume_ref"): (1.0, "ml"),
        ("rod", "volume_pred"): (0.5, "ml"),
    }
    assert {k: (r["value"], r["unit"]) for k, r in rows.items()} == {
        k: (pytest.approx(v), unit) for k, (v, unit) in expected.items()
    }
    assert {r["status"] for r in rows.values()} == {OK}
    assert all(isinstance(r["value"], float) for r in rows.values())
    assert {(r["label"], r["n_ref"], r["n_pred"]) for r in rows.values()} == {("ball", 3, 4), ("rod", 2, 1)}
    assert {r["spacing"] for r in rows.values()} == {"500 x 1 x 1 mm"}
    assert {r["split"] for r in rows.values()} == {"val"}
    expected_ids = {name: row.definition for rows in (METRICS, QUANTITIES) for name, row in rows.items()}
    assert all(row["definition"] == expected_ids[metric] for (_, metric), row in rows.items())


@pytest.mark.parametrize(
    ("unit", "dims", "expected", "factor"),
    [("mm", 3, "ml", 1e-3), ("um", 3, "um3", 1), ("um", 2, "um2", 1), ("px", 2, "px2", 1)],
)
def test_units_of_volume(unit: str, dims: int, expected: str, factor: float) -> None:
    ones = np.ones((2,) * dims)
    row = scored(ones, ones, volume=0.25, unit=unit)["ball", "volume_ref"]
    assert (row["value"], row["unit"]) == (pytest.approx(2**dims * 0.25 * factor), expected)


@pytest.mark.parametrize(
    ("reference", "prediction", "status"),
    [
        ([[0, 2]], [[0, 2]], ABSENT),
        ([[0, 2]], [[1, 2]], SPURIOUS),
        ([[1, 2]], [[0, 2]], MISSED),
        ([[1, 2]], [[1, 0]], OK),
    ],
)
def test_the_reference_alone_decides_whether_a_class_is_scored(reference: Any, prediction: Any, status: str) -> None:
    rows = scored(reference, prediction)
    for metric in DEFAULT.of_label("ball"):
        # The worst distance is the diagonal of the grid: one voxel of 2 x 1 mm beside another.
        worst = 8**0.5 if metric not in ("dice", "iou") else 0.0
        best = 1.0 if metric in ("dice", "iou") else 0.0
        expected = {OK: best, MISSED: worst}.get(status, math.nan)
        assert rows["ball", metric]["value"] == pytest.approx(expected, nan_ok=True)
        assert rows["ball", metric]["status"] == status
    # Counts and volumes always have a number: what was invented stands there.
    assert rows["ball", "fp"]["value"] == (status == SPURIOUS)
    assert rows["ball", "volume_pred"]["value"] == pytest.approx(2.0 * (np.asarray(prediction) == 1).sum())


def test_a_case_that_failed_has_the_worst_value_and_its_reason() -> None:
    rows = scored([[0, 2, 2]], None, failure="out of memory")
    assert (rows["rod", "dice"]["value"], rows["rod", "iou"]["value"]) == (0.0, 0.0)
    assert [rows["rod", m]["value"] for m in ("tp", "fp", "fn")] == [0.0, 0.0, 2.0]
    assert rows["rod", "hd95"]["value"] == pytest.approx((2**2 + 3**2) ** 0.5)
    assert math.isnan(rows["ball", "dice"]["value"])
    assert math.isnan(rows["ball", "hd95"]["value"])
    assert {r["status"] for r in rows.values()} == {"failed: out of memory"}


# The stage


@pytest.fixture
def predictions(study: Any, tmp_path: Path) -> Any:
    """``predictions(name)``: a copy of a data set's predictions that may be spoilt."""

    def build(name: str) -> Path:
        shutil.copytree(study.predictions(name).parent, tmp_path / name)
        return tmp_path / name / "predictions.json"

    return build


def seal(path: Path) -> None:
    """Record the digests of the files that are there."""
    facts = read_record(path, "")
    for entry in facts["cases"].values():
        entry["sha256"] = sha256_file(path.parent / entry["file"])
    write_record(path, facts)


def first_file(path: Path) -> Path:
    return path.parent / next(iter(read_record(path, "")["cases"].values()))["file"]


def evaluated(study: Any, name: str, path: Path, out: Path) -> pd.DataFrame:
    stage.run(study.config, study.manifest(name), path, out)
    return pd.read_parquet(out)


@pytest.mark.parametrize("name", ["flat", "solid"])
def test_table_of_a_training(study: Any, tmp_path: Path, name: str) -> None:
    table = evaluated(study, name, study.predictions(name), tmp_path / "F.parquet")
    cases = read_record(study.predictions(name), "")["cases"]
    assert tuple(table.columns) == COLUMNS
    metrics = [*DEFAULT.of_label("ball"), *(name for name, one in QUANTITIES.items() if "objects" not in one.needs)]
    assert table.groupby(["case", "label"])["metric"].apply(list).tolist() == [metrics] * (len(cases) * 2)
    assert not table.duplicated(["case", "label", "metric"]).any()
    assert table.value.dtype == np.float64
    is_score = table.metric.isin(list(METRICS))
    assert (table.value.isna() == (is_score & (table.n_ref == 0))).all()
    manifest = read_manifest(study.manifest(name))
    for case in cases:
        reference, grid = read_labels(study.folder(name) / manifest.case(case).labels[0])
        row = table[(table.case == case) & (table.label == "rod") & (table.metric == "volume_ref")].iloc[0]
        factor = 1e-3 if name == "solid" else 1.0
        assert row.value == pytest.approx((reference == 3).sum() * grid.voxel_volume * factor)


def test_a_perfect_prediction_scores_one_and_equal_tables_have_equal_bytes(
    study: Any, predictions: Any, tmp_path: Path
) -> None:
    path = predictions("solid")
    for case, entry in read_record(path, "")["cases"].items():
        shutil.copy(study.folder("solid") / "labelsTr" / f"{case}.nii.gz", path.parent / entry["file"])
    seal(path)
    table = evaluated(study, "solid", path, tmp_path / "a.parquet")
    assert set(table[table.metric.isin(["dice", "iou"])].value) == {1.0}
    assert set(table[table.metric.isin(["fp", "fn"])].value) == {0.0}
    evaluated(study, "solid", path, tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_instances_are_scored_as_one_class() -> None:
    table = LabelTable.create({"cell": 1}, instances=True)
    reference, prediction = np.array([[0, 7, 9, 0]]), np.array([[0, 1, 1, 1]])
    maps = table.to_channels(reference), table.to_channels(prediction)
    rows = score_case(KEY, "c", "s", *maps, table, grid_of(reference.shape))
    assert {r["metric"]: r["value"] for r in rows}["dice"] == pytest.approx(0.8)


def test_regions_are_scored_in_place_of_classes_and_only_where_somebody_annotated() -> None:
    table = LabelTable.create({"a": 1, "b": 2}, regions={"both": ["a", "b"], "b": ["b"]}, ignore=9)
    reference, prediction = np.array([[0, 1, 2, 9, 9, 2]]), np.array([[1, 2, 2, 1, 0, 0]])
    maps = table.to_channels(reference), table.to_channels(prediction)
    rows = score_case(KEY, "c", "s", *maps, table, grid_of(reference.shape))
    found = {(r["label"], r["metric"]): r["value"] for r in rows}
    assert [found["both", m] for m in ("tp", "fp", "fn", "volume_ref", "volume_pred")] == [2, 1, 1, 3, 3]
    assert [found["b", m] for m in ("tp", "fp", "fn", "volume_ref", "volume_pred")] == [1, 1, 1, 2, 2]
    assert ("a", "dice") not in found


def test_a_reference_without_annotation_scores_nothing_and_says_so() -> None:
    table = LabelTable.create({"a": 1}, ignore=9)
    nothing = table.to_channels(np.full((2, 2), 9))
    rows = score_case(KEY, "c", "s", nothing, np.ones((2, 2), int), table, grid_of((2, 2)))
    scores = [r for r in rows if r["metric"] in ("dice", "iou")]
    assert all(np.isnan(r["value"]) and r["status"] == NOT_ANNOTATED for r in scores)
    assert {r["value"] for r in rows if r["unit"] == "voxel"} == {0.0}


@pytest.mark.parametrize("change", ["shift", "flip", "crop"])
def test_grids_that_differ_are_an_error(study: Any, predictions: Any, tmp_path: Path, change: str) -> None:
    path = predictions("solid")
    file = first_file(path)
    image = nibabel.load(file)
    data, affine = np.asanyarray(image.dataobj), image.affine.copy()
    if change == "shift":
        affine[:3, 3] += 0.3 * affine[:3, 0]
    elif change == "flip":
        affine[:3, 0] *= -1
    else:
        data = data[:-1]
    write_labels(file, np.ascontiguousarray(data), Geometry.create(data.shape, affine))
    seal(path)
    with pytest.raises(GeometryError, match=rf"{file.name}.*(differ by|shape)"):
        evaluated(study, "solid", path, tmp_path / "F.parquet")
    assert not (tmp_path / "F.parquet").exists()


def test_a_rounding_of_the_affine_is_no_difference(study: Any, predictions: Any, tmp_path: Path) -> None:
    path = predictions("solid")
    file = first_file(path)
    image = nibabel.load(file)
    nibabel.save(nibabel.Nifti1Image(np.asanyarray(image.dataobj), image.affine + 1e-4), file)
    seal(path)
    evaluated(study, "solid", path, tmp_path / "F.parquet")


def test_values_that_are_no_class_are_an_error_not_background(study: Any, predictions: Any, tmp_path: Path) -> None:
    path = predictions("flat")
    file = first_file(path)
    labels, geometry = read_labels(file)
    labels = labels.copy()
    labels[0, :5] = 9
    write_labels(file, labels, geometry)
    seal(path)
    with pytest.raises(MedsegError, match="9"):
        evaluated(study, "flat", path, tmp_path / "F.parquet")


@pytest.mark.parametrize("damage", ["changed", "gone", "no case", "no reference"])
def test_what_cannot_be_scored_is_an_error(study: Any, predictions: Any, tmp_path: Path, damage: str) -> None:
    path, manifest = predictions("flat"), study.manifest("flat")
    file = first_file(path)
    expected = file.name.replace(".", r"\.")
    if damage == "changed":
        labels, geometry = read_labels(file)
        write_labels(file, np.zeros_like(labels), geometry)
    elif damage == "gone":
        file.unlink()
    elif damage == "no case":
        facts = read_record(path, "")
        facts["cases"]["ghost"] = next(iter(facts["cases"].values()))
        write_record(path, facts)
        expected = "ghost"
    else:
        bare = read_manifest(manifest)
        cases = [_unlabelled(c) for c in bare.cases]
        write_manifest(type(bare)(bare.dataset, bare.dims, bare.channels, bare.labels, tuple(cases)), tmp_path / "m")
        manifest, expected = tmp_path / "m" / "manifest.tsv", "no reference"
    with pytest.raises(DataError, match=expected):
        stage.run(study.config, manifest, path, tmp_path / "F.parquet")
    assert not (tmp_path / "F.parquet").exists()


def test_a_prediction_recorded_as_failed_is_scored_as_the_worst(study: Any, predictions: Any, tmp_path: Path) -> None:
    path = predictions("flat")
    facts = read_record(path, "")
    case = next(iter(facts["cases"]))
    facts["cases"][case] = {"failed": "the network's output is not finite"}
    write_record(path, {**facts, "split": "test"})
    table = evaluated(study, "flat", path, tmp_path / "F.parquet")
    mine = table[(table.case == case) & (table.metric == "dice") & (table.n_ref > 0)]
    assert set(mine.value) == {0.0}
    assert set(mine.status) == {"failed: the network's output is not finite"}
    assert set(table.case) == set(facts["cases"])
    assert set(table.split) == {"test"}


def with_metrics(config: Config, name: str, **section: Any) -> Config:
    dataset = config.datasets[name].model_copy(update={"metrics": MetricsConfig(**section)})
    return config.model_copy(update={"datasets": {**config.datasets, name: dataset}})


def test_a_tolerance_gives_rows_of_nsd(study: Any, tmp_path: Path) -> None:
    config = with_metrics(study.config, "flat", tolerance={"ball": 1.0, "rod": 2.5})
    stage.run(config, study.manifest("flat"), study.predictions("flat"), tmp_path / "F.parquet")
    table = pd.read_parquet(tmp_path / "F.parquet")
    nsd = table[table.metric == "nsd"].drop_duplicates(["label", "definition"])
    expected = METRICS["nsd"].definition
    assert dict(zip(nsd.label, nsd.definition, strict=True)) == {
        "ball": f"{expected}@1 px",
        "rod": f"{expected}@2.5 px",
    }


def test_a_tolerance_of_no_class_is_refused(study: Any, tmp_path: Path) -> None:
    config = with_metrics(study.config, "flat", tolerance={"balls": 2.0})
    with pytest.raises(
        ConfigError, match=r"datasets\.flat\.metrics\.tolerance: no class or region 'balls'; there are: ball"
    ):
        stage.run(config, study.manifest("flat"), study.predictions("flat"), tmp_path / "F.parquet")
    assert not (tmp_path / "F.parquet").exists()


def _unlabelled(case: Any) -> Any:
    from dataclasses import replace

    return replace(case, labels=(), labels_sha256=())


@pytest.mark.parametrize("count", [2, 3])
def test_shards_joined_are_the_table_of_one_job(study: Any, tmp_path: Path, count: int) -> None:
    predictions, out = study.predictions("flat"), tmp_path / "scores.parquet"
    stage.run(study.config, study.manifest("flat"), predictions, tmp_path / "whole.parquet")
    # Two cases: of three shards, the last has none.
    for index in range(count):
        with pytest.raises(DataError, match=f"no such file; run `medseg evaluate --shard {index}/{count}` first"):
            stage.join(study.config, predictions, out, count)
        stage.run(study.config, study.manifest("flat"), predictions, out, Shard(index, count))
    assert not out.exists()
    stage.join(study.config, predictions, out, count)
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_shards_are_no_tables_of_a_training(study: Any, tmp_path: Path) -> None:
    predictions, out = study.predictions("flat"), tmp_path / "evaluate" / "unet" / "fold0-seed0.parquet"
    for index in range(2):
        stage.run(study.config, study.manifest("flat"), predictions, out, Shard(index, 2))
    stage.join(study.config, predictions, out, 2)
    assert list(tmp_path.glob("evaluate/*/*.parquet")) == [out]


@pytest.mark.parametrize(
    ("key", "value", "cause"),
    [
        ("cases", None, "scores of other cases than this part"),
        ("model", "other", "scores of model .*is of 'other'"),
        ("seed", 99, "scores of seed .*is of '99'"),
        ("split", "test", "scores of split .*is of 'test'"),
        ("sha256", "0" * 64, "the predictions of .* changed after they were scored"),
        ("failed", "why", "the predictions of .* changed after they were scored"),
    ],
)
def test_shards_of_other_predictions_are_not_joined(
    study: Any, predictions: Any, tmp_path: Path, key: str, value: Any, cause: str
) -> None:
    path, out = predictions("flat"), tmp_path / "scores.parquet"
    for index in range(2):
        stage.run(study.config, study.manifest("flat"), path, out, Shard(index, 2))
    facts = read_record(path, "")
    # The first case is in the first of two shards.
    first = next(iter(facts["cases"]))
    if key == "cases":
        facts["cases"].pop(first)
    elif key == "failed":
        facts["cases"][first] = {key: value}
    elif key == "sha256":
        facts["cases"][first][key] = value
    else:
        facts[key] = value
    write_record(path, facts)
    with pytest.raises(DataError, match=rf"shard-0-of-2\.parquet: {cause}.*; run `medseg evaluate --shard 0/2` again"):
        stage.join(study.config, path, out, 2)
    assert not out.exists()
