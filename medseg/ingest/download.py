"""Fetching a data set that is not there yet: archive, checksum, unpacking; only what the configuration names."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from medseg.config import Config, DownloadConfig
from medseg.errors import ConfigError, DataError
from medseg.files import sha256_file, write_text, writer_lock
from medseg.ingest.archives import extract
from medseg.progress import say
from medseg.records import as_written, read_record, write_record
from medseg.transfer import fetch, forget, sha256_error, shown

# Left in the data set's folder: what it was unpacked from.
RECORD = ".download.json"
ANEW = "the folder is then taken as put there by hand; to fetch the archive again, delete the folder"


@dataclass(frozen=True, slots=True)
class Archive:
    """A public archive.

    Attributes:
        url: where it is.
        md5: checksum as its publisher names it; empty if none is published.
    """

    url: str
    md5: str = ""


_DECATHLON = "https://msd-for-monai.s3-us-west-2.amazonaws.com"
# Medical Segmentation Decathlon (Antonelli et al. 2022, CC-BY-SA 4.0), mirror and checksums of the MONAI project;
# Data Science Bowl 2018, stage 1 (Caicedo et al. 2019, CC0), image set BBBC038v1 of the Broad Institute.
ARCHIVES: dict[str, Archive] = {
    "Task01_BrainTumour": Archive(f"{_DECATHLON}/Task01_BrainTumour.tar", "240a19d752f0d9e9101544901065d872"),
    "Task02_Heart": Archive(f"{_DECATHLON}/Task02_Heart.tar", "06ee59366e1e5124267b774dbd654057"),
    "Task03_Liver": Archive(f"{_DECATHLON}/Task03_Liver.tar", "a90ec6c4aa7f6a3d087205e23d4e6397"),
    "Task04_Hippocampus": Archive(f"{_DECATHLON}/Task04_Hippocampus.tar", "9d24dba78a72977dbd1d2e110310f31b"),
    "Task05_Prostate": Archive(f"{_DECATHLON}/Task05_Prostate.tar", "35138f08b1efaef89d7424d2bcc928db"),
    "Task06_Lung": Archive(f"{_DECATHLON}/Task06_Lung.tar", "8afd997733c7fc0432f71255ba4e52dc"),
    "Task07_Pancreas": Archive(f"{_DECATHLON}/Task07_Pancreas.tar", "4f7080cfca169fa8066d17ce6eb061e4"),
    "Task08_HepaticVessel": Archive(f"{_DECATHLON}/Task08_HepaticVessel.tar", "641d79e80ec66453921d997fbf12a29c"),
    "Task09_Spleen": Archive(f"{_DECATHLON}/Task09_Spleen.tar", "410d4a301da4e5b2f6f86ec3ddba524e"),
    "Task10_Colon": Archive(f"{_DECATHLON}/Task10_Colon.tar", "bad7a188931dc2f6acf72b08eb6202d0"),
    "BBBC038_stage1_train": Archive("https://data.broadinstitute.org/bbbc/BBBC038/stage1_train.zip"),
}


def run_download(config: Config, dataset: str, pause: Callable[[float], None] = time.sleep) -> dict[str, Any]:
    """Make sure that a data set's folder is there: fetch and unpack its archive unless it is.

    The archive is fetched into a hidden folder beside the data set's, checked, unpacked there, and the result renamed
    into place, so that a folder that is there is complete. An archive without a published checksum is trusted once:
    its SHA-256 is left beside the folder, in ``FOLDER.sha256``, and holds from then on.

    Args:
        config: the experiment.
        dataset: name of one of its data sets.
        pause: how to wait between attempts.

    Returns:
        What the folder was unpacked from (url, sha256, bytes), or ``{"url": ""}`` for data put there by hand.

    Raises:
        ConfigError: if the data set has no ``download:``.
        DataError: if the archive cannot be fetched, is another one, or is unsafe; then the folder stays absent.
        BusyError: if another process is fetching it.
    """
    section = config.dataset(dataset)
    if section.download is None:
        raise ConfigError(f"datasets.{dataset}: has no `download`, so there is nothing to fetch")
    folder = config.folder_of(dataset)
    if is_there(folder):
        return _record(folder, section.download)
    work = folder.parent / f".{folder.name}.download"
    with writer_lock(work):
        if not is_there(folder):
            archive = _fetch(dataset, section.download, work, folder, pause)
            _unpack(archive, section.download, work, folder)
    shutil.rmtree(work, ignore_errors=True)
    say(f"download {dataset}: {folder} is there")
    return _record(folder, section.download)


def is_there(folder: Path) -> bool:
    """Whether the folder holds anything; workflows make empty ones."""
    return folder.exists() and (not folder.is_dir() or any(folder.iterdir()))


def _url(download: DownloadConfig) -> str:
    return ARCHIVES[download.name].url if download.name else str(download.url)


def _record(folder: Path, download: DownloadConfig) -> dict[str, Any]:
    """The record of the archive that a folder was unpacked from; ``DataError`` if another archive is wanted."""
    if not (folder / RECORD).is_file():
        say(f"{folder} is there and was not downloaded: it is left as it is")
        return {"url": ""}
    record = read_record(folder / RECORD, "medseg download", ANEW)
    wanted = {"url": _url(download), "sha256": download.sha256}
    for key, value in wanted.items():
        if value is not None and record.get(key) != value:
            cause = f"holds the archive {shown(str(record.get('url')))} (SHA-256 {record.get('sha256')})"
            address = shown(value) if shown(value) not in cause else f"{shown(value)} with another query"
            raise DataError(
                f"{folder}: {cause}, wanted {address}; remove the folder, or give the data set another path"
            )
    with as_written(folder / RECORD, "medseg download"):
        return {key: record[key] for key in ("url", "sha256", "bytes")}


def _fetch(dataset: str, download: DownloadConfig, work: Path, folder: Path, pause: Callable[[float], None]) -> Path:
    """The archive, whole and with the right checksum."""
    part = work / "archive.part"
    fetch(_url(download), part, f"download {dataset}", lambda whole: _checksum_error(whole, download, folder), pause)
    return part


def _noted(folder: Path) -> Path:
    """The file with the checksum of an archive that has no published one."""
    return folder.parent / f"{folder.name}.sha256"


def _checksum_error(part: Path, download: DownloadConfig, folder: Path) -> str:
    """How the file differs from what was promised, or an empty text, also if nothing was promised."""
    md5 = ARCHIVES[download.name].md5 if download.name else ""
    promised = download.sha256 or ("" if md5 else _noted_digest(folder))
    if promised and (error := sha256_error(part, promised)):
        noted = f" (noted in {_noted(folder)} at the first download; remove it if you agree)"
        return error if download.sha256 else error + noted
    if md5 and (found := _md5(part)) != md5:
        return f"{part.stat().st_size} bytes with MD5 {found}, expected {md5}"
    return ""


def _md5(part: Path) -> str:
    with open(part, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _noted_digest(folder: Path) -> str:
    path = _noted(folder)
    if not path.is_file():
        return ""
    noted = path.read_bytes().partition(b" ")[0].strip()
    if not re.fullmatch(rb"[0-9a-f]{64}", noted):
        raise DataError(
            f"{path}: no SHA-256 at its beginning, so it is damaged; write the archive's into it, or delete it and the "
            "next download is trusted"
        )
    return noted.decode()


def _unpack(archive: Path, download: DownloadConfig, work: Path, folder: Path) -> None:
    """Unpack beside the archive, then rename into place; a single folder around everything is left away."""
    url, files = _url(download), work / "files"
    shutil.rmtree(files, ignore_errors=True)
    try:
        extract(archive, files)
    except DataError as error:
        forget(archive)
        shutil.rmtree(files, ignore_errors=True)
        raise DataError(f"{shown(url)}: {str(error).removeprefix(f'{archive}: ')}") from None
    inside = [path for path in files.iterdir() if not path.name.startswith(".")]
    content = inside[0] if len(inside) == 1 and inside[0].is_dir() else files
    sha256 = sha256_file(archive)
    write_record(content / RECORD, {"url": url, "sha256": sha256, "bytes": archive.stat().st_size})
    if not download.sha256 and not (download.name and ARCHIVES[download.name].md5):
        write_text(_noted(folder), f"{sha256}  {PurePosixPath(unquote(urlsplit(url).path)).name}\n")
    # Thousands of small files: one flush of all is cheaper than one each, and must come before the rename.
    os.sync()
    os.replace(content, folder)
