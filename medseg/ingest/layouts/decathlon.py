"""Layout ``decathlon``: ``dataset.json`` names labels, channels and the files in ``imagesTr/`` and ``labelsTr/``.

Antonelli et al. 2022, The Medical Segmentation Decathlon, Nature Communications 13:4128.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import Any

from medseg.config import DatasetConfig
from medseg.errors import Fault
from medseg.ingest.faults import fault
from medseg.ingest.layouts.found import Candidate, Found, by_stem, files_there, outside, stem, usable, visible
from medseg.ingest.layouts.index import INDEX, channel_names, label_table, read_index, without_references


def decathlon_layout(dataset: str, root: Path, config: DatasetConfig) -> Found:
    """Take the cases that ``training`` lists; files beside them that it does not list are faults."""
    found = Found()
    index = read_index(root, "decathlon", found.faults)
    if index is None:
        return found
    if not isinstance(index.get("training"), list):
        found.faults.append(fault("dataset-json", "-", INDEX, "no list 'training'"))
        return found
    found.labels = label_table(index, config, found.faults)
    found.channels = channel_names(index)
    listed = _listed(root, index["training"], found.faults)
    found.candidates, faults = files_there(root, listed)
    found.faults += faults + _unlisted(root, listed)
    if config.test is not None and config.test.folder is not None:
        _add_test_folder(root, found)
    return found


def _add_test_folder(root: Path, found: Found) -> None:
    """Add the cases of ``imagesTs`` whose references are in ``labelsTs``: one file with all channels per image."""
    if lacks := without_references(root):
        found.faults.append(lacks)
        return
    images, labels = (by_stem(root, visible(root, folder)) for folder in ("imagesTs", "labelsTs"))
    for case in sorted(images.keys() | labels.keys()):
        files = (*images.get(case, ()), *labels.get(case, ()))
        if escapes := outside(root, files):
            found.faults += escapes
        elif case not in labels:
            found.faults.append(fault("image-without-label", case, files[0], f"no file labelsTs/{case}.*"))
        elif case not in images:
            found.faults.append(fault("label-without-image", case, files[0], f"no file imagesTs/{case}.*"))
        else:
            twice = (*images[case][1:], *labels[case][1:])
            found.faults += [fault("duplicate-id", case, file, f"the same id as {files[0]}") for file in twice]
            found.candidates.append(Candidate(case, "", (images[case][0],), (labels[case][0],), test=True))


def _listed(root: Path, training: list[Any], faults: list[Fault]) -> list[Candidate]:
    """The entries of ``training``; an image may be one file or a list with a file per channel."""
    cases = []
    for number, entry in enumerate(training):
        image = entry.get("image") if isinstance(entry, dict) else None
        label = entry.get("label") if isinstance(entry, dict) else None
        images = image if isinstance(image, list) else [image]
        if not images or not all(usable(name) for name in (*images, label)):
            cause = f"training[{number}]: expected {{'image': file, 'label': file}}"
            faults.append(fault("dataset-json", "-", INDEX, cause))
            continue
        files = [str(PurePosixPath(file)) for file in (*images, str(label))]
        cases.append(Candidate(stem(root, files[0]), "", tuple(files[:-1]), (files[-1],)))
    return cases


def _unlisted(root: Path, listed: list[Candidate]) -> list[Fault]:
    """Files in ``imagesTr/`` and ``labelsTr/`` that dataset.json does not name."""
    known = {file for case in listed for file in (*case.images, *case.labels)}
    images, labels = (
        by_stem(root, [file for file in visible(root, folder) if file not in known])
        for folder in ("imagesTr", "labelsTr")
    )
    faults = []
    for case in sorted(images.keys() | labels.keys()):
        if case in images and case in labels:
            faults.append(fault("unlisted", case, images[case][0], "dataset.json does not list this case"))
            continue
        there = (images.get(case) or labels[case])[0]
        code, lacks = ("image-without-label", "labelsTr") if case in images else ("label-without-image", "imagesTr")
        faults.append(fault(code, case, there, f"not in dataset.json, and no new file {lacks}/{case}.*"))
    return faults
