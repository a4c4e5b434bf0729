"""Edited predictions come back as cases with their source; what nobody edited, and what would leak, does not."""

from __future__ import annotations

import csv
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from medseg.cli.commands import app
from medseg.config import Config, load_config
from medseg.errors import ConfigError, DataError, DatasetFaults
from medseg.files import sha256_file
from medseg.formats.read import open_image, read_labels
from medseg.formats.world import About
from medseg.formats.write import write_labels
from medseg.image.geometry import Geometry
from medseg.ingest import run as ingest
from medseg.ingest.adding import Added, add
from medseg.ingest.cases import read_case_labels
from medseg.ingest.counting import digest_labels
from medseg.ingest.layouts.corrections import TABLE
from medseg.ingest.manifest import read_manifest
from medseg.ingest.predicted import KEY, stamp_of
from medseg.predict.files import predict_files
from medseg.records import read_record
from tests import dicom_phantom as phantom
from tests.conftest import CLASSES, OBLIQUE, scene


class Loop:
    """New images, predicted by a model of the study, and a data set that takes their corrections."""

    def __init__(self, study: Any, kind: str, folder: Path, count: int = 3) -> None:
        self.study, self.kind, self.folder = study, kind, folder
        self.images, self.predicted, self.edited = folder / "new", folder / "out", folder / "edited"
        self.edited.mkdir(parents=True)
        for index in range(count):
            image, _ = scene((44, 36) if kind == "flat" else (22, 18, 12), 50 + index)
            if kind == "flat":
                grid = Geometry.from_spacing(image.shape, (1.0, 1.0))
                values = np.clip(image * 60 + 40, 1, 255).astype(np.uint8)
                write_labels(self.images / f"n{index}.png", values, grid)
            else:
                write_labels(
                    self.images / f"n{index}.nii.gz",
                    (image * 100).astype(np.int16),
                    Geometry.create(image.shape, OBLIQUE),
                )
        self.maps = predict_files([self.images], study.model(kind), self.predicted) if count else []

    def config(self, **section: Any) -> Config:
        base = {"layout": "corrections", "path": "corrected", "labels": CLASSES, "allow": ["shear"], "subject": "case"}
        return load_config(
            [],
            {
                "experiment": "tuned",
                "data_root": str(self.folder / "data"),
                "datasets": {"corrected": {key: value for key, value in (base | section).items() if value is not None}},
                "models": {"unet": {"network": "unet"}},
                "folds": {"count": 2, "run": [0]},
                "budget": {"steps": 4},
                "device": "cpu",
            },
        )

    @property
    def root(self) -> Path:
        return self.folder / "data" / "corrected"

    def edit(self, index: int = 0, name: str = "", *, to: Path | None = None) -> Path:
        """Save a label map with a block of another class, as a program would."""
        source = self.maps[index]
        values, grid = read_labels(source)
        values = values.copy()
        values[(slice(2, 6),) * values.ndim] = 3
        values[(slice(8, 12),) * values.ndim] = 1
        target = (to or self.edited) / (name or source.name)
        if target.suffix == ".tif":
            tifffile.imwrite(target, values)
        elif target.name.endswith(".nii.gz"):
            nibabel.save(nibabel.Nifti1Image(values.astype(np.float64), nibabel.load(source).affine), target)
        else:
            write_labels(target, values.astype(np.uint16), grid)
        return target

    def add(self, config: Config | None = None, **changes: Any) -> list[str]:
        facts = {"folder": self.edited, "predictions": self.predicted, "images": [self.images], "by": "anna", **changes}
        return add(config or self.config(), "corrected", Added(**facts))

    def rows(self) -> dict[str, Mapping[str, str]]:
        with open(self.root / TABLE) as file:
            return {row["case"]: row for row in csv.DictReader(file)}


@pytest.fixture
def solid(study: Any, tmp_path: Path) -> Loop:
    return Loop(study, "solid", tmp_path)


@pytest.fixture
def flat(study: Any, tmp_path: Path) -> Loop:
    return Loop(study, "flat", tmp_path)


