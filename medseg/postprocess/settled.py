"""``postprocess.json`` in a model folder: the operations that belong to a model, and how they were chosen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from medseg.config import PostprocessConfig
from medseg.errors import CheckpointError, DataError
from medseg.limits import MAX_DESCRIPTION_BYTES
from medseg.records import as_written, read_record, write_record
from medseg.results.folders import ModelFolder
from medseg.trained import Trained, read_trained

MAKER = "medseg choose"


@dataclass(frozen=True, slots=True)
class Settled:
    """The post-processing of a model.

    Attributes:
        section: what the configuration said, as plain JSON values.
        steps: the operations, nothing left to choose.
        choice: how they were chosen (``choose.Choice.to_json``); None: all are fixed.
    """

    section: Mapping[str, Any]
    steps: PostprocessConfig
    choice: Mapping[str, Any] | None = None


def write_settled(trained: Trained, settled: Settled) -> None:
    """Write the post-processing of a training into its model folder."""
    write_record(
        ModelFolder(trained.folder).postprocess,
        {
            "fingerprint": trained.fingerprint,
            "weights_sha256": trained.weights_sha256,
            "section": dict(settled.section),
            "steps": settled.steps.model_dump(mode="json"),
            "choice": settled.choice,
        },
    )


def read_settled(model: Path) -> Settled | None:
    """The post-processing of the model in a folder; None: it has none.

    Raises:
        CheckpointError: if the record is damaged, or of another training than the one in the folder.
    """
    path = ModelFolder(model).postprocess
    if not path.is_file():
        return None
    if (size := path.stat().st_size) > MAX_DESCRIPTION_BYTES:
        raise CheckpointError(f"{path}: {size:,} bytes; expected at most {MAX_DESCRIPTION_BYTES:,}")
    try:
        facts = read_record(path, MAKER)
        with as_written(path, MAKER):
            of_training = facts["fingerprint"], facts["weights_sha256"]
            section, choice = dict(facts["section"]), facts["choice"]
            steps = PostprocessConfig.model_validate(facts["steps"])
    except (DataError, ValidationError) as error:
        raise CheckpointError(str(error)) from None
    trained = read_trained(model)
    if of_training != (trained.fingerprint, trained.weights_sha256):
        raise CheckpointError(
            f"{path}: is the post-processing of another training than the one in this folder; delete it and run "
            f"`{MAKER}` again"
        )
    return Settled(section, steps, choice)


def require_settled(model: Path, section: PostprocessConfig) -> Settled:
    """The post-processing of a model, if it is what a configuration asks for.

    Raises:
        DataError: if there is none, or it was chosen for another configuration.
        CheckpointError: as ``read_settled``.
    """
    found, path = read_settled(model), ModelFolder(model).postprocess
    if found is None:
        raise DataError(f"{path}: no such file; run `{MAKER}` first")
    if found.section != section.model_dump(mode="json"):
        raise DataError(f"{path}: was chosen for another configuration of `postprocess`; run `{MAKER}` again")
    return found
