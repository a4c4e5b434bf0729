"""Test sets: kept apart at ingest, however they are declared; opened by a command that leaves a record."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from medseg.cli.commands import app
from medseg.compare.run import read_leaderboard, read_summary
from medseg.config import Config, load_config
from medseg.errors import CheckpointError, ConfigError, DataError, DatasetFaults, Fault
from medseg.files import read_json, sha256_file
from medseg.formats.write import write_labels
from medseg.image.geometry import Geometry
from medseg.ingest import run as ingest
from medseg.ingest.manifest import read_manifest
from medseg.ingest.run import check
from medseg.records import read_record, write_record
from medseg.results.key import ALL, RunKey
from medseg.results.paths import Results
from medseg.stages import rows_of_plan, stage_digest
from medseg.testset import run as stage
from medseg.testset.openings import Opening, append_opening, read_openings, times_opened
from medseg.train import run as train
from tests.conftest import CLASSES, OBLIQUE, Study, scene
from tests.faults.sets import CASES, KINDS
from tests.faults.sets import config as set_config
from tests.records import rewrite_table

VALUES = np.array([0, *CLASSES.values()], dtype=np.uint8)
TEST_CASES = ("t0", "t1")


# Kept apart at ingest


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sound")
    for name in ("cells", "organs", "channels"):
        KINDS[name].write(root / name, CASES, 11)
    return root


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Callable[[str], Path]:
    def of(kind: str) -> Path:
        shutil.copytree(sound / kind, tmp_path / kind)
        return tmp_path / kind

    return of


def ids(kind: str) -> list[str]:
    return [f"{kind}_{k:03d}" for k in range(CASES)]


def faults_of(root: Path, kind: str, **section: Any) -> list[Fault]:
    with pytest.raises(DatasetFaults) as caught:
        check(set_config(root, kind, **section), kind)
    return list(caught.value.faults)


def ingested(root: Path, kind: str, **section: Any) -> tuple[list[str], list[str]]:
    """Ids of the manifest and of the test set; no fold may know one of the latter."""
    out = root / "out"
    ingest.run(set_config(root, kind, **section), kind, out)
    inside, test = ([c.id for c in read_manifest(out / name).cases] for name in ("manifest.tsv", "test.tsv"))
    for fold in read_json(out / "splits.json")["folds"]:
        assert sorted(fold["train"] + fold["val"]) == inside
    assert not set(inside) & set(test)
    return inside, test


def move_to_test_folders(folder: Path, cases: list[str]) -> None:
    """Move cases from imagesTr, labelsTr to imagesTs, labelsTs, and off the list of the former."""
    index = json.loads((folder / "dataset.json").read_text())
    for part in ("images", "labels"):
        (folder / f"{part}Ts").mkdir()
        for path in sorted((folder / f"{part}Tr").iterdir()):
            if path.name.startswith(tuple(cases)):
                path.rename(folder / f"{part}Ts" / path.name)
    if "training" in index:
        index["training"] = [e for e in index["training"] if not any(case in e["image"] for case in cases)]
    if "numTraining" in index:
        index["numTraining"] -= len(cases)
    (folder / "dataset.json").write_text(json.dumps(index))


@pytest.mark.parametrize("kind", ["cells", "organs", "channels"])
@pytest.mark.parametrize("way", ["list", "file"])
def test_cases_are_named(kind: str, way: str, copy: Callable[[str], Path], tmp_path: Path) -> None:
    folder, names = copy(kind), ids(kind)
    (folder / "t.csv").write_text("\n".join(["case,why", *(f"{case},x" for case in names[1:3])]))
    inside, test = ingested(tmp_path, kind, test=names[1:3] if way == "list" else "t.csv")
    assert (inside, test) == ([names[0], *names[3:]], names[1:3])


@pytest.mark.parametrize("kind", ["organs", "channels"])
def test_cases_lie_in_folders_of_their_own(kind: str, copy: Callable[[str], Path], tmp_path: Path) -> None:
    folder, names = copy(kind), ids(kind)
    move_to_test_folders(folder, names[4:])
    assert ingested(tmp_path, kind) == (names[:4], [])
    assert ingested(tmp_path, kind, test="imagesTs") == (names[:4], names[4:])
    # They are checked like all others.
    (label,) = (p for p in (folder / "labelsTs").iterdir() if p.name.startswith(names[5]))
    label.write_bytes(b"no image")
    assert [(f.code, f.case) for f in faults_of(tmp_path, kind, test="imagesTs")] == [("unreadable", names[5])]
    label.unlink()
    found = faults_of(tmp_path, kind, test="imagesTs")
    assert [(f.code, f.case) for f in found] == [("image-without-label", names[5])]
    assert "no file labelsTs/" in found[0].cause


@pytest.mark.parametrize("kind", ["organs", "channels"])
def test_folders_without_references_are_an_error_that_says_so(
    kind: str, copy: Callable[[str], Path], tmp_path: Path
) -> None:
    folder, names = copy(kind), ids(kind)
    assert [(f.code, f.file) for f in faults_of(tmp_path, kind, test="imagesTs")] == [("missing", "imagesTs")]
    move_to_test_folders(folder, names[4:])
    shutil.rmtree(folder / "labelsTs")
    (fault,) = faults_of(tmp_path, kind, test="imagesTs")
    assert (fault.code, fault.file) == ("missing", "labelsTs")
    assert "no references in labelsTs to score them by" in fault.cause
    assert "`test: [ID, …]`" in fault.fix


def write_case_table(folder: Path, last: str = "split") -> None:
    """A table of the cells: two of six are for testing, by a column of their own or by their fold."""
    rows = [f"case,image,label,{last}"]
    for k, case in enumerate(ids("cells")):
        told = ("test" if k in (1, 4) else "train") if last == "split" else ("test" if k in (1, 4) else str(k % 2))
        rows.append(f"{case},images/{case}.png,masks/{case}.png,{told}")
    (folder / "cases.csv").write_text("\n".join(rows))


def test_a_column_of_a_table_tells_them(copy: Callable[[str], Path], tmp_path: Path) -> None:
    write_case_table(copy("cells"))
    section: dict[str, Any] = {"layout": "table", "table": "cases.csv"}
    names = ids("cells")
    expected = ([names[0], *names[2:4], names[5]], [names[1], names[4]])
    assert ingested(tmp_path, "cells", **section, test={"column": "split"}) == expected
    assert ingested(tmp_path, "cells", **section, test={"column": "split", "value": "train"}) == expected[::-1]
    (fault,) = faults_of(tmp_path, "cells", **section, test={"column": "splitt"})
    assert (fault.code, "no column 'splitt', which `test` names" in fault.cause) == ("table", True)
    (fault,) = faults_of(tmp_path, "cells", **section, test={"column": "split", "value": "held"})
    assert (fault.code, "no row has 'held' in the column split" in fault.cause) == ("table", True)


def test_the_column_of_folds_may_tell_them_too(copy: Callable[[str], Path], tmp_path: Path) -> None:
    write_case_table(copy("cells"), "fold")
    section: dict[str, Any] = {"layout": "table", "table": "cases.csv", "test": {"column": "fold"}}
    assert ingested(tmp_path, "cells", **section)[1] == ["cells_001", "cells_004"]
    splits = read_json(tmp_path / "out/splits.json")
    assert splits["scheme"] == "file"
    assert [fold["val"] for fold in splits["folds"]] == [["cells_000", "cells_002"], ["cells_003", "cells_005"]]


def test_a_test_case_in_a_fold_of_ones_own_is_a_fault(copy: Callable[[str], Path], tmp_path: Path) -> None:
    folder, names = copy("cells"), ids("cells")
    own = [{"train": names[:3], "val": names[3:]}, {"train": names[3:], "val": names[:3]}]
    (folder / "own.json").write_text(json.dumps(own))
    found = faults_of(tmp_path, "cells", splits="own.json", test=[names[0]])
    assert [(f.code, f.cause) for f in found] == [("splits", f"fold {k}: {names[0]} of the test set") for k in (0, 1)]


def test_one_subject_one_side_and_the_advice_helps(copy: Callable[[str], Path], tmp_path: Path) -> None:
    folder, names = copy("cells"), ids("cells")
    rows = [f"{case},s{k // 3}" for k, case in enumerate(names)]
    (folder / "s.csv").write_text("\n".join(["case,subject", *rows]))
    section: dict[str, Any] = {"subject": "s.csv", "folds": {"count": 2}}
    (fault,) = faults_of(tmp_path, "cells", **section, test=[names[0]])
    assert (fault.code, fault.case) == ("leakage", names[1])
    assert fault.cause == f"subject s0: {names[0]} in the test set, {names[1]}, {names[2]} outside it"
    assert f"`exclude: [{names[1]}, {names[2]}]`" in fault.fix
    assert "name all cases of a subject in `test` or none" in fault.fix
    rest = [f"{case},u{k}" for k, case in enumerate(names[3:])]
    (folder / "s.csv").write_text("\n".join(["case,subject", *rows[:3], *rest]))
    assert ingested(tmp_path, "cells", **section, test=names[:3]) == (names[3:], names[:3])
    assert ingested(tmp_path, "cells", **section, test=[names[0]], exclude=names[1:3]) == (names[3:], names[:1])


@pytest.mark.parametrize("kind", ["cells", "organs"])
def test_a_copy_across_the_sides_is_a_fault_and_the_advice_helps(
    kind: str, copy: Callable[[str], Path], tmp_path: Path
) -> None:
    folder, names = copy(kind), ids(kind)
    for path in [p for p in folder.rglob("*") if p.name.startswith(names[1])]:
        shutil.copy(path, path.with_name(path.name.replace(names[1], "other")))
    if kind == "organs":
        index = json.loads((folder / "dataset.json").read_text())
        index["training"].append({"image": "imagesTr/other.nii.gz", "label": "labelsTr/other.nii.gz"})
        (folder / "dataset.json").write_text(json.dumps(index))
    (fault,) = faults_of(tmp_path, kind, subject="case", test=[names[1]])
    assert (fault.code, fault.case) == ("leakage", "other")
    assert fault.cause.endswith("one of them in the test set")
    assert fault.fix == "leave the copies out: `exclude: [other]`"
    inside, test = ingested(tmp_path, kind, subject="case", test=[names[1]], exclude=["other"])
    assert (len(inside), test) == (CASES - 1, [names[1]])


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"test": ["cell_001"]}, "test: no case 'cell_001'; did you mean 'cells_001'?"),
        ({"test": ["cells_001"], "exclude": ["cells_001"]}, "'cells_001' is in `exclude` and in `test`"),
        ({"test": "imagesTs"}, "imagesTs is a folder of decathlon and nnunet, this is pairs; name the cases"),
        ({"test": {"column": "split"}}, "a column needs the table layout, this is pairs"),
    ],
)
def test_what_cannot_be_is_refused(
    section: dict[str, Any], told: str, copy: Callable[[str], Path], tmp_path: Path
) -> None:
    copy("cells")
    with pytest.raises(ConfigError) as caught:
        check(set_config(tmp_path, "cells", **section), "cells")
    assert told in str(caught.value)


def test_everything_wrong_with_a_file_of_test_cases(copy: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy("cells")
    (fault,) = faults_of(tmp_path, "cells", test="t.csv")
    assert (fault.code, fault.file, "cannot be read" in fault.cause) == ("splits", "t.csv", True)
    (folder / "t.csv").write_text("case\ncells_001\ncell_2\ncells_001\n")
    found = faults_of(tmp_path, "cells", test="t.csv")
    assert [(f.code, f.case, f.cause) for f in found] == [
        ("splits", "cell_2", "not in the data set; did you mean 'cells_002'?"),
        ("splits", "cells_001", "is there 2 times"),
    ]
    (folder / "t.csv").write_text("case\n")
    assert [f.cause for f in faults_of(tmp_path, "cells", test="t.csv")] == ["no case in it"]


def test_a_test_case_is_not_left_out_in_silence(copy: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy("cells")
    (folder / "masks/cells_001.png").unlink()
    section = {"test": ["cells_001", "cells_002"], "allow": ["image-without-label"]}
    (fault,) = faults_of(tmp_path, "cells", **section)
    assert (fault.code, fault.case) == ("missing", "cells_001")
    assert "left out for image-without-label, which is allowed" in fault.cause


def test_somebody_must_be_left_to_train_on(copy: Callable[[str], Path], tmp_path: Path) -> None:
    copy("cells")
    (fault,) = faults_of(tmp_path, "cells", test=ids("cells"))
    assert fault.cause == "all 6 cases are in the test set"


def test_allowed_faults_of_test_cases_stay_with_them(copy: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy("cells")
    for case in ("cells_001", "cells_002"):
        path = folder / f"masks/{case}.png"
        write_labels(path, np.zeros_like(_labels_of(path)), Geometry.from_spacing(_labels_of(path).shape, (1.0, 1.0)))
    section = {"test": ["cells_001"], "allow": ["empty-label"]}
    ingested(tmp_path, "cells", **section)
    facts, test = (read_json(tmp_path / "out" / name) for name in ("dataset.json", "test.json"))
    assert ["cells_002" in line for line in facts["allowed"]] == [True]
    assert ["cells_001" in line for line in test["allowed"]] == [True]
    assert test["cases"] == 1


def _labels_of(path: Path) -> np.ndarray:
    from medseg.formats.read import read_labels

    return read_labels(path)[0]


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("heldout", "expected a list of case ids, imagesTs, FILE.csv, or {column: NAME, value: test}"),
        ({"column": "a", "cases": ["b"]}, "give exactly one of cases, file, column, split, folder; there are"),
        ({}, "there are none"),
        ({"cases": ["a"], "value": "b"}, "value belongs to column"),
        ({"colum": "a"}, "unknown key 'datasets.d.test.colum'; did you mean 'column'"),
        ([1, 2], "'datasets.d.test.cases.0': Input should be a valid string, found 1"),
        ([], "'datasets.d.test.cases'"),
        ({"file": "a.txt"}, "'datasets.d.test.file'"),
    ],
)
def test_misspelt_test_sets_are_explained(value: Any, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config([], {"datasets": {"d": {"path": "p", "test": value}}, "budget": {"steps": 1}})
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("value", "key", "found"),
    [
        (["a", "b"], "cases", ["a", "b"]),
        ("imagesTs", "folder", "imagesTs"),
        ("t.tsv", "file", "t.tsv"),
        ({"column": "split"}, "column", "split"),
    ],
)
def test_every_spelling_survives_being_written_down(value: Any, key: str, found: Any) -> None:
    loaded = load_config([], {"datasets": {"d": {"path": "p", "test": value}}, "budget": {"steps": 1}})
    again = load_config([], json.loads(loaded.model_dump_json()))
    assert again == loaded
    assert again.datasets["d"].test is not None
    assert again.datasets["d"].test.model_dump(exclude_none=True) == {key: found, "value": "test"}


@pytest.fixture(scope="session")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen tiny pictures."""
    root = tmp_path_factory.mktemp("many")
    for k in range(14):
        image, labels = scene((12, 10), k)
        grid = Geometry.from_spacing(labels.shape, (1.0, 1.0))
        write_labels(root / f"data/images/c{k:02d}.png", np.clip(image * 60 + 40, 1, 255).astype(np.uint8), grid)
        write_labels(root / f"data/masks/c{k:02d}.png", labels, grid)
    return root


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_test_subject_is_in_any_fold(many: Path, data: st.DataObject) -> None:
    """For any grouping and any list: a subject on both sides is refused; else the sides share nobody."""
    names = [f"c{k:02d}" for k in range(14)]
    subjects = data.draw(st.lists(st.integers(0, 9), min_size=14, max_size=14))
    whole = data.draw(st.booleans())
    picked = data.draw(st.sets(st.sampled_from(range(10) if whole else range(14)), min_size=1))
    test = [c for k, c in enumerate(names) if (subjects[k] if whole else k) in picked]
    rows = [f"{case},s{subject}" for case, subject in zip(names, subjects, strict=True)]
    (many / "data/s.csv").write_text("\n".join(["case,subject", *rows]))
    subject_of = dict(zip(names, subjects, strict=True))
    inside = {subject_of[c] for c in names if c not in test}
    crossing = inside & {subject_of[c] for c in test}
    section = {"path": "data", "labels": {"ball": 1, "rod": 2}, "subject": "s.csv", "allow": ["class-absent"]}
    value = {
        "data_root": str(many),
        "datasets": {"data": {**section, "test": test or None}},
        "folds": {"count": 2},
        "budget": {"steps": 1},
    }
    try:
        ingest.run(load_config([], value), "data", many / "out")
    except DatasetFaults as error:
        assert crossing or not inside
        assert {f.code for f in error.faults} <= {"leakage", "missing"}
        return
    except ConfigError as error:
        assert "2 folds need 2 subjects" in str(error)
        assert len(inside) < 2
        return
    assert not crossing
    kept = {c.id for c in read_manifest(many / "out/test.tsv").cases}
    assert kept == set(test)
    for fold in read_json(many / "out/splits.json")["folds"]:
        assert {subject_of[c] for c in fold["train"]}.isdisjoint(subject_of[c] for c in fold["val"])
        assert {subject_of[c] for part in fold.values() for c in part}.isdisjoint(subject_of[c] for c in kept)
        assert {c for part in fold.values() for c in part} == set(names) - kept


