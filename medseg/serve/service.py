"""What predicts, loaded; one prediction at a time; a queue with an end."""

from __future__ import annotations

import shutil
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medseg.errors import ConfigError, MedsegError
from medseg.explained import explain
from medseg.predict.batch import Batch, How, terms_of
from medseg.predict.ensemble import predicting
from medseg.predict.files import predict_batch, raise_failed
from medseg.predict.predictor import Predicting
from medseg.predict.trainings import read_trainings
from medseg.progress import heard_by, say
from medseg.serve.job import Cancelled, Job, State, Watch

# Ended jobs that are kept at most; the oldest goes first.
KEPT = 64
# Seconds between two looks for label maps that were kept long enough.
SWEEP_S = 5.0


@dataclass(frozen=True, slots=True)
class Limits:
    """What a service takes on.

    Attributes:
        upload_bytes: of one image.
        queue: images that may wait beside the one that is predicted, those included that are being sent.
        keep_s: seconds for which a label map is kept after its job has ended.
    """

    upload_bytes: int = 2048 * 1_000_000
    queue: int = 4
    keep_s: float = 600.0


class FullError(Exception):
    """The queue is full.

    Attributes:
        wait_s: when it may be worth another try.
    """

    def __init__(self, wait_s: int) -> None:
        super().__init__(wait_s)
        self.wait_s = wait_s


class Service:
    """Predicts what is handed in, in this order, in a thread of its own.

    Args:
        models: model folders; of several the mean counts, as in `medseg predict`.
        how: options of the operator; each request has its own beside them.
        folder: for uploads and label maps, of this service alone.
        limits: what it takes on.
    """

    def __init__(self, models: Sequence[Path], how: How, folder: Path, limits: Limits) -> None:
        self.how, self.limits = how, limits
        self.trainings = read_trainings(models)
        self._folder = folder
        self._jobs: dict[str, Job] = {}
        self._waiting: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._seconds = 0.0
        self._predictor: Predicting | None = None
        self._failure: BaseException | None = None
        self._ready = threading.Event()
        self._worker = threading.Thread(target=self._work, name="medseg serve")

    def start(self) -> None:
        """Load the model; errors as for ``predicting``."""
        self._worker.start()
        self._ready.wait()
        if self._failure is not None:
            self._worker.join()
            raise self._failure

    def close(self) -> None:
        """Cancel all jobs and wait until none runs."""
        with self._changed:
            self._closed = True
            for job in list(self._jobs.values()):
                self._cancel(job)
            self._changed.notify_all()
        if self._worker.ident is not None:
            self._worker.join()

    @property
    def counts(self) -> dict[str, int]:
        """Jobs by what they do."""
        with self._changed:
            states = [job.state for job in self._jobs.values()]
        return {str(state): states.count(state) for state in State}

    def reserve(self, name: str, how: Callable[[How], How]) -> Job:
        """A new job, whose image is yet to be put into ``job.image``.

        Args:
            name: of the image.
            how: adds the options of the request.

        Raises:
            FullError: if as many jobs are there as may be.
            ConfigError: for options that mean nothing.
        """
        wanted = how(self.how)
        terms_of(self.trainings, wanted)
        with self._changed:
            self._sweep()
            busy = sum(not job.ended.is_set() for job in self._jobs.values())
            if self._closed or busy > self.limits.queue:
                raise FullError(max(1, round(self._seconds * busy)))
            job = Job(name, wanted, self._folder)
            self._jobs[job.id] = job
            return job

    def submit(self, job: Job) -> None:
        """Put a job whose image is there into the queue, unless it was cancelled meanwhile."""
        with self._changed:
            if job.ended.is_set():
                return
            job.state = State.WAITING
            self._waiting.append(job)
            self._changed.notify_all()

    def job(self, name: str) -> Job | None:
        """The job of this id, unless it is forgotten."""
        with self._changed:
            self._sweep()
            return self._jobs.get(name)

    def before(self, job: Job) -> int:
        """How many jobs come before one that waits."""
        with self._changed:
            running = sum(other.state is State.RUNNING for other in self._jobs.values())
            return self._waiting.index(job) + running if job in self._waiting else 0

    def drop(self, job: Job) -> None:
        """Cancel a job unless it has ended, and remove its files when nothing of it runs."""
        with self._changed:
            job.unwanted = True
            self._jobs.pop(job.id, None)
            self._cancel(job)
            if job.ended.is_set():
                shutil.rmtree(job.folder, ignore_errors=True)

    def _cancel(self, job: Job) -> None:
        """Have a job end as soon as it can; one that does not run has ended."""
        job.cancelled.set()
        if job.state in (State.UPLOADING, State.WAITING):
            job.state = State.CANCELLED
            if job in self._waiting:
                self._waiting.remove(job)
            job.end()

    def _sweep(self) -> None:
        """Forget ended jobs that are too old or too many."""
        ended = sorted((job for job in self._jobs.values() if job.ended.is_set()), key=lambda job: job.ended_at)
        now = time.monotonic()
        for place, job in enumerate(ended):
            if now - job.ended_at > self.limits.keep_s or place < len(ended) - KEPT:
                del self._jobs[job.id]
                shutil.rmtree(job.folder, ignore_errors=True)

    def _work(self) -> None:
        """Load the model, then predict one job after the other until the service is closed."""
        try:
            # Here, since torch keeps its number of threads for each thread.
            self._predictor = predicting(self.trainings, *self.how.running)
        except BaseException as error:  # noqa: BLE001 (raised again by ``start``)
            self._failure = error
            return
        finally:
            self._ready.set()
        while (job := self._next()) is not None:
            begun = time.monotonic()
            self._run(job)
            self._seconds = time.monotonic() - begun

    def _next(self) -> Job | None:
        """The job that is predicted next, when there is one; None when the service is closed."""
        with self._changed:
            while not self._closed:
                self._sweep()
                if self._waiting:
                    job = self._waiting.popleft()
                    job.state = State.RUNNING
                    return job
                self._changed.wait(SWEEP_S)
        return None

    def _run(self, job: Job) -> None:
        """Predict the image of a job, and note how that ended."""
        try:
            with heard_by(lambda line: job.notes.append(job.shown(line))):
                self._predict(job)
            job.state = State.DONE
        except Cancelled:
            job.state = State.CANCELLED
        except ConfigError as error:
            job.fail(400, str(error).splitlines())
        except MedsegError as error:
            job.fail(422, str(error).splitlines())
        except Exception as error:  # noqa: BLE001 (one image must not end the service)
            text = explain(error)
            if text is None:
                say(f"serve: a mistake of ours: {place_of(error)}")
            job.fail(500 if text is None else 507, [text or "a mistake in medseg, which its operator's log names"])
        finally:
            with self._changed:
                job.image.unlink(missing_ok=True)
                job.end()
                if job.unwanted or job.state is State.CANCELLED:
                    shutil.rmtree(job.folder, ignore_errors=True)

    def _predict(self, job: Job) -> None:
        terms = terms_of(self.trainings, job.how)
        batch = Batch([job.input], job.folder, job.how, self.trainings, terms)
        batch.watchers, batch.predictor = [Watch(job)], self._predictor
        predict_batch(batch)
        raise_failed(batch)


def with_options(options: dict[str, object]) -> Callable[[How], How]:
    """Adds the options of a request to those of the operator."""
    return lambda how: replace(how, **options)  # type: ignore[arg-type]


def place_of(error: BaseException) -> str:
    """Kind and place of an error, without its text, which may repeat what was sent."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    return f"{type(error).__name__} at {where}"
