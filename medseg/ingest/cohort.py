"""Faults that show when the cases of a data set are compared: channels, axes, copies, classes missing in folds."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from medseg.errors import Fault
from medseg.image.labels import LabelTable
from medseg.ingest.checked import Checked
from medseg.ingest.cohort_sizes import size_faults
from medseg.ingest.faults import exclude_these, fault
from medseg.ingest.layouts.found import Candidate
from medseg.ingest.origin.faults import origin_faults
from medseg.ingest.splits import Fold
from medseg.text import is_printable

# Channels count as swapped only in sets of at least so many cases, …
ENOUGH_CASES = 5
# … whose two channels differ by at least this factor in spread, and by as many times their variation over cases …
CLEAR_FACTOR, CLEAR_DEVIATIONS = 2.0, 6.0
# … and if after swapping the case is this close to the others, as a share of that difference.
CLOSE = 1 / 3


def name_channels(checked: Sequence[Checked], named: tuple[str, ...] | None) -> tuple[str, ...]:
    """The names given; or those that the files give their channels, if most give the same; or else numbered ones.

    There are as many as most cases have.
    """
    count = _majority([one.channels for one in checked if one.channels is not None])
    return named or names_of_files(checked) or tuple(f"channel{k}" for k in range(count))


def names_of_files(checked: Sequence[Checked]) -> tuple[str, ...]:
    """What most files call their channels, if all files give these names, in whatever order; else none."""
    given = Counter(one.channel_names for one in checked if one.channels is not None)
    if not given or len({tuple(sorted(names)) for names in given}) > 1:
        return ()
    names = min(given, key=lambda names: (-given[names], names))
    return names if all(is_printable(name) for name in names) else ()


def cohort_faults(checked: Sequence[Checked], names: tuple[str, ...], joined: bool = False) -> list[Fault]:
    """All faults that show only when cases are compared, except those of folds.

    ``joined``: cases that look as if they had one origin are one subject already, so there is nothing to look for.
    """
    return [
        *_channel_faults(checked, names),
        *_dims_faults(checked),
        *size_faults(checked),
        *_copies(checked),
        *([] if joined else origin_faults(checked)),
        *_channel_order(checked, names),
    ]


def fold_faults(checked: Sequence[Checked], labels: LabelTable, folds: Sequence[Fold]) -> list[Fault]:
    """Classes that no training or no validation case of a fold shows (without folds: no case at all).

    A label that could not be read shows all classes.
    """
    counts = {one.candidate.id: one.label_counts for one in checked}
    faults = []
    for name, value in labels.names:
        cases = {case for case, known in counts.items() if known is None or known.get(value)}
        lacking = [
            f"no {side} case of fold {_numbers(missing)}"
            for part, side in (("train", "training"), ("val", "validation"))
            if (missing := [k for k, fold in enumerate(folds) if not cases & set(fold[part])])
        ]
        if not folds and not cases:
            lacking = ["on which alone networks are trained"]
        if lacking:
            shows = f"{len(cases)} of {len(counts)} cases show class {name} ({value})"
            faults.append(fault("class-absent", "-", "-", f"{shows}, {' and '.join(lacking)}"))
    return faults


def _numbers(numbers: Iterable[int]) -> str:
    return ", ".join(str(n) for n in numbers)


def _majority(numbers: list[int]) -> int:
    """The most frequent number; the smallest of several."""
    return min(Counter(numbers).items(), key=lambda item: (-item[1], item[0]))[0] if numbers else 0


def _channel_faults(checked: Sequence[Checked], names: tuple[str, ...]) -> list[Fault]:
    """Cases with more or fewer channels than there are names."""
    counts = {one.channels for one in checked if one.channels is not None}
    faults = []
    for one in checked:
        if one.channels is None or one.geometry is None or one.channels == len(names):
            continue
        axes = " x ".join(str(n) for n in one.geometry.shape)
        own = f" ({', '.join(one.channel_names)})" if one.channel_names else ""
        cause = f"{one.channels} channels{own} of {axes} voxels, expected {len(names)} ({', '.join(names)})"
        fix = _choice(one.channels, one.channel_names, names)
        if counts == {1, 3}:
            fix = "bring grey pictures and pictures in colour together: `channels: grey` or `channels: rgb`"
        faults.append(fault("channels", one.candidate.id, one.candidate.images[0], cause, fix))
    return faults


def _choice(count: int, own: Sequence[str], names: Sequence[str]) -> str:
    """How channels are chosen from files that have more than there are names; empty: files have too few."""
    if count < len(names):
        return ""
    known = [name if name in own else str(k) for k, name in enumerate(names)]
    chosen = ", ".join(f"{name}: {channel}" for name, channel in zip(names, known, strict=True))
    return (
        f"choose channels by the file's number, from 0, or name: `channels: {{{chosen}}}`; or give every case the same"
    )


def _dims_faults(checked: Sequence[Checked]) -> list[Fault]:
    """Pictures, single slices and volumes in one data set."""
    grids = [(one.candidate, one.geometry) for one in checked if one.geometry is not None]
    usual = _majority([sum(n > 1 for n in grid.shape) for _, grid in grids])
    dims = _majority([grid.dims for _, grid in grids])
    faults = []
    for c, grid in grids:
        if grid.dims != dims:
            cause = f"{grid.dims} spatial axes {grid.shape}, most cases have {dims}"
            faults.append(fault("dims-mismatch", c.id, c.images[0], cause))
        elif (extended := sum(n > 1 for n in grid.shape)) < usual:
            cause = f"{grid.shape}: more than one voxel along {extended} axes, most cases along {usual}"
            faults.append(fault("dims-mismatch", c.id, c.images[0], cause))
    return faults


def _copies(checked: Sequence[Checked]) -> list[Fault]:
    """Cases whose images hold the voxels of an earlier one, however stored: between folds they would leak."""
    seen: dict[tuple[str, ...], list[Candidate]] = defaultdict(list)
    strange, within = [], []
    for one in checked:
        key = tuple(one.voxels_sha256)
        if "" in key:
            continue
        c, twins = one.candidate, seen[key]
        strangers = [t for t in twins if t.subject != c.subject]
        if strangers:
            where = ", one of them in the test set" if any(t.test != c.test for t in strangers) else ""
            cause = f"the same voxels as case {strangers[0].id}, which counts as another subject{where}"
            strange.append((c, cause, bool(where)))
        elif twins:
            within.append((c, f"the same voxels as case {twins[0].id} of the same subject"))
        twins.append(c)
    leave_out = f"leave the copies out: {exclude_these([c.id for c, _, _ in strange])}"
    # One subject across the test set's border would be the next fault.
    share = "; or give both one subject, `subject: FILE.csv` (columns case,subject), with `allow: [identical-images]`"
    fix = f"leave the copies out: {exclude_these([c.id for c, _ in within])}"
    return [
        *(fault("leakage", c.id, c.images[0], cause, leave_out + ("" if a else share)) for c, cause, a in strange),
        *(fault("identical-images", c.id, c.images[0], cause, fix) for c, cause in within),
    ]


def _channel_order(checked: Sequence[Checked], names: tuple[str, ...]) -> list[Fault]:
    """Cases whose channels fit the others' better in another order, by orders of magnitude of their spread."""
    if named := _otherwise_named(checked):
        return named
    known = [one for one in checked if len(one.spreads) == len(names) > 1 and min(one.spreads) > 0]
    if len(known) < ENOUGH_CASES:
        return []
    faults = []
    for index, (a, b) in swapped_channels(np.log10([one.spreads for one in known])).items():
        c = known[index].candidate
        cause = (
            f"{names[a]} and {names[b]} look swapped: their ranges of intensities are those of one another elsewhere"
        )
        faults.append(fault("channel-order", c.id, c.images[0], cause))
    return faults