# Opened by a command


@pytest.fixture
def ready(study: Study, tmp_path: Path) -> Callable[..., tuple[Path, Config]]:
    """``ready(**changes)``: the tiny study with a test set in either data set, trained and not yet opened."""

    def build(**changes: Any) -> tuple[Path, Config]:
        results, data = tmp_path / "results" / "tiny", tmp_path / "data"
        shutil.copytree(Path(study.config.data_root), data)
        for seed, case in enumerate(TEST_CASES, start=50):
            image, labels = scene((40, 36), seed)
            grid = Geometry.from_spacing(labels.shape, (1.0, 1.0))
            write_labels(data / f"flat/images/{case}.png", np.clip(image * 60 + 40, 1, 255).astype(np.uint8), grid)
            write_labels(data / f"flat/masks/{case}.png", VALUES[labels], grid)
            image, labels = scene((20, 18, 12), seed)
            grid = Geometry.create(labels.shape, OBLIQUE)
            write_labels(data / f"solid/imagesTs/{case}.nii.gz", (image * 100).astype(np.int16), grid)
            write_labels(data / f"solid/labelsTs/{case}.nii.gz", VALUES[labels], grid)
        value = json.loads(study.config.model_dump_json())
        value["data_root"] = str(data)
        value["datasets"]["flat"] |= {"test": list(TEST_CASES), **changes}
        value["datasets"]["solid"] |= {"test": "imagesTs", **changes}
        config = load_config([], value)
        for name in config.datasets:
            ingest.run(config, name, results / name / "ingest")
            for stage_name in ("plan", "preprocess", "train"):
                shutil.copytree(study.root / name / stage_name, results / name / stage_name)
        return results, config

    return build


