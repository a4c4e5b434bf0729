"""Identity in headers stays there: planted in every text field of every format, it is found in no output."""

from __future__ import annotations

import gzip
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
import yaml
from typer.testing import CliRunner

from medseg.cli.commands import app
from medseg.errors import DatasetFaults
from medseg.formats.read import read_image
from medseg.formats.table import suffix_of
from medseg.formats.write import write_labels
from medseg.ingest.manifest import read_manifest
from medseg.ingest.run import check
from tests.faults.sets import CASES, KINDS, config

# Field -> what is planted in it, short enough for the shortest field that takes it.
SECRETS = {field: f"Canary{number:02d}" for number, field in enumerate((
    "descrip", "aux_file", "intent_name", "db_name", "data_type", "comment extension", "DICOM extension",
    "ImageDescription", "Artist", "DateTime", "Copyright", "HostComputer", "Software", "PageName", "Make",
    "tEXt", "zTXt", "iTXt", "eXIf",
    "NRRD key", "NRRD comment", "NRRD content",
    "Comment", "Name", "PatientID of MetaImage",
    "PatientName", "PatientID", "PatientComments", "InstitutionName", "ReferringPhysicianName", "StudyDescription",
    "SeriesDescription", "AccessionNumber", "OperatorsName", "private tag", "StationName",
))}  # fmt: skip


def secret(field: str) -> bytes:
    return SECRETS[field].encode()


def plant_nifti(path: Path) -> None:
    """Text fields of the header (offset), and two extensions behind it."""
    image = nibabel.load(path)
    data = np.asarray(image.dataobj).copy()
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(6, secret("comment extension") * 3))
    dicom = struct.pack("<HH2sH", 0x10, 0x10, b"PN", 8) + secret("DICOM extension")
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension(44, dicom))
    again = nibabel.Nifti1Image(data, None, image.header, dtype=data.dtype)
    plain = bytearray(again.to_bytes())
    for field, offset in (("data_type", 4), ("db_name", 14), ("descrip", 148), ("aux_file", 228), ("intent_name", 328)):
        plain[offset : offset + 8] = secret(field)
    path.write_bytes(gzip.compress(bytes(plain)) if path.suffix == ".gz" else bytes(plain))


def plant_tiff(path: Path) -> None:
    tags = {"Artist": 315, "Copyright": 33432, "HostComputer": 316, "PageName": 285, "Make": 271}
    extra = [(number, 2, 0, SECRETS[name], True) for name, number in tags.items()]
    tifffile.imwrite(
        path,
        tifffile.imread(path),
        description=SECRETS["ImageDescription"],
        datetime=None,
        software=SECRETS["Software"],
        extratags=[*extra, (306, 2, 0, SECRETS["DateTime"], True)],
        metadata=None,
    )


def plant_png(path: Path) -> None:
    data = path.read_bytes()
    bodies = {
        b"tEXt": b"Author\0" + secret("tEXt"),
        b"zTXt": b"Comment\0\0" + zlib.compress(secret("zTXt")),
        b"iTXt": b"Title\0\0\0de\0Titel\0" + secret("iTXt"),
        b"eXIf": b"II*\0" + secret("eXIf"),
    }
    chunks = b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in bodies.items()
    )
    path.write_bytes(data[:33] + chunks + data[33:])


def plant_nrrd(path: Path) -> None:
    head, _, body = path.read_bytes().partition(b"\n\n")
    lines = [b"# " + secret("NRRD comment"), b"content: " + secret("NRRD content"), b"patient:=" + secret("NRRD key")]
    path.write_bytes(b"\n".join([head, *lines]) + b"\n\n" + body)


def plant_mha(path: Path) -> None:
    first, _, rest = path.read_bytes().partition(b"\n")
    lines = [
        b"Comment = " + secret("Comment"),
        b"Name = " + secret("Name"),
        b"PatientID = " + secret("PatientID of MetaImage"),
    ]
    path.write_bytes(b"\n".join([first, *lines, rest]))


def plant_dicom(path: Path) -> None:
    import pydicom

    if path.suffix != ".dcm":
        return plant_nifti(path)
    slice_ = pydicom.dcmread(path)
    for name in list(SECRETS)[list(SECRETS).index("PatientName") :]:
        if name != "private tag":
            setattr(slice_, name, SECRETS[name])
    slice_.private_block(0x0011, SECRETS["private tag"], create=True).add_new(1, "LO", SECRETS["private tag"])
    slice_.save_as(path)
    return None