def test_a_stamp_says_what_was_predicted_and_no_path(solid: Loop) -> None:
    (facts,) = [read_record(stamp_of(path), "")[KEY] for path in solid.maps[:1]]
    image = solid.images / "n0.nii.gz"
    assert facts["images"] == [["n0.nii.gz", sha256_file(image)]]
    assert facts["model"] == "solid/unet fold 0 seed 0"
    assert facts["voxels"] == digest_labels(read_labels(solid.maps[0])[0])
    assert str(solid.folder) not in stamp_of(solid.maps[0]).read_text()


def test_edited_label_maps_become_cases_with_their_source(solid: Loop, capsys: pytest.CaptureFixture[str]) -> None:
    solid.edit(0)
    solid.edit(1, "n1-segmentation.nrrd")
    (line,) = solid.add()
    assert line == f"added 2 corrected predictions to {TABLE} of data set 'corrected': n0, n1"
    out = solid.folder / "ingest"
    manifest = ingest.run(solid.config(), "corrected", out)
    assert read_manifest(out / "manifest.tsv") == manifest
    assert (
        "references: 2 corrected predictions; by anna; predicted by solid/unet fold 0 seed 0" in capsys.readouterr().err
    )
    facts = read_record(solid.study.model("solid") / "model.json", "")
    for index, case in enumerate(manifest.cases):
        assert case.source is not None
        assert (case.source.kind, case.source.annotator) == ("corrected", "anna")
        assert (case.source.fingerprint, case.source.weights) == (facts["fingerprint"], facts["weights_sha256"])
        np.testing.assert_array_equal(
            open_image(solid.root / case.images[0]).image(), open_image(solid.images / f"n{index}.nii.gz").image()
        )
        values = read_case_labels(case, solid.root)
        assert (values[2:6, 2:6, 2:6] == 3).all()
    # The same again adds nothing; other labels are not taken in silence.
    assert "2 were there already" in solid.add()[1]
    solid.edit(1, "n0.nii.gz")
    with pytest.raises(DataError, match=r"case 'n0' was added before with other labels .*take its line out"):
        solid.add()


def test_an_edit_in_place_leaves_the_others_out(flat: Loop) -> None:
    flat.edit(0, to=flat.predicted)
    assert flat.add(folder=flat.predicted) == [
        f"added 1 corrected predictions to {TABLE} of data set 'corrected': n0",
        "2 label maps are as they were predicted, and were left out",
    ]


def test_labels_come_from_any_format_that_fits_the_image(flat: Loop) -> None:
    flat.edit(0, "n0.tif")
    flat.edit(1, "n1_corrected.png")
    assert "n0, n1" in flat.add()[0]


def test_segments_of_slicer_are_read_by_their_names(solid: Loop) -> None:
    values, grid = read_labels(solid.maps[0])
    values = np.where(values == 0, 2, 1).astype(np.uint8)
    # As Slicer numbers them: in the order in which they were made.
    write_labels(solid.edited / "n0.seg.nrrd", values, grid, About.of_classes(None, (("rod", 1), ("ball", 2))))
    solid.add()
    manifest = ingest.check(all_of(solid.config()), "corrected")
    found = read_case_labels(manifest.cases[0], solid.root)
    assert (found == np.where(values == 1, 3, 1)).all()


def all_of(config: Config) -> Config:
    return config.model_copy(update={"folds": config.folds.model_copy(update={"run": ["all"]})})


def test_an_unchanged_prediction_is_refused_unless_it_is_allowed(solid: Loop) -> None:
    image = nibabel.load(solid.maps[0])
    # Saved again by another program: other bytes, the same voxels.
    nibabel.save(
        nibabel.Nifti1Image(np.asanyarray(image.dataobj).astype(np.int32), image.affine), solid.edited / "n0.nii.gz"
    )
    solid.edit(1)
    with pytest.raises(DatasetFaults) as caught:
        solid.add()
    (found,) = caught.value.faults
    assert (found.code, found.case) == ("unchanged-prediction", "n0")
    assert "its voxels are those that solid/unet fold 0 seed 0 predicted" in found.cause
    assert not (solid.root / TABLE).exists() and not (solid.root / "medseg-corrections/n1").exists()
    allowed = solid.config(allow=["shear", "unchanged-prediction"])
    solid.add(allowed)
    manifest = ingest.check(all_of(allowed), "corrected")
    assert [case.source and case.source.kind for case in manifest.cases] == ["unchanged", "corrected"]
    # Every later check asks again.
    with pytest.raises(DatasetFaults, match="unchanged-prediction"):
        ingest.check(all_of(solid.config()), "corrected")


