"""The post-processing of a model, for images that it predicts: what the study applied to its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from medseg.config import PostprocessConfig
from medseg.errors import CheckpointError, ConfigError, DataError
from medseg.files import digest_of
from medseg.formats.source import Source
from medseg.image.labels import LabelTable
from medseg.late import resolve
from medseg.machine import available_memory
from medseg.postprocess.objects import class_values
from medseg.postprocess.operations import GRID, IMAGE, LABELS, PROBABILITIES, apply, check, wanted, wants_probabilities
from medseg.postprocess.settled import read_settled
from medseg.predict.probabilities import Probabilities
from medseg.results.folders import ModelFolder
from medseg.stages import stage_digest
from medseg.train.checkpoint import read_description


@dataclass(frozen=True, slots=True)
class ModelSteps:
    """A model's operations; see ``medseg.predict.finish.Finish``.

    Attributes:
        steps: the operations.
        table: label table of the model.
        code: digest of the code that applies them.
    """

    steps: PostprocessConfig
    table: LabelTable
    code: str

    @property
    def key(self) -> str:
        """Digest of all that the operations depend on besides the prediction and the image."""
        return digest_of([self.steps.model_dump(mode="json"), self.code])

    @property
    def wants_probabilities(self) -> bool:
        """Whether they work on probabilities."""
        return wants_probabilities(self.steps)

    @property
    def names(self) -> list[str]:
        """What they are called, in their order."""
        return list(wanted(self.steps))

    def __call__(
        self,
        labels: NDArray[Any],
        classes: NDArray[Any] | None,
        probabilities: Callable[[], Probabilities],
        source: Source,
    ) -> tuple[NDArray[Any], NDArray[Any] | None]:
        """The label map and the class map after the operations; arguments and errors as for ``Finish``."""
        grid = source.geometry
        self._require_memory(source)
        readers = {
            LABELS: lambda: labels,
            PROBABILITIES: probabilities,
            IMAGE: lambda: source,
            GRID: lambda: grid,
        }
        done = apply(readers, self.steps, self.table)
        return done, None if classes is None else class_values(done, classes, self.table)

    def _require_memory(self, source: Source) -> None:
        for name, operation in wanted(self.steps).items():
            if operation.peak_bytes is None:
                continue
            need = resolve(operation.peak_bytes)(source.geometry, source.shape[0], self.table.channels)
            if need > (there := available_memory()):
                raise DataError(
                    f"{source.path}: postprocess.{name} takes about {need / 1e9:.1f} GB, there are {there / 1e9:.1f} "
                    "GB; predict on a machine that has them, or without the model's post-processing (--raw)"
                )


def steps_of_model(model: Path, table: LabelTable | None = None) -> ModelSteps | None:
    """The operations that belong to the model in a folder; None: it has none, or none of them does anything.

    Args:
        model: model folder; or that of an ensemble, with the label table of its members.
        table: None: that of the model.

    Raises:
        CheckpointError: if its ``postprocess.json`` is damaged, of another training, or does not fit its classes.
    """
    settled = read_settled(model)
    if settled is None or not settled.steps.applies:
        return None
    table = table or read_description(model)[0].labels
    try:
        check(settled.steps, table, "model")
    except ConfigError as error:
        raise CheckpointError(f"{ModelFolder(model).postprocess}: {error}") from None
    code = stage_digest("postprocess", {"OPERATIONS": wanted(settled.steps)})
    return ModelSteps(settled.steps, table, code)


def steps_of_models(named: Path | None, folders: Sequence[Path]) -> tuple[ModelSteps | None, str]:
    """The operations of models that predict, alone or together, and a line about them, which may be empty.

    Args:
        named: folder of the one model, or of the one ensemble, that was named; None: several were.
        folders: the models.
    """
    if named is not None:
        found = steps_of_model(named, read_description(folders[0])[0].labels)
        return found, f"post-processing of the model: {', '.join(found.names)} (--raw: without)" if found else ""
    steps = [steps_of_model(folder) for folder in folders]
    if all(one == steps[0] for one in steps):
        first = steps[0]
        return first, f"post-processing of all models: {', '.join(first.names)} (--raw: without)" if first else ""
    return None, "no post-processing: that of the models differs, and none was chosen for them together"
