"""Maps of uncertainty as files: entropy of the mean probabilities, and what the members disagree in."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medseg.formats.world import About
from medseg.formats.write import write_map
from medseg.predict.sinks import Frame, Slab, Take
from medseg.preprocess.prepare import put_back


@dataclass(frozen=True, slots=True)
class UncertaintyFiles:
    """A sink that writes maps of uncertainty, 32-bit, atomically, 0 outside the box that was predicted.

    Attributes:
        entropy: file of the entropy of the mean probabilities.
        disagreement: file of what the members disagree in; None: there is one member.
    """

    entropy: Path
    disagreement: Path | None = None

    @contextlib.contextmanager
    def open(self, frame: Frame) -> Iterator[Take]:
        """See ``Sink``."""
        files = {"entropy": self.entropy, "disagreement": self.disagreement}
        boxes = {name: np.zeros(frame.record.shape, np.float32) for name, path in files.items() if path is not None}
        before = (slice(None),) * frame.axis

        def take(slab: Slab) -> None:
            if slab.uncertainty is not None:
                for name, box in boxes.items():
                    box[(*before, slab.rows)] = getattr(slab.uncertainty, name).numpy()

        yield take
        grid = frame.record.native
        for name, box in boxes.items():
            path = files[name]
            assert path is not None
            write_map(path, put_back(box, frame.record.box, grid.shape), grid, About(frame.world))
