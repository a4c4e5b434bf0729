"""The errors users see: each says what was found, where, what was expected and how to fix it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# How messages name the one command that makes whatever is missing of a study.
RUN_STUDY = "run the study again (`medseg run CONFIG`, or `snakemake` in a clone)"


class MedsegError(Exception):
    """Base of every error a user can cause; the command line prints it without a traceback and exits with 2."""


class ConfigError(MedsegError, ValueError):
    """The configuration has an unknown key, a wrong type or an impossible value."""


class DataError(MedsegError, ValueError):
    """A data file is missing, damaged or not what its data set promises."""


class PredictionError(DataError):
    """A network gives no usable output for an image; in a study the case is recorded as failed."""


class ImagesFailed(DataError):
    """Some images of a command could not be predicted; the others are done.

    Attributes:
        written: label maps that are there.
    """

    def __init__(self, count: int, lines: Sequence[str], written: Sequence[Path]) -> None:
        """Say which images failed.

        Args:
            count: of images that failed.
            lines: what is said of them.
            written: label maps that are there.
        """
        self.written = tuple(written)
        verbs = ["was" if n == 1 else "were" for n in (count, len(written))]
        done = f", {len(written)} {verbs[1]}" if written else ""
        head = (
            [] if count == 1 and not written else [f"{count} of {count + len(written)} {verbs[0]} not predicted{done}"]
        )
        super().__init__("\n".join([*head, *lines]))


class GeometryError(MedsegError, ValueError):
    """Two grids that must agree do not, or a grid makes no sense."""


class PlanError(MedsegError, ValueError):
    """No plan fits the data and the budgets."""


class MachineError(MedsegError, RuntimeError):
    """This machine has no device of the kind that was asked for."""


class CheckpointError(MedsegError, ValueError):
    """A model folder is damaged, of another architecture, or not one of ours."""


class BusyError(MedsegError, RuntimeError):
    """Another process is writing the same output."""


class TrainingError(MedsegError, RuntimeError):
    """Training cannot continue: a number that is not finite, a process that failed, a request to stop."""


class TrackingError(MedsegError, RuntimeError):
    """The tracking store cannot be reached or does not hold what was asked for."""


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """One thing wrong with a data set, on one line.

    Attributes:
        code: short id of the kind of fault, e.g. ``label-values``; also the word that ``allow:`` takes.
        case: case id, or ``-`` for the data set as a whole.
        file: path relative to the data set's folder, or ``-``.
        cause: what was found (values, counts, first position).
        fix: what the user can do about it.
    """

    code: str
    case: str
    file: str
    cause: str
    fix: str

    def __str__(self) -> str:
        return f"{self.code} · {self.case} · {self.file} · {self.cause} · {self.fix}"


class DatasetFaults(DataError):
    """Every fault found in a data set, in one pass.

    Attributes:
        dataset, root, faults: what they are of.
        everything: whether a terminal gets every one of many equal faults.
        file: where all of them were written; None: nowhere.
    """

    def __init__(self, dataset: str, root: Path, faults: Sequence[Fault]) -> None:
        self.dataset, self.root = dataset, root
        self.faults = tuple(sorted(faults))
        self.everything = False
        self.file: Path | None = None
        lines = "\n".join(str(fault) for fault in self.faults)
        noun = "fault" if len(self.faults) == 1 else "faults"
        super().__init__(f"{len(self.faults)} {noun} in data set '{dataset}' ({root})\n{lines}")
