"""The CRF on its way through the stages: predict keeps probabilities where they are wanted, postprocess refines."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from medseg.config import CrfConfig, PostprocessConfig
from medseg.errors import ConfigError, DataError
from medseg.files import read_json, sha256_file
from medseg.formats.read import read_image, read_labels
from medseg.formats.source import Source
from medseg.image.geometry import Geometry
from medseg.image.labels import LabelTable
from medseg.image.resample import reorient_back
from medseg.ingest.manifest import read_manifest, write_manifest
from medseg.late import resolve
from medseg.models.spec import NetworkSpec
from medseg.postprocess import refine as refining
from medseg.postprocess import run as stage
from medseg.postprocess.components import remove_small
from medseg.postprocess.crf import dense_crf
from medseg.postprocess.operations import OPERATIONS, needs, wants_probabilities
from medseg.postprocess.refine import apply_crf
from medseg.postprocess.run import require_memory
from medseg.predict import run as predict
from medseg.predict.predictor import Predictor
from medseg.predict.probabilities import Probabilities, ProbabilityFile, read_probabilities
from medseg.predict.sinks import Frame, Slab
from medseg.preprocess.inverse import InverseRecord, KeptBox
from medseg.preprocess.prepare import prepare_image

TABLE = LabelTable.create({"ball": 1, "rod": 3})
NETWORK = NetworkSpec(3, 1, 3, (8,), ((1, 1, 1),), ((3, 3, 3),))


def config_with(study: Any, name: str, crf: CrfConfig | None, **steps: Any) -> Any:
    datasets = dict(study.config.datasets)
    datasets[name] = datasets[name].model_copy(update={"postprocess": PostprocessConfig(crf=crf, **steps)})
    return study.config.model_copy(update={"datasets": datasets})


def predicted(study: Any, name: str, out: Path, crf: CrfConfig | None) -> dict[str, Any]:
    config = config_with(study, name, crf)
    inputs = (study.manifest(name), study.splits(name), 0, study.model(name), out)
    predict.run(config, *inputs, probabilities=wants_probabilities(config.datasets[name].postprocess))
    return read_json(out / "predictions.json")


@pytest.fixture(scope="module")
def soft(study: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Predictions with probabilities of both data sets."""
    root = tmp_path_factory.mktemp("soft")
    for name in ("flat", "solid"):
        predicted(study, name, root / name, CrfConfig())
    return root


# Probabilities on disk


def record(shape: tuple[int, ...]) -> InverseRecord:
    """Of an image of which a box was kept."""
    native = Geometry.from_spacing([n + 9 for n in shape], (1.0,) * len(shape), "mm" if len(shape) == 3 else "px")
    axes, flips = (2, 0, 1)[-len(shape) :] if len(shape) == 3 else (1, 0), (True, False, True)[: len(shape)]
    return InverseRecord(native, axes, flips, (4, 5, 6)[: len(shape)], shape, shape)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("rows", [[10, 1, 59], [70], [1] * 70])
def test_probabilities_come_back(axis: int, rows: list[int], tmp_path: Path) -> None:
    shape = [5, 6, 7]
    shape[axis] = 70
    logits = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    frame, path = Frame(record(tuple(shape)), axis, TABLE, NETWORK), tmp_path / "x.b2nd"
    cuts = np.cumsum([0, *rows])

    def write() -> None:
        with ProbabilityFile(path).open(frame) as take:
            for begin, end, part in zip(cuts[:-1], cuts[1:], logits.split(rows, dim=axis + 1), strict=True):
                take(Slab(slice(begin, end), part, None))

    write()
    found, box = read_probabilities(path, sha256_file(path))
    np.testing.assert_array_equal(found, logits.softmax(dim=0).half())
    assert box == frame.record.box
    first = path.read_bytes()
    write()
    assert path.read_bytes() == first
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(DataError, match="medseg predict"):
        read_probabilities(path, "0" * 64)