def _otherwise_named(checked: Sequence[Checked]) -> list[Fault]:
    """Cases whose files name their channels otherwise than most: in another order, or others of the file's channels."""
    given = Counter(one.channel_names for one in checked if one.channels is not None)
    usual, cases = given.most_common(1)[0] if given else ((), 0)
    if not usual or cases < 2 or 2 * cases < sum(given.values()):
        return []
    faults = []
    for one in checked:
        own = one.channel_names
        if len(own) == len(usual) and [name.casefold() for name in own] != [name.casefold() for name in usual]:
            cause = f"the file calls its channels {', '.join(own)}; most have {', '.join(usual)}"
            same = sorted(own) == sorted(usual)
            names = ", ".join(usual if same else (f"{name}: {name}" for name in usual))
            how = f"`channels: [{names}]`" if same else f"`channels: {{{names}}}`"
            fix = f"have all read by name: {how}"
            faults.append(fault("channel-order", one.candidate.id, one.candidate.images[0], cause, fix))
    return faults


def swapped_channels(logs: NDArray[np.float64]) -> dict[int, tuple[int, int]]:
    """Cases (rows of logarithmic spreads, (cases, channels)) with two channels that look swapped: row -> the two."""
    usual = np.median(logs, axis=0)
    deviation = 1.4826 * np.median(np.abs(logs - usual), axis=0)
    found: dict[int, tuple[int, int]] = {}
    for a in range(logs.shape[1]):
        for b in range(a + 1, logs.shape[1]):
            gap = abs(usual[a] - usual[b])
            if gap < max(np.log10(CLEAR_FACTOR), CLEAR_DEVIATIONS * max(deviation[a], deviation[b])):
                continue
            close = (np.abs(logs[:, a] - usual[b]) < CLOSE * gap) & (np.abs(logs[:, b] - usual[a]) < CLOSE * gap)
            for row in np.flatnonzero(close):
                found.setdefault(int(row), (a, b))
    return dict(sorted(found.items()))
