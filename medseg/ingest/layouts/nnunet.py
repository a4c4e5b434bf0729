"""Layout ``nnunet``: nnU-Net's raw folders, ``imagesTr/CASE_0000.nii.gz`` per channel and ``labelsTr/CASE.nii.gz``.

Isensee et al. 2021, nnU-Net, Nature Methods 18:203; the format of its second version.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from medseg.bounds import shortened
from medseg.config import DatasetConfig
from medseg.errors import DataError, Fault
from medseg.files import read_json
from medseg.ingest.faults import fault
from medseg.ingest.layouts.found import Candidate, Found, files_there, outside, usable, visible
from medseg.ingest.layouts.index import INDEX, channel_names, label_table, read_index, without_references

# Formats whose files have no spacing, so that nnU-Net reads CASE.json beside them.
WITHOUT_SPACING = (".tif", ".tiff")


def nnunet_layout(dataset: str, root: Path, config: DatasetConfig) -> Found:
    """Pair the files of ``imagesTr`` and ``labelsTr`` by name, or those that dataset.json lists under ``dataset``."""
    found = Found()
    index = read_index(root, "nnunet", found.faults)
    if index is None:
        return found
    found.labels = label_table(index, config, found.faults)
    found.channels = channel_names(index)
    if found.channels is None:
        found.faults.append(fault("dataset-json", "-", INDEX, 'no \'channel_names\', e.g. {"0": "CT"}'))
        return found
    test = config.test is not None and config.test.folder is not None
    if "dataset" in index:
        listed = _listed(index["dataset"], len(found.channels), found.faults)
        found.candidates, faults = files_there(root, listed)
        found.faults += faults
        _check_count(index, len(listed), "listed under 'dataset'", found.faults)
        if not test:
            return found
    ending = index.get("file_ending")
    if not isinstance(ending, str) or not re.fullmatch(r"(\.[A-Za-z0-9]+)+", ending):
        cause = f"file_ending {ending!r}, expected a suffix such as '.nii.gz'"
        found.faults.append(fault("dataset-json", "-", INDEX, cause))
        return found
    if "dataset" not in index:
        _check_count(index, _folders(root, "Tr", ending, found), "in imagesTr and labelsTr", found.faults)
    if test and (lacks := without_references(root)):
        found.faults.append(lacks)
    elif test:
        _folders(root, "Ts", ending, found)
    return found


def _folders(root: Path, part: str, ending: str, found: Found) -> int:
    """Add the cases of ``imagesTr`` and ``labelsTr`` (part ``Tr``), or of the test set (``Ts``); how many there are."""
    images, labels = _files(root, part, ending, found.faults)
    before = len(found.candidates)
    for case in sorted(images.keys() | labels.keys()):
        _pair(root, case, images.get(case, {}), labels.get(case, ""), part, ending, found)
    if ending in WITHOUT_SPACING:
        new = [_with_spacing(root, part, case, found.faults) for case in found.candidates[before:]]
        found.candidates[before:] = new
    return len(images.keys() | labels.keys())


def _files(root: Path, part: str, ending: str, faults: list[Fault]) -> tuple[dict[str, dict[int, str]], dict[str, str]]:
    """Case -> channel number -> image, and case -> label; files that are neither are faults."""
    images: dict[str, dict[int, str]] = defaultdict(dict)
    labels: dict[str, str] = {}
    for folder in (f"images{part}", f"labels{part}"):
        if not (root / folder).is_dir():
            fix = "the nnunet layout has a file dataset.json, folders imagesTr and labelsTr"
            faults.append(fault("missing", "-", folder, "no such folder", fix))
        for file in visible(root, folder):
            name = Path(file).name
            channel = re.fullmatch(r"(.+)_([0-9]{4})", name.removesuffix(ending))
            if not name.endswith(ending):
                if not name.endswith(".json"):
                    cause = f"dataset.json says that all files end in {ending}"
                    faults.append(fault("unlisted", name, file, cause, "convert it or remove it"))
            elif folder == f"labels{part}":
                labels[name.removesuffix(ending)] = file
            elif channel:
                images[channel[1]][int(channel[2])] = file
            else:
                cause = "no channel number at the end of its name"
                fix = f"rename to {name.removesuffix(ending)}_0000{ending} (0001 for the second channel)"
                faults.append(fault("channels", name.removesuffix(ending), file, cause, fix))
    return images, labels


def _pair(root: Path, case: str, images: Mapping[int, str], label: str, part: str, ending: str, found: Found) -> None:
    """Add one case to what was found, or why it cannot be."""
    names = found.channels or ()
    files = [images[number] for number in sorted(images)]
    if escapes := outside(root, [*files, *([label] if label else [])]):
        found.faults += escapes
    elif not images:
        cause = f"no file images{part}/{case}_0000{ending}"
        found.faults.append(fault("label-without-image", case, label, cause))
    elif not label:
        cause = f"no file labels{part}/{case}{ending}"
        found.faults.append(fault("image-without-label", case, files[0], cause))
    elif set(images) != set(range(len(names))):
        lacks = [f"_{k:04d} ({names[k]})" for k in range(len(names)) if k not in images]
        extra = [f"_{k:04d}" for k in sorted(images) if k >= len(names)]
        cause = "; ".join(
            (["no channel " + ", ".join(lacks)] if lacks else [])
            + ([f"channel {', '.join(extra)} beyond the {len(names)} of dataset.json"] if extra else [])
        )
        found.faults.append(fault("channels", case, files[0], cause, "add or remove the channel's file"))
    else:
        found.candidates.append(Candidate(case, "", tuple(files), (label,), test=part == "Ts"))


def _listed(mapping: Any, channels: int, faults: list[Fault]) -> list[Candidate]:
    """The cases of the mapping ``dataset``: id -> {"images": files, "label": file}."""
    if not isinstance(mapping, dict):
        faults.append(fault("dataset-json", "-", INDEX, "'dataset': expected a mapping of case ids"))
        return []
    cases = []
    for case, entry in mapping.items():
        images = entry.get("images") if isinstance(entry, dict) else None
        label = entry.get("label") if isinstance(entry, dict) else None
        if not isinstance(images, list) or not images or not all(usable(name) for name in (*images, label)):
            cause = f"dataset[{case!r}]: expected {{'images': [files], 'label': file}}"
            faults.append(fault("dataset-json", case, INDEX, cause))
            continue
        files = [str(PurePosixPath(file)) for file in (*images, str(label))]
        if len(images) != channels:
            cause = f"{len(images)} images, dataset.json names {channels} channels"
            faults.append(fault("channels", case, files[0], cause, "list one file per channel"))
            continue
        cases.append(Candidate(case, "", tuple(files[:-1]), (files[-1],)))
    return cases


def _check_count(index: Mapping[str, Any], count: int, where: str, faults: list[Fault]) -> None:
    promised = index.get("numTraining", count)
    if isinstance(promised, str) and promised.strip().isdecimal():
        # Some programs write numbers as text.
        promised = int(promised[:18])
    if not isinstance(promised, int) or isinstance(promised, bool):
        cause = f"numTraining is {shortened(promised)} ({type(promised).__name__}), expected a whole number"
        faults.append(fault("dataset-json", "-", INDEX, cause, f"write {count}, the cases that are {where}"))
    elif promised != count:
        cause = f"numTraining is {promised}, {count} cases are {where}"
        faults.append(fault("dataset-json", "-", INDEX, cause, "correct numTraining, or add what is missing"))


def _with_spacing(root: Path, part: str, case: Candidate, faults: list[Fault]) -> Candidate:
    """The case with the spacing of its sidecar ``imagesTr/CASE.json``: per array axis, taken as micrometres."""
    spacings = {}
    for file in (f"images{part}/{case.id}.json", f"labels{part}/{case.id}.json"):
        if not (root / file).exists():
            continue
        try:
            value = read_json(root / file)
            numbers = value["spacing"] if isinstance(value, dict) else None
            spacings[file] = tuple(float(n) for n in numbers)  # type: ignore[union-attr]
            if not all(math.isfinite(n) and n > 0 for n in spacings[file]) or len(spacings[file]) not in (2, 3):
                raise ValueError
        except (DataError, KeyError, TypeError, ValueError, OverflowError, RecursionError):
            cause = 'no spacing in it, expected {"spacing": [0.5, 0.2, 0.2]}, one number above 0 per axis'
            faults.append(fault("unreadable", case.id, file, cause, "correct the file or remove it"))
            return case
    if len(set(spacings.values())) > 1:
        image, label = spacings.values()
        file = f"labels{part}/{case.id}.json"
        faults.append(fault("affine-mismatch", case.id, file, f"spacing {label}, the image's file says {image}"))
        return case
    return dataclasses.replace(case, spacing=next(iter(spacings.values()), None))