def test_a_failure_leaves_no_part_of_a_file(tmp_path: Path) -> None:
    sink, logits = ProbabilityFile(tmp_path / "x.b2nd"), torch.zeros(3, 3, 4)
    with pytest.raises(RuntimeError, match="interrupted"), sink.open(Frame(record((9, 4)), 0, TABLE, NETWORK)) as take:
        take(Slab(slice(0, 3), logits, None))
        raise RuntimeError("interrupted")
    assert list(tmp_path.iterdir()) == []


# The predict stage


@pytest.mark.parametrize("name", ["flat", "solid"])
def test_predict_keeps_probabilities_that_agree_with_its_labels(study: Any, soft: Path, name: str) -> None:
    facts, plain = (read_json(p) for p in (soft / name / "predictions.json", study.predictions(name)))
    for case, entry in facts["cases"].items():
        same = ("file", "sha256", "expected")
        assert {k: entry[k] for k in same} == plain["cases"][case], "the label maps are the same bytes"
        values, box = read_probabilities(soft / name / entry["probabilities"]["file"], entry["probabilities"]["sha256"])
        np.testing.assert_allclose(values.astype(np.float32).sum(axis=0), 1, atol=2e-3)
        labels, geometry = read_labels(soft / name / entry["file"])
        full = np.zeros([geometry.shape[a] for a in box.axes], dtype=np.uint8)
        full[tuple(slice(s, s + n) for s, n in zip(box.start, box.shape, strict=True))] = values.argmax(axis=0)
        expected = TABLE.to_values(reorient_back(full, box.axes, box.flips))
        assert (labels == expected).mean() > 0.999, "but for ties of 16 bits"


