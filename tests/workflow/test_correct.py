"""The commands of docs/correct.md, in their order, with an edit by script between them."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from medseg.ingest.phantoms import generate
from medseg.records import read_record
from tests.workflow.study import ROOT, environment, make_study, medseg, run

pytestmark = [pytest.mark.workflow, pytest.mark.exhaustive]

PAGE = (ROOT / "docs" / "correct.md").read_text()
BASE = """
experiment: organs
data_root: data
datasets:
  scans: {layout: decathlon, path: scans, channels: [CT], generate: {kind: organs, cases: 4, seed: 1}}
models:
  unet: {network: unet, plan: {patch: [32, 32, 16], widths: [8, 16, 16], strides: [[1, 1, 1], [2, 2, 1], [2, 2, 2]]}}
folds: {count: 2, run: [0]}
budget: {steps: 4}
threads: 1
"""


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)


def edit(predicted: Path, edited: Path) -> None:
    """One label map as nibabel saves it, one as ITK does (3D Slicer and ITK-SNAP write by it), one is left as it is."""
    edited.mkdir()
    first, second, *_ = sorted(predicted.glob("*.nii.gz"))
    image = nibabel.load(first)
    values = np.asanyarray(image.dataobj).copy()
    values[4:9, 4:9, 2:5] = 1
    nibabel.save(nibabel.Nifti1Image(values, image.affine), edited / first.name)
    label = sitk.ReadImage(str(second))
    array = sitk.GetArrayFromImage(label)
    array[2:5, 4:9, 4:9] = 2
    changed = sitk.GetImageFromArray(array)
    changed.CopyInformation(label)
    sitk.WriteImage(changed, str(edited / second.name.replace(".nii.gz", "-segmentation.nrrd")))


def test_the_loop(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "study", BASE)
    # Of both studies, no more than is asked about.
    done = run(folder, "results/organs/scans/train/unet/fold0-seed0/model.json")
    assert done.returncode == 0, done.stdout[-4000:]
    generate("organs", 3, 9, folder / "fresh")
    # Cases of one name in two data sets count as one.
    (folder / "new").mkdir()
    for image in (folder / "fresh/imagesTr").glob("*.nii.gz"):
        image.rename(folder / "new" / f"ward_{image.name}")
    predict, add = (shlex.split(line) for line in re.findall(r"^medseg (?:predict|ingest) .*$", PAGE, re.MULTILINE)[:2])

    done = medseg(folder, *predict[1:])
    assert done.returncode == 0, done.stdout[-4000:]
    edit(folder / "predicted", folder / "edited")

    printed = subprocess.run(
        [sys.executable, "-c", blocks("python")[0]],
        cwd=folder,
        env=environment(folder),
        check=True,
        capture_output=True,
        text=True,
    )
    plan = json.loads(printed.stdout)
    text = re.sub(r"    plan: .*", f"    plan: {printed.stdout.strip()}", blocks("yaml")[0])
    (folder / "tuned.yaml").write_text(text.replace("steps: 500", "steps: 4") + "threads: 1\n")
    done = medseg(folder, *add[1:])
    assert done.returncode == 0, done.stdout[-4000:]
    assert "added 2 corrected predictions to medseg-corrections/cases.csv of data set 'corrected'" in done.stdout

    done = run(folder, "--configfile", "tuned.yaml")
    assert done.returncode == 0, done.stdout[-4000:]
    assert "references: 2 corrected predictions; by anna; predicted by scans/unet fold 0 seed 0" in done.stdout
    assert re.search(r"starts from \S+, (\d+) of \1 tensors\n", done.stdout)
    model = read_record(folder / "results/tuned/corrected/train/tuned/fold0-seed0/model.json", "")
    seen = {(row["dataset"], row["subject"]) for row in model["trained_on"]["subjects"]}
    assert {dataset for dataset, _ in seen} == {"scans", "corrected"}
    assert model["plan"]["network"]["widths"] == plan["widths"]
    report = next((folder / "results/tuned/report").glob("*.html")).read_text()
    assert "2 corrected predictions; by anna; predicted by scans/unet fold 0 seed 0" in report
    assert "scores on it favour the model that predicted" in report

    # Images that the start was trained on cannot be validated on, whatever they are called.
    (folder / "old").mkdir()
    for image in (folder / "data/scans/imagesTr").glob("*.nii.gz"):
        (folder / "old" / f"again_{image.name}").write_bytes(image.read_bytes())
    done = medseg(folder, "predict", "old", "--model", predict[predict.index("--model") + 1], "-o", "predicted2")
    assert done.returncode == 0, done.stdout[-4000:]
    for path in sorted((folder / "predicted2").glob("*.nii.gz")):
        image = nibabel.load(path)
        values = np.asanyarray(image.dataobj).copy()
        values[4:9, 4:9, 2:5] = 1
        nibabel.save(nibabel.Nifti1Image(values, image.affine), path)
    done = medseg(folder, *add[1:6], "--add", "predicted2", "--images", "old", "--by", "anna")
    assert done.returncode == 0, done.stdout[-4000:]
    done = run(folder, "--configfile", "tuned.yaml", "results/tuned/corrected/train/tuned/fold0-seed0/model.json")
    assert done.returncode == 2 and "its weights have seen" in done.stdout
