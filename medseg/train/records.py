"""What a training reports: records of its journal, and lines on the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from medseg.progress import Progress, say
from medseg.train.journal import Journal
from medseg.train.schedule import learning_rate
from medseg.train.state import TrainState


class Report:
    """Reports on a training as it goes; changes nothing in it but ``dice``.

    Args:
        state: of the training.
        journal: file of records; None: none is written, as by all processes of a group but one.
    """

    def __init__(self, state: TrainState, journal: Path | None) -> None:
        self._state, self._journal = state, Journal(journal, state.done)
        self._at_once, self._last_step = state.step.at_once, state.last_step
        if state.done:
            say(f"{state.label}: resumed after step {state.done} of {state.last_step}")
        self._bar = Progress(state.label, state.last_step, start=state.done)

    def step(self) -> None:
        """Report what is new after a step: less memory than thought, a record of the loss, an early end."""
        state, batch = self._state, self._state.plan.training.batch
        if state.step.at_once != self._at_once:
            self._at_once = state.step.at_once
            few = f"{self._at_once} of {batch} samples at once"
            say(f"{state.label}: out of memory at step {state.done}; {few} from now on")
            self._journal.write(state.done, {"train/samples_at_once": float(self._at_once or batch)})
        if state.record is not None:
            rate = learning_rate(state.plan, state.done - 1, state.tail)
            self._journal.write(state.done, {"train/loss": state.record, "train/lr": rate})
        if state.last_step != self._last_step:
            self._last_step = self._bar.total = state.last_step
            steps = f"{state.last_step} of {state.plan.training.steps}"
            say(f"{state.label}: the training loss no longer falls; the training ends after step {steps}")

    def scores(self, values: Mapping[str, float]) -> None:
        """Report the scores of a validation."""
        self._state.dice = values.get("val/dice/mean", math.nan)
        self._journal.write(self._state.done, values)

    def progress(self) -> None:
        """Show how far the training is."""
        state = self._state
        dice = "" if math.isnan(state.dice) else f" dice {state.dice:.3f}"
        self._bar.update(state.done, f"loss {state.loss:.3f}{dice}")

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()