def test_values_are_those_of_predictions_whatever_the_data_set_s_own_files_mean(flat: Loop, tmp_path: Path) -> None:
    flat.edit(0)
    labels = {"ball": [7, 1], "rod": [9, 3]}
    section = {"labels": labels, "background": [0, 1000]}
    flat.add(flat.config(**section))
    manifest = ingest.check(all_of(flat.config(**section)), "corrected")
    assert manifest.cases[0].recodings == () and set(manifest.cases[0].label_counts) <= {0, 1, 3}


@pytest.mark.parametrize(
    ("spoil", "cause"),
    [
        (
            lambda loop: loop.edit(0, "other.nii.gz"),
            r"other\.nii\.gz: no prediction is called so; there are n0, n1, n2; call",
        ),
        (lambda loop: (loop.edit(0), loop.edit(0, "n0_seg.nrrd")), "several label maps of the prediction n0; keep one"),
        (
            lambda loop: (loop.edit(0), (loop.images / "n0.nii.gz").unlink()),
            r"its image n0\.nii\.gz: no file of this name",
        ),
        (
            lambda loop: (loop.edit(0), shutil.copy(loop.images / "n1.nii.gz", loop.images / "n0.nii.gz")),
            "1 files of this name hold something else; name the folder",
        ),
        (lambda loop: shutil.rmtree(loop.predicted), "out: no predictions there; name the folder"),
    ],
)
def test_what_belongs_to_no_prediction_is_said(spoil: Any, cause: str, solid: Loop) -> None:
    spoil(solid)
    with pytest.raises(DataError, match=cause):
        solid.add()
    assert not (solid.root / TABLE).exists()


@pytest.mark.parametrize(
    ("values", "code"),
    [(np.full((22, 18, 12), 9, np.uint8), "label-values"), (np.ones((22, 18, 11), np.uint8), "shape-mismatch")],
)
def test_faults_are_those_of_the_check_and_nothing_is_added(values: Any, code: str, solid: Loop) -> None:
    solid.edit(1)
    nibabel.save(nibabel.Nifti1Image(values, OBLIQUE), solid.edited / "n0.nii.gz")
    with pytest.raises(DatasetFaults) as caught:
        solid.add()
    assert code in {found.code for found in caught.value.faults}
    assert [path.name for path in (solid.root / "medseg-corrections").iterdir()] == [".writer.lock"]


def test_somebody_says_whose_cases_they_are(solid: Loop, tmp_path: Path) -> None:
    solid.edit(0)
    solid.edit(1)
    for section in ({"subject": None}, {"subject": "same-origin"}):
        with pytest.raises(
            ConfigError, match=r"whose cases the corrected predictions are; say it: --subject FILE\.csv"
        ):
            solid.add(solid.config(**section))
    with pytest.raises(ConfigError, match=r"'\^x' has 0 groups"):
        solid.add(subject="^x")
    table = tmp_path / "who.csv"
    table.write_text("case,subject\nn0,patient7\n")
    with pytest.raises(ConfigError, match=r"case 'n1': .*who\.csv does not say whose it is"):
        solid.add(subject=str(table))
    table.write_text("case,subject\nn0,patient7\nn1,patient7\n")
    solid.add(solid.config(subject=None), subject=str(table))
    manifest = ingest.check(all_of(solid.config(subject=None)), "corrected")
    assert {case.subject for case in manifest.cases} == {"patient7"}
    assert manifest.independence == f"subject, declared by {TABLE}: 1 subjects"


class Beside(Loop):
    """Corrections in the folder of the study's own data, which is copied."""

    def config(self, **section: Any) -> Config:
        base = {"layout": "decathlon", "labels": None, "corrections": True}
        return super().config(**(base | section))


