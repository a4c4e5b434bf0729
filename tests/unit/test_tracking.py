"""Tracking: names, journals, runs that compare, replays that add nothing, models that come back."""

from __future__ import annotations

import dataclasses
import functools
import json
import random
import re
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg import owner
from medseg.compare.block import blocks
from medseg.compare.run import read_leaderboard
from medseg.compare.run import run as compare
from medseg.compare.scored import of_frame
from medseg.compare.summary import summary_rows
from medseg.config import PostprocessConfig
from medseg.errors import CheckpointError, TrackingError
from medseg.metrics.quantities import QUANTITIES
from medseg.metrics.table import METRICS
from medseg.models.spec import NetworkSpec
from medseg.owner import owner_tags
from medseg.plan.plan import Grid, Machine, Plan, Training
from medseg.predict.files import How
from medseg.records import read_record, write_record
from medseg.results.key import RunKey
from medseg.tracking import (
    LiveTracking,
    RunSpec,
    current,
    finished,
    init_store,
    models,
    resolve_model,
    resolve_models,
    spec,
    sync,
    training_spec,
    ui_command,
)
from medseg.tracking import live as live_module
from medseg.tracking import runs as runs_module
from medseg.tracking.curves import JournalReader
from medseg.tracking.library import load_mlflow
from medseg.tracking.logged import note_card, summary_metrics
from medseg.tracking.models import OPTIONS
from medseg.tracking.names import HIDDEN, display_tags, metric_name, safe_text
from medseg.tracking.spec import plan_params
from medseg.tracking.store import check_uri, read_store
from medseg.tracking.ui import serve_ui
from medseg.tracking.views import MODELS as MODELS_VIEW
from medseg.tracking.views import OBJECT_SCORES, view_path
from medseg.tracking.views import TRAININGS as TRAININGS_VIEW
from tests.fake_study import START_MS, FakeStudy, Record, journal_of
from tests.score_tables import GAP, counts_of, score_rows, write_scores

LABELS = ("Anterior", "nucleus@3 (µm)")
MODELS = {"unet": 0.002, "deeplab": 0.001}
NETWORKS = {"unet": "unet", "deeplab": "deeplabv3"}
STEPS = (10, 20, 30)


def plan_of(model: str) -> dict[str, Any]:
    shape = ((32, 64), ((1, 1, 1), (2, 2, 1)), ((3, 3, 3),) * 2, (40, 56, 40))
    return Plan(
        model,
        Grid("mm", True, (1.0, 1.0, 1.5), ("zscore",), ({},)),
        NetworkSpec(3, 1, 3, *shape, name=NETWORKS[model]),
        Training("dice_ce", "adamw", MODELS[model], 1e-4, "default", 0.33, 2, STEPS[-1], STEPS[-1]),
        Machine("cpu", "fp32", 1),
        {"patch": "fits"},
    ).to_json()


def records(steps: int = 0) -> list[Record]:
    """A journal: losses, then validation; one undefined score."""
    out: list[Record] = [(s, START_MS + s, {"train/loss": 1 / s, "train/lr": 0.001}) for s in STEPS]
    val = {f"val/dice/{LABELS[0]}": 0.5, f"val/dice/{LABELS[1]}": 0.25, "val/dice/mean": 0.5}
    return [*out, (STEPS[-1], START_MS + 100, {**val, "val/dice/undefined": float("nan")})]


def write_journal(path: Path, lines: list[Record]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(journal_of(lines))


def training_rows(key: RunKey, fingerprint: str, factor: float = 1.0) -> list[dict[str, Any]]:
    """Dice of 0.9, 0.8, 0.7 less 0.05 in the second fold; the last case lacks the second class."""
    cases = {}
    for number in range(3):
        score = (0.9 - 0.1 * number - 0.05 * key.fold - (0.1 if key.model == "deeplab" else 0.0)) * factor
        classes = {label: counts_of(score) for label in LABELS}
        cases[f"case{key.fold}{number}"] = {**classes, **({LABELS[1]: (0, 0, 0)} if number == 2 else {})}
    where: dict[str, Any] = {"dataset": key.dataset, "model": key.model, "fold": key.fold, "seed": key.seed}
    return score_rows(cases, fingerprint=fingerprint, **where)


def write_results(results: Path, models: tuple[str, ...] = tuple(MODELS), folds: tuple[int, ...] = (0, 1)) -> FakeStudy:
    """A small experiment as the stages leave it."""
    study = FakeStudy(
        results,
        dict.fromkeys(models, STEPS[-1]),
        folds,
        plans=lambda model, _: Plan.from_json(plan_of(model)),
        rows=training_rows,
        records=records,
    ).finish()
    figures = results / "report" / "figures"
    figures.mkdir(parents=True)
    (figures / f"overlay,organs,case00,{models[0]}.png").write_bytes(b"picture")
    (figures / f"overlay,organs,case00-other,{models[0]}.png").write_bytes(b"of another model")
    return study


@pytest.fixture
def results(template: Path, tmp_path: Path) -> Path:
    """An experiment folder with a store of its own (absolute, since MLflow keeps engines by URI)."""
    with sqlite3.connect(template) as source, sqlite3.connect(tmp_path / "mlflow.db") as target:
        source.backup(target)
    source.close()
    target.close()
    folder = tmp_path / "results" / "study"
    init_store(f"sqlite:///{tmp_path}/mlflow.db", "study", folder / "tracking" / "store.json")
    return folder


def client_of(results: Path) -> Any:
    load_mlflow()
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=read_store(results / "tracking" / "store.json").uri)


def runs_by_name(results: Path) -> dict[str, Any]:
    """Current runs of the experiment; fails if two have one name."""
    client = client_of(results)
    experiment = client.get_experiment_by_name("study").experiment_id
    found = client.search_runs([experiment], "tags.`medseg.superseded` = 'false'")
    names = [r.info.run_name for r in found]
    assert len(set(names)) == len(names)
    return dict(zip(names, found, strict=True))


