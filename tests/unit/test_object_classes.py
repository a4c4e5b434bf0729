"""Objects of several classes, through every stage: pictures with class maps, volumes with a table of classes."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medseg.config import Config, FoldsConfig, load_config
from medseg.errors import ConfigError, DataError, DatasetFaults
from medseg.evaluate import run as evaluate
from medseg.evaluate.predicted import read_prediction
from medseg.files import read_json
from medseg.formats.read import read_labels
from medseg.formats.table import class_map
from medseg.formats.write import write_labels
from medseg.image.geometry import Geometry
from medseg.image.labels import IGNORE, LabelTable
from medseg.image.object_classes import LISTED, looked_up, majority
from medseg.ingest import run as ingest
from medseg.ingest.cases import reading_facts
from medseg.ingest.layouts.found import Candidate
from medseg.ingest.manifest import read_manifest, write_manifest
from medseg.ingest.object_classes import MIXED, ambiguous_ids, classes_of_map
from medseg.measure.predicted import PredictedObjects
from medseg.metrics.matching import Matching
from medseg.plan.plan import read_plan
from medseg.plan.survey import run_fingerprint
from medseg.postprocess import run as postprocess
from medseg.predict import run as predict
from medseg.predict.files import predict_files
from medseg.predict.record import read_predictions
from medseg.preprocess import run as preprocess
from medseg.preprocess.store import open_store
from medseg.slices import sides_stamp
from medseg.train import run as train
from medseg.train.checkpoint import read_description
from tests.plans import run_plan
from tests.services import serving

LABELS = {"tumour": 2, "stroma": 7}
TABLE = LabelTable.create(LABELS, instances=True)


def typed_balls(shape: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray, dict[int, int]]:
    """An image (S) uint8, object numbers (S) of balls that touch, and the class of each: stroma is the brighter one."""
    rng = np.random.Generator(np.random.PCG64(seed))
    place = np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")
    numbers, image = np.zeros(shape, dtype=np.uint16), np.full(shape, 40.0)
    radius, classes = 5 if len(shape) == 2 else 4, dict[int, int]()
    start = rng.integers(0, 2 * radius, len(shape))
    for corner in np.ndindex(*[n // (2 * radius) + 1 for n in shape]):
        centre = [begin + c * (2 * radius + 1) for begin, c in zip(start, corner, strict=True)]
        inside = (sum((p - c) ** 2 for p, c in zip(place, centre, strict=True)) <= radius**2) & (numbers == 0)
        if rng.random() < 0.2 or not inside.any():
            continue
        number = 3 * (len(classes) + 1)
        classes[number] = int(rng.choice([2, 7]))
        numbers[inside], image[inside] = number, {2: 110, 7: 210}[classes[number]]
    return np.clip(image + 8 * rng.standard_normal(shape), 1, 255).astype(np.uint8), numbers, classes


@dataclasses.dataclass(frozen=True)
class River:
    """A study of one data set and model, run up to its scores; ``truth``: case id -> object number -> class."""

    root: Path
    config: Config
    truth: dict[str, dict[int, int]]

    def __getattr__(self, name: str) -> Path:
        place = {"manifest": "ingest/manifest.tsv", "splits": "ingest/splits.json", "fingerprint": "plan/f.json"}
        place |= {"plan": "plan/m.json", "index": "store/index.json", "predictions": "predict/predictions.json"}
        return self.root / place.get(name, name)

    def predict(self) -> None:
        predict.run(self.config, self.manifest, self.splits, 0, self.root / "model", self.predictions.parent)


def river(root: Path, axes: int, steps: int, classes: str, **model: Any) -> River:
    """Write the data, with class maps or with a table, and run all stages."""
    data, truth, lines = root / "data", {}, ["case,object,class"]
    for index in range(4):
        shape = (52 + index, 47) if axes == 2 else (18, 17 + index, 16)
        name = f"c{index}"
        image, numbers, truth[name] = typed_balls(shape, index)
        grid = Geometry.from_spacing(shape, (1.0,) * axes)
        suffix = ".png" if axes == 2 else ".nii.gz"
        write_labels(data / "images" / f"{name}{suffix}", image, grid)
        write_labels(data / "masks" / f"{name}{suffix}", numbers, grid)
        if classes == "types":
            lookup = np.zeros(int(numbers.max()) + 1, dtype=np.uint8)
            lookup[list(truth[name])] = list(truth[name].values())
            write_labels(data / "types" / f"{name}{suffix}", lookup[numbers], grid)
        words = {2: "tumour", 7: "7"}
        lines += [f"{name},{number},{words[value]}" for number, value in truth[name].items()]
    if classes != "types":
        (data / classes).write_text("\n".join(lines))
    stages = [[1] * axes, [2] * axes, [2] * axes]
    fixed = {
        "widths": [8, 16, 16],
        "batch": 2,
        "precision": "fp32",
        "strides": stages,
        "patch": [48 - 16 * (axes - 2)] * 2,
    }
    if axes == 3:
        fixed |= {"patch": [16] * 3}
    section = {"layout": "pairs", "path": ".", "labels": LABELS, "instances": True, "classes": classes}
    config = load_config(
        [],
        {
            "experiment": "e",
            "data_root": str(data),
            "datasets": {"cells": section},
            "models": {"m": {"network": "unet", "plan": fixed, "lr": 0.01, **model}},
            "folds": {"count": 2, "run": [0]},
            "budget": {"steps": steps},
            "threads": 1,
            "device": "cpu",
        },
    )
    made = River(root, config, truth)
    ingest.run(config, "cells", made.manifest.parent)
    run_fingerprint(config, made.manifest, made.fingerprint, 1)
    run_plan(config, "m", made.fingerprint, made.plan)
    preprocess.run(config, "m", made.manifest, made.fingerprint, made.index.parent, "code", 1)
    inputs = train.Inputs(made.manifest, made.plan, made.index, made.splits, 0, 0)
    train.run(inputs, root / "state", root / "model", "code")
    made.predict()
    evaluate.run(config, made.manifest, made.predictions, root / "scores.parquet")
    return made


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> River:
    return river(tmp_path_factory.mktemp("flat"), 2, 100, "types")


@pytest.fixture(scope="module")
def solid(tmp_path_factory: pytest.TempPathFactory) -> River:
    return river(tmp_path_factory.mktemp("solid"), 3, 2, "classes.csv")


# Tables and maps of classes


@given(
    st.dictionaries(st.integers(1, 40) | st.integers(LISTED + 1, LISTED + 40), st.sampled_from([2, 7]), min_size=1),
    st.data(),
)
def test_objects_get_the_channel_of_their_class(classes: dict[int, int], data: st.DataObject) -> None:
    numbers = np.array(data.draw(st.lists(st.sampled_from([0, *classes]), min_size=1, max_size=30)), dtype=np.uint32)
    channel = {0: 0, **{number: 1 + (value == 7) for number, value in classes.items()}}
    found = TABLE.to_channels(numbers[None], classes)
    assert found.dtype == np.uint8 and found[0].tolist() == [channel[n] for n in numbers.tolist()]
    # With "not annotated", whatever class its number has.
    ignore = int(numbers[0]) if numbers[0] not in (0, 2, 7) else -1
    ignored = LabelTable.create(LABELS, instances=True, ignore=ignore).to_channels(numbers, classes)
    assert ignored.tolist() == [IGNORE if n == ignore else channel[n] for n in numbers.tolist()]


@pytest.mark.parametrize("number", [4, LISTED + 4])
def test_an_object_without_a_class_is_an_error(number: int) -> None:
    for classes in ({}, {3: 2}, {number + 1: 2}, None):
        with pytest.raises(DataError, match=rf"objects \[{number}\] have no class"):
            TABLE.to_channels(np.array([[0, number]]), classes)
    assert looked_up(np.zeros(0, dtype=np.uint8), {}).size == 0


@given(st.lists(st.tuples(st.sampled_from([3, 9, 70_000]), st.integers(0, 3)), min_size=1, max_size=40))
def test_most_voxels_decide_and_the_lower_of_equal_classes(voxels: list[tuple[int, int]]) -> None:
    numbers, channels = (np.array(column) for column in zip(*voxels, strict=True))
    best, mixed = majority(numbers, channels, 3)
    for number in set(numbers.tolist()):
        votes = Counter(channel for other, channel in voxels if other == number and channel)
        assert best[number] == min(votes, key=lambda channel: (-votes[channel], channel), default=0)
        assert (number in mixed) == (len(votes) > 1)


def test_background_and_what_nobody_annotated_have_no_vote() -> None:
    table = LabelTable.create(LABELS, instances=True, ignore=255)
    numbers = np.array([[4, 4, 4, 4, 6, 6, 255, 8]])
    classes = np.array([[0, 0, 255, 7, 2, 7, 2, 0]])
    assert classes_of_map(numbers, classes, table) == ({4: 7, 6: 2}, [6])


def test_a_table_of_object_classes_survives_json_and_has_no_regions() -> None:
    assert LabelTable.from_json(json.loads(json.dumps(TABLE.to_json()))) == TABLE
    assert TABLE.objects_have_classes and TABLE.classes == 3 and TABLE.target_names == ("tumour", "stroma")
    assert not LabelTable.create({"cell": 1}, instances=True).objects_have_classes
    with pytest.raises(ConfigError, match="object numbers"):
        LabelTable.create(LABELS, instances=True, regions={"both": ["tumour", "stroma"]})


# The configuration: each message's advice is tried


def section(**changes: Any) -> dict[str, Any]:
    return {"path": "c", "layout": "pairs", "labels": LABELS, "instances": True, "classes": "classes", **changes}


def configured(**changes: Any) -> Config:
    text = {key: value for key, value in section(**changes).items() if value is not None}
    study = {"experiment": "e", "datasets": {"cells": text}, "models": {"m": {"network": "unet"}}}
    return load_config([], {**study, "budget": {"steps": 1}})


@pytest.mark.parametrize(
    ("wrong", "cause", "advised"),
    [
        ({"classes": None}, "classes: missing; with `instances: true` and 2 labels", {"classes": "FILE.csv"}),
        ({"classes": None}, "or, in the layouts pairs and patterns, `classes: FOLDER`", {"classes": "FOLDER"}),
        ({"classes": None}, "or leave one name in `labels`", {"classes": None, "labels": {"tumour": 2}}),
        ({"labels": {"cell": 1}}, "take `classes` out", {"labels": {"cell": 1}, "classes": None}),
        ({"labels": {"cell": 1}}, "or name more in `labels`", {"labels": {"cell": 1, "other": 2}}),
        ({"instances": False}, "set `instances: true`", {"instances": True}),
        ({"instances": False}, "or take `classes` out", {"instances": False, "classes": None}),
        ({"classes": "masks"}, "write, e.g., `classes: classes`", {"classes": "classes"}),
        ({"classes": "../types"}, "nor the name of a folder of its own", {"classes": "types"}),
    ],
)
def test_it_must_be_known_what_class_an_object_has(wrong: dict[str, Any], cause: str, advised: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        configured(**wrong)
    assert cause in str(caught.value) and str(caught.value).count("\n") == 0
    configured(**advised)


def test_class_maps_beside_masks_that_patterns_find(flat: River, tmp_path: Path) -> None:
    """As in the pairs layout: a file per case that is called like its id; what lacks one, or is none's, is a fault."""
    data = tmp_path / "c"
    for old, new in (
        ("images/c{}.png", "imgs/c{}.png"),
        ("masks/c{}.png", "gt/c{}_gt.png"),
        ("types/c{}.png", "kinds/c{}.png"),
    ):
        (data / new).parent.mkdir(parents=True)
        for k in range(4):
            shutil.copy(Path(flat.config.data_root) / old.format(k), data / new.format(k))
    patterns = {"layout": None, "images": "imgs/{case}.png", "masks": "gt/{case}_gt.png", "classes": "kinds"}
    here = {"data_root": str(tmp_path), "folds": FoldsConfig(count=2)}
    config = configured(**patterns).model_copy(update=here)
    manifest = ingest.check(config, "cells")
    assert {case.id: case.object_classes for case in manifest.cases} == flat.truth
    (data / "kinds/c1.png").rename(data / "kinds/other.png")
    with pytest.raises(DatasetFaults) as caught:
        ingest.check(config, "cells")
    assert [(f.code, f.case) for f in caught.value.faults] == [("object-class", "c1"), ("object-class", "other")]
    shutil.rmtree(data / "kinds")
    with pytest.raises(DatasetFaults, match="no such folder, which `classes` names"):
        ingest.check(config, "cells")


