"""When the state of a training is saved."""

from __future__ import annotations

import time
from pathlib import Path

from medseg.train.resume import save_state
from medseg.train.state import TrainState

# State is saved this often, or less often if saving is slow: it takes at most one fortieth of the time.
SAVE_INTERVAL_S = 5.0
SAVE_PATIENCE = 40.0


class Saver:
    """Saves the state of a training into ``folder`` now and then; only the leader of a group writes."""

    def __init__(self, folder: Path, state: TrainState) -> None:
        self._folder, self._state = folder, state
        self._saved, self._interval = time.monotonic(), SAVE_INTERVAL_S

    def save_if_due(self, *, now: bool) -> None:
        """Save if the last time is long enough ago, or ``now``."""
        if self._state.group.leads and (now or time.monotonic() - self._saved > self._interval):
            self._save()

    def _save(self) -> None:
        state, begun = self._state, time.monotonic()
        with state.phases.phase("save"):
            save_state(self._folder, state.done, state.step, state.losses, state.average)
        self._saved = time.monotonic()
        self._interval = max(SAVE_INTERVAL_S, SAVE_PATIENCE * (self._saved - begun))