PLANTERS: dict[str, Callable[[Path], object]] = {
    "organs": plant_nifti,
    "nifti": plant_nifti,
    "tiff": plant_tiff,
    "cells": plant_png,
    "nrrd": plant_nrrd,
    "mha": plant_mha,
    "dicom": plant_dicom,
}


@pytest.fixture(params=PLANTERS)
def planted(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, str]:
    """A sound data set with secrets in every file's text fields, and its kind."""
    kind = request.param
    KINDS[kind].write(tmp_path / "data" / kind, CASES, 1)
    for path in (tmp_path / "data" / kind).rglob("*.*"):
        if path.is_file() and path.suffix not in (".json", ".lock"):
            PLANTERS[kind](path)
    return tmp_path / "data", kind


def leaks(data: bytes) -> list[str]:
    forms = {field: (text.encode(), text.encode("utf-16-le"), text[::-1].encode()) for field, text in SECRETS.items()}
    return [field for field, texts in forms.items() if any(text in data for text in texts)]


def unpacked(path: Path) -> bytes:
    data = path.read_bytes()
    return data + (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else b"")


def test_secrets_are_really_planted() -> None:
    assert len(SECRETS) >= 30


def test_no_secret_reaches_any_output(planted: tuple[Path, str], tmp_path: Path) -> None:
    data, kind = planted
    inputs = b"".join(unpacked(p) for p in data.rglob("*") if p.is_file())
    assert leaks(inputs), "nothing was planted"
    results = tmp_path / "results"
    here = config(data, kind)
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(here.model_dump(exclude_none=True)))
    ingest, plan = results / "ingest", results / "plan"
    common = ["--config", str(file)]
    case_files = ["--manifest", str(ingest / "manifest.tsv"), "--fingerprint", str(plan / "fingerprint.json")]
    told = b""
    # A plan is made of the fingerprint alone, so that one kind of data set is enough for it.
    planning = ["plan", *common, "--model", "unet", *case_files[2:], "--out", str(plan / "unet.json")]
    for command in (
        ["ingest", *common, "--dataset", kind, "--out", str(ingest)],
        ["fingerprint", *common, *case_files[:2], "--out", str(plan / "fingerprint.json")],
        ["preprocess", *common, "--model", "unet", *case_files, "--out", str(results / "store"), "--code", "c"],
        *([planning] if kind == "nifti" else []),
    ):
        done = CliRunner().invoke(app, command, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        told += done.output.encode() + done.stderr.encode()
    manifest = read_manifest(ingest / "manifest.tsv")
    for case in manifest.cases:
        source = data / kind / case.images[0]
        suffix = ".nii.gz" if source.is_dir() else suffix_of(source)
        image, grid = read_image(source)
        write_labels(results / "predict" / f"{case.id}{suffix}", (image[0] > image[0].mean()).astype(np.uint8), grid)
    assert leaks(told) == []
    for path in sorted(results.rglob("*")):
        if path.is_file():
            assert leaks(unpacked(path)) == [], path


def test_no_secret_reaches_the_tracked_parameters(tmp_path: Path) -> None:
    from medseg.plan.survey import run_fingerprint
    from medseg.tracking import training_spec
    from tests.plans import run_plan

    KINDS["nifti"].write(tmp_path / "nifti", CASES, 1)
    for path in (tmp_path / "nifti").rglob("*.nii"):
        plant_nifti(path)
    here = config(tmp_path, "nifti")
    from medseg.ingest.run import run

    run(here, "nifti", tmp_path / "out")
    run_fingerprint(here, tmp_path / "out/manifest.tsv", tmp_path / "out/fingerprint.json", 1)
    run_plan(here, "unet", tmp_path / "out/fingerprint.json", tmp_path / "out/unet.json")
    spec = training_spec(tmp_path / "out/manifest.tsv", tmp_path / "out/unet.json", 0, 0, "key")
    assert leaks(repr(spec).encode()) == []


def test_no_secret_reaches_a_fault(planted: tuple[Path, str]) -> None:
    """Files cut in their middle, and headers with a damaged byte in every place, tell what is wrong without them."""
    data, kind = planted
    files = [p for p in sorted((data / kind).rglob("*.*")) if p.is_file() and p.suffix != ".json"]
    rng = np.random.default_rng(0)
    for number, path in enumerate(files):
        raw = bytearray(path.read_bytes())
        if number % 2:
            raw = raw[: len(raw) // 2]
        else:
            for at in rng.integers(0, min(len(raw), 400), 3):
                raw[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(raw))
    with pytest.raises(DatasetFaults) as caught:
        check(config(data, kind), kind)
    assert leaks(str(caught.value).encode()) == []
    assert json.dumps(str(caught.value))
