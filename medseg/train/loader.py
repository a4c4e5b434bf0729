"""Raw batches in the order of their steps, read ahead by worker processes where there are some.

A batch is a function of (seed, fold, step): how many processes read, and which of them reads what, changes nothing.

Not torch's ``DataLoader``: it reports a dead worker from a signal handler, in the middle of any other work of the main
process, without the case; and it ends a hung one by SIGTERM, which workers must survive here, since training saves its
state on one.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import multiprocessing
import signal
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import blosc2
import numpy as np
import torch
from numpy.typing import NDArray

from medseg.augment.policy import farthest
from medseg.engine.parent import end_with_parent
from medseg.errors import MedsegError, TrainingError
from medseg.plan.plan import Plan
from medseg.preprocess.store import PreparedCase
from medseg.train.data import RawBatch, Space, batch_cases, label_type, read_batch

# Batches that each worker has memory for: the one in use, one that waits, one that is read.
SPACES = 3
# Patience is counted in waits of this length, not by the clock: a machine that slept has no hung workers.
WAIT_S = 1.0
# A process that is killed ends at once, unless the kernel waits for a disk.
GONE_S = 2.0
NOTHING = -1

# Errors that a worker hands over instead of a batch: they have names for the user, here as there.
Failure = MedsegError | OSError | MemoryError
FAILURES = (MedsegError, OSError, MemoryError)

# Reads the batch of a step into memory, and calls back with the position whose case it reads next.
Read = Callable[[int, Callable[[int], None], Space], RawBatch]


@dataclass(frozen=True, slots=True)
class _Worker:
    """A process that reads batches, seen from the main one.

    Attributes:
        process: the process.
        link: orders (step, number of a space) go out; the images' shape, or an error, comes back for each in turn.
        spaces: memory shared with it, for one batch each.
        place: (1,) shared with it: the position of the batch whose case it is reading, or ``NOTHING``.
    """

    process: BaseProcess
    link: Connection
    spaces: Sequence[Space]
    place: NDArray[np.int64]


@contextlib.contextmanager
def batches(
    cases: Sequence[PreparedCase],
    plan: Plan,
    seed: int,
    steps: range,
    *,
    workers: int = 0,
    timeout_s: float = 300.0,
    part: range | None = None,
) -> Iterator[Iterator[RawBatch]]:
    """The batches of ``steps``, in order; no worker outlives the ``with`` block or this process.

    Each batch is valid until the next one is requested: a worker may then read another into its memory.

    Args:
        cases, plan, seed, part: as for ``read_batch``.
        steps: which batches.
        workers: processes that read ahead; 0: this one reads when it is asked.
        timeout_s: how long a worker may keep this process waiting for a batch.

    Raises:
        TrainingError: from the iterator, if a worker dies or takes too long; it names the step and the case.
        DataError: from the iterator, whatever the number of workers, for a case that cannot be read.
    """
    if not workers:
        yield (read_batch(cases, plan, seed, step, part) for step in steps)
        return

    def read(step: int, reading: Callable[[int], None], space: Space) -> RawBatch:
        return read_batch(cases, plan, seed, step, part, reading, space)

    def suspects(step: int, position: int) -> list[PreparedCase]:
        chosen = batch_cases(cases, plan, seed, step)
        positions = range(plan.training.batch) if part is None else part
        return [chosen[position]] if position != NOTHING else [chosen[k] for k in positions]

    crew: list[_Worker] = []
    try:
        with signals_blocked():
            for _ in range(min(workers, len(steps))):
                crew.append(_start(read, [_shared_space(plan, part) for _ in range(SPACES)]))
        yield _in_order(crew, steps, timeout_s, suspects)
    finally:
        for worker in crew:
            worker.process.kill()
        for worker in crew:
            worker.process.join(GONE_S)
            worker.link.close()


def _in_order(
    crew: Sequence[_Worker],
    steps: range,
    timeout_s: float,
    suspects: Callable[[int, int], list[PreparedCase]],
) -> Iterator[RawBatch]:
    """Steps go to the workers in turn, and so do the spaces of each."""
    ordered = 0
    for index, step in enumerate(steps):
        # What was given out before this one is no longer looked at, so its space is free.
        while ordered < min(len(steps), index + len(crew) * SPACES):
            # One that died meanwhile is found when its batch is due.
            with contextlib.suppress(ConnectionError):
                crew[ordered % len(crew)].link.send((steps[ordered], ordered // len(crew) % SPACES))
            ordered += 1
        worker = crew[index % len(crew)]
        try:
            answer = _answer(worker, timeout_s)
        except _NoAnswerError as fault:
            position = int(worker.place[0])
            worker.process.kill()
            raise TrainingError(_message(worker, str(fault), step, suspects(step, position), timeout_s)) from None
        if isinstance(answer, FAILURES):
            raise answer
        yield worker.spaces[index // len(crew) % SPACES].batch(step, answer)


class _NoAnswerError(Exception):
    """A worker died or hangs; the message says which."""


def _answer(worker: _Worker, timeout_s: float) -> Sequence[int] | Failure:
    waits = max(1, math.ceil(timeout_s / WAIT_S))
    for _ in range(waits):
        ready = wait([worker.link, worker.process.sentinel], timeout_s / waits)
        if worker.link in ready:
            # What it answered before it died still counts.
            with contextlib.suppress(EOFError, ConnectionError):
                answer: Sequence[int] | Failure = worker.link.recv()
                return answer
        if ready:
            worker.process.join(GONE_S)
            status = worker.process.exitcode or 0
            how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
            raise _NoAnswerError(how)
    raise _NoAnswerError(f"gave nothing for {timeout_s:g} s")


def _message(worker: _Worker, what: str, step: int, cases: Sequence[PreparedCase], timeout_s: float) -> str:
    names = ", ".join(sorted({f"'{case.id}'" for case in cases}))
    noun = "case" if len({case.id for case in cases}) == 1 else "one of the cases"
    return (
        f"step {step}: worker process {worker.process.pid} {what} instead of giving the batch; it was to read {noun} "
        f"{names} in {cases[0].path.parent}. Look at these files, and whether memory ran out; set loader.workers: 0 "
        f"to read without workers, or loader.timeout_s (now {timeout_s:g}) higher if reading is that slow"
    )


def _start(read: Read, spaces: Sequence[Space]) -> _Worker:
    place = np.frombuffer(mmap.mmap(-1, np.dtype(np.int64).itemsize), dtype=np.int64)
    place[0] = NOTHING
    # Forked: cases need not be sent, and memory is shared without names that a kill would leave behind.
    context = multiprocessing.get_context("fork")
    link, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, read, spaces, place), daemon=True)
    with warnings.catch_warnings():
        # From Python 3.12 on, forking beside threads warns: what a worker does needs none of their locks.
        warnings.simplefilter("ignore", DeprecationWarning)
        process.start()
    theirs.close()
    return _Worker(process, link, spaces, place)


def _serve(link: Connection, read: Read, spaces: Sequence[Space], place: NDArray[np.int64]) -> None:
    """What a worker does, until it is killed."""
    end_with_parent()
    torch.set_num_threads(1)
    blosc2.set_nthreads(1)

    def reading(position: int) -> None:
        place[0] = position

    while True:
        step, number = link.recv()
        answer: tuple[int, ...] | Failure
        try:
            answer = tuple(read(step, reading, spaces[number]).images.shape)
        except FAILURES as error:
            answer = error
        place[0] = NOTHING
        link.send(answer)


@contextlib.contextmanager
def signals_blocked() -> Iterator[None]:
    """Processes that are started in here never receive SIGTERM and SIGINT, which their whole group may be sent."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _shared_space(plan: Plan, part: range | None) -> Space:
    """Memory for the largest batch that can be drawn, shared with processes that are forked later."""
    size = [
        n + 2 * far
        for n, far in zip(plan.network.patch, farthest(plan.training.augment, plan.network.patch).tolist(), strict=True)
    ]
    voxels = math.prod(size) * (plan.training.batch if part is None else len(part))
    # Pages are taken when they are first written to.
    kind = label_type(plan)
    images, labels = mmap.mmap(-1, voxels * plan.network.in_channels * 4), mmap.mmap(-1, voxels * kind.itemsize)
    return Space(np.frombuffer(images, dtype=np.float32), np.frombuffer(labels, dtype=kind))