def test_probabilities_are_kept_made_anew_and_removed(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names: list[str] = []
    plain = Predictor.predict
    monkeypatch.setattr(Predictor, "predict", lambda self, *rest: names.append(rest[1]) or plain(self, *rest))
    without = predicted(study, "flat", tmp_path, None)
    cases = list(without["cases"])
    first = predicted(study, "flat", tmp_path, CrfConfig())
    assert names == cases * 2, "label maps alone are not enough"
    assert predicted(study, "flat", tmp_path, CrfConfig(iterations=1)) == first
    assert names == cases * 2
    path = tmp_path / first["cases"][cases[0]]["probabilities"]["file"]
    path.write_bytes(path.read_bytes()[:-3])
    assert predicted(study, "flat", tmp_path, CrfConfig()) == first
    assert names == [*cases * 2, cases[0]]
    assert predicted(study, "flat", tmp_path, None) == without
    assert names == [*cases * 2, cases[0]]
    assert list(tmp_path.glob("*.b2nd")) == []


# The postprocess stage


@pytest.mark.parametrize("name", ["flat", "solid"])
def test_the_stage_does_what_the_function_does_on_the_images_grid(
    study: Any, soft: Path, tmp_path: Path, name: str
) -> None:
    options = CrfConfig(position_sigma=1.5, appearance_sigma=5.0, iterations=3)
    config = config_with(study, name, options, min_size=4)
    stage.run(config, study.manifest(name), soft / name / "predictions.json", tmp_path / "o")
    facts = read_json(tmp_path / "o" / "predictions.json")
    changed = 0
    for case, entry in read_json(soft / name / "predictions.json")["cases"].items():
        (source,) = study.folder(name).glob(f"image*/{case}.*")
        image, geometry = read_image(source)
        _, record = prepare_image(image, geometry, Predictor(study.model(name)).plan.grid)
        values, _ = read_probabilities(soft / name / entry["probabilities"]["file"], entry["probabilities"]["sha256"])
        turned = np.flip(image[0].transpose(record.axes), [a for a, f in enumerate(record.flips) if f])
        inside = turned[tuple(slice(s, s + n) for s, n in zip(record.start, record.shape, strict=True))]
        low, high = np.percentile(inside, (1.0, 99.8))
        scaled = torch.from_numpy(((inside - low) / (high - low)).astype(np.float32))[None]
        spacing = [geometry.spacing[a] for a in record.axes]
        expected = dense_crf(torch.from_numpy(values), scaled, spacing, options).argmax(dim=0).numpy()
        found, grid = read_labels(tmp_path / "o" / facts["cases"][case]["file"])
        assert sha256_file(tmp_path / "o" / facts["cases"][case]["file"]) == facts["cases"][case]["sha256"]
        assert grid.corner_distance_voxels(geometry) < 1e-3
        back = np.zeros(turned.shape, np.uint8)
        back[tuple(slice(s, s + n) for s, n in zip(record.start, record.shape, strict=True))] = expected
        whole = TABLE.to_values(reorient_back(back, record.axes, record.flips))
        np.testing.assert_array_equal(found, remove_small(whole, TABLE.values, 4))
        changed += int((read_labels(soft / name / entry["file"])[0] != whole).sum())
    assert changed, "or the test could not fail"
    assert facts["postprocess"]["crf"] == options.model_dump()


def test_refined_cases_are_kept_unless_something_changed(
    study: Any, soft: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    plain = refining.apply_crf
    monkeypatch.setattr(refining, "apply_crf", lambda *rest: calls.append(1) or plain(*rest))

    def run(options: CrfConfig, code: str = "a") -> dict[str, Any]:
        calls.clear()
        config = config_with(study, "flat", options)
        stage.run(config, study.manifest("flat"), soft / "flat" / "predictions.json", tmp_path, code)
        return read_json(tmp_path / "predictions.json")

    first = run(CrfConfig())
    count = len(first["cases"])
    assert len(calls) == count
    assert (run(CrfConfig()), len(calls)) == (first, 0)
    path = tmp_path / next(iter(first["cases"].values()))["file"]
    path.write_bytes(path.read_bytes()[:-3])
    assert (run(CrfConfig()), len(calls)) == (first, 1)
    assert (run(CrfConfig(), "b"), len(calls)) == (first, count)
    run(CrfConfig(iterations=1), "b")
    assert len(calls) == count


@pytest.mark.parametrize("change", ["geometry", "fill"])
def test_images_read_in_another_way_are_refined_anew(change: str, study: Any, soft: Path, tmp_path: Path) -> None:
    """Sizes of the CRF are in the unit of the image's grid: another pixel size gives other label maps."""
    given, config = soft / "flat" / "predictions.json", config_with(study, "flat", CrfConfig(iterations=1))
    stage.run(config, study.manifest("flat"), given, tmp_path / "o")
    shutil.copytree(study.manifest("flat").parent, tmp_path / "ingest")
    found = read_manifest(tmp_path / "ingest/manifest.tsv")

    def changed(case: Any) -> Any:
        grid = Geometry.from_spacing(case.geometry.shape, (0.25, 0.25), case.geometry.unit)
        return replace(case, geometry=grid) if change == "geometry" else replace(case, fill=0.0)

    write_manifest(replace(found, cases=tuple(map(changed, found.cases))), tmp_path / "ingest")
    stamps = {p: p.read_bytes() for p in (tmp_path / "o").glob(".f*.json")}
    for out in ("o", "fresh"):
        stage.run(config, tmp_path / "ingest/manifest.tsv", given, tmp_path / out)
    assert read_json(tmp_path / "o/predictions.json") == read_json(tmp_path / "fresh/predictions.json")
    assert len(stamps) == len(read_json(given)["cases"])
    assert all(p.read_bytes() != before for p, before in stamps.items())


def test_predictions_without_probabilities_are_refused(study: Any, soft: Path, tmp_path: Path) -> None:
    config = config_with(study, "flat", CrfConfig())
    with pytest.raises(DataError, match=r"no probabilities.*medseg predict"):
        stage.run(config, study.manifest("flat"), study.predictions("flat"), tmp_path / "o")
    shutil.copytree(soft / "flat", tmp_path / "p")
    next((tmp_path / "p").glob("*.b2nd")).unlink()
    with pytest.raises(DataError, match=r"probabilities\.b2nd: missing"):
        stage.run(config, study.manifest("flat"), tmp_path / "p" / "predictions.json", tmp_path / "o")


def test_what_does_not_fit_into_memory_is_refused_before_it_is_read(study: Any, soft: Path, tmp_path: Path) -> None:
    config = config_with(study, "solid", CrfConfig())
    config = config.model_copy(update={"budget": config.budget.model_copy(update={"host_gb": 0.5})})
    with pytest.raises(DataError, match=r"postprocess\.crf takes about .* for case 's\d'.*budget\.host_gb"):
        stage.run(config, study.manifest("solid"), soft / "solid" / "predictions.json", tmp_path / "o")
    assert not (tmp_path / "o").exists()
    case = SimpleNamespace(id="x", geometry=Geometry.from_spacing((512, 512, 100), (1.0, 1.0, 1.0), "mm"))
    require_memory([case], 1, PostprocessConfig(crf=CrfConfig()), TABLE, 4 * 10**9)
    with pytest.raises(DataError, match=r"postprocess\.crf takes about 3\.6 GB for case 'x'"):
        require_memory([case], 1, PostprocessConfig(crf=CrfConfig()), TABLE, 3 * 10**9)


def test_the_table_says_what_a_configuration_needs() -> None:
    assert needs(PostprocessConfig(crf=CrfConfig(), min_size=3)) == {"probabilities", "image", "labels"}
    assert needs(PostprocessConfig(fill_holes=True)) == {"labels"}
    assert needs(PostprocessConfig()) == set()
    assert needs(PostprocessConfig(choose=["crf"])) == {"probabilities", "image"}
    assert needs(PostprocessConfig(min_volume={"a": 2.0})) == {"labels", "grid"}
    options = [name for name in PostprocessConfig.model_fields if name != "choose"]
    assert list(OPERATIONS) == options, "one row per option, in the order that the configuration documents"
    for operation in OPERATIONS.values():
        for name in (operation.function, operation.check, operation.peak_bytes):
            assert name is None or callable(resolve(name))


def test_the_table_is_cheap_to_import() -> None:
    code = "import sys, medseg.postprocess.operations; print({'torch', 'scipy', 'blosc2'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


# Regions, and what cannot be


def test_every_region_is_refined_for_itself() -> None:
    """A ball of noise in a large region: each is what its own two-class problem gives, painted in order."""
    table = LabelTable.create({"rim": 1, "core": 2}, regions={"whole": ["rim", "core"], "inner": ["core"]})
    place = np.stack(np.meshgrid(*[np.linspace(-1, 1, 40)] * 2, indexing="ij"))
    radius = np.sqrt((place**2).sum(axis=0))
    rng = np.random.default_rng(0)
    image = (2.0 * (radius < 0.4) + (radius < 0.8) + 0.05 * rng.standard_normal((40, 40)))[None].astype(np.float32)
    regions = np.stack([0.2 + 0.6 * (radius < r) + rng.uniform(-0.4, 0.4, (40, 40)) for r in (0.8, 0.4)])
    regions = regions.clip(0.01, 0.99).astype(np.float16)
    box = KeptBox((0, 1), (False, False), (0, 0), (40, 40))
    soft, source = Probabilities(regions, box), Source.from_array(image, Geometry.from_spacing((40, 40), (1.0, 1.0)))
    found = apply_crf(soft, source, CrfConfig(position_sigma=1.5), table)
    expected = np.where(radius < 0.4, 2, np.where(radius < 0.8, 1, 0))
    raw = np.where(regions[1] > 0.5, 2, np.where(regions[0] > 0.5, 1, 0))
    assert (found != expected).sum() < (raw != expected).sum() / 4
    with pytest.raises(DataError, match="run `medseg predict` again"):
        apply_crf(Probabilities(regions[:, 1:], box), source, CrfConfig(), table)
    with pytest.raises(ConfigError, match=r"postprocess\.crf: .* dimensions.*larger sigmas"):
        apply_crf(soft, source, CrfConfig(appearance_sigma=1e-7, intensity_sigma=1e-7), table)
