"""Who or what made a reference: a case as the data set has it, or a prediction that somebody corrected."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

CORRECTED, UNCHANGED = "corrected", "unchanged"


@dataclass(frozen=True, slots=True)
class LabelSource:
    """Where a reference comes from that began as a prediction.

    Attributes:
        kind: ``corrected``, or ``unchanged`` where it has the very voxels that were predicted.
        annotator: who changed or confirmed it, as they called themselves.
        model: data set, name, fold and seed of the training that predicted it.
        fingerprint, weights: of that training: its fingerprint and the SHA-256 of its weights.
        date: when it was taken back (UTC, YYYY-MM-DD).
        predicted: ``ingest.counting.digest_labels`` of what was predicted.
    """

    kind: str
    annotator: str
    model: str
    fingerprint: str
    weights: str
    date: str
    predicted: str

    def to_json(self) -> dict[str, str]:
        """As plain JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> LabelSource:
        """The inverse of ``to_json``; ``KeyError`` for another value."""
        return cls(**{field.name: str(value[field.name]) for field in dataclasses.fields(cls)})


# Columns of the table of corrections: after these fields.
COLUMNS = ("label_source", "annotator", "model", "fingerprint", "weights", "date", "predicted")


def source_of_row(row: Mapping[str, str]) -> LabelSource:
    """The source that a row of the table of corrections states."""
    return LabelSource(*(row.get(column, "") for column in COLUMNS))


def sources_in_words(sources: Iterable[LabelSource | None]) -> str:
    """How many references are the data set's own, corrected and unchanged predictions; empty if all are its own."""
    found = list(sources)
    made = [source for source in found if source is not None]
    if not made:
        return ""
    counts = Counter(source.kind for source in made)
    parts = [f"{len(found) - len(made)} as the data set has them"] if len(made) < len(found) else []
    parts += [f"{counts[CORRECTED]} corrected predictions"] if counts[CORRECTED] else []
    parts += [f"{counts[UNCHANGED]} unchanged predictions, allowed by name"] if counts[UNCHANGED] else []
    by, of = (", ".join(sorted({getattr(s, name) for s in made})) for name in ("annotator", "model"))
    return f"{', '.join(parts)}; by {by}; predicted by {of}"
