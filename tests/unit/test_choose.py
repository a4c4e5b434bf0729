"""Post-processing is chosen on cases that results are not about, adopted where it helps, and part of the model."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medseg.config import Config, CrfConfig, PostprocessConfig, load_config
from medseg.errors import CheckpointError, ConfigError, DataError
from medseg.evaluate import run as evaluate
from medseg.evaluate.score import score_case
from medseg.files import read_json
from medseg.formats.read import read_labels
from medseg.formats.write import write_labels
from medseg.image.geometry import Geometry
from medseg.image.labels import LabelTable
from medseg.ingest import run as ingest
from medseg.ingest.manifest import read_manifest
from medseg.ingest.splits import read_split
from medseg.postprocess import choose
from medseg.postprocess import run as postprocess
from medseg.postprocess.candidates import Situation, rounds
from medseg.postprocess.effect import read_effect
from medseg.postprocess.operations import check
from medseg.postprocess.scoring import Gains, target_scores
from medseg.postprocess.settled import read_settled
from medseg.postprocess.targets import drop_small, keep_largest
from medseg.postprocess.thresholds import apply_threshold
from medseg.predict.probabilities import Probabilities
from medseg.predict.record import PredictedCase, Predictions, label_map_digest, write_predictions
from medseg.preprocess.inverse import KeptBox
from medseg.results.key import ALL, RunKey
from medseg.results.paths import Results
from tests.fake_study import FakeStudy

CASES, FOLDS = 24, 3
Paint = Callable[[np.random.Generator, np.ndarray], None]


def organ(rng: np.random.Generator, labels: np.ndarray) -> None:
    """One disc of class 1, one of class 2."""
    rows, columns = np.ogrid[: labels.shape[0], : labels.shape[1]]
    for value, (row, column) in ((1, (14, 14)), (2, (34, 32))):
        radius = 6 + rng.integers(0, 3)
        labels[(rows - row) ** 2 + (columns - column) ** 2 < radius**2] = value


def paired(rng: np.random.Generator, labels: np.ndarray) -> None:
    """Class 1 legitimately has two parts, the second far away."""
    organ(rng, labels)
    labels[38:46, 3:11] = 1


def specks(rng: np.random.Generator, labels: np.ndarray) -> None:
    """What a network invents: small components of class 1."""
    for _ in range(rng.integers(1, 4)):
        row, column = rng.integers(0, 3), rng.integers(0, 44)
        labels[row : row + 3, column : column + 3] = 1


def nothing(rng: np.random.Generator, labels: np.ndarray) -> None:
    """A perfect network."""


@dataclass
class Planted:
    """A study with made-up predictions of every fold of one model."""

    config: Config
    root: Path

    @property
    def files(self) -> Results:
        return Results.of(self.config)

    def key(self, fold: Any) -> RunKey:
        return RunKey("organs", "unet", fold, 0)

    @property
    def manifest(self) -> Path:
        return self.files.ingest("organs").manifest

    def choose(self, fold: Any, folds: Any = range(FOLDS)) -> dict[str, Any]:
        given = [self.files.predict(self.key(f)).record for f in folds if f != fold]
        model = self.files.model(self.key(fold)).folder
        choose.run(self.config, self.manifest, self.files.ingest("organs").splits, model, given)
        return read_json(self.files.model(self.key(fold)).postprocess)


def planted(root: Path, truth: Paint, error: Paint, choice: Any = True) -> Planted:
    data, rng = root / "data" / "organs", np.random.default_rng(5)
    grid = Geometry.from_spacing((48, 48), (1.0, 1.0))
    predicted = {}
    for number in range(CASES):
        labels = np.zeros((48, 48), np.uint8)
        truth(rng, labels)
        image = (labels * 60 + rng.integers(1, 40, labels.shape)).astype(np.uint8)
        write_labels(data / "images" / f"c{number:02}.png", image, grid)
        write_labels(data / "masks" / f"c{number:02}.png", labels, grid)
        said = labels.copy()
        said[1:3, 1:3] = 0
        error(rng, said)
        predicted[f"c{number:02}"] = said
    section = {
        "layout": "pairs",
        "path": "organs",
        "labels": {"left": 1, "right": 2},
        "postprocess": {"choose": choice},
    }
    given = {
        "experiment": "planted",
        "data_root": str(root / "data"),
        "results": str(root / "results"),
        "datasets": {"organs": {**section, "subject": "case"}},
        "models": {"unet": {"network": "unet"}},
        "folds": {"count": FOLDS, "run": list(range(FOLDS))},
        "budget": {"steps": 6},
    }
    made = Planted(load_config([], given), root)
    ingest.run(made.config, "organs", made.files.ingest("organs").folder)
    fake = FakeStudy(made.files.root, folds=(*range(FOLDS), ALL))
    for fold in (*range(FOLDS), ALL):
        fake.train(made.key(fold))
    for fold in range(FOLDS):
        folder, cases = made.files.predict(made.key(fold)), {}
        for case in read_split(made.files.ingest("organs").splits, fold)[1]:
            write_labels(folder.folder / f"{case}.png", predicted[case], grid)
            cases[case] = PredictedCase(f"{case}.png", label_map_digest(folder.folder / f"{case}.png"))
        facts = read_json(made.files.model(made.key(fold)).description)
        about = (facts["fingerprint"], facts["weights_sha256"], None)
        write_predictions(Predictions(folder.folder, made.key(fold), *about, cases))
    return made


@pytest.fixture(scope="module")
def speckled(tmp_path_factory: pytest.TempPathFactory) -> Planted:
    return planted(tmp_path_factory.mktemp("speckled"), organ, specks)


def adopted(record: dict[str, Any]) -> list[str]:
    return [choose.described(one) for one in record["choice"]["candidates"] if one["adopted"]]


def test_what_helps_is_adopted_for_every_fold_and_helps_there(speckled: Planted, tmp_path: Path) -> None:
    for fold in range(FOLDS):
        record = speckled.choose(fold)
        assert adopted(record) == ["largest component of left"], "two organs are two components of the foreground"
        assert record["steps"]["largest_component"] == ["left"] and not record["steps"]["choose"]
        foreground = record["choice"]["candidates"][0]
        assert (foreground["operation"], foreground["adopted"]) == ("largest_foreground", False)
        assert foreground["why"].startswith("the mean falls") and "right by" in foreground["why"]
        gain = record["choice"]["gain"]
        assert 0 < gain["score"]["low"] < gain["score"]["mean"] < gain["score"]["high"]
        assert gain["classes"]["right"]["mean"] == 0
        out = tmp_path / str(fold)
        model, given = speckled.files.model(speckled.key(fold)), speckled.files.predict(speckled.key(fold)).record
        postprocess.run(speckled.config, speckled.manifest, given, out, "code", model.folder)
        effect = read_effect(type(speckled.files.predict(speckled.key(fold)))(out), record["fingerprint"])
        assert effect["gain"]["score"]["mean"] > 0 and effect["cpu_seconds"] > 0
        manifest = read_manifest(speckled.manifest)
        for case, entry in read_json(out / "predictions.json")["cases"].items():
            labels, _ = read_labels(out / entry["file"])
            reference = read_labels(speckled.root / "data/organs" / manifest.case(case).labels[0])[0]
            assert (labels != reference).sum() <= 4
        evaluate.run(
            speckled.config, speckled.manifest, out / "predictions.json", out / "s.parquet", model=model.folder
        )


def test_the_fold_that_is_scored_has_no_part_in_its_choice(speckled: Planted, tmp_path: Path) -> None:
    """References of fold 0 that contradict everything change the choices of the other folds alone."""
    before = {fold: speckled.choose(fold)["choice"] for fold in range(FOLDS)}
    shutil.copytree(speckled.root, tmp_path / "copy")
    moved = {**speckled.config.model_dump(), "data_root": str(tmp_path / "copy/data")}
    changed = Planted(load_config([], {**moved, "results": str(tmp_path / "copy/results")}), tmp_path / "copy")
    rng = np.random.default_rng(1)
    for case in read_split(speckled.files.ingest("organs").splits, 0)[1]:
        labels = rng.integers(0, 3, (48, 48)).astype(np.uint8)
        path = tmp_path / "copy/data/organs/masks" / f"{case}.png"
        write_labels(path, labels, Geometry.from_spacing((48, 48), (1.0, 1.0)))
    ingest.run(changed.config, "organs", changed.files.ingest("organs").folder)
    assert changed.files.ingest("organs").splits.read_bytes() == speckled.files.ingest("organs").splits.read_bytes()
    after = {fold: changed.choose(fold)["choice"] for fold in range(FOLDS)}
    assert after[0] == before[0]
    assert after[1] != before[1] and after[2] != before[2]


def test_predictions_of_the_own_fold_are_refused(speckled: Planted) -> None:
    files, splits = speckled.files, speckled.files.ingest("organs").splits
    model = files.model(speckled.key(0)).folder
    own = files.predict(speckled.key(0)).record
    with pytest.raises(DataError, match="expected those of another numbered fold"):
        choose.run(speckled.config, speckled.manifest, splits, model, [own])


def test_two_parts_that_belong_to_a_class_stay(tmp_path: Path) -> None:
    made = planted(tmp_path, paired, specks, ["largest_component"])
    for fold in range(FOLDS):
        record = made.choose(fold)
        assert adopted(record) == []
        assert all(one["why"] for one in record["choice"]["candidates"])
        assert record["choice"]["gain"] is None and not record["steps"]["largest_component"]


def test_small_components_go_by_volume_where_large_parts_must_stay(tmp_path: Path) -> None:
    made = planted(tmp_path, paired, specks)
    (one,) = [c for c in made.choose(0)["choice"]["candidates"] if c["adopted"]]
    assert (one["operation"], one["target"]) == ("min_volume", "left")
    assert 9 < one["value"] < 64, "above single specks, below the second part"


def test_nothing_is_adopted_of_perfect_predictions_or_by_few_subjects(tmp_path: Path) -> None:
    assert adopted(planted(tmp_path / "a", organ, nothing).choose(0)) == []
    drawn = iter([True] * 3 + [False] * CASES)

    def rarely(rng: np.random.Generator, labels: np.ndarray) -> None:
        if next(drawn):
            specks(rng, labels)

    record = planted(tmp_path / "b", organ, rarely).choose(ALL)
    assert adopted(record) == []
    assert any("by more than noise (p = 0.12)" in one["why"] for one in record["choice"]["candidates"])


def test_all_cases_take_the_choice_of_all_folds_and_one_fold_has_none(
    speckled: Planted, capsys: pytest.CaptureFixture[str]
) -> None:
    record = speckled.choose(ALL)
    assert record["choice"]["subjects"] == CASES and record["choice"]["folds"] == [0, 1, 2]
    assert adopted(record) == ["largest component of left"]
    alone = speckled.choose(0, folds=[])
    assert alone["choice"]["candidates"] == [] and not alone["steps"]["largest_component"]
    assert "no inner data" in alone["choice"]["said"] and "no inner data" in capsys.readouterr().err


def test_the_choice_repeats_bit_for_bit(speckled: Planted) -> None:
    speckled.choose(1)
    path = speckled.files.model(speckled.key(1)).postprocess
    first = path.read_bytes()
    speckled.choose(1)
    assert path.read_bytes() == first


def test_a_choice_of_another_training_or_configuration_is_refused(speckled: Planted, tmp_path: Path) -> None:
    speckled.choose(0)
    model = shutil.copytree(speckled.files.model(speckled.key(0)).folder, tmp_path / "m")
    other = speckled.config.datasets["organs"].model_copy(
        update={"postprocess": type(speckled.config.datasets["organs"].postprocess)(choose=["fill_holes"])}
    )
    config = speckled.config.model_copy(update={"datasets": {"organs": other}})
    given = speckled.files.predict(speckled.key(0)).record
    with pytest.raises(DataError, match="chosen for another configuration"):
        postprocess.run(config, speckled.manifest, given, tmp_path / "o", "code", model)
    with pytest.raises(ConfigError, match="give it"):
        postprocess.run(config, speckled.manifest, given, tmp_path / "o", "code")
    shutil.copy(speckled.files.model(speckled.key(1)).description, model)
    with pytest.raises(CheckpointError, match="of another training"):
        read_settled(model)


# Scores and operations


def test_the_score_is_that_of_the_ranking() -> None:
    rng, table = np.random.default_rng(0), LabelTable.create({"a": 1, "b": 2, "c": 3}, ignore=9)
    grid = Geometry.from_spacing((6, 6), (1.0, 1.0))
    for _ in range(20):
        reference = table.to_channels(rng.choice([0, 0, 1, 2, 9], (6, 6)))
        labels = rng.choice([0, 0, 1, 3], (6, 6)).astype(np.uint8)
        found = target_scores(reference, labels, table)
        said = table.to_channels(labels)
        rows = score_case(RunKey("d", "m", 0, 0), "c", "s", reference, said, table, grid)
        for name, score in zip(table.target_names, found, strict=True):
            (row,) = [r for r in rows if (r["label"], r["metric"]) == (name, "dice")]
            expected = row["value"] if row["n_ref"] else float(row["n_pred"] == 0)
            assert score == expected


def test_gains_are_differences_of_means_and_the_test_is_exact() -> None:
    before = np.array([[0.5, 0.9], [0.6, np.nan], [0.7, 0.8], [0.9, 0.9], [0.2, 0.1]])
    after = before + np.array([[0.1, 0.0], [0.2, 0.0], [0.1, 0.0], [0.1, 0.0], [0.3, 0.0]])
    gains = Gains.of(before, after)
    expected = np.nanmean(np.nanmean(after, axis=0) - np.nanmean(before, axis=0))
    assert gains.score.mean == pytest.approx(expected)
    assert gains.classes[0].mean == pytest.approx(0.16) and gains.classes[1].mean == 0
    assert (gains.p, gains.changed, gains.falls()) == (1 / 32, 5, [])
    assert Gains.of(after, before).p == 1.0 and Gains.of(after, before).falls() == [0]
    assert Gains.of(before, before).changed == 0


def test_what_lies_beneath_a_region_comes_to_light() -> None:
    table = LabelTable.create(
        {"edema": 1, "core": 2, "enhancing": 3},
        regions={"whole": ["edema", "core", "enhancing"], "solid": ["core", "enhancing"], "active": ["enhancing"]},
    )
    labels = np.array([[1, 2, 3, 1, 3, 1, 0, 1]], np.uint8)
    assert keep_largest(labels, "solid", table).tolist() == [[1, 2, 3, 1, 1, 1, 0, 1]]
    assert keep_largest(labels, "active", table).tolist() == [[1, 2, 3, 1, 2, 1, 0, 1]]
    assert keep_largest(labels, "whole", table).tolist() == [[1, 2, 3, 1, 3, 1, 0, 0]]
    assert drop_small(labels, "solid", 3, table).tolist() == [[1, 1, 1, 1, 1, 1, 0, 1]]


def test_thresholds_take_the_place_of_one_half() -> None:
    box = KeptBox((0, 1), (False, False), (0, 1), (1, 3))
    grid = Geometry.from_spacing((1, 4), (1.0, 1.0))
    one = LabelTable.create({"vessel": 7})
    values = np.array([[[0.8, 0.6, 0.3]], [[0.2, 0.4, 0.7]]], np.float16)
    assert apply_threshold(Probabilities(values, box), grid, {"vessel": 0.3}, one).tolist() == [[0, 0, 7, 7]]
    assert apply_threshold(Probabilities(values, box), grid, {}, one).tolist() == [[0, 0, 0, 7]]
    regions = LabelTable.create({"rim": 1, "core": 2}, regions={"all": ["rim", "core"], "core": ["core"]})
    values = np.array([[[0.9, 0.45, 0.9]], [[0.55, 0.9, 0.2]]], np.float16)
    found = apply_threshold(Probabilities(values, box), grid, {"all": 0.4, "core": 0.6}, regions)
    assert found.tolist() == [[0, 1, 2, 1]]
    with pytest.raises(ConfigError, match="the largest probability wins"):
        check(PostprocessConfig(threshold={"a": 0.4}), LabelTable.create({"a": 1, "b": 2}), "d")
    with pytest.raises(ConfigError, match="no region or class"):
        check(PostprocessConfig(choose=["threshold"], threshold={"b": 0.4}), one, "d")
    with pytest.raises(ConfigError, match=r"d\.postprocess\.choose: is for classes"):
        check(PostprocessConfig(choose=True), LabelTable.create({"cell": 1}, instances=True), "d")
    with pytest.raises(ConfigError, match="crf and threshold"):
        load_config(
            [],
            {"experiment": "e", "datasets": {"d": {"path": "d", "postprocess": {"crf": {}, "threshold": {"a": 0.4}}}}},
        )


def test_what_is_tried_follows_from_the_words_and_what_is_fixed() -> None:
    one, two = LabelTable.create({"a": 1}), LabelTable.create({"a": 1, "b": 2})
    regions = LabelTable.create({"a": 1, "b": 2}, regions={"all": ["a", "b"], "inner": ["b"]})

    def tried(table: LabelTable, **section: Any) -> list[list[list[tuple[str, Any]]]]:
        given = Situation(PostprocessConfig(**section), table, {"a": 1234.0})
        return [[[(c.operation, c.target or c.value) for c in group] for group in one] for one in rounds(given)]

    everything = ["min_volume", "largest_component", "fill_holes", "threshold", "crf"]
    assert [one[0][0][0] for one in tried(one, choose=everything)] == [
        *("crf", "threshold", "fill_holes", "largest_component", "min_volume"),
    ], "in the order in which they are applied, whatever the order of the words"
    assert tried(two, choose=["largest_component"]) == [
        [[("largest_foreground", True)]],
        [[("largest_component", "a")], [("largest_component", "b")]],
    ]
    assert tried(two, choose=["largest_component"], largest_component=["a"], largest_foreground=True) == [
        [[("largest_component", "b")]]
    ]
    assert len(tried(regions, choose=["threshold"])) == 2 and len(tried(regions, choose=["largest_component"])) == 3
    assert tried(two, choose=["threshold"]) == [] and tried(one, choose=[]) == []
    assert tried(one, choose=["threshold", "crf"], crf=CrfConfig()) == []
    volumes = rounds(Situation(PostprocessConfig(choose=["min_volume"]), two, {"a": 1234.0}))
    assert [change.value for change in volumes[0][0]] == [1.2, 12.0, 62.0, 250.0]


# Part of the model


@pytest.mark.parametrize(
    ("name", "steps"),
    [
        ("flat", {"largest_component": ["ball"], "fill_holes": True, "min_volume": {"rod": 9.0}}),
        ("solid", {"largest_foreground": True, "min_volume": {"ball": 40.0}, "min_size": 4}),
        ("solid", {"crf": {"appearance_sigma": 3.0}}),
    ],
)
def test_predicting_files_gives_what_the_study_scored(
    study: Any, tmp_path: Path, name: str, steps: dict[str, Any]
) -> None:
    from medseg.postprocess.of_model import steps_of_model
    from medseg.predict import run as predict
    from medseg.predict.files import How, predict_files

    section = study.config.datasets[name].model_dump() | {"postprocess": steps}
    given = {**study.config.model_dump(), "datasets": {name: section}}
    config, manifest = load_config([], given), read_manifest(study.manifest(name))
    model, out = shutil.copytree(study.model(name), tmp_path / "model"), tmp_path / "study"
    soft = "crf" in steps
    predict.run(config, study.manifest(name), study.splits(name), 0, model, tmp_path / "p", probabilities=soft)
    choose.run(config, study.manifest(name), study.splits(name), model, [])
    postprocess.run(config, study.manifest(name), tmp_path / "p" / "predictions.json", out, "code", model)
    entries = read_json(out / "predictions.json")["cases"]
    images = [study.folder(name) / manifest.case(case).images[0] for case in entries]
    finish = steps_of_model(model)
    assert finish is not None and finish.names == [k for k in PostprocessOrder if k in steps]
    how = How(finish=finish, allow=("shear",))
    done = predict_files(images, model, tmp_path / "files", how)
    raw = predict_files(images, model, tmp_path / "raw", How(allow=("shear",)))
    for entry, path, network in zip(entries.values(), done, raw, strict=True):
        scored = out / entry["file"]
        np.testing.assert_array_equal(read_labels(path)[0], read_labels(scored)[0])
        assert path.read_bytes() == scored.read_bytes()
        assert network.read_bytes() == (tmp_path / "p" / entry["file"]).read_bytes()
    assert any(a.read_bytes() != b.read_bytes() for a, b in zip(done, raw, strict=True)), "it does something"
    # A map of the network's own is not taken for one that is finished.
    again = predict_files(images, model, tmp_path / "raw", how)
    assert [p.read_bytes() for p in again] == [p.read_bytes() for p in done]


PostprocessOrder = ("crf", "fill_holes", "largest_foreground", "largest_component", "min_size", "min_volume")