def test_the_rest_of_the_study_cannot_see_them(study: Study, ready: Callable[..., tuple[Path, Config]]) -> None:
    """Manifest, facts and folds have the bytes of a study that never had those cases."""
    results, config = ready()
    for name in config.datasets:
        for file in ("manifest.tsv", "dataset.json", "splits.json"):
            with_test, without = results / name / "ingest" / file, study.manifest(name).parent / file
            assert with_test.read_bytes() == without.read_bytes(), (name, file)
        assert [c.id for c in read_manifest(results / name / "ingest/test.tsv").cases] == list(TEST_CASES)


def test_a_test_set_is_opened_scored_and_recorded(ready: Callable[..., tuple[Path, Config]]) -> None:
    results, config = ready(postprocess={"min_size": 3})
    assert read_openings(results) == []
    compared = stage.run(results, config)
    assert compared == results / "test" / "compare"
    for name in config.datasets:
        place = results / "test" / name
        for kind in ("predict", "postprocess"):
            facts = read_json(place / kind / "unet/fold0-seed0/predictions.json")
            assert facts["split"] == "test"
            assert (facts["fold"], facts["seed"]) == (0, 0)
            assert sorted(facts["cases"]) == list(TEST_CASES)
        scores = pd.read_parquet(place / "evaluate/unet/fold0-seed0.parquet")
        assert set(scores["case"]) == set(TEST_CASES)
        assert set(scores["split"]) == {"test"}
    ranking = pd.read_csv(compared / "leaderboard.csv")
    assert set(ranking["dataset"]) == {"flat", "solid"}
    (opening,) = read_openings(results)
    assert opening.models == ("unet",)
    for name, found in opening.datasets.items():
        assert (found.cases, found.subjects) == (2, 2)
        assert found.test_sha256 == sha256_file(results / name / "ingest/test.tsv")
        weights = results / name / "train/unet/fold0-seed0/model.safetensors"
        assert opening.weights[f"{name}/unet/fold0-seed0"] == sha256_file(weights)
    assert read_json(Results(results).test.opened)["count"] == 1
    # Nothing outside the folder of its own was touched.
    assert {p.name for p in results.iterdir()} == {"flat", "solid", "test"}
    assert {p.name for p in (results / "flat").iterdir()} == {"ingest", "plan", "preprocess", "train"}