def test_layouts_say_what_they_support(tmp_path: Path) -> None:
    index = {"channel_names": {"0": "MR"}, "labels": {"background": 0, **LABELS}, "file_ending": ".nii.gz"}
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "dataset.json").write_text(json.dumps({**index, "numTraining": 0, "training": []}))
    for layout, changes, cause in (
        ("nnunet", {"labels": None}, r"classes' would be a folder .* this is nnunet; give a table"),
        ("nnunet", {"labels": None, "classes": None}, "datasets.cells.classes: missing"),
        ("decathlon", {}, "which only the layouts pairs and patterns have, this is decathlon"),
        ("bids", {}, "this is bids"),
        ("dsb2018", {}, r"a mask per object \(dsb2018\) says nothing of classes"),
    ):
        config = configured(layout=layout, **changes)
        with pytest.raises(ConfigError, match=cause):
            ingest.check(config.model_copy(update={"data_root": str(tmp_path)}), "cells")


def test_a_case_cannot_be_called_like_the_class_map_of_another() -> None:
    cases = [Candidate(name, name, (f"{name}.png",), ("m",)) for name in ("a", "a.classes", "b.classes")]
    assert [(f.code, f.case) for f in ambiguous_ids(cases)] == [("unsafe-id", "a.classes")]


def test_ingest_runs_again_when_the_table_changes(tmp_path: Path) -> None:
    config = configured(classes="t.csv").model_copy(update={"data_root": str(tmp_path)})
    (tmp_path / "c").mkdir()
    before = sides_stamp(config, "cells")
    (tmp_path / "c" / "t.csv").write_text("case,object,class\n")
    assert sides_stamp(config, "cells") != before


