"""One image that a service predicts: where it is, how far, and what came out."""

from __future__ import annotations

import contextlib
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import Path

from medseg.formats.table import class_map, label_suffix, stem_of, suffix_of
from medseg.predict.batch import How
from medseg.predict.input import Input
from medseg.predict.sinks import Frame, Slab, Take

# What files are called on disk: a name that was sent is never part of a path.
IMAGE, LABELS = "image", "labels"


class State(StrEnum):
    """Where a job is."""

    UPLOADING = "uploading"
    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Cancelled(Exception):
    """A prediction that nobody waits for any more."""


class Job:
    """One image to predict, from its upload to its label map.

    Args:
        name: of the image as its client calls it; its suffix is one of ``FORMATS``.
        how: options of this prediction.
        root: folder in which the job makes its own.

    Attributes:
        id: nobody guesses it.
        state: see ``State``.
        progress: predicted part of the image, 0 to 1.
        errors: why there is no label map, a line each, and the HTTP status that says so.
        notes: what was remarked on the way, as `medseg predict` prints it.
        ended: set when nothing of it runs any more.
        cancelled: set when nobody wants it any more.
        unwanted: whether its files go when it has ended.
        ended_at: on the clock of ``time.monotonic``.
    """

    def __init__(self, name: str, how: How, root: Path) -> None:
        self.id = secrets.token_urlsafe(16)
        self.name, self.how = name, how
        self.folder = root / self.id
        self.folder.mkdir()
        self.image = self.folder / f"{IMAGE}{suffix_of(Path(name))}"
        self.state = State.UPLOADING
        self.progress = 0.0
        self.errors: Sequence[str] = ()
        self.status = 200
        self.notes: list[str] = []
        self.ended, self.cancelled = threading.Event(), threading.Event()
        self.unwanted = False
        self.ended_at = 0.0

    @property
    def input(self) -> Input:
        """What the pipe is given."""
        return Input((self.image,), LABELS)

    @property
    def labels(self) -> Path:
        """Where the label map is written."""
        return self.input.labels(self.folder)

    @property
    def classes(self) -> Path:
        """Where the class of each voxel is written, where objects have several classes."""
        return class_map(self.labels)

    @property
    def label_name(self) -> str:
        """What a client may call the label map: as the image, in the format that it has."""
        name = Path(self.name)
        return f"{stem_of(name)}{label_suffix(name)}"

    def shown(self, text: str) -> str:
        """A message about this job as its client can understand it: the image by the client's name."""
        return text.replace(str(self.image), self.name).replace(f"{self.folder}/", "")

    def fail(self, status: int, lines: Sequence[str]) -> None:
        """Note that there will be no label map, and why."""
        self.state, self.status = State.FAILED, status
        self.errors = [self.shown(line) for line in lines]

    def end(self) -> None:
        """Note that nothing of the job runs any more."""
        self.ended_at = time.monotonic()
        self.ended.set()


class Watch:
    """A sink that keeps nothing: it notes how far a prediction is, and ends one that is cancelled."""

    def __init__(self, job: Job) -> None:
        self._job = job

    @contextlib.contextmanager
    def open(self, frame: Frame) -> Iterator[Take]:
        """See ``Sink``."""
        self._check()
        rows = frame.record.shape[frame.axis]

        def take(slab: Slab) -> None:
            self._check()
            self._job.progress = (rows if slab.rows.stop is None else slab.rows.stop) / rows

        yield take

    def _check(self) -> None:
        if self._job.cancelled.is_set():
            raise Cancelled