def rows_of(results: Path) -> dict[str, int]:
    """Rows per table of the store."""
    with sqlite3.connect(results.parents[1] / "mlflow.db") as database:
        tables = [r[0] for r in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        counts = {t: database.execute(f'SELECT count(*) FROM "{t}"').fetchone()[0] for t in tables}
    database.close()
    return counts


def store_json(results: Path) -> Path:
    return results / "tracking" / "store.json"


def a_spec(fingerprint: str = "f" * 64, model: str = "unet") -> RunSpec:
    return RunSpec("organs", model, 0, 0, fingerprint, plan_params(plan_of(model)))


# --- names and texts ---


@settings(deadline=None)
@given(st.text(max_size=80))
def test_every_class_name_becomes_a_metric_name_that_mlflow_takes(label: str) -> None:
    load_mlflow()
    from mlflow.utils.validation import _validate_metric_name

    _validate_metric_name(metric_name(f"val/dice/{label}"))


def test_metric_names_stay_if_they_can_and_differ_if_labels_do() -> None:
    labels = ["a", "a b", "a@b", "a#b", "a(b)", "", ".", "..", "x" * 300, "x" * 301, "µ", "ü"]
    names = [metric_name(f"val/dice/{label}") for label in labels]
    assert names[:2] == ["val/dice/a", "val/dice/a b"]
    assert len(set(names)) == len(labels)
    assert all(len(n) < 100 for n in names)


def test_params_are_flat_and_hold_every_decision() -> None:
    plan = plan_of("unet")
    params = plan_params(plan)
    assert params["patch"] == "40 x 56 x 40"
    assert params["strides"] == "1x1x1, 2x2x1"
    assert params["lr"] == 0.002
    assert params["network"] == "unet"
    assert (params["freeze"], params["compile"], params["options"]) == ("-", "false", "{}")
    groups = ("grid", "network", "training", "machine")
    fields = {name for group in groups for name in plan[group]} - {"statistics", "name"}
    assert set(params) == fields | {"network"}


@pytest.mark.parametrize(
    "change",
    [{"clip": 1.0}, {"warmup": 0.5}, {"freeze": ("encoder",)}, {"patience": 0.1}, {"augmentation": {"blur": {}}}],
)
def test_plans_that_differ_have_other_params(change: dict[str, Any]) -> None:
    plan = Plan.from_json(plan_of("unet"))
    assert plan_params(plan.changed(**change).to_json()) != plan_params(plan.to_json())


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("/srv/data/x", True),
        ("file:///srv/data", True),
        ("read from /mnt/a/b.png", True),
        ("~/data/a", True),
        (r"C:\data", True),
        ("organs/unet fold0 seed0", False),
        ("val/dice/mean", False),
        ("0.5 / 1.0", False),
        ("2.6.0+cpu", False),
    ],
)
def test_paths_do_not_reach_tags(text: str, hidden: bool) -> None:
    assert (safe_text(text) == HIDDEN) is hidden


def test_texts_that_mlflow_would_cut_are_cut_here_and_differ_where_the_whole_does() -> None:
    texts = [safe_text("a" * 7000 + end) for end in "xyz"]
    assert len(set(texts)) == 3
    assert all(safe_text(text) == text and len(text) <= 5000 for text in texts)
    assert safe_text("a" * 5000) == "a" * 5000


@pytest.mark.parametrize(
    "uri",
    [
        "mlruns",
        "file:///tmp/mlruns",
        "postgresql://host/db",
        "http://user:word@host",
        "sqlite:///",
        "databricks",
    ],
)
def test_stores_that_cannot_serve_are_refused_with_what_can(uri: str) -> None:
    with pytest.raises(TrackingError, match=r"expected http|MLFLOW_TRACKING_PASSWORD"):
        check_uri(uri)


def test_the_package_is_cheap_to_import() -> None:
    heavy = "mlflow", "torch", "pandas", "numpy", "matplotlib"
    code = f"import sys, medseg.tracking; sys.exit(any(m in sys.modules for m in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_training_is_described_by_its_files(tmp_path: Path) -> None:
    write_results(tmp_path, ("unet",), (0,))
    data = tmp_path / "organs"
    spec = training_spec(data / "ingest" / "manifest.tsv", data / "plan" / "unet.json", 3, 1, "key")
    assert (spec.parent_key, spec.key) == ("organs/unet", "organs/unet fold3 seed1")
    assert set(spec.child_params) - set(spec.parent_params) == {"fold", "seed"}


# --- the journal ---


@settings(deadline=None)
@given(st.lists(st.integers(1, 40), max_size=30))
def test_a_journal_read_in_any_pieces_gives_every_point_once(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[int]
) -> None:
    path = tmp_path_factory.mktemp("journal") / "journal.jsonl"
    text = journal_of(records())
    reader, found = JournalReader(path), []
    assert reader.read() == []
    with open(path, "ab") as file:
        for piece in [*pieces, len(text)]:
            file.write(text[:piece])
            file.flush()
            text = text[piece:]
            found += reader.read()
    whole = JournalReader(path).read()
    assert found == whole
    assert [p.step for p in whole if p.key == "train/loss"] == list(STEPS)
    assert not any(p.value != p.value for p in whole)
    assert reader.damaged == 0


def test_a_journal_that_was_cut_and_grew_again_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    write_journal(path, records())
    reader = JournalReader(path)
    first = reader.read()
    later = [(step, time + 5 * (step > 10), metrics) for step, time, metrics in records()]
    write_journal(path, [*later, (40, *later[-1][1:])])
    again = reader.read()
    assert {(p.key, p.step) for p in first} < {(p.key, p.step) for p in again}