@pytest.fixture
def beside(study: Any, tmp_path: Path) -> Beside:
    loop = Beside(study, "solid", tmp_path)
    shutil.copytree(study.folder("solid"), loop.root)
    return loop


def test_corrections_stand_beside_the_cases_of_any_layout(beside: Beside, capsys: pytest.CaptureFixture[str]) -> None:
    beside.edit(0)
    with pytest.raises(ConfigError, match="takes no corrections; write `corrections: true`"):
        beside.add(beside.config(corrections=False))
    beside.add()
    manifest = ingest.check(beside.config(), "corrected")
    assert [(case.id, case.source is not None) for case in manifest.cases] == [
        *(("n0", True),),
        *((f"s{k}", False) for k in range(4)),
    ]
    assert "references: 4 as the data set has them, 1 corrected predictions" in capsys.readouterr().err
    ingest.check(beside.config(corrections=False), "corrected")
    assert f"{TABLE} is not used: `corrections: true`" in capsys.readouterr().err


@pytest.mark.parametrize("test", [None, ["s0"]])
def test_a_case_that_is_there_does_not_come_back_under_another_name(test: Any, beside: Beside) -> None:
    """Of a test image above all: its subject would stand on both sides."""
    image = beside.root / "imagesTr" / "s0.nii.gz"
    shutil.copy(image, beside.images / "again.nii.gz")
    beside.maps = predict_files([beside.images / "again.nii.gz"], beside.study.model("solid"), beside.predicted)
    beside.edit(0)
    with pytest.raises(DatasetFaults) as caught:
        beside.add(beside.config(test=test))
    (found,) = caught.value.faults
    assert found.code == "leakage"
    assert ("one of them in the test set" in found.cause) == bool(test)
    # With the subject that it has, too.
    (beside.folder / "who.csv").write_text("case,subject\nagain,s0\n")
    with pytest.raises(DatasetFaults) as caught:
        beside.add(beside.config(test=test), subject=str(beside.folder / "who.csv"))
    assert {found.code for found in caught.value.faults} <= {"leakage", "identical-images"}


def test_a_folder_of_slices_comes_along(study: Any, tmp_path: Path) -> None:
    loop = Loop(study, "solid", tmp_path, 0)
    image, _ = scene((22, 18, 12), 70)
    grid = Geometry.create(image.shape, np.diag([-1.0, -1.0, 1.5, 1.0]))
    phantom.write_folder(loop.images / "CT7", phantom.image_series((image * 100).astype(np.int16), grid))
    loop.maps = predict_files([loop.images / "CT7"], study.model("solid"), loop.predicted)
    loop.edit(0, "CT7.nrrd")
    loop.add()
    (case,) = ingest.check(all_of(loop.config()), "corrected").cases
    assert case.images == ("medseg-corrections/CT7/image/CT7",)
    assert len(list((loop.root / case.images[0]).iterdir())) == 12


def test_the_command_says_what_it_needs(solid: Loop) -> None:
    solid.edit(0)
    config = solid.folder / "c.json"
    config.write_text(solid.config().model_dump_json(exclude_none=True))
    words = ["ingest", "--config", str(config), "--dataset", "corrected"]
    places = ["--add", str(solid.edited), "--predictions", str(solid.predicted), "--images", str(solid.images)]
    for more, told in (
        (places, "needs --images FOLDER (of the images) and --by NAME"),
        ([*places, "--by", "anna", "--check"], "stands alone"),
        (["--add", "nowhere", "--images", "x", "--by", "anna"], "no such file or folder: nowhere, nowhere, x"),
        (["--by", "anna", "--check"], "are for --add FOLDER"),
    ):
        done = CliRunner().invoke(app, [*words, *more])
        assert done.exit_code == 2 and told in " ".join(done.output.replace("│", " ").split()), done.output
    done = CliRunner().invoke(app, [*words, *places, "--by", "anna"])
    assert done.exit_code == 0, done.output
    assert "added 1 corrected predictions" in done.output