def test_opening_again_counts_and_keeps_the_predictions(
    ready: Callable[..., tuple[Path, Config]], monkeypatch: pytest.MonkeyPatch
) -> None:
    results, config = ready()
    stage.run(results, config, ["flat"])
    before = {p: p.stat().st_mtime_ns for p in (results / "test/flat/predict").rglob("*.png")}
    assert len(before) == 2
    monkeypatch.setattr("medseg.predict.run.Predictor", None)
    stage.run(results, config, ["flat"])
    assert {p: p.stat().st_mtime_ns for p in before} == before
    first, second = read_openings(results)
    assert second.repeats(first)
    assert list(second.datasets) == ["flat"]
    assert times_opened([first, second], "flat").startswith("opened 2 times, last on 20")
    assert times_opened([first], "flat").startswith("opened once, on 20")
    assert times_opened([first], "solid") == "not opened"
    other = config.model_copy(update={"seeds": [0, 1]})
    stage.run(results, other, ["flat"])
    third = read_openings(results)[2]
    assert not third.repeats(first)
    assert third.unfinished == ("flat/unet/fold0-seed1",)


def test_what_is_kept_was_made_by_the_code_of_its_own_stage(
    ready: Callable[..., tuple[Path, Config]], monkeypatch: pytest.MonkeyPatch
) -> None:
    codes: dict[str, str] = {}
    predict_cases, post = stage.predict.predict_cases, stage.postprocess.run
    monkeypatch.setattr(
        "medseg.testset.run.predict.predict_cases",
        lambda *given, **more: codes.update(predict=given[5]) or predict_cases(*given, **more),
    )
    monkeypatch.setattr(
        "medseg.testset.run.postprocess.run", lambda *given: codes.update(postprocess=given[4]) or post(*given)
    )
    results, config = ready(postprocess={"min_size": 3})
    stage.run(results, config, ["flat"])
    plan = read_json(results / "flat/train/unet/fold0-seed0/model.json")["plan"]
    assert codes == {
        "predict": stage_digest("predict_case", rows_of_plan(plan)),
        "postprocess": stage_digest("postprocess", {"OPERATIONS": ["min_size"]}),
    }