def test_damaged_lines_are_counted_and_left_out(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    line = journal_of([(1, 1, {"a": 1.0})])
    path.write_bytes(b'{"step": 1}\n[]\n\x00\n' + line + line.replace(b"1.0", b"1.5") + line[:-9])
    reader = JournalReader(path)
    assert [(p.key, p.step) for p in reader.read()] == [("a", 1)]
    assert reader.damaged == 4


# --- the replay ---


def test_replaying_an_experiment_gives_runs_that_compare_and_twice_adds_nothing(results: Path) -> None:
    write_results(results)
    line = sync(results)
    assert "4 trainings of 2 models" in line
    assert "4 models" in line
    runs = runs_by_name(results)
    children = {f"organs/{m} fold{f} seed0" for m in MODELS for f in (0, 1)}
    assert set(runs) == {"organs/unet", "organs/deeplab", *children}
    unet, deeplab = runs["organs/unet"], runs["organs/deeplab"]
    assert set(unet.data.params) == set(deeplab.data.params)
    differing = {k for k, v in unet.data.params.items() if deeplab.data.params[k] != v}
    assert differing == {"model", "network", "lr"}
    # Dice of the first class 0.9, 0.8, 0.7 and 0.85, 0.75, 0.65; of the second without the last of each.
    mean = (4.65 / 6 + 3.3 / 4) / 2
    assert unet.data.metrics["cv/dice_subject/mean"] == pytest.approx(mean, abs=1e-4)
    assert unet.data.metrics["cv/dice_subject_low"] < mean < unet.data.metrics["cv/dice_subject_high"]
    assert unet.data.metrics["time/train_s"] == 100.5
    assert {"cv/miou_subject", "cv/dice_pooled/mean", "cv/score_subject/mean"} <= set(unet.data.metrics)
    board = {row["model"]: row for row in read_leaderboard(results / "compare")}
    assert float(board["unet"]["dice_subject"]) == unet.data.metrics["cv/dice_subject/mean"]
    assert unet.data.tags["medseg.folds"] == "0 1"
    note = unet.data.tags["mlflow.note.content"]
    assert f"| dice_subject | mean | {mean:.3f} | " in note
    assert f"| miou_subject | mean | {unet.data.metrics['cv/miou_subject']:.3f} | " in note
    assert "| iou_subject " not in note
    assert " | 6 | 0 | 0 |" in note
    for run in runs.values():
        assert run.info.status == "FINISHED"
        parent = run.data.tags.get("mlflow.parentRunId")
        assert parent == (runs[run.info.run_name.split(" ")[0]].info.run_id if "fold" in run.info.run_name else None)

    outputs = {name: {o.model_id for o in run.outputs.model_outputs} for name, run in runs.items()}
    assert outputs["organs/unet"] == outputs["organs/unet fold0 seed0"] | outputs["organs/unet fold1 seed0"]
    assert len(outputs["organs/unet"]) == 2

    before = rows_of(results)
    again = sync(results)
    assert "new: 0 curve points, 0 results, 0 files, 0 models" in again
    assert rows_of(results) == before


def test_a_training_shows_its_curves_scores_and_tables(results: Path) -> None:
    write_results(results, ("unet",), (0,))
    sync(results)
    client, runs = client_of(results), runs_by_name(results)
    child = runs["organs/unet fold0 seed0"]
    curve = client.get_metric_history(child.info.run_id, "train/loss")
    assert [(m.step, m.timestamp, m.value) for m in curve] == [(s, 1_700_000_000_000 + s, 1 / s) for s in STEPS]
    strange = metric_name(f"cv/dice_subject/{LABELS[1]}")
    named = {k: v for k, v in child.data.tags.items() if k.startswith("medseg.name.")}
    assert named == {f"medseg.name.{strange.split('/')[-1]}": LABELS[1]}
    values = child.data.metrics
    assert values["cv/dice_subject/Anterior"] == pytest.approx(0.8)
    assert values[strange] == pytest.approx(0.85)
    assert values["cv/dice_subject/mean"] == pytest.approx(0.825)
    assert [values[f"cv/{n}"] for n in ("n_cases", "n_missed", "n_failed", "n_spurious")] == [3, 0, 0, 0]
    assert child.data.params["parameters"] == "1234"
    assert [i.dataset.name for i in child.inputs.dataset_inputs] == ["organs"]
    table = Path(client.download_artifacts(child.info.run_id, "evaluate/cases.csv", str(results)))
    frame = pd.read_csv(table)
    computed = [name for name, metric in METRICS.items() if not {"tolerance", "objects"} & set(metric.needs)]
    counted = [name for name, one in QUANTITIES.items() if "objects" not in one.needs]
    assert list(frame.columns) == ["case", "subject", "label", *sorted([*computed, *counted]), "note"]
    assert frame["note"].notna().sum() == frame["dice"].isna().sum() == 1
    parent = runs["organs/unet"].info.run_id
    paths = [a.path for a in client.list_artifacts(parent, "overlays")]
    assert paths == ["overlays/overlay,organs,case00,unet.png"]
    (report,) = client.search_runs([runs["organs/unet"].info.experiment_id], "tags.`medseg.report` = 'true'")
    assert [a.path for a in client.list_artifacts(report.info.run_id, "report")] == ["report/index.html"]


def test_pictures_of_fixed_cases_have_the_same_keys_in_the_grids_of_all_runs(results: Path) -> None:
    write_results(results)
    picture = imagecodecs.png_encode(np.arange(12 * 9 * 4, dtype=np.uint8).reshape(12, 9, 4))
    for model in MODELS:
        for case in ("case00", "case10"):
            (results / "report" / "figures" / f"fixed,organs,{case},{model}.png").write_bytes(picture)
    sync(results)
    client, runs = client_of(results), runs_by_name(results)

    def keys(name: str) -> set[str]:
        run = runs[name]
        paths = [a.path for a in client.list_artifacts(run.info.run_id, "images")]
        start = run.info.start_time
        pattern = rf"images/(.+)\+step\+0\+timestamp\+{start}\+[0-9a-f-]{{36}}\.png"
        found = [re.fullmatch(pattern, path) for path in paths]
        for match in filter(None, found):
            assert match.group(0).replace(".png", "+compressed.webp") in paths
        assert (run.data.tags.get("mlflow.loggedImages") == "True") == bool(paths)
        return {match.group(1) for match in found if match}

    assert keys("organs/unet") == keys("organs/deeplab") == {"case00", "case10"}
    assert keys("organs/unet fold1 seed0") == keys("organs/deeplab fold1 seed0") == {"case10"}
    assert "new: 0 curve points, 0 results, 0 files, 0 models" in sync(results)


def test_scores_of_an_opened_test_set_stand_beside_if_they_are_of_these_trainings(results: Path) -> None:
    study = write_results(results, ("unet",))
    keys, files = study.trainings(), study.files

    def test_scores(fingerprints: list[str]) -> dict[str, float]:
        tables = []
        for key, fingerprint in zip(keys, fingerprints, strict=True):
            where: dict[str, Any] = {"dataset": key.dataset, "model": key.model, "fold": key.fold, "seed": key.seed}
            rows = score_rows({"t0": {"Anterior": counts_of(0.6)}}, split="test", fingerprint=fingerprint, **where)
            tables.append(write_scores(results / "test" / f"{key.fold}.parquet", rows))
        compare(tables, files.test.compare.folder)
        sync(results)
        metrics: dict[str, float] = runs_by_name(results)["organs/unet"].data.metrics
        return {name: value for name, value in metrics.items() if name.startswith("test/") and value == value}

    found = test_scores([study.fingerprint(key) for key in keys])
    assert found["test/dice_subject/mean"] == found["test/dice_subject/Anterior"] == pytest.approx(0.6)
    assert {"test/miou_subject", "test/n_missed"} <= set(found)
    assert "cv/dice_subject/mean" in runs_by_name(results)["organs/unet"].data.metrics
    assert "new: 0 curve points, 0 results" in sync(results)
    # Opened with other trainings: withdrawn.
    assert test_scores(["0" * 64, study.fingerprint(keys[1])]) == {}
    files.test.compare.summary.write_text("{}")
    assert "trainings of 1 models" in sync(results)


def test_how_objects_are_read_off_is_a_parameter_of_the_training(results: Path) -> None:
    write_results(results, ("unet",), (0,))
    path = results / "organs/train/unet/fold0-seed0/model.json"
    write_record(path, {**read_record(path, ""), "decoding": {"foreground": 0.4, "seed": 0.6}})
    sync(results)
    runs = runs_by_name(results)
    params = runs["organs/unet fold0 seed0"].data.params
    assert {k: v for k, v in params.items() if k.startswith("decoding.")} == {
        "decoding.foreground": "0.4",
        "decoding.seed": "0.6",
    }
    assert "head" in params


def test_a_tolerance_is_a_tag_and_stands_in_note_and_table(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tolerances = {LABELS[1]: "2 um"}
    monkeypatch.setattr(sys.modules[__name__], "score_rows", functools.partial(score_rows, tolerances=tolerances))
    write_results(results, ("unet",))
    sync(results)
    client, runs = client_of(results), runs_by_name(results)
    parent, child = runs["organs/unet"], runs["organs/unet fold0 seed0"]
    for run in (parent, child):
        tags = {k: v for k, v in run.data.tags.items() if k.startswith("medseg.tolerance.nsd.")}
        assert tags == {metric_name(f"medseg.tolerance.nsd.{LABELS[1]}"): "2 um"}
    note = parent.data.tags["mlflow.note.content"]
    assert "| nsd_subject (2 µm) | mean | " in note
    assert f"NSD: mean over {LABELS[1]} (2 µm); no tolerance for {LABELS[0]}." in note
    table = Path(client.download_artifacts(child.info.run_id, "evaluate/cases.csv", str(results)))
    frame = pd.read_csv(table)
    assert (frame["nsd_tolerance"].notna() == (frame["label"] == LABELS[1])).all()
    assert set(frame["nsd_tolerance"].dropna()) == {"2 um"}


def test_no_class_takes_the_name_of_a_number_beside_a_mean() -> None:
    row = {"metric": "dice_subject", "unit": "1", "low": 0.1, "high": 0.9, "median": 0.5}
    ends = {"low": 0.1, "high": 0.9, "median": 0.5}
    classes = [f"mean_{end}" for end in ends] + ["subject_low", "low", "mean/low"]
    rows = [{**row, "label": "mean", "mean": 0.5}]
    rows += [{**row, "label": label, "mean": 0.25 + k / 100} for k, label in enumerate(classes)]
    rows += [{**r, "metric": "hd95_subject", "unit": "mm"} for r in rows]
    found = summary_metrics(rows)
    # Both means, both ends of both, the median of the distance, and every class.
    assert len(found) == 2 + 4 + 1 + 2 * len(classes)
    assert len({metric_name(name) for name in found}) == len(found)
    assert found["cv/dice_subject/mean"] == 0.5
    assert (found["cv/dice_subject_low"], found["cv/dice_subject_high"]) == (0.1, 0.9)
    assert found["cv/dice_subject/mean_low"] == 0.25
    assert found["cv/hd95_subject_median"] == 0.5


def test_every_metric_of_the_table_comes_with_its_unit(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "gap", GAP)
    write_results(results, ("unet",))
    sync(results)
    runs = runs_by_name(results)
    parent, child = runs["organs/unet"], runs["organs/unet fold0 seed0"]
    values = parent.data.metrics
    # Distances are what is missing of Dice, times 20 mm (``tests/score_tables.py``).
    mean = 20 * (1 - values["cv/dice_subject/mean"])
    assert values["cv/gap_subject/mean"] == pytest.approx(mean, abs=1e-4)
    assert values["cv/gap_subject_low"] < mean < values["cv/gap_subject_high"]
    assert values["cv/gap_subject_median"] > 0
    assert child.data.metrics["cv/gap_subject/Anterior"] == pytest.approx(4.0)
    assert parent.data.tags["medseg.length_unit"] == child.data.tags["medseg.length_unit"] == "mm"
    assert f"| gap_subject | mean | {mean:.2f} mm | " in parent.data.tags["mlflow.note.content"]


def test_changed_weights_make_new_runs_and_mark_the_old_ones(results: Path) -> None:
    study = write_results(results, ("unet",), (0,))
    sync(results)
    old = runs_by_name(results)
    study.salt = "other data"
    study.finish()
    sync(results)
    new = runs_by_name(results)
    for key in ("organs/unet fold0 seed0", "organs/unet"):
        assert new[key].info.run_id != old[key].info.run_id
        tags = client_of(results).get_run(old[key].info.run_id).data.tags
        assert tags["medseg.superseded"] == "true"


def test_a_stored_model_is_replaced_if_description_or_code_changed(
    results: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_results(results, ("unet",), (0,))
    place, client = results / "organs/train/unet/fold0-seed0/model.json", client_of(results)
    experiment = client.get_experiment_by_name("study").experiment_id

    def stored() -> str:
        sync(results)
        (model,) = client.search_logged_models([experiment])
        return str(model.model_id)

    first = stored()
    assert stored() == first
    facts = read_record(place, "")
    facts["dataset"]["labels"] = {"names": {"liver": 2}}
    write_record(place, facts)
    second = stored()
    assert second != first
    folder = resolve_model(f"models:/{second}", read_store(store_json(results)).uri)
    kept_labels = read_record(folder / "model.json", "")
    assert kept_labels["dataset"]["labels"] == {"names": {"liver": 2}}
    code = tmp_path / "pyfunc_model.py"
    code.write_text(models.CODE.read_text() + "# changed\n")
    monkeypatch.setattr(models, "CODE", code)
    assert stored() not in (first, second)


def test_a_changed_plan_makes_a_new_parent(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = write_results(results, ("unet",), (0,))
    sync(results)
    old = runs_by_name(results)
    monkeypatch.setitem(MODELS, "unet", 0.5)
    study.finish()
    sync(results)
    new = runs_by_name(results)
    assert {new[k].info.run_id for k in new}.isdisjoint(old[k].info.run_id for k in old)
    assert new["organs/unet"].data.params["lr"] == "0.5"


def test_a_long_parameter_makes_no_run_or_model_again(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (spec, current, finished):
        monkeypatch.setattr(module, "plan_params", lambda plan: {**plan_params(plan), "options": "x" * 7000})
    study = write_results(results, ("unet",), (0,))
    sync(results)
    before = {name: run.info.run_id for name, run in runs_by_name(results).items()}
    assert len(runs_by_name(results)["organs/unet"].data.params["options"]) == 5000
    assert "new: 0 curve points, 0 results, 0 files, 0 models" in sync(results)
    data = results / "organs"
    fingerprint = study.fingerprint(study.trainings()[0])
    again = training_spec(data / "ingest" / "manifest.tsv", data / "plan" / "unet.json", 0, 0, fingerprint)
    with LiveTracking(store_json(results), again, data / "train" / "unet" / "fold0-seed0" / "history.jsonl"):
        pass
    assert {name: run.info.run_id for name, run in runs_by_name(results).items()} == before


def test_of_many_classes_a_note_holds_what_has_a_place_and_each_has_one_tag() -> None:
    labels = [f"class {n} (µm), a name of some length" for n in range(104)]
    tolerances = dict.fromkeys(labels[:50], "2 um")
    where: dict[str, Any] = {"dataset": "organs", "model": "unet", "fold": 0, "seed": 0}
    rows = score_rows({"a": dict.fromkeys(labels, counts_of(0.5))}, fingerprint="f", tolerances=tolerances, **where)
    (block,) = blocks(of_frame(pd.DataFrame(rows)))
    shown = summary_rows([block])
    note = note_card(a_spec(), shown, ())
    assert safe_text(note) == note
    lines = note.splitlines()
    (start,) = (n for n, line in enumerate(lines) if line.startswith("| metric"))
    assert any(line.startswith("NSD: mean over ") for line in lines[:start])
    table = lines[start + 2 : -2]
    assert all(line.startswith("| ") and line.endswith(" |") for line in table)
    means = [line for line in table if "| mean |" in line]
    assert table[: len(means)] == means
    kinds = {row["metric"] for row in shown if row["metric"].endswith("_subject") and row["label"] == "mean"}
    assert len(means) == len(kinds)
    assert lines[-1] == f"and {len(kinds) + len(labels) - len(table)} more: in the report, and among the metrics"
    assert len(display_tags(summary_metrics(shown))) == len(labels)


def test_scores_that_are_withdrawn_are_gone_from_the_stored_model_too(results: Path) -> None:
    study = write_results(results, ("unet",), (0,))
    sync(results)
    (key,) = study.trainings()
    rows = [row for row in training_rows(key, study.fingerprint(key)) if row["label"] != LABELS[1]]
    write_scores(study.files.scores(key), rows)
    study.compare()
    sync(results)
    run = runs_by_name(results)["organs/unet fold0 seed0"]
    gone = metric_name(f"cv/dice_subject/{LABELS[1]}")
    assert run.data.metrics[gone] != run.data.metrics[gone]
    (model,) = client_of(results).search_logged_models([run.info.experiment_id])
    assert gone not in {metric.key for metric in model.metrics}
    assert model.model_id in {output.model_id for output in run.outputs.model_outputs}
    assert "new: 0 curve points, 0 results, 0 files, 0 models" in sync(results)


def test_scores_measured_anew_replace_what_is_shown(results: Path) -> None:
    study = write_results(results, ("unet",), (0,))
    sync(results)
    runs = runs_by_name(results)
    before = runs["organs/unet fold0 seed0"].data.metrics
    (key,) = study.trainings()
    write_scores(study.files.scores(key), training_rows(key, study.fingerprint(key), factor=0.5))
    study.compare()
    sync(results)
    assert {n: r.info.run_id for n, r in runs_by_name(results).items()} == {n: r.info.run_id for n, r in runs.items()}
    child = runs_by_name(results)["organs/unet fold0 seed0"]
    assert runs_by_name(results)["organs/unet"].data.metrics["cv/dice_subject/mean"] == pytest.approx(0.825 / 2)
    changed = [name for name, value in child.data.metrics.items() if before[name] != value]
    assert all(f"cv/dice_{kind}/mean" in changed for kind in ("subject", "case", "pooled"))
    assert child.data.metrics["cv/dice_subject/mean"] == pytest.approx(0.825 / 2)


def test_no_user_and_no_path_in_params_tags_and_models(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "canaryuser")
    write_results(results, ("unet",), (0,))
    sync(results)
    with sqlite3.connect(results.parents[1] / "mlflow.db") as database:
        texts = []
        for table in (
            "params",
            "tags",
            "logged_model_params",
            "logged_model_tags",
            "experiment_tags",
            "datasets",
        ):
            texts += [str(row) for row in database.execute(f"SELECT * FROM {table}")]
    database.close()
    texts += [path.read_text() for path in (results.parents[1] / "mlartifacts").rglob("MLmodel")]
    dump = "\n".join(texts)
    assert "canaryuser" not in dump
    assert str(results.parents[1]) not in dump
    assert "/srv/secret" not in dump
    assert {r.data.tags["mlflow.user"] for r in runs_by_name(results).values()} == {"medseg"}


# --- models ---


@pytest.fixture
def fake_predict(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stands in for the network."""
    calls: list[Any] = []

    def predict_files(images: list[Path], model: Path, out: Path, how: Any) -> list[Path]:
        calls.append((images, model, out, how))
        return [out / image.name for image in images]

    monkeypatch.setattr("medseg.predict.files.predict_files", predict_files)
    monkeypatch.setattr("medseg.predict.code.code_of", lambda model: "digest")
    return calls


def test_what_belongs_to_a_model_is_stored_with_it_and_a_change_is_stored_anew(results: Path) -> None:
    from medseg.postprocess.settled import Settled, write_settled
    from medseg.trained import read_trained

    write_results(results, ("unet",), (0,))
    sync(results)
    source = results / "organs" / "train" / "unet" / "fold0-seed0"
    run = runs_by_name(results)["organs/unet fold0 seed0"].info.run_id
    uri = read_store(store_json(results)).uri
    assert not (resolve_model(run, uri) / "postprocess.json").exists()
    for size in (3, 5):
        write_settled(read_trained(source), Settled({}, PostprocessConfig(min_size=size)))
        sync(results)
        assert (resolve_model(run, uri) / "postprocess.json").read_bytes() == (source / "postprocess.json").read_bytes()


def test_a_model_comes_back_without_pickle_and_predicts_from_paths_to_paths(
    results: Path, fake_predict: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    write_results(results, ("unet",), (0,))
    sync(results)
    mlflow = load_mlflow()
    client = client_of(results)
    run = runs_by_name(results)["organs/unet fold0 seed0"]
    (stored,) = client.search_logged_models([run.info.experiment_id])
    assert stored.source_run_id == run.info.run_id
    mlflow.set_tracking_uri(read_store(store_json(results)).uri)
    model = mlflow.pyfunc.load_model(f"models:/{stored.model_id}", model_config={"out": "there"})
    assert model.predict(["a.nii.gz", "b.nii.gz"]) == ["there/a.nii.gz", "there/b.nii.gz"]
    (_, folder, _, how) = fake_predict[0]
    assert how == How(code="digest")
    allowing = {"allow": ["shear"], "orientation": "qform", "max_gb": 2.5}
    mlflow.pyfunc.load_model(f"models:/{stored.model_id}", model_config=allowing).predict(["a.nii.gz"])
    assert fake_predict[1][3] == How(allow=("shear",), orientation="qform", max_gb=2.5, code="digest")
    fields = {field.name for field in dataclasses.fields(How)}
    assert {*OPTIONS, "code"} - {"raw"} == fields - {"finish"}
    source = results / "organs" / "train" / "unet" / "fold0-seed0"
    for name in ("model.json", "model.safetensors"):
        assert (folder / name).read_bytes() == (source / name).read_bytes()
    stored_files = {p.suffix for p in folder.parent.rglob("*") if p.is_file()}
    assert stored_files <= {".json", ".safetensors", ".py", ".yaml", ".txt", ""}


def test_models_are_found_by_folder_run_and_name(results: Path) -> None:
    write_results(results)
    sync(results)
    uri = read_store(store_json(results)).uri
    runs = runs_by_name(results)
    child, parent = runs["organs/unet fold1 seed0"].info.run_id, runs["organs/unet"].info.run_id
    folder = results / "organs" / "train" / "unet" / "fold1-seed0"
    assert resolve_model(str(folder), None) == folder
    for reference in (child, f"runs:/{child}", f"runs:/{child}/model"):
        found = resolve_model(reference, uri)
        assert (found / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    with pytest.raises(CheckpointError, match=f"(?s)several trainings; name one of\n.*{child}  organs/unet fold1"):
        resolve_model(parent, uri)
    with pytest.raises(TrackingError, match="no run 0000"):
        resolve_model("0" * 32, uri)
    with pytest.raises(TrackingError, match="not found"):
        resolve_model("models:/nobody/1", uri)
    for nothing in ("nowhere", str(results / "organs" / "ingest")):
        with pytest.raises(CheckpointError, match="model folder"):
            resolve_model(nothing, uri)
    with pytest.raises(TrackingError, match="no such file"):
        resolve_model("0" * 32, "sqlite:///absent.db")
    (resolve_model(child, uri) / "model.safetensors").write_bytes(b"other")
    with pytest.raises(CheckpointError, match="damaged"):
        resolve_model(child, uri)


# --- a training while it runs ---


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "FINISHED"), (ValueError, "FAILED"), (KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED")],
)
def test_a_training_ends_with_its_status_and_all_its_points(
    results: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException] | None, status: str
) -> None:
    monkeypatch.setattr(live_module, "POLL_S", 0.01)
    journal = results / "state" / "journal.jsonl"
    try:
        with LiveTracking(store_json(results), a_spec(), journal):
            write_journal(journal, records())
            if error is not None:
                raise error
    except BaseException as caught:
        if error is None or type(caught) is not error:
            raise
    runs = runs_by_name(results)
    child = runs["organs/unet fold0 seed0"]
    assert child.info.status == runs["organs/unet"].info.status == status
    assert child.info.end_time is not None
    steps = [m.step for m in client_of(results).get_metric_history(child.info.run_id, "train/loss")]
    assert steps == list(STEPS)
    assert child.data.tags[f"medseg.name.{metric_name(LABELS[1])}"] == LABELS[1]


def test_a_broken_mlflow_ends_no_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(_: int) -> None:
        raise AttributeError("module 'mlflow' has no attribute 'entities'")

    monkeypatch.setattr(live_module, "load_mlflow", broken)
    with LiveTracking(tmp_path / "store.json", a_spec(), tmp_path / "journal.jsonl"):
        pass
    assert "tracking: off, MLflow cannot be imported (module 'mlflow' has no attribute" in capfd.readouterr().err


def test_machines_of_one_name_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(owner, "MACHINE_ID", tmp_path / "one")
    (tmp_path / "one").write_text("1" * 32)
    (tmp_path / "two").write_text("2" * 32)
    elsewhere = {**owner_tags(), "medseg.boot": "of another machine"}
    assert owner.is_orphan(elsewhere)
    monkeypatch.setattr(owner, "MACHINE_ID", tmp_path / "two")
    assert not owner.is_here(elsewhere)
    assert not owner.is_orphan(elsewhere)
    monkeypatch.setattr(owner, "MACHINE_ID", tmp_path / "none")
    assert owner.is_here(owner_tags())


def test_live_tracking_and_the_replay_make_the_same_runs(results: Path) -> None:
    study = write_results(results, ("unet",), (0,))
    data = results / "organs"
    fingerprint = study.fingerprint(study.trainings()[0])
    spec = training_spec(data / "ingest" / "manifest.tsv", data / "plan" / "unet.json", 0, 0, fingerprint)
    with LiveTracking(store_json(results), spec, data / "train" / "unet" / "fold0-seed0" / "history.jsonl"):
        pass
    live = {name: run.info.run_id for name, run in runs_by_name(results).items()}
    assert "new: 0 curve points" in sync(results)
    assert {name: run.info.run_id for name, run in runs_by_name(results).items()} == live


def test_runs_whose_process_is_gone_are_closed_and_others_are_not(results: Path) -> None:
    client = client_of(results)
    experiment = client.get_experiment_by_name("study").experiment_id
    alive = owner_tags()
    cases: dict[str, dict[str, str]] = {
        "alive": alive,
        "pid given anew": {**alive, "medseg.born": "1"},
        "pid gone": {**alive, "medseg.pid": "4194304"},
        "before a reboot": {**alive, "medseg.boot": "x"},
        "another machine": {**alive, "medseg.host": "x", "medseg.boot": "y"},
    }
    made = {}
    for name, tags in cases.items():
        parent = client.create_run(experiment, tags={"medseg.key": f"parent of {name}"}).info.run_id
        child = client.create_run(experiment, tags={"medseg.key": name, "mlflow.parentRunId": parent, **tags})
        made[name] = (parent, child.info.run_id)
    init_store(read_store(store_json(results)).uri, "study", store_json(results))
    status = {n: tuple(client.get_run(r).info.status for r in pair) for n, pair in made.items()}
    running = ("RUNNING", "RUNNING")
    killed = ("KILLED", "KILLED")
    assert status == {
        "alive": running,
        "pid given anew": killed,
        "pid gone": killed,
        "before a reboot": killed,
        "another machine": running,
    }


def test_a_run_created_late_for_an_earlier_start_gives_way_to_one_in_use(results: Path) -> None:
    client = client_of(results)
    experiment = client.get_experiment_by_name("study").experiment_id
    training = a_spec()
    took = [
        runs_module.open_runs(client, experiment, training, start_ms=start, alone=False)
        for start in (START_MS + 2_000, START_MS)
    ]
    lone = [
        runs_module.put_child(client, experiment, training, None, took[0][0], start_ms=start, alone=False).info.run_id
        for start in (START_MS + 1_000, START_MS - 100_000)
    ]
    assert took[0] == took[1]
    assert lone == [took[0][1]] * 2
    assert [r.info.run_name for r in client.search_runs([experiment])].count(training.key) == 1


class Slow:
    """A client of which every request waits for its turn, which a test gives."""

    def __init__(self, client: Any, turns: random.Random) -> None:
        self._client, self._turns = client, turns

    def __getattr__(self, name: str) -> Any:
        request = getattr(self._client, name)

        @functools.wraps(request)
        def late(*args: Any, **kwargs: Any) -> Any:
            time.sleep(self._turns.choice((0.0, 0.0, 0.02, 0.1)))
            try:
                return request(*args, **kwargs)
            finally:
                time.sleep(self._turns.choice((0.0, 0.0, 0.02, 0.1)))

        return late


@pytest.mark.parametrize("seed", range(6))
def test_of_runs_created_at_once_all_take_the_same_however_slow_each_request_is(results: Path, seed: int) -> None:
    client = client_of(results)
    experiment = client.get_experiment_by_name("study").experiment_id
    with ThreadPoolExecutor(4) as pool:
        took = list(
            pool.map(
                lambda n: runs_module.open_runs(
                    Slow(client, random.Random(10 * seed + n)), experiment, a_spec(), start_ms=START_MS - n, alone=False
                ),
                range(4),
            )
        )
    assert len(set(took)) == 1
    assert len(client.search_runs([experiment])) == 2


def test_one_that_was_killed_while_it_drew_its_number_is_not_waited_for_forever(
    results: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs_module, "DRAW_S", 0.1)
    client = client_of(results)
    experiment = client.get_experiment_by_name("study").experiment_id
    parent = runs_module.create_parent(client, experiment, a_spec(), start_ms=START_MS)
    create_run = client.create_run

    killed = []

    def rivalled(*args: Any, **kwargs: Any) -> Any:
        killed.append(create_run(*args, **kwargs).info.run_id)
        return create_run(*args, **kwargs)

    monkeypatch.setattr(client, "create_run", rivalled)
    made = runs_module.put_child(client, experiment, a_spec(), None, parent.info.run_id, start_ms=START_MS, alone=False)
    assert made.info.run_id not in killed
    numbers = [client.get_run(run).data.tags["medseg.number"] for run in (made.info.run_id, *killed)]
    assert numbers == ["1", "2"]


# --- the UI ---


def test_the_ui_is_for_this_machine_only(results: Path) -> None:
    uri = read_store(store_json(results)).uri
    command = ui_command(uri)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--workers") + 1] == "1"
    for call in (ui_command, serve_ui):
        refuse: Callable[..., Any] = call
        with pytest.raises(TrackingError, match="no password"):
            refuse(uri, 5000, "0.0.0.0")
        with pytest.raises(TrackingError, match="in a browser"):
            refuse("http://127.0.0.1:1")
        with pytest.raises(TrackingError, match="no such file"):
            refuse("sqlite:///absent.db")


def test_an_experiment_has_tables_whose_columns_its_runs_have(results: Path) -> None:
    write_results(results)
    sync(results)
    client, runs = client_of(results), runs_by_name(results)
    experiment = client.get_experiment_by_name("study")
    for view, count in ((MODELS_VIEW, 2), (TRAININGS_VIEW, 4)):
        assert view_path(experiment.experiment_id, view) in experiment.tags["mlflow.note.content"]
        shown = json.loads(experiment.tags[f"mlflow.sharedViewState.{view}"])
        found = client.search_runs([experiment.experiment_id], shown["searchFilter"])
        assert len(found) == count
        for run in found:
            has = {f"metrics.`{k}`" for k in run.data.metrics} | {f"params.`{k}`" for k in run.data.params}
            # This study has no objects.
            has |= {f"metrics.`{name}`" for name in OBJECT_SCORES}
            assert {shown["orderByKey"], *shown["selectedColumns"]} <= has
        # Models come in the order of the leaderboard, which is not always that of Dice.
        assert shown["orderByKey"] == "metrics.`cv/score_subject/mean`"
    assert runs["organs/unet"].data.tags["medseg.kind"] == MODELS_VIEW


# --- whole processes ---

FOLDER_SCRIPT = """
import json, os, pathlib, sys
from medseg.tracking import init_store, sync
init_store(None, "study", pathlib.Path("results/study/tracking/store.json"))
print(sync(pathlib.Path("results/study")))
sys.exit("torch" in sys.modules)
"""
MOVED_SCRIPT = """
import pathlib, warnings
from medseg.tracking import resolve_model, sync
assert "new: 0 curve points, 0 results, 0 files, 0 models" in sync(pathlib.Path("results/study"))
import mlflow
client = mlflow.MlflowClient("sqlite:///mlflow.db")
for run in client.search_runs(["1"]):
    if "mlflow.parentRunId" in run.data.tags:
        assert (resolve_model(run.info.run_id, None) / "model.json").is_file()
        assert client.list_artifacts(run.info.run_id, "evaluate")
    else:
        assert client.list_artifacts(run.info.run_id, "report") or run.data.tags["medseg.report_run"]
"""


def test_the_store_moves_with_its_folder_and_names_no_path(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    write_results(first / "results" / "study", ("unet",), (0,))
    subprocess.run([sys.executable, "-c", FOLDER_SCRIPT], cwd=first, check=True)
    with sqlite3.connect(first / "mlflow.db") as database:
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        dump = "\n".join(database.iterdump())
    database.close()
    assert str(tmp_path) not in dump
    first.rename(second)
    subprocess.run([sys.executable, "-c", MOVED_SCRIPT], cwd=second, check=True)


def test_the_run_of_a_model_stands_for_its_trainings(results: Path) -> None:
    write_results(results)
    sync(results)
    uri = f"sqlite:///{results.parents[1]}/mlflow.db"
    runs = runs_by_name(results)
    folders = resolve_models(f"runs:/{runs['organs/unet'].info.run_id}", uri)
    found = [read_record(folder / "model.json", "") for folder in folders]
    assert [(made["plan"]["model"], made["fold"]) for made in found] == [("unet", 0), ("unet", 1)]
    with pytest.raises(CheckpointError, match=r"stands for several trainings; name one of\n  .*\n  "):
        resolve_model(f"runs:/{runs['organs/unet'].info.run_id}", uri)
    child = next(name for name in runs if name.startswith("organs/unet fold1"))
    assert len(resolve_models(runs[child].info.run_id, uri)) == 1
    # One of them has no model: the others alone would be another ensemble.
    client = client_of(results)
    (stored,) = client.search_logged_models(
        [runs[child].info.experiment_id], filter_string=f"source_run_id = '{runs[child].info.run_id}'"
    )
    client.delete_logged_model(stored.model_id)
    with pytest.raises(TrackingError, match=f"holds no model; nor do {child}, of which it is the parent; .*track sync"):
        resolve_models(runs["organs/unet"].info.run_id, uri)


def test_an_ensemble_is_a_model_whose_runs_have_members_and_no_weights(results: Path) -> None:
    study = write_results(results)
    study.ensembles = {"both": list(MODELS)}
    study.finish()
    line = sync(results)
    assert "3 models" in line
    runs = runs_by_name(results)
    parent, child = runs["organs/both"], runs["organs/both fold1 seed0"]
    assert parent.data.params["members"] == child.data.params["members"] == "unet, deeplab"
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    listed = child.data.tags["medseg.members"].splitlines()
    assert [one.split(":")[0] for one in listed] == ["organs/unet fold1 seed0", "organs/deeplab fold1 seed0"]
    weights = {
        f"{key.dataset}/{key.model} {key.run.replace('-', ' ')}": read_record(study.files.model(key).description, "")[
            "weights_sha256"
        ]
        for key in study.trainings()
    }
    assert all(weights[name] == digest for name, digest in (one.split(": ") for one in listed))
    # To predict with, it stands for them.
    uri = f"sqlite:///{results.parents[1]}/mlflow.db"
    for run, count in ((child, 2), (parent, 4)):
        meant = [read_record(path / "model.json", "") for path in resolve_models(run.info.run_id, uri)]
        assert len(meant) == count and {one["plan"]["model"] for one in meant} == {"unet", "deeplab"}
    assert parent.info.status == child.info.status == "FINISHED"
    row = next(r for r in read_leaderboard(results / "compare") if r["model"] == "both")
    assert f"{parent.data.metrics['cv/dice_subject/mean']:.4f}" == f"{float(row['dice_subject']):.4f}"
    assert "time/train_s" not in child.data.metrics
    client = client_of(results)
    assert not client.search_logged_models(
        [child.info.experiment_id], filter_string=f"source_run_id = '{child.info.run_id}'"
    )
    assert "ensemble.json" in {file.path for file in client.list_artifacts(child.info.run_id)}
    assert "new: 0 curve points, 0 results, 0 files, 0 models" in sync(results)
    # Its members are trained again: another ensemble, the earlier one is out of sight.
    study.salt = "other data"
    study.finish()
    sync(results)
    assert runs_by_name(results)["organs/both"].info.run_id != parent.info.run_id
    assert client.get_run(child.info.run_id).data.tags["medseg.superseded"] == "true"
