"""Small sound data sets, one per layout and format, in which faults are planted."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel
import numpy as np

from medseg.config import Config
from medseg.formats.write import write_labels
from medseg.image.geometry import Geometry
from medseg.ingest.phantoms import generate
from tests.conftest import scene

CASES = 6
# Oblique, anisotropic, axes at right angles, two of them against the world's.
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = np.linalg.qr([[-6.0, 1.0, 0.3], [0.9, 6.0, -0.9], [-0.2, -1.0, -6.0]])[0] @ np.diag([1.2, 1.2, 2.4])
OBLIQUE[:3, 3] = (33.0, -40.5, 7.25)
CLASSES = {"ball": 1, "rod": 2}


def _pairs(suffix: str, shape: tuple[int, ...]) -> Callable[[Path, int, int], None]:
    """A writer of scenes in the pairs layout, in one format; pictures are brighter in one case than in the next."""

    def write(folder: Path, cases: int, seed: int) -> None:
        for case in range(cases):
            image, labels = scene(tuple(n + case % 3 for n in shape), 100 * seed + case)
            flat = Geometry.from_spacing(labels.shape, (1.0,) * len(shape)) if "tif" in suffix else None
            grid = flat or Geometry.create(labels.shape, OBLIQUE)
            values = (image * 50 + 300).astype(np.int16 if flat is None else np.uint16)
            name = f"{folder.name}_{case:03d}{suffix}"
            write_labels(folder / "images" / name, values, grid)
            write_labels(folder / "masks" / name, labels, grid)

    return write


def write_channels(folder: Path, cases: int, seed: int) -> None:
    """nnU-Net's layout: two channels whose intensities differ by some orders of magnitude."""
    for case in range(cases):
        image, labels = scene((20 + case % 3, 18, 14), 100 * seed + case)
        rng = np.random.default_rng([seed, case])
        grid = Geometry.create(labels.shape, OBLIQUE)
        mr = (image * 300 * rng.uniform(0.8, 1.2) + 500).astype(np.int16)
        pet = (image * 4 * rng.uniform(0.8, 1.2) + 10 + rng.random(labels.shape)).astype(np.int16)
        name = f"channels_{case:03d}"
        write_labels(folder / "imagesTr" / f"{name}_0000.nii.gz", mr, grid)
        write_labels(folder / "imagesTr" / f"{name}_0001.nii.gz", pet, grid)
        write_labels(folder / "labelsTr" / f"{name}.nii.gz", labels, grid)
    index = {
        "channel_names": {"0": "MR", "1": "PET"},
        "labels": {"background": 0, **CLASSES},
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    (folder / "dataset.json").write_text(json.dumps(index))


def write_objects(folder: Path, cases: int, seed: int) -> None:
    """Data Science Bowl 2018: a folder per case, a mask file per object."""
    for case in range(cases):
        image, labels = scene((40, 36 + case), 100 * seed + case)
        grid = Geometry.from_spacing(labels.shape, (1.0, 1.0))
        name = f"objects_{case:03d}"
        write_labels(folder / name / "images" / f"{name}.png", np.clip(image * 50 + 60, 1, 255).astype(np.uint8), grid)
        for value in (1, 2):
            mask = ((labels == value) * 255).astype(np.uint8)
            write_labels(folder / name / "masks" / f"object{value}.png", mask, grid)


def write_typed(folder: Path, cases: int, seed: int) -> None:
    """Pairs layout: masks of object numbers (ball 5, rod 9), and the class of each in class maps and in a table."""
    lines = ["case,object,class"]
    for case in range(cases):
        image, labels = scene((40 + case % 3, 36 + case % 3), 100 * seed + case)
        grid = Geometry.from_spacing(labels.shape, (1.0, 1.0))
        name = f"typed_{case:03d}"
        write_labels(folder / "images" / f"{name}.png", np.clip(image * 50 + 60, 1, 255).astype(np.uint8), grid)
        write_labels(folder / "masks" / f"{name}.png", np.array([0, 5, 9], dtype=np.uint8)[labels], grid)
        write_labels(folder / "classes" / f"{name}.png", labels, grid)
        lines += [f"{name},5,ball", f"{name},9,2"]
    (folder / "classes.csv").write_text("\n".join(lines) + "\n")


def write_series(folder: Path, volume: np.ndarray, spacing: tuple[float, float, float] = (1.5, 1.5, 3.0)) -> None:
    """An uncompressed CT series: a file per slice of ``volume`` (columns, rows, slices), axes as in DICOM (LPS)."""
    import pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    folder.mkdir(parents=True, exist_ok=True)
    series = generate_uid(entropy_srcs=[str(folder)])
    for k in range(volume.shape[2]):
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID = pydicom.uid.CTImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(folder), str(k)])
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        slice_ = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
        slice_.SOPClassUID, slice_.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
        slice_.SeriesInstanceUID, slice_.StudyInstanceUID = series, generate_uid(entropy_srcs=["study"])
        slice_.Modality, slice_.InstanceNumber = "CT", k + 1
        slice_.ImagePositionPatient = [0.0, 0.0, k * spacing[2]]
        slice_.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
        slice_.PixelSpacing, slice_.SliceThickness = [spacing[1], spacing[0]], spacing[2]
        slice_.Rows, slice_.Columns = volume.shape[1], volume.shape[0]
        slice_.SamplesPerPixel, slice_.PhotometricInterpretation = 1, "MONOCHROME2"
        slice_.BitsAllocated, slice_.BitsStored, slice_.HighBit, slice_.PixelRepresentation = 16, 16, 15, 1
        slice_.PixelData = volume[:, :, k].T.astype("<i2").tobytes()
        slice_.save_as(folder / f"slice_{k:03d}.dcm", enforce_file_format=True)


