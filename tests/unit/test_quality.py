"""What a prediction says of itself: maps of entropy and disagreement, and a Dice without reference."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from medseg.errors import CheckpointError
from medseg.evaluate import run as evaluate
from medseg.evaluate.quality import LEVEL, calibrate, half_width
from medseg.files import read_json
from medseg.formats.read import open_image, read_labels
from medseg.formats.write import map_suffix, write_map
from medseg.image.geometry import Geometry
from medseg.image.labels import LabelTable
from medseg.ingest.cases import open_case_image
from medseg.ingest.manifest import read_manifest
from medseg.predict.expected import ExpectedDice
from medseg.predict.files import How, open_batch, predict_batch, predict_files
from medseg.predict.first import lines_of, rows_of, write_rows
from medseg.predict.members import Member, mean_of
from medseg.predict.predictor import Predictor
from medseg.predict.probabilities import ProbabilityFile, read_probabilities
from medseg.predict.quality import Quality, read_quality, write_quality
from medseg.predict.record import PredictedCase, Predictions
from medseg.predict.sinks import LabelMap
from medseg.predict.spread import Spread, Uncertainty, entropy, soft
from medseg.results.key import RunKey
from medseg.trained import read_trained

TABLE = LabelTable.create({"a": 1, "b": 2})


def network(seed: int, scale: float = 3.0) -> Any:
    torch.manual_seed(seed)
    layer = torch.nn.Conv2d(1, 3, 3, padding=1).eval()
    return lambda x: scale * layer(x)


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_the_mean_is_that_of_a_plain_prediction_and_uncertainty_is_split_in_two(mirror: bool, count: int) -> None:
    members = [Member(network(seed), mirror) for seed in range(count)]
    x = torch.randn(2, 1, 9, 8)
    with torch.inference_mode():
        maps, plain = Spread(members, TABLE)(x), mean_of(members)(x)
    assert torch.equal(maps[:, :3], plain), "bit for bit"
    probabilities, own = maps[:, 3:6], maps[:, 6]
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(2, 9, 8))
    total = entropy(probabilities, TABLE)
    assert (total <= math.log(3) + 1e-6).all() and (own >= 0).all()
    assert (total >= own - 1e-6).all(), "what members disagree in is never negative"
    if count == 1 and not mirror:
        torch.testing.assert_close(total, own)
    else:
        assert (total - own).max() > 0.01


def test_equal_members_disagree_in_nothing() -> None:
    member = Member(network(0))
    with torch.inference_mode():
        maps = Spread([member, member], TABLE)(torch.randn(1, 1, 6, 6))[0]
    found = Uncertainty.of(maps[3:], TABLE)
    assert found.disagreement.max() < 1e-6 and found.entropy.min() > 0


def test_entropy_is_in_nats_and_regions_add_up() -> None:
    assert float(entropy(torch.full((1, 3, 1), 1 / 3), TABLE)) == pytest.approx(math.log(3))
    assert float(entropy(torch.tensor([[[1.0], [0.0], [0.0]]]), TABLE)) == 0
    regions = LabelTable.create({"a": 1, "b": 2}, regions={"all": ["a", "b"], "inner": ["b"]})
    assert float(entropy(torch.full((1, 2, 1), 0.5), regions)) == pytest.approx(2 * math.log(2))
    assert float(soft(torch.zeros(1, 2, 1), regions)[0, 0, 0]) == 0.5
    assert float(entropy(soft(torch.zeros(1, 4, 1), TABLE, "boundary"), TABLE, "boundary")) == pytest.approx(
        math.log(2)
    )


@pytest.mark.parametrize("name", ["flat", "solid"])
def test_expected_dice_is_that_of_the_probabilities(study: Any, tmp_path: Path, name: str) -> None:
    manifest = read_manifest(study.manifest(name))
    case = manifest.cases[0]
    expected, labels, file = ExpectedDice(), LabelMap(), ProbabilityFile(tmp_path / "p.b2nd")
    predictor = Predictor(study.model(name))
    predictor.predict(open_case_image(case, study.folder(name)), case.id, [expected, labels, file])
    from medseg.files import sha256_file
    from medseg.preprocess.prepare import take_box

    values, box = read_probabilities(tmp_path / "p.b2nd", sha256_file(tmp_path / "p.b2nd"))
    inside = take_box(labels.values[None], box)[0]
    for k, (target, value) in enumerate(manifest.labels.names, start=1):
        mine = inside == value
        if not mine.any():
            assert target not in expected.values
            continue
        p = values[k].astype(np.float64)
        assert expected.values[target] == pytest.approx(2 * p[mine].sum() / (p.sum() + mine.sum()), abs=1e-3)


# Calibration


def planted(expected: np.ndarray, dice: np.ndarray, per_subject: int = 1) -> tuple[Predictions, pd.DataFrame]:
    """Predictions and scores of one class."""
    key, cases, rows = RunKey("d", "m", 0, 0), {}, []
    for place, (said, is_so) in enumerate(zip(expected.tolist(), dice.tolist(), strict=True)):
        case, subject = f"c{place:03}", f"s{place // per_subject:03}"
        cases[case] = PredictedCase("f", "0", expected={"a": said})
        rows.append({"case": case, "subject": subject, "label": "a", "metric": "dice", "value": is_so, "status": "ok"})
    return Predictions(Path(), key, "f", "w", None, cases), pd.DataFrame(rows)


def test_what_expected_dice_tells_is_used_and_what_it_does_not_is_said() -> None:
    rng = np.random.default_rng(0)
    said = rng.uniform(0.6, 0.99, 60)
    known, why = calibrate(*planted(said, said - 0.1 + 0.01 * rng.standard_normal(60)))
    assert known is not None and not why
    assert known.method == "offset" and known.tells
    assert known.lines["a"][0] == pytest.approx(-0.1, abs=0.005)
    assert known.mae < 0.012 and known.mae_of_mean > 0.05
    assert known.coverage is not None and 0.8 <= known.coverage <= 1
    steep, _ = calibrate(*planted(said, 2 * said - 1.1 + 0.01 * rng.standard_normal(60)))
    assert steep is not None and steep.method == "line" and steep.lines["a"][1] == pytest.approx(2, abs=0.1)
    deaf, _ = calibrate(*planted(said, rng.uniform(0.8, 0.9, 60)))
    assert deaf is not None and deaf.method in ("mean", "line") and not deaf.tells
    assert deaf.mae == pytest.approx(deaf.mae_of_mean, rel=0.02)
    wrong, _ = calibrate(*planted(said, 1.5 - said))
    assert wrong is not None and wrong.lines["a"][1] == 0, "more expected Dice is never taken for less"
    alike, _ = calibrate(*planted(np.full(60, 0.9), rng.uniform(0.8, 0.9, 60)))
    assert alike is not None and (alike.method, alike.tells) == ("offset", False), "one that falls where it gets worse"


def test_a_subject_is_estimated_by_the_others_alone() -> None:
    """Cases of a subject that are one picture twice would tell one another."""
    rng = np.random.default_rng(1)
    values = np.repeat(rng.uniform(0.5, 1, 12), 2)
    quality, _ = calibrate(*planted(np.full(24, 0.9), values, per_subject=2))
    assert quality is not None and quality.subjects == 12
    of_others = [abs(np.delete(values, [k - k % 2, k - k % 2 + 1]).mean() - values[k]) for k in range(24)]
    assert quality.mae == pytest.approx(np.mean(of_others))


def test_the_interval_is_conformal() -> None:
    errors = np.arange(1, 20) / 100
    assert half_width(errors) == 0.18, "the 18th of 19: (19 + 1) * 0.9"
    assert half_width(errors[:8]) is None, "eight errors say nothing of nine in ten"
    rng, held = np.random.default_rng(2), []
    for _ in range(200):
        drawn = np.abs(rng.standard_normal(31))
        held.append(drawn[-1] <= (half_width(drawn[:-1]) or 0))
    assert abs(np.mean(held) - LEVEL) < 0.07


def test_too_few_subjects_and_classes_that_are_not_there() -> None:
    few, why = calibrate(*planted(np.full(4, 0.9), np.full(4, 0.8)))
    assert few is None and "at least 5 are needed" in why
    predictions, scores = planted(np.full(8, 0.9), np.full(8, 0.8))
    scores.loc[0, ["value", "status"]] = [math.nan, "spurious: …"]
    quality, _ = calibrate(predictions, scores)
    assert quality is not None and quality.lines["a"][0] + quality.lines["a"][1] * 0.9 == pytest.approx(0.7), (
        "invented: 0"
    )
    assert quality.estimate({}) is None and quality.estimate({"b": 0.5}) is None


QUALITY = Quality("offset", True, {"ball": (-0.1, 1.0), "rod": (-0.2, 1.0)}, 0.05, 0.9, 0.02, 0.03, 0.9, 20, 10)


def test_estimates_have_bounds() -> None:
    found = QUALITY.estimate({"ball": 0.9, "rod": 0.1})
    assert found is not None and found.classes == pytest.approx({"ball": 0.8, "rod": 0.0})
    assert (found.dice, found.low, found.high) == pytest.approx((0.4, 0.35, 0.45))
    assert QUALITY.estimate({"ball": 1.2}).high == 1.0  # type: ignore[union-attr]


# In the study and in `medseg predict`


def test_the_study_writes_it_and_predict_shows_the_worst_first(study: Any, tmp_path: Path) -> None:
    model = shutil.copytree(study.model("flat"), tmp_path / "m")
    config, scores = study.config, tmp_path / "s.parquet"
    evaluate.run(config, study.manifest("flat"), study.predictions("flat"), scores, model=model)
    assert read_quality(model) is None, "two validation cases teach nothing"
    assert "at least 5 are needed" in read_json(model / "quality.json")["why"]
    write_quality(read_trained(model), QUALITY)
    manifest = read_manifest(study.manifest("flat"))
    images = [study.folder("flat") / case.images[0] for case in manifest.cases]
    for again in (False, True):
        batch = open_batch(images, model, tmp_path / "out", How())
        predict_batch(batch)
        assert (len(batch.kept) == len(images)) == again
        quality = read_quality(model)
        assert quality == QUALITY
        rows = rows_of(batch, quality)
        found = [row.estimate.dice for row in rows if row.estimate is not None]
        assert found == sorted(found) and len(rows) == len(images)
        table = pd.read_csv(write_rows(tmp_path / "out", rows, quality))
        assert list(table.columns) == ["image", "prediction", "dice", "low", "high", "dice_ball", "dice_rod"]
        assert table["dice"].dropna().tolist() == pytest.approx(found, abs=1e-4)
        lines = lines_of(rows, quality)
        assert "look at the first ones first (mean error 0.020 on 10 validation subjects" in lines[0]
        assert str(rows[0].image) in lines[1]
    entries = read_json(study.predictions("flat"))["cases"]
    for one, case in zip(batch.inputs, manifest.cases, strict=True):
        if case.id in entries:
            assert entries[case.id].get("expected", {}) == batch.expected[one], "as in the study"
    plain = Quality("offset", False, {"ball": (0.8, 0.0)}, None, 0.9, 0.03, 0.03, None, 6, 6)
    assert "no better on validation" in lines_of(rows_of(batch, plain), plain)[0]
    shutil.copy(study.model("solid") / "model.json", model)
    with pytest.raises(CheckpointError, match="of another training"):
        read_quality(model)


@pytest.mark.parametrize(("name", "suffix"), [("flat", ".tif"), ("solid", ".nii.gz")])
def test_maps_of_uncertainty_lie_beside_unchanged_label_maps(
    study: Any, tmp_path: Path, name: str, suffix: str
) -> None:
    case = read_manifest(study.manifest(name)).cases[0]
    image = study.folder(name) / case.images[0]
    allow = ("shear",)
    (plain,) = predict_files([image], study.model(name), tmp_path / "a", How(mirror=True, allow=allow))
    (labels,) = predict_files(
        [image], study.model(name), tmp_path / "b", How(mirror=True, allow=allow, uncertainty=True)
    )
    assert plain.read_bytes() == labels.read_bytes()
    _, grid = read_labels(labels)
    maps = {}
    for kind in ("entropy", "disagreement"):
        source = open_image(tmp_path / "b" / f"{case.id}.{kind}{suffix}")
        maps[kind] = source.image()[0]
        assert maps[kind].dtype == np.float32 and source.geometry.shape == grid.shape
    assert maps["disagreement"].min() >= 0 and (maps["disagreement"] <= maps["entropy"] + 1e-6).all()
    assert maps["entropy"].max() <= math.log(3) + 1e-5 and maps["disagreement"].max() > 0
    predict_files([image], study.model(name), tmp_path / "c", How(mirror=False, allow=allow, uncertainty=True))
    assert (tmp_path / "c" / f"{case.id}.entropy{suffix}").exists()
    assert not (tmp_path / "c" / f"{case.id}.disagreement{suffix}").exists(), "one member agrees with itself"


def test_real_numbers_are_written_where_a_format_takes_them(tmp_path: Path) -> None:
    grid = Geometry.from_spacing((4, 5), (0.5, 0.5), "um")
    values = np.linspace(0, 1, 20, dtype=np.float32).reshape(4, 5)
    for suffix in (".tif", ".ome.tif", ".nii.gz"):
        write_map(tmp_path / f"m{suffix}", values, grid)
        np.testing.assert_array_equal(open_image(tmp_path / f"m{suffix}").image()[0], values)
    assert map_suffix(Path("a.png"), 2) == ".tif" and map_suffix(Path("a.mha"), 3) == ".nii.gz"
    with pytest.raises(Exception, match=r"write \.nii\.gz or \.tif"):
        write_map(tmp_path / "m.png", values, grid)