def test_networks_of_all_cases_are_scored_where_all_are_and_left_out_beside_folds(
    ready: Callable[..., tuple[Path, Config]], capsys: pytest.CaptureFixture[str]
) -> None:
    """Those of folds are repetitions of one method; one on more cases is another."""
    results, config = ready()
    value = json.loads(config.model_dump_json())
    value["folds"]["run"] = [0, "all"]
    key = RunKey("flat", "unet", ALL, 0)
    of_flat = Results(results).ingest("flat")
    store, plan = results / "flat/preprocess/default/index.json", results / "flat/plan/unet.json"
    inputs = train.Inputs(of_flat.manifest, plan, store, of_flat.splits, ALL, 0)
    train.run(inputs, results / ".state", Results(results).model(key).folder, "code")
    stage.run(results, load_config([], value), ["flat"])
    assert list(read_openings(results)[-1].weights) == ["flat/unet/fold0-seed0"]
    assert "networks trained on all cases are left out" in capsys.readouterr().err
    value["folds"]["run"] = ["all"]
    compared = stage.run(results, load_config([], value), ["flat"])
    assert list(read_openings(results)[-1].weights) == ["flat/unet/foldall-seed0"]
    (row,) = read_leaderboard(compared)
    assert (row["folds"], row["n_cases"]) == ("all", "2")
    assert {(t["fold"], t["split"]) for t in read_summary(compared)["trainings"]} == {("all", "test")}


