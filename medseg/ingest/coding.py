"""What the values of one label file mean: by `labels` and `background`, or by the names of its segments."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from medseg.config import DatasetConfig
from medseg.config.label_values import file_values
from medseg.formats.source import Source
from medseg.image.labels import LabelTable
from medseg.image.recode import AS_STORED, Recoding
from medseg.ingest.checked import Checked
from medseg.ingest.counting import count_values, first_voxel

# Wrong label values listed in one fault; there can be thousands.
VALUES_SHOWN = 8
# Names that say nothing: those that programs give by themselves.
_UNNAMED = re.compile(r"(segment(ation)?|label|class|region|roi|mask)?( ?[0-9]+)*")


def recoding_of(out: Checked, file: str, source: Source, table: LabelTable | None, section: DatasetConfig) -> Recoding:
    """What the values of a label file mean; contradictions are noted as faults of the case.

    Args:
        out: what is known of the case.
        file, source: the label file.
        table: the classes; None: they are not known.
        section: the data set's configuration.
    """
    if table is None:
        return AS_STORED
    if out.candidate.file_values and file in out.candidate.labels:
        return Recoding(every=out.candidate.file_values[out.candidate.labels.index(file)])
    if out.candidate.source is not None and not source.segments:
        # It has the values of predictions, whatever those in the data set's own files mean.
        return AS_STORED
    if table.instances:
        nothing = [value for value in section.background or () if isinstance(value, int)]
        return Recoding({value: 0 for value in nothing if value})
    if source.segments:
        return _by_segments(out, file, source.segments, table, section)
    return _by_values(table, section)


def _by_values(table: LabelTable, section: DatasetConfig) -> Recoding:
    """By the numbers or colours in the configuration; a table that files bring says the rest."""
    labels = section.labels or dict(table.names)
    values, colours = file_values(labels, section.background, table.ignore)
    if table.ignore is not None and not colours:
        values[table.ignore] = table.ignore
    recoding = Recoding(values, colours)
    return recoding if recoding.changes else AS_STORED


def _by_segments(
    out: Checked, file: str, segments: Mapping[int, str], table: LabelTable, section: DatasetConfig
) -> Recoding:
    """By the names of a file's segments, if one of them is a class's; else by their numbers."""
    classes = {_plain(name): value for name, value in table.names}
    named = {value: classes[_plain(name)] for value, name in segments.items() if _plain(name) in classes}
    if not named:
        strangers = {v: n for v, n in segments.items() if not _UNNAMED.fullmatch(_plain(n))}
        if strangers:
            known = ", ".join(f"{value} {name}" for name, value in table.names)
            cause = f"its segments are {_shown(strangers)}; the classes are {known}"
            fix = "call the classes as the segments are called, e.g. `labels: {NAME: 1}` with"
            out.add("segment-names", file, cause, f"{fix} {next(iter(strangers.values()))!r} in place of NAME")
        return AS_STORED if out.candidate.source is not None else _by_values(table, section)
    nothing = {value for value in (section.background or [0]) if isinstance(value, int)} - named.keys()
    # A value that the file does not list keeps its meaning, unless a segment of that name is listed.
    unlisted = {v: v for v in (*table.values, table.ignore) if v not in segments and v not in named.values()}
    values = dict.fromkeys(nothing | {0}, 0) | {v: m for v, m in unlisted.items() if v is not None and m is not None}
    values |= named
    if any(value != meant for value, meant in named.items()):
        remark = "segments have other numbers than the classes: their names count"
        out.remarks += [remark] if remark not in out.remarks else []
    return Recoding(values)


def _plain(name: str) -> str:
    """A name without what differs between spellings."""
    return re.sub(r"[\W_]+", " ", name.casefold()).strip()


def _shown(segments: Mapping[int, str]) -> str:
    shown = [f"{value} {name!r}" for value, name in list(segments.items())[:VALUES_SHOWN]]
    return ", ".join(shown) + (f", and {len(segments) - VALUES_SHOWN} more" if len(segments) > VALUES_SHOWN else "")


def recoded(
    out: Checked, file: str, source: Source, recoding: Recoding, table: LabelTable | None
) -> NDArray[Any] | None:
    """The values of a label file as those of the table; None, with a fault, if some of them mean nothing.

    Raises:
        FormatError: as ``Source.labels``.
    """
    labels = source.labels(colours=recoding.colours)
    if (planes := source.stored.shape[0]) > 1 and not recoding.colours:
        remark = f"label files of {planes} equal planes: read as one"
        out.remarks += [remark] if remark not in out.remarks else []
    if table is None or not (recoding.values or recoding.every):
        return labels
    counts = count_values(labels)
    if recoding.every:
        strange = [value for value in counts if value][1:]
        expected = "0 and one other value, since it shows one class"
    else:
        strange = [] if table.instances else [value for value in counts if value not in recoding.values]
        names = {value: name for name, value in table.names} | {0: "background", table.ignore: "not annotated"}
        meanings = [f"{_value(v, recoding)} {names.get(m, m)}" for v, m in list(recoding.values.items())[:VALUES_SHOWN]]
        expected = ", ".join(meanings)
    if strange:
        shown = [
            f"{_said(v, recoding, source)}: {counts[v]} voxels, first at {first_voxel(labels, v)}" for v in strange
        ]
        more = f", and {len(strange) - VALUES_SHOWN} values more" if len(strange) > VALUES_SHOWN else ""
        out.add("label-values", file, f"{'; '.join(shown[:VALUES_SHOWN])}{more} (expected {expected})")
        return None
    return recoding.apply(labels)


def _value(value: int, recoding: Recoding) -> str:
    return f"#{value:06x}" if recoding.colours else str(value)


def _said(value: int, recoding: Recoding, source: Source) -> str:
    """A value as the file calls it."""
    if recoding.colours:
        return f"colour #{value:06x}"
    name = source.segments.get(value)
    return f"value {value}" if name is None else f"segment {value} ({name!r})"
