"""What a training reports: records of its journal, and lines on the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from medseg.progress import Progress, say
from medseg.train.journal import Journal
from medseg.train.schedule import learning_rate, tail_of
from medseg.train.state import TrainState

# Records of the loss in a whole training, about.
JOURNAL_RECORDS = 200


class Report:
    """Reports on a training; the journal gets the mean of every so many losses, and all scores.

    Args:
        state: of the training; its losses are added to, and its early end is decided here.
        journal: file of records; None: none is written, as by all processes of a group but one.
    """

    def __init__(self, state: TrainState, journal: Path | None) -> None:
        self._state, self._journal = state, Journal(journal, state.done)
        self._every = max(1, state.plan.training.steps // JOURNAL_RECORDS)
        self._at_once = state.step.at_once
        state.tail = tail_of(state.plan, state.losses.records, self._every)
        if state.done:
            say(f"{state.label}: resumed after step {state.done} of {state.last_step}")
        self._bar = Progress(state.label, state.last_step, start=state.done)

    def loss(self, value: float) -> None:
        """Take the loss of the step that was just made."""
        self._report_memory()
        state, losses = self._state, self._state.losses.losses
        losses.append(value)
        if state.done % self._every and not state.finished:
            return
        mean = sum(losses) / len(losses)
        rate = learning_rate(state.plan, state.done - 1, state.tail)
        self._journal.write(state.done, {"train/loss": mean, "train/lr": rate})
        state.losses.records.append(mean)
        losses.clear()
        if state.tail is None and not state.finished:
            state.tail = tail_of(state.plan, state.losses.records, self._every)
            if state.tail is not None:
                steps = f"{state.last_step} of {state.plan.training.steps}"
                say(f"{state.label}: the training loss no longer falls; the training ends after step {steps}")

    def scores(self, values: Mapping[str, float]) -> None:
        """Take the scores of a validation."""
        self._state.dice = values.get("val/dice/mean", math.nan)
        self._journal.write(self._state.done, values)

    def progress(self, loss: float) -> None:
        """Show how far the training is."""
        state = self._state
        self._bar.total = state.last_step
        dice = "" if math.isnan(state.dice) else f" dice {state.dice:.3f}"
        self._bar.update(state.done, f"loss {loss:.3f}{dice}")

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()

    def _report_memory(self) -> None:
        """Report that memory holds fewer samples at once, if this is new."""
        state, at_once = self._state, self._state.step.at_once
        if at_once != self._at_once:
            self._at_once, batch = at_once, state.plan.training.batch
            few = f"{at_once} of {batch} samples at once"
            say(f"{state.label}: out of memory at step {state.done}; {few} from now on")
            self._journal.write(state.done, {"train/samples_at_once": float(at_once or batch)})