def test_an_opening_that_was_killed_is_on_record(
    ready: Callable[..., tuple[Path, Config]], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(Exception):
        pass

    def kill(*_: Any, **__: Any) -> None:
        assert len(read_openings(results)) == 1
        raise Killed

    results, config = ready()
    monkeypatch.setattr("medseg.testset.run.predict.predict_cases", kill)
    with pytest.raises(Killed):
        stage.run(results, config)
    assert len(read_openings(results)) == 1


def refusal(error: type[Exception], results: Path, config: Config, *arguments: Any) -> str:
    """What a refused test says; it must leave nothing behind."""
    before = sorted(results.rglob("*"))
    with pytest.raises(error) as caught:
        stage.run(results, config, *arguments)
    assert sorted(results.rglob("*")) == before
    return str(caught.value)


def test_no_test_set_is_no_opening(ready: Callable[..., tuple[Path, Config]]) -> None:
    results, config = ready()
    value = json.loads(config.model_dump_json())
    value["datasets"]["flat"]["test"] = None
    less = load_config([], value)
    assert "datasets.flat: no test set is declared" in refusal(ConfigError, results, less, ["flat"])
    value["datasets"]["solid"]["test"] = None
    assert "no data set of the configuration declares a test set" in refusal(
        ConfigError, results, load_config([], value)
    )


def test_a_test_set_that_changed_since_the_data_were_checked_stays_closed(
    ready: Callable[..., tuple[Path, Config]],
) -> None:
    results, config = ready()
    value = json.loads(config.model_dump_json())
    value["datasets"]["flat"]["test"] = ["t0", "f1"]
    told = refusal(DataError, results, load_config([], value))
    assert "`test` of datasets.flat was different when the data set was checked" in told
    (results / "flat/ingest/test.json").unlink()
    assert "test.json: no such file" in refusal(DataError, results, config)


def spoil(results: Path, name: str, change: Callable[[dict[str, Any]], None]) -> None:
    path = results / name / "train/unet/fold0-seed0/model.json"
    facts = read_record(path, "")
    change(facts)
    write_record(path, facts)


@pytest.mark.parametrize("evidence", ["subject", "image"])
def test_models_that_saw_a_test_subject_are_refused(evidence: str, ready: Callable[..., tuple[Path, Config]]) -> None:
    results, config = ready()
    case = read_manifest(results / "flat/ingest/test.tsv").case("t1")
    seen = {
        "subject": {"dataset": "flat", "subject": "t1", "cases": {"t1_again": ["0" * 64]}},
        "image": {"dataset": "elsewhere", "subject": "anybody", "cases": {"x": [case.images_sha256[0]]}},
    }[evidence]
    spoil(results, "flat", lambda facts: facts["trained_on"]["subjects"].append(seen))
    told = refusal(DataError, results, config)
    assert "the test set was not opened" in told
    assert "flat/unet/fold0-seed0: t1: " in told


def test_the_manifest_speaks_for_models_without_a_record(
    ready: Callable[..., tuple[Path, Config]], capsys: pytest.CaptureFixture[str]
) -> None:
    results, config = ready()
    spoil(results, "flat", lambda facts: facts.pop("trained_on"))
    table = results / "flat/ingest/manifest.tsv"
    rewrite_table(table, lambda text: text.replace("f1\tf1\t", "f1\tt1\t"))
    assert "data set flat: subjects t1 are in the manifest of its folds, too" in refusal(DataError, results, config)
    rewrite_table(table, lambda text: text.replace("f1\tt1\t", "f1\tf1\t"))
    stage.run(results, config, ["flat"])
    assert read_openings(results)[0].unrecorded == ("flat/unet/fold0-seed0",)
    assert "no complete record of the subjects" in capsys.readouterr().err


def test_trainings_must_be_there_and_sound(ready: Callable[..., tuple[Path, Config]]) -> None:
    results, config = ready()
    assert "no model 'unett'" in refusal(ConfigError, results, config, ["flat"], ["unett"])
    weights = results / "flat/train/unet/fold0-seed0/model.safetensors"
    sound = weights.read_bytes()
    weights.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    assert "model.safetensors: missing or damaged" in refusal(CheckpointError, results, config, ["flat"])
    weights.write_bytes(sound)
    spoil(results, "flat", lambda facts: facts.update(seed=3))
    assert "holds another training" in (told := refusal(CheckpointError, results, config, ["flat"]))
    assert "seed 3 instead of 0" in told
    (results / "flat/train/unet/fold0-seed0/model.json").unlink()
    told = refusal(DataError, results, config, ["flat"])
    assert "no finished training of flat/unet/fold0-seed0" in told


def test_the_record_is_never_lost_in_silence(ready: Callable[..., tuple[Path, Config]]) -> None:
    results, config = ready()
    stage.run(results, config, ["flat"])
    record = Results(results).test.opened
    sound = record.read_bytes()
    record.write_bytes(sound[: len(sound) // 2])
    assert "damaged" in refusal(DataError, results, config, ["flat"])
    record.write_text('{"openings": [{"opened": "2026-01-01"}]}')
    assert "restore it from a copy" in refusal(DataError, results, config, ["flat"])
    record.write_bytes(sound.replace(b"Z", b"Y"))
    assert "damaged, edited" in refusal(DataError, results, config, ["flat"])
    record.unlink()
    assert "missing, although" in refusal(DataError, results, config, ["flat"])
    record.write_bytes(sound)
    assert append_opening(results, Opening("2026-01-01T00:00:00Z", "c", {}, {})) == 2


def test_side_by_side_keeps_the_order(
    ready: Callable[..., tuple[Path, Config]], monkeypatch: pytest.MonkeyPatch
) -> None:
    words: list[Any] = [f"name{k}" for k in range(7)]
    upper: Any = str.upper
    assert stage._each(upper, words, 2) == stage._each(upper, words, 1) == [w.upper() for w in words]
    # What a process of its own is given must reach it whole.
    results, config = ready()

    def carried(task: Any, work: Any, workers: int) -> list[Path]:
        again, same = pickle.loads(pickle.dumps((task, work)))
        assert same == work
        assert workers == 2
        return [again(one) for one in same]

    monkeypatch.setattr(stage, "_each", carried)
    assert (stage.run(results, config, workers=2) / "leaderboard.csv").is_file()


def test_the_command_prints_scores_and_how_often_it_was_opened(
    ready: Callable[..., tuple[Path, Config]], tmp_path: Path
) -> None:
    results, config = ready()
    (tmp_path / "config.json").write_text(config.model_dump_json())
    words = ["test", "--results", str(results), "--config", str(tmp_path / "config.json"), "--dataset", "flat"]
    for times in ("opened once", "opened 2 times"):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        assert "flat, test set" in done.stdout
        assert f"test set of flat: {times}" in done.stdout
        assert "test/opened.json" in done.stdout


def test_no_rule_of_the_workflow_opens_a_test_set() -> None:
    root = Path(__file__).parents[2]
    for path in [root / "Snakefile", root / "workflow/Snakefile", *(root / "workflow/rules").glob("*.smk")]:
        text = path.read_text()
        assert "medseg test " not in text, path
        assert "ingest.output.test" not in text, path
        assert "ingest.output.opening" not in text, path


def test_an_ensemble_of_all_folds_predicts_the_test_set(ready: Callable[..., tuple[Path, Config]]) -> None:
    results, config = ready()
    value = json.loads(config.model_dump_json())
    value |= {"seeds": [0, 1], "ensembles": {"seeds": {"of": ["unet"]}}}
    both = load_config([], value)
    # One of its members is missing: nothing but the training that is there.
    stage.run(results, both, ["flat"])
    (first,) = read_openings(results)
    assert list(first.weights) == ["flat/unet/fold0-seed0"]
    assert set(first.unfinished) == {"flat/unet/fold0-seed1", "flat/seeds/foldall-seed0"}
    of_flat = Results(results).ingest("flat")
    store, plan = results / "flat/preprocess/default/index.json", results / "flat/plan/unet.json"
    inputs = train.Inputs(of_flat.manifest, plan, store, of_flat.splits, 0, 1)
    train.run(inputs, results / ".state", Results(results).model(RunKey("flat", "unet", 0, 1)).folder, "code")
    compared = stage.run(results, both, ["flat"])
    name = "flat/seeds/foldall-seed0"
    opening = read_openings(results)[-1]
    assert opening.models == ("unet", "seeds") and name in opening.weights and not opening.unfinished
    assert {row["model"] for row in read_leaderboard(compared)} == {"unet", "seeds"}
    made = read_json(results / "test/flat/predict/seeds/foldall-seed0/predictions.json")
    assert set(made["members"]) == {"flat/unet/fold0-seed0", "flat/unet/fold0-seed1"}
    # Alone, by its name.
    compared = stage.run(results, both, ["flat"], ["seeds"])
    assert [row["model"] for row in read_leaderboard(compared)] == ["seeds"]
    assert list(read_openings(results)[-1].weights) == [name]