# Through the stages


@pytest.mark.parametrize("which", ["flat", "solid"])
def test_ingest_settles_the_class_of_each_object(which: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    made = request.getfixturevalue(which)
    manifest = read_manifest(made.manifest)
    for case in manifest.cases:
        assert case.object_classes == made.truth[case.id]
        numbers, _ = read_labels(next((made.root / "data" / "masks").glob(f"{case.id}.*")))
        voxels = {
            value: int(np.isin(numbers, [n for n, v in case.object_classes.items() if v == value]).sum())
            for value in (2, 7)
        }
        assert dict(case.label_counts) == {0: int((numbers == 0).sum()), **{v: n for v, n in voxels.items() if n}}
        facts = [reading_facts(case, manifest.labels, reference=known) for known in (False, True)]
        assert ["object_classes" in one for one in facts] == [False, True]
    write_manifest(manifest, tmp_path)
    assert read_manifest(tmp_path / "manifest.tsv") == manifest


def test_voxels_of_several_classes_are_remarked(flat: River, tmp_path: Path) -> None:
    import shutil

    data = shutil.copytree(flat.root / "data", tmp_path / "data")
    path = data / "types" / "c1.png"
    values, grid = read_labels(path)
    numbers, _ = read_labels(data / "masks" / "c1.png")
    first = min(flat.truth["c1"])
    spot = tuple(np.argwhere(numbers == first)[0])
    values[spot] = {2: 7, 7: 2}[flat.truth["c1"][first]]
    write_labels(path, values, grid)
    found = ingest.check(flat.config.model_copy(update={"data_root": str(data)}), "cells").case("c1")
    assert found.remarks == (MIXED,) and found.object_classes == flat.truth["c1"]


@pytest.mark.parametrize("which", ["flat", "solid"])
def test_prepared_objects_have_their_classes(which: str, request: pytest.FixtureRequest) -> None:
    made = request.getfixturevalue(which)
    for case in open_store(made.index)[1].values():
        numbers, _ = read_labels(next((made.root / "data" / "masks").glob(f"{case.id}.*")))
        if which == "flat":
            expected = TABLE.to_channels(numbers, made.truth[case.id])
            assert (case.read_labels() == expected).all()
        wanted = Counter(1 + (value == 7) for value in made.truth[case.id].values())
        codes = np.unique(case.read_codes(tuple(slice(0, n) for n in case.shape)))
        assert Counter((codes[codes > 0] // 65536).tolist()) == wanted


def test_networks_learn_a_map_per_class(flat: River, solid: River) -> None:
    for made in (flat, solid):
        assert read_plan(made.plan).network.out_channels == 2 + 2
        assert read_description(made.root / "model")[0].labels == TABLE


def test_predicted_objects_have_the_right_class(flat: River) -> None:
    record, right, matched = read_predictions(flat.predictions), 0, 0
    for case, entry in record.cases.items():
        numbers, _ = read_labels(record.folder / entry.file)
        assert entry.classes is not None and entry.classes["file"] == f"{case}.classes.png"
        values, _ = read_labels(record.folder / entry.classes["file"])
        assert ((values > 0) == (numbers > 0)).all() and set(np.unique(values)) <= {0, 2, 7}
        for number in np.unique(numbers[numbers > 0]):
            assert len(np.unique(values[numbers == number])) == 1, "a class per object"
        reference, _ = read_labels(flat.root / "data" / "masks" / f"{case}.png")
        for number, value in flat.truth[case].items():
            mine = reference == number
            if (hits := numbers[mine][numbers[mine] > 0]).size > mine.sum() / 2:
                matched += 1
                right += value == values[numbers == np.bincount(hits).argmax()][0]
        assert Matching.of(reference, numbers).at(0.5)[0] > 0
    assert matched >= 10 and right >= 0.9 * matched, (right, matched)


def test_scores_are_of_classes(flat: River, solid: River) -> None:
    for made in (flat, solid):
        scores = pd.read_parquet(made.root / "scores.parquet")
        assert set(scores["label"]) == {"tumour", "stroma"} and {"pq", "ap50", "dice"} <= set(scores["metric"])
    scores = pd.read_parquet(flat.root / "scores.parquet")
    assert scores[scores["metric"] == "ap50"]["value"].mean() > 0.5
    counted = scores[scores["metric"] == "n_objects_ref"]
    assert len(counted) == 2 * len(read_predictions(flat.predictions).cases)
    for case, label, value in zip(counted["case"], counted["label"], counted["value"], strict=True):
        assert value == sum(v == LABELS[label] for v in flat.truth[case].values())


@pytest.mark.parametrize(("head", "maps"), [("flows", 3 + 2), ("distance", 2 + 2), ("classes", 3)])
def test_every_head_has_classes(tmp_path: Path, head: str, maps: int) -> None:
    made = river(tmp_path, 2, 1, "types", head=head)
    assert read_plan(made.plan).network.out_channels == maps
    scores = pd.read_parquet(made.root / "scores.parquet")
    assert set(scores["label"]) == set(LABELS) and not scores["status"].str.startswith("failed").any()


def test_class_maps_are_kept_and_made_again(flat: River) -> None:
    record = read_predictions(flat.predictions)
    files = [record.folder / name for e in record.cases.values() for name in (e.file, (e.classes or {})["file"])]
    before, text = {path: path.stat().st_mtime_ns for path in files}, flat.predictions.read_text()
    flat.predict()
    assert {path: path.stat().st_mtime_ns for path in files} == before
    files[1].unlink()
    flat.predict()
    assert files[1].is_file() and flat.predictions.read_text() == text
    assert {path for path in files if path.stat().st_mtime_ns != before[path]} == set(files[:2])


def test_a_prediction_without_its_class_map_is_not_scored(flat: River, tmp_path: Path) -> None:
    manifest, record = read_manifest(flat.manifest), read_predictions(flat.predictions)
    case, entry = next(iter(record.cases.items()))
    channels, objects = read_prediction(record.folder, manifest.case(case), entry, manifest.labels)
    assert objects is not None and (objects.channels == channels).all() and set(np.unique(channels)) <= {0, 1, 2}
    bare = dataclasses.replace(entry, classes=None)
    with pytest.raises(DataError, match="no class map beside"):
        read_prediction(record.folder, manifest.case(case), bare, manifest.labels)
    other = dataclasses.replace(entry, classes={"file": entry.file, "sha256": "0" * 64})
    with pytest.raises(DataError, match=f"{entry.file}"):
        read_prediction(record.folder, manifest.case(case), other, manifest.labels)


def test_post_processing_keeps_the_classes_of_what_is_left(flat: River, tmp_path: Path) -> None:
    steps = flat.config.datasets["cells"].postprocess.model_copy(update={"min_size": 60})
    section_ = flat.config.datasets["cells"].model_copy(update={"postprocess": steps})
    config = flat.config.model_copy(update={"datasets": {"cells": section_}})
    postprocess.run(config, flat.manifest, flat.predictions, tmp_path / "post")
    before, after = read_predictions(flat.predictions), read_predictions(tmp_path / "post" / "predictions.json")
    dropped = 0
    for case, entry in after.cases.items():
        old, new = before.cases[case], entry
        numbers, _ = read_labels(after.folder / new.file)
        was, _ = read_labels(before.folder / old.file)
        values, _ = read_labels(after.folder / (new.classes or {})["file"])
        said, _ = read_labels(before.folder / (old.classes or {})["file"])
        assert (values == np.where(numbers > 0, said, 0)).all()
        dropped += len(np.unique(was)) - len(np.unique(numbers))
    assert dropped > 0
    evaluate.run(config, flat.manifest, tmp_path / "post" / "predictions.json", tmp_path / "scores.parquet")


def test_new_images_get_both_maps_and_tables_name_the_classes(flat: River, tmp_path: Path) -> None:
    image = flat.root / "data" / "images" / "c0.png"
    model, out = flat.root / "model", tmp_path / "out"
    files = PredictedObjects.create(out, ("csv",), read_description(model)[0].labels, ("grey",))
    (labels,) = predict_files([image], model, out, then=files.write)
    shown = sorted(path.name for path in out.iterdir() if not path.name.startswith("."))
    assert shown == ["c0.classes.png", "c0.objects.csv", "c0.png"]
    found, (values, _), (numbers, _) = (
        pd.read_csv(out / "c0.objects.csv"),
        read_labels(class_map(labels)),
        read_labels(labels),
    )
    names = {value: name for name, value in LABELS.items()}
    assert [names[int(values[numbers == n][0])] for n in found["id"]] == found["class"].tolist()
    twin = tmp_path / "c0.classes.png"
    twin.write_bytes(image.read_bytes())
    with pytest.raises(DataError, match=r"several images would be written to .*c0\.classes\.png"):
        predict_files([image, twin], model, tmp_path / "o")
    (tmp_path / "link.png").symlink_to(twin)
    with pytest.raises(DataError, match=r"would replace its input .*link\.png"):
        predict_files([image, tmp_path / "link.png"], model, tmp_path)
    assert twin.read_bytes() == image.read_bytes()


def test_a_service_gives_both_maps(flat: River, tmp_path: Path) -> None:
    image = flat.root / "data" / "images" / "c0.png"
    (labels,) = predict_files([image], flat.root / "model", tmp_path)
    with serving(flat.root / "model") as running:
        path = running.send(image, to="/jobs").headers["Location"]
        while running.ask("GET", path).json["state"] != "done":
            time.sleep(0.02)
        for part, file in (("labels", labels), ("classes", class_map(labels))):
            answer = running.ask("GET", f"{path}/{part}")
            assert answer.body == file.read_bytes()
            assert answer.headers["Content-Disposition"].endswith(f"''{file.name}")


def test_the_record_names_both_files(flat: River) -> None:
    for case, entry in read_json(flat.predictions)["cases"].items():
        assert sorted(entry) == ["classes", "file", "sha256"] and sorted(entry["classes"]) == ["file", "sha256"]
        assert entry["classes"]["file"] == f"{case}.classes.png"
