"""The training loop, readable top to bottom: resume; then step, validate, save and report to the last step."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

from torch import nn

from medseg.engine.phases import Phases
from medseg.errors import TrainingError
from medseg.plan.plan import Plan
from medseg.train.advance import finish, take_step
from medseg.train.data import RawBatch
from medseg.train.loader import batches
from medseg.train.records import Report
from medseg.train.saving import Saver
from medseg.train.start import Start
from medseg.train.state import FoldCases, RunOptions, TrainState, begin
from medseg.train.trace import traced
from medseg.train.validate import is_due, validate_state


def train(
    plan: Plan,
    cases: FoldCases,
    seed: int,
    folder: Path,
    label: str,
    start: Start | None = None,
    options: RunOptions | None = None,
    phases: Phases | None = None,
) -> nn.Module:
    """Train from ``start`` (fresh weights), or the newest state in ``folder``, to the last step; return the network.

    Args:
        plan: what to train.
        cases: on what.
        seed: of every draw, together with the fold's number.
        folder: of this training's state and journal.
        label: how messages name it.
        start: weights to begin with.
        options: how to run it.
        phases: filled with where the time went.

    Raises:
        TrainingError: if the loss or its gradient is not finite (names step and cases; the last good state stays), if a
            process that reads dies or hangs, or after SIGTERM, once the state is saved.
    """
    options, phases = options or RunOptions(), phases or Phases(plan.machine.device)
    state = begin(plan, cases, seed, folder, label, start, options.group, phases)
    group = state.group
    with contextlib.ExitStack() as stack:
        stop_requested = stack.enter_context(_sigterm())
        journal = folder / "journal.jsonl" if group.leads else None
        report = stack.enter_context(contextlib.closing(Report(state, journal)))
        trace_step = stack.enter_context(traced(options.trace))
        saver, raw = Saver(folder, state), stack.enter_context(_reading(state, options))
        while not state.finished:
            take_step(state, raw)
            report.step()
            if state.finished:
                finish(state)
            if is_due(state):
                report.scores(validate_state(state))
            stop = group.any_rank(stop_requested())
            saver.save_if_due(now=stop or state.finished)
            report.progress()
            if stop and not state.finished:
                group.wait()
                raise TrainingError(
                    f"{label}: stopped by SIGTERM after step {state.done}; the state is saved, run again to resume"
                )
            trace_step()
    return state.network


def _reading(state: TrainState, options: RunOptions) -> contextlib.AbstractContextManager[Iterator[RawBatch]]:
    """The batches of all steps that are left, read ahead."""
    return batches(
        state.cases.train,
        state.plan,
        state.seed,
        range(state.done, state.last_step),
        workers=options.workers,
        timeout_s=options.timeout_s,
        part=state.part,
    )


@contextlib.contextmanager
def _sigterm() -> Iterator[Callable[[], bool]]:
    """Turn SIGTERM into a flag that the loop looks at once per step; a second one ends the process at once."""
    received: list[int] = []

    def note(signum: int, frame: object) -> None:
        if received:
            raise SystemExit(128 + signum)
        received.append(signum)

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield lambda: bool(received)
    finally:
        signal.signal(signal.SIGTERM, before)
