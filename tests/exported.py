"""Models to export, images that they have not seen, and what medseg itself makes of those."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medseg.formats.read import open_image
from medseg.formats.write import write_labels
from medseg.image.geometry import Geometry
from medseg.predict.predictor import Predictor
from tests.conftest import OBLIQUE, scene
from tests.plans import run_plan

CASES = 20


@dataclass(frozen=True)
class Exported:
    """A model folder, images, and the label maps that medseg gives them.

    Attributes:
        model: its folder.
        images: their files.
        labels: label map of each, on its voxels.
        differing: share of voxels that another reader may label otherwise, where two maps are equal but for rounding.
    """

    model: Path
    images: tuple[Path, ...]
    labels: tuple[np.ndarray, ...]
    differing: float

    def array(self, path: Path) -> tuple[np.ndarray, np.ndarray]:
        """(C, S) and the affine of an image."""
        source = open_image(path)
        return source.image(), source.geometry.affine

    def require(self, found: list[np.ndarray]) -> None:
        """Fail unless these label maps are ours."""
        assert [one.shape for one in found] == [one.shape for one in self.labels]
        wrong = sum(int((a != b).sum()) for a, b in zip(found, self.labels, strict=True))
        total = sum(one.size for one in self.labels)
        assert wrong <= self.differing * total, f"{wrong} of {total} voxels differ"
        assert len({int(v) for one in self.labels for v in np.unique(one)}) > 1


def of(model: Path, images: list[Path], differing: float) -> Exported:
    """Predict images with a model folder."""
    predictor = Predictor(model)
    labels = tuple(predictor.label_map(open_image(path), path.name) for path in images)
    return Exported(model, tuple(images), labels, differing)


def phantoms(folder: Path, dims: int) -> list[Path]:
    """Images of many sizes, some larger than a window; volumes oblique, of several voxel sizes."""
    images = []
    for index in range(CASES):
        shape = (30 + index, 20, 14 + index % 5)[:dims] if dims == 3 else (50 + 3 * index, 40)
        image, _ = scene(shape, 50 + index)
        scale = 1 + 0.1 * (index % 4)
        if dims == 3:
            path, grid = folder / f"p{index}.nii.gz", Geometry.create(shape, OBLIQUE @ np.diag([scale] * 3 + [1]))
            write_labels(path, (image * 100).astype(np.int16), grid)
        else:
            path, grid = folder / f"p{index}.png", Geometry.from_spacing(shape, (1.0, 1.0))
            write_labels(path, np.clip(image * 60 + 40, 1, 255).astype(np.uint8), grid)
        images.append(path)
    return images


def hippocampus(source: Path, root: Path) -> Exported:
    """A small model of some real cases, trained for a moment, and twenty others."""
    files = sorted(path for path in (source / "imagesTr").iterdir() if not path.name.startswith("."))
    listed = json.loads((source / "dataset.json").read_text())
    facts = {name: listed[name] for name in ("modality", "labels")}
    pairs = [{"image": f"./imagesTr/{f.name}", "label": f"./labelsTr/{f.name}"} for f in files[:24]]
    data = root / "data" / "some"
    data.mkdir(parents=True)
    for folder in ("imagesTr", "labelsTr"):
        (data / folder).mkdir()
        for file in files[:24]:
            shutil.copyfile(source / folder / file.name, data / folder / file.name)
    (data / "dataset.json").write_text(json.dumps({**facts, "training": pairs}))
    return of(_trained(root, 100), files[-CASES:], 0.0)


def _trained(root: Path, steps: int) -> Path:
    from medseg.config import load_config
    from medseg.ingest import run as ingest
    from medseg.plan.survey import run_fingerprint
    from medseg.preprocess import run as preprocess
    from medseg.train import run as train

    fixed: dict[str, Any] = {
        "widths": [8, 16, 16],
        "batch": 2,
        "precision": "fp32",
        "strides": [[1] * 3, [2] * 3, [2] * 3],
    }
    config = load_config(
        [],
        {
            "experiment": "some",
            "data_root": str(root / "data"),
            "datasets": {"some": {"layout": "decathlon", "path": "some", "allow": ["same-origin"]}},
            "models": {"unet": {"network": "unet", "plan": fixed}},
            "folds": {"count": 2, "run": [0]},
            "budget": {"steps": steps},
            "threads": 1,
            "device": "cpu",
        },
    )
    place = root / "results"
    manifest, plan, index = place / "manifest.tsv", place / "plan.json", place / "prepared" / "index.json"
    ingest.run(config, "some", place)
    run_fingerprint(config, manifest, place / "fingerprint.json", 1)
    run_plan(config, "unet", place / "fingerprint.json", plan)
    preprocess.run(config, "unet", manifest, place / "fingerprint.json", index.parent, "code", 1)
    train.run(
        train.Inputs(manifest, plan, index, place / "splits.json", 0, 0), root / ".state", place / "model", "code"
    )
    return place / "model"
