"""What operations work on, of one case of a study's predictions: read when it is asked for, and once."""

from __future__ import annotations

import functools
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import DataError
from medseg.formats.read import open_image, read_recorded
from medseg.formats.source import Source
from medseg.ingest.cases import open_case_image
from medseg.ingest.manifest import Case
from medseg.postprocess.operations import GRID, IMAGE, LABELS, PROBABILITIES, Readers
from medseg.predict.probabilities import Probabilities, read_probabilities
from medseg.predict.record import PredictedCase
from medseg.results.folders import PredictionFolder


@dataclass(frozen=True, slots=True)
class Predicted:
    """Predictions of a study, and the images that they are of.

    Attributes:
        data: the data set's folder.
        source: folder of the predictions.
        asking: what may ask for probabilities, for the error message.
    """

    data: Path
    source: Path
    asking: Collection[str] = ()

    def opened(self, name: str, sha256: str) -> Source:
        """A file of the predictions, if it is the one that was recorded."""
        path = self.source / name
        return open_image(path, read_recorded(path, sha256, "medseg predict"))

    def recorded(self, name: str, sha256: str) -> NDArray[Any]:
        """Values (S) of a file of the predictions."""
        return np.ascontiguousarray(self.opened(name, sha256).labels())

    def readers(self, case: Case, entry: PredictedCase) -> Readers:
        """What operations may work on.

        Raises (when it is asked for):
            DataError: if a file is missing or changed, or probabilities were not kept.
        """

        def probabilities() -> Probabilities:
            if entry.probabilities is None:
                raise DataError(
                    f"{PredictionFolder(self.source).record}: case '{case.id}' has no probabilities, which "
                    f"{', '.join(f'postprocess.{name}' for name in self.asking)} works on; run `medseg predict` again "
                    "with this configuration"
                )
            return read_probabilities(self.source / entry.probabilities["file"], entry.probabilities["sha256"])

        return {
            LABELS: functools.cache(lambda: self.recorded(entry.file, entry.sha256)),
            PROBABILITIES: functools.cache(probabilities),
            IMAGE: functools.cache(lambda: open_case_image(case, self.data)),
            GRID: lambda: case.geometry,
        }
