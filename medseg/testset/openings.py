"""The record of openings of test sets: every use is recorded, since a test set that was used before proves less."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medseg.errors import DataError
from medseg.files import read_json
from medseg.records import is_signed, write_record
from medseg.results.paths import Results


@dataclass(frozen=True, slots=True)
class OpenedSet:
    """The test set of one data set, as it was when it was opened.

    Attributes:
        cases, subjects: how many.
        test_sha256: digest of ``test.tsv``, which holds the digests of all images and references.
        postprocess_sha256: digest of the post-processing that was configured.
    """

    cases: int
    subjects: int
    test_sha256: str
    postprocess_sha256: str


@dataclass(frozen=True, slots=True)
class Opening:
    """One time that test sets were opened.

    Attributes:
        opened: when, in UTC: ``2026-03-01T12:00:00Z``.
        config_sha256: digest of the whole configuration.
        datasets: name -> its test set.
        weights: ``data set/model/foldF-seedS`` -> digest of the weights that were tested.
        unfinished: trainings of the configuration that were not finished, so not tested.
        unrecorded: tested trainings without a complete record of the subjects that their weights have seen.
    """

    opened: str
    config_sha256: str
    datasets: Mapping[str, OpenedSet]
    weights: Mapping[str, str]
    unfinished: tuple[str, ...] = ()
    unrecorded: tuple[str, ...] = ()

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models that were tested, in order."""
        return tuple(dict.fromkeys(name.split("/")[1] for name in self.weights))

    def repeats(self, other: Opening) -> bool:
        """Whether everything that scores depend on was the same at ``other``."""
        same = (self.datasets, self.weights) == (other.datasets, other.weights)
        return same and self.config_sha256 == other.config_sha256


def read_openings(results: Path) -> list[Opening]:
    """All openings of the test sets of ``results/<experiment>``, in order; none: it was never opened.

    Raises:
        DataError: if the record is damaged, or missing although there are results of an opening.
    """
    test = Results(results).test
    path = test.opened
    if not path.exists():
        if test.predictions():
            raise DataError(
                f"{path}: missing, although {test.folder} holds predictions of the test set; restore it from a copy, "
                "since it records how often the test set was opened"
            )
        return []
    try:
        value = read_json(path)
        if not is_signed(value):
            raise ValueError("its digest is missing or differs")
        return [_opening(entry) for entry in value["openings"]]
    except (DataError, KeyError, TypeError, ValueError, AttributeError):
        raise DataError(
            f"{path}: damaged, edited, or of an earlier version of medseg; restore it from a copy, since it records "
            "how often the test set was opened"
        ) from None


def append_opening(results: Path, opening: Opening) -> int:
    """Add an opening to the record, on disk before this returns; returns how many there are now."""
    openings = [*read_openings(results), opening]
    value = {"count": len(openings), "openings": [asdict(one) for one in openings]}
    write_record(Results(results).test.opened, value)
    return len(openings)


def times_opened(openings: list[Opening], dataset: str) -> str:
    """How often the test set of a data set was opened, for a reader: ``opened once, on 2026-03-01``."""
    days = [one.opened[:10] for one in openings if dataset in one.datasets]
    if not days:
        return "not opened"
    return f"opened once, on {days[0]}" if len(days) == 1 else f"opened {len(days)} times, last on {days[-1]}"


def _opening(entry: Mapping[str, Any]) -> Opening:
    return Opening(
        entry["opened"],
        entry["config_sha256"],
        {name: OpenedSet(**facts) for name, facts in entry["datasets"].items()},
        dict(entry["weights"]),
        tuple(entry["unfinished"]),
        tuple(entry["unrecorded"]),
    )
