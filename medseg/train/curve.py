"""The losses of a training: how they are written down, the learning rate, and the early end that they may bring."""

from __future__ import annotations

from medseg.plan.plan import Plan
from medseg.progress import say
from medseg.train.journal import Journal
from medseg.train.resume import Memory
from medseg.train.schedule import learning_rate, tail_of

JOURNAL_RECORDS = 200


class Curve:
    """Takes the loss of every step; the journal gets the mean of every so many of them.

    Args:
        plan: what is trained.
        memory: what is kept over a resume; its losses and records are added to.
        journal: where records go.
        label: how messages call the training.
    """

    def __init__(self, plan: Plan, memory: Memory, journal: Journal, label: str) -> None:
        self._plan, self._memory, self._journal, self._label = plan, memory, journal, label
        self._every = max(1, plan.training.steps // JOURNAL_RECORDS)
        self._tail = tail_of(plan, memory.records, self._every)

    @property
    def last_step(self) -> int:
        """Steps of the whole training; fewer than planned once the loss falls no more."""
        return self._tail.end if self._tail else self._plan.training.steps

    def rate(self, step: int) -> float:
        """The learning rate of a step."""
        return learning_rate(self._plan, step, self._tail)

    def take(self, step: int, loss: float) -> None:
        """The loss of a step that was made."""
        finished, losses = step + 1, self._memory.losses
        losses.append(loss)
        if finished % self._every and finished != self.last_step:
            return
        mean = sum(losses) / len(losses)
        self._journal.write(finished, {"train/loss": mean, "train/lr": self.rate(step)})
        self._memory.records.append(mean)
        losses.clear()
        planned = self._plan.training.steps
        if self._tail is None and finished != planned:
            self._tail = tail_of(self._plan, self._memory.records, self._every)
            if self._tail is not None:
                say(f"{self._label}: the loss falls no more; ends after step {self.last_step} of {planned}")
