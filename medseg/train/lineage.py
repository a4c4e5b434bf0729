"""Which subjects a model's weights have seen, in its own training and in those it started from.

Weights carry what they have seen into every training that starts from them. So ``model.json`` records the subjects of
the whole chain, and a training refuses to start from a model that has seen a subject that it will be scored on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from medseg.errors import DataError
from medseg.ingest.manifest import Case, Manifest

# What `models.<name>.allow` takes.
OVERLAP, UNRECORDED = "start-overlap", "start-unrecorded"
# Subjects shown in one message; there can be thousands.
SUBJECTS_SHOWN = 3

# Case id -> SHA-256 of its image files.
Cases = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class TrainedOn:
    """The subjects that a model's weights have seen.

    Attributes:
        subjects: by data set and subject, their cases.
        complete: whether every model of the chain has such a record; if not, they may have seen others as well.
    """

    subjects: Mapping[tuple[str, str], Cases]
    complete: bool = True

    @classmethod
    def of(cls, manifest: Manifest, case_ids: Collection[str]) -> TrainedOn:
        """Those of the cases of a data set that have these ids."""
        cases = [case for case in manifest.cases if case.id in case_ids]
        return cls(_merged(((manifest.dataset, c.subject), c.id, c.images_sha256) for c in cases))

    def after(self, start: TrainedOn | None) -> TrainedOn:
        """These, and those of the model that the training started from; None: it has no record."""
        if start is None:
            return TrainedOn(self.subjects, complete=False)
        both = [*_entries(start.subjects), *_entries(self.subjects)]
        return TrainedOn(_merged(both), self.complete and start.complete)

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, sorted."""
        return {
            "complete": self.complete,
            "subjects": [
                {"dataset": dataset, "subject": subject, "cases": {case: list(cases[case]) for case in sorted(cases)}}
                for (dataset, subject), cases in sorted(self.subjects.items())
            ],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> TrainedOn:
        """The inverse of ``to_json``.

        Raises:
            KeyError, TypeError, ValueError, AttributeError: if the value is something else.
        """
        entries = [
            ((_text(row["dataset"]), _text(row["subject"])), _text(case), [_text(digest) for digest in digests])
            for row in value["subjects"]
            for case, digests in row["cases"].items()
        ]
        if not isinstance(value["complete"], bool):
            raise TypeError(f"complete: {value['complete']!r}")
        return cls(_merged(entries), value["complete"])

    def meets(self, dataset: str, cases: Iterable[Case]) -> dict[str, str]:
        """The subjects of ``cases`` that the weights have seen, each with the evidence, in their order.

        Equal files are evidence under any name, and so is the subject or the case within a data set of the same name,
        whose files may have been saved again and whose subjects regrouped. Under another name, subject and case id must
        both be equal: subjects called 1, 2, 3 are everywhere.
        """
        owners = {sha: (*key, case) for key, case, digests in _entries(self.subjects) for sha in digests}
        named = {(subject, case): seen for (seen, subject), case, _ in _entries(self.subjects)}
        ids = {(seen, case): subject for (seen, subject), case, _ in _entries(self.subjects)}
        found: dict[str, str] = {}
        for case in cases:
            equal = [owners[sha] for sha in case.images_sha256 if sha in owners]
            if equal:
                name, subject, other = equal[0]
                evidence = f"the image of {case.id} is that of {other} (subject {subject}, data set {name})"
            elif (dataset, case.subject) in self.subjects:
                evidence = f"a subject of this name in data set {dataset}"
            elif (dataset, case.id) in ids:
                evidence = f"a case {case.id} in data set {dataset}, as subject {ids[dataset, case.id]}"
            elif (case.subject, case.id) in named:
                evidence = f"{case.id} has this subject and id in data set {named[case.subject, case.id]}"
            else:
                continue
            found.setdefault(case.subject, evidence)
        return found


@dataclass(frozen=True, slots=True)
class StartModel:
    """The model that a training starts from.

    Attributes:
        name: how messages name it; no path, since the new model's description keeps it.
        where: the folder that the user gave.
        trained_on: its record, or None.
    """

    name: str
    where: str
    trained_on: TrainedOn | None


def clear_start(
    model: str, start: StartModel, dataset: str, held_out: Mapping[str, Sequence[Case]], allow: Collection[str]
) -> list[str]:
    """Refuse weights that have seen a subject that is held out from a training, or may have.

    Args:
        model: name of the model that is trained.
        start: what it starts from.
        dataset: name of the data set.
        held_out: cases that the training will be scored on, by the name of each group of them.
        allow: findings that are accepted: ``OVERLAP``, ``UNRECORDED``.

    Returns:
        What was allowed, as text for the model's description; often nothing.

    Raises:
        DataError: naming both models, the subjects, the evidence, and how to fix it.
    """
    found = _findings(start.trained_on, dataset, held_out)
    refused = {name: finding for name, finding in found.items() if name not in allow}
    if refused:
        causes = "; ".join(cause for cause, _ in refused.values())
        ways = ", and ".join(advice for _, advice in refused.values())
        raise DataError(
            f"models.{model}.start: {start.where}, {start.name}: {causes}. To fix it, {ways}; or write "
            f"models.{model}.allow: [{', '.join(refused)}] (by hand: --allow), which is recorded with the model"
        )
    return [f"{name}: {start.name}: {cause}" for name, (cause, _) in found.items()]


def _findings(
    seen: TrainedOn | None, dataset: str, held_out: Mapping[str, Sequence[Case]]
) -> dict[str, tuple[str, str]]:
    """Reasons against a start, by the word that allows it: the cause, and how to fix it."""
    found: dict[str, tuple[str, str]] = {}
    met = {side: seen.meets(dataset, cases) if seen else {} for side, cases in held_out.items()}
    parts = [f"{_shown(subjects)} of {side}" for side, subjects in met.items() if subjects]
    if parts:
        found[OVERLAP] = (
            f"its weights have seen {' and '.join(parts)}, so that scores there would not be those of new subjects",
            "start from a model of this configuration (one is trained per fold), or train that model without them",
        )
    if seen is None or not seen.complete:
        which = "it has" if seen is None else "a model that it started from has"
        found[UNRECORDED] = (
            f"{which} no record of the subjects it was trained on, so that it is unknown which its weights have seen",
            "train it again with this version of medseg",
        )
    return found


def _shown(subjects: Mapping[str, str]) -> str:
    """Number, names and evidence of subjects."""
    listed = "; ".join(f"{name}: {evidence}" for name, evidence in list(subjects.items())[:SUBJECTS_SHOWN])
    more = f"; and {len(subjects) - SUBJECTS_SHOWN} more" if len(subjects) > SUBJECTS_SHOWN else ""
    return f"{len(subjects)} subject{'s' if len(subjects) > 1 else ''} ({listed}{more})"


_Entry = tuple[tuple[str, str], str, Sequence[str]]


def _entries(subjects: Mapping[tuple[str, str], Cases]) -> Iterator[_Entry]:
    """Data set and subject, case id, and digests of each case."""
    return ((key, case, digests) for key, cases in subjects.items() for case, digests in cases.items())


def _merged(entries: Iterable[_Entry]) -> dict[tuple[str, str], Cases]:
    """Entries by subject and case; files that changed between two trainings are kept in both forms."""
    found: dict[tuple[str, str], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for key, case, digests in entries:
        found[key][case].update(digests)
    return {key: {case: tuple(sorted(digests)) for case, digests in cases.items()} for key, cases in found.items()}


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected text, found {value!r}")
    return value
