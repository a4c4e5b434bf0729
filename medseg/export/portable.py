"""A model folder as it may leave the house: without names of cases and subjects, and without places on this machine."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg.records import read_record, write_record
from medseg.results.folders import ModelFolder

# The folders of an absolute path, on this system and on Windows; addresses (https://…) are none.
FOLDERS = re.compile(r"(?:(?<![\w:/.~-])~?/|\b[A-Za-z]:[\\/])(?:[^\s/\\'\",;:()]+[/\\])+")


def write_portable(facts: Mapping[str, Any], model: Path, folder: Path) -> None:
    """Write a model folder of these facts (``model.json``), made ``portable``, with all else that belongs to the model.

    Args:
        facts: ``model.json`` of the model.
        model: its folder.
        folder: where the copy goes.
    """
    source, target = ModelFolder(model), ModelFolder(folder)
    shutil.copyfile(source.weights, target.weights)
    # How operations were chosen is the study's; what they are is the model's.
    for one, other, study in (
        (source.postprocess, target.postprocess, ("choice",)),
        (source.quality, target.quality, ()),
    ):
        if one.is_file():
            kept = _without_folders(read_record(one, "medseg"))
            write_record(other, {**kept, **dict.fromkeys(study)})
    write_record(target.description, portable(facts))


def portable(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of ``model.json``; cases and subjects have numbers for names, absolute paths lose their folders.

    Digests of images stay: by them a training that starts from the model is still refused where it would be scored on
    a subject that the model has seen.
    """
    made: dict[str, Any] = _without_folders(facts)
    if "trained_on" in made:
        made["trained_on"] = _numbered(made["trained_on"], str(facts["weights_sha256"])[:8])
    return made


def _without_folders(value: Any) -> Any:
    if isinstance(value, str):
        return FOLDERS.sub("", value)
    if isinstance(value, Mapping):
        return {key: _without_folders(inner) for key, inner in value.items()}
    return [_without_folders(inner) for inner in value] if isinstance(value, list | tuple) else value


def _numbered(trained_on: Mapping[str, Any], mark: str) -> dict[str, Any]:
    """The record of subjects, with names that no data set has: numbers behind the beginning of a digest."""
    subjects = []
    for place, row in enumerate(trained_on["subjects"], start=1):
        cases = {f"{mark}-{place}-{k}": digests for k, digests in enumerate(row["cases"].values(), start=1)}
        subjects.append({**row, "subject": f"{mark}-{place}", "cases": cases})
    return {**trained_on, "subjects": subjects}