def write_dicom(folder: Path, cases: int, seed: int) -> None:
    """Pairs layout: a DICOM folder per image, a NIfTI label map on the same grid in RAS+."""
    for case in range(cases):
        image, labels = scene((16, 14 + case % 3, 8), 100 * seed + case)
        name = f"dicom_{case:03d}"
        write_series(folder / "images" / name, (image * 300).astype(np.int16))
        mask = nibabel.Nifti1Image(labels, np.diag([-1.5, -1.5, 3.0, 1.0]))
        (folder / "masks").mkdir(exist_ok=True)
        nibabel.save(mask, folder / "masks" / f"{name}.nii.gz")


@dataclass(frozen=True)
class Kind:
    """A kind of data set: how it is written, and its part of the configuration."""

    write: Callable[[Path, int, int], None]
    section: dict[str, Any] = field(default_factory=dict)


PAIRS = {"layout": "pairs", "labels": CLASSES}
KINDS: dict[str, Kind] = {
    "cells": Kind(
        lambda folder, cases, seed: generate("cells", cases, seed, folder),
        {"layout": "pairs", "labels": {"nucleus": 1}, "instances": True},
    ),
    "organs": Kind(lambda folder, cases, seed: generate("organs", cases, seed, folder), {"layout": "decathlon"}),
    "channels": Kind(write_channels, {"layout": "nnunet"}),
    "tiff": Kind(_pairs(".tif", (40, 36)), PAIRS),
    "stacks": Kind(_pairs(".tif", (8, 20, 18)), PAIRS),
    "objects": Kind(write_objects, {"layout": "dsb2018"}),
    "typed": Kind(write_typed, {**PAIRS, "instances": True, "classes": "classes"}),
    "nifti": Kind(_pairs(".nii", (20, 18, 14)), PAIRS),
    "nrrd": Kind(_pairs(".nrrd", (20, 18, 14)), PAIRS),
    "mha": Kind(_pairs(".mha", (20, 18, 14)), PAIRS),
    "dicom": Kind(write_dicom, PAIRS),
}


def config(root: Path, kind: str, **changes: Any) -> Config:
    """An experiment on the data set ``root / kind``; ``changes`` to its section, or ``folds`` and ``models``."""
    top = {key: changes.pop(key) for key in ("folds", "models") if key in changes}
    return Config.model_validate(
        {
            "experiment": "test",
            "data_root": str(root),
            "datasets": {kind: {"path": kind, **KINDS[kind].section, **changes}},
            "models": {"unet": {"network": "unet"}},
            "folds": {"count": 2},
            "budget": {"steps": 1},
            **top,
        }
    )
