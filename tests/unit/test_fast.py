"""Fast predictions: what they change, that they are told from others, and what they cost."""

from __future__ import annotations

import importlib.util
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from medseg.cli.commands import app
from medseg.engine import openvino
from medseg.errors import ConfigError, DataError
from medseg.evaluate import price as room
from medseg.evaluate.price import Price, mean_dice, measure, read_price
from medseg.formats.read import open_image, read_labels
from medseg.formats.source import Source
from medseg.image.geometry import Geometry
from medseg.image.labels import LabelTable
from medseg.predict.fast import OVERLAP, fast_options
from medseg.predict.predictor import Predictor
from medseg.results.folders import ModelFolder

COMPILED = pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="OpenVINO is not installed")


@pytest.fixture
def model(study: Any, tmp_path: Path) -> Path:
    """A copy, since records are written into it."""
    return Path(shutil.copytree(study.model("solid"), tmp_path / "model"))


def test_options_that_are_given_stay(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "is_installed", lambda: True)
    assert fast_options({}, [model]) == {"mirror": False, "overlap": OVERLAP, "runtime": "openvino"}
    given = {"mirror": True, "overlap": 0.4, "runtime": "torch", "device": "cpu"}
    assert fast_options(given, [model]) == given
    monkeypatch.setattr(openvino, "is_installed", lambda: False)
    assert fast_options({"runtime": None}, [model])["runtime"] == "torch"


def test_a_runtime_that_does_not_fit_is_refused(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--runtime tensorrt: unknown; there are torch, openvino"):
        Predictor(model, runtime="tensorrt")
    monkeypatch.setattr("medseg.predict.predictor.pick_device", lambda wish: "cuda")
    monkeypatch.setattr("medseg.predict.predictor.place", lambda network, *_: network)
    with pytest.raises(ConfigError, match=r"device is cuda.*--device cpu"):
        Predictor(model, runtime="openvino")


@COMPILED
@pytest.mark.parametrize("dataset", ["solid", "flat"])
def test_a_compiled_network_gives_the_label_map_of_torch(study: Any, dataset: str) -> None:
    case = next(study.folder(dataset).glob("images*/*"))
    expected = Predictor(study.model(dataset)).label_map(open_image(case), "case")
    found = Predictor(study.model(dataset), runtime="openvino").label_map(open_image(case), "case")
    # Where two classes are equally likely, rounding decides.
    assert (found == expected).mean() > 0.999


def test_less_overlap_takes_fewer_windows(study: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    image, windows = open_image(next(study.folder("flat").glob("images/*"))), {}
    long = np.tile(image.image(), (1, 6, 1))
    source = Source.from_array(long, Geometry.from_spacing(long.shape[1:], (1.0, 1.0)))
    for overlap in (None, OVERLAP):
        predictor = Predictor(study.model("flat"), overlap=overlap)
        seen: list[int] = []
        network = predictor.members[0].network
        member = type(predictor.members[0])(lambda x, n=network, s=seen: (s.append(len(x)), n(x))[1])
        predictor.members = (member,)
        predictor.label_map(source, "long")
        windows[overlap] = sum(seen)
    assert windows[OVERLAP] < windows[None]


def run(*words: Any) -> Any:
    return CliRunner().invoke(app, [str(word) for word in words])


def test_fast_label_maps_are_told_from_others_and_the_price_is_said(study: Any, model: Path, tmp_path: Path) -> None:
    case = next(study.folder("solid").glob("imagesTr/*"))
    words = ("predict", case, "--model", model, "-o", tmp_path / "out", "--runtime", "torch")
    assert run(*words).exit_code == 0
    fast = run(*words, "--fast")
    assert fast.exit_code == 0, fast.output
    assert "fast: no mirror images, windows overlap by 25%, networks run in torch" in fast.output
    assert "nobody measured" in fast.output and "kept 1 of 1" not in fast.output
    assert "kept 1 of 1" in run(*words, "--fast").output
    paths = ("--manifest", study.manifest("solid"), "--splits", study.splits("solid"), "--fold", 0, "--model", model)
    config = tmp_path / "config.json"
    config.write_text(study.config.model_dump_json())
    said = run("price", "--config", config, *paths)
    assert said.exit_code == 0, said.output
    line = re.search(r"fast, on 2 validation cases \(\w+\): Dice 0\.\d{4} for 0\.\d{4} \([+-]0\.\d{4}.*", said.output)
    assert line is not None
    assert line[0] in run(*words, "--fast").output


def test_the_price_is_that_of_the_label_maps(study: Any, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(openvino, "is_installed", lambda: False)
    price = measure(study.config, study.manifest("solid"), study.splits("solid"), 0, model)
    assert read_price(model) == price
    # With the options of a study it costs nothing.
    monkeypatch.setattr(room, "fast_options", lambda *_: {"mirror": None, "overlap": None, "runtime": "torch"})
    same = measure(study.config, study.manifest("solid"), study.splits("solid"), 0, model)
    assert same.dice == same.fast_dice == price.dice and same.worst == 0
    scores = []
    for path in study.predictions("solid").parent.glob("*.nii.gz"):
        values = [read_labels(file)[0] for file in (study.folder("solid") / "labelsTr" / path.name, path)]
        table = LabelTable.create({"ball": 1, "rod": 3})
        scores.append(mean_dice(table.to_channels(values[0]), values[1], table))
    assert price.dice == pytest.approx(np.mean(scores))


def test_a_price_of_other_weights_or_another_fold_is_none(study: Any, model: Path) -> None:
    assert read_price(model) is None
    with pytest.raises(
        DataError, match=r"a model of fold 0 was trained on 2 subjects of the validation cases of fold 1"
    ):
        measure(study.config, study.manifest("solid"), study.splits("solid"), 1, model)
    measure(study.config, study.manifest("solid"), study.splits("solid"), 0, model)
    record = ModelFolder(model).fast
    other = Path(shutil.copy(record, ModelFolder(study.model("flat")).fast))
    try:
        assert read_price(study.model("flat")) is None
    finally:
        other.unlink()
    record.write_text(record.read_text().replace('"cases": 2', '"cases": 3'))
    with pytest.raises(DataError, match="medseg price"):
        read_price(model)


def test_lines_say_loss_and_gain() -> None:
    worse = Price(0.9, 0.895, 0.02, 100.0, 20.0, 8, "openvino").line
    assert worse.endswith("Dice 0.8950 for 0.9000 (-0.0050; one case lost 0.0200) in 1/5.0 of the processor time")
    assert "one case lost 0.0000" in Price(0.9, 0.91, -0.01, 2.0, 1.0, 8, "torch").line


def test_dice_of_objects_is_that_of_their_foreground() -> None:
    table = LabelTable.create({"nucleus": 1}, instances=True)
    reference = np.array([[0, 1, 1, 0], [0, 0, 1, 0]], np.uint8)
    assert mean_dice(reference, np.array([[0, 5, 7, 0], [0, 0, 0, 9]]), table) == pytest.approx(2 * 2 / 6)
    assert mean_dice(np.zeros((2, 4), np.uint8), np.ones((2, 4), int), table) is None
