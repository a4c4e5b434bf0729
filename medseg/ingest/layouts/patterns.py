"""Layout ``patterns``: two patterns say where images and masks lie, ``images: "imgs/{case}.tif"``.

They come from the configuration, or from what ``medseg.ingest.layouts.look`` saw in the folder.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medseg.config import DatasetConfig, is_table
from medseg.errors import ConfigError
from medseg.image.labels import LabelTable
from medseg.ingest.faults import fault
from medseg.ingest.layouts.found import Candidate, Found, entries, label_table_of, outside, required_table, stem
from medseg.ingest.layouts.pairs import add_class_maps
from medseg.ingest.layouts.pattern import SHARED, Pattern, filled
from medseg.ingest.layouts.words import is_derived, rank, tokens

# Files named in a remark.
SHOWN = 3

Key = tuple[str, ...]


@dataclass(slots=True)
class _Files:
    """The files of one case.

    Attributes:
        images: channel -> files; the channel is empty where the pattern has none.
        masks: class or object -> files; likewise.
        values: of the placeholders of the image, or else of the mask.
    """

    images: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    masks: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    values: dict[str, str] = field(default_factory=dict)


def patterns_layout(dataset: str, root: Path, config: DatasetConfig) -> Found:
    """Pair the files that match ``images`` with those that match ``masks`` by the values of their placeholders.

    Raises:
        ConfigError: if one of the patterns is missing or makes no sense, or the configuration names no classes.
    """
    images, masks = read_patterns(dataset, config)
    shared = [name for name in SHARED if name in images.names and name in masks.names]
    paths = entries(root)
    labels_of = masks.matches(paths)
    images_of = {path: values for path, values in images.matches(paths).items() if path not in labels_of}
    images_of, aside = _without_others(root, images_of)
    cases = _by_case(images_of, labels_of, shared)
    classes = sorted({name for files in cases.values() for name in files.masks}) if "class" in masks.names else []
    found = Found(labels=_table(dataset, config, masks, classes))
    found.remarks += aside
    for pattern, key, there in ((images, "images", images_of), (masks, "masks", labels_of)):
        if not there:
            fix = f"correct the pattern; there are, e.g., {', '.join(_some(paths)) or 'no files'}"
            found.faults.append(fault("missing", "-", "-", f"`{key}: {pattern.text}` matches no file", fix))
    if config.test and config.test.split and all(v.get("split") != config.test.split for v in images_of.values()):
        splits = ", ".join(sorted({v["split"] for v in images_of.values() if "split" in v}))
        cause = f"`test` names the split {config.test.split}, {{split}} is {splits or 'nothing'}"
        found.faults.append(fault("missing", "-", "-", cause, "correct `test`"))
    if found.faults:
        return found
    found.channels = _channels(images, cases, config)
    ids = _ids(cases)
    for case, files in cases.items():
        _add(root, ids[case], files, found, config, images, masks)
    if config.classes is not None and not is_table(config.classes):
        if (root / config.classes).is_dir():
            add_class_maps(found, root, config.classes, set(ids.values()))
        else:
            fix = "name a folder in that of the data set, with a file per case that is called like the case"
            found.faults.append(fault("missing", "-", config.classes, "no such folder, which `classes` names", fix))
    if found.candidates and all(candidate.subject for candidate in found.candidates):
        found.evidence = "{subject} in `images`"
    return found


def read_patterns(dataset: str, config: DatasetConfig) -> tuple[Pattern, Pattern]:
    """The two patterns of a configuration.

    Raises:
        ConfigError: if one is missing or wrong.
    """
    patterns = []
    for key, text in (("images", config.images), ("masks", config.masks)):
        example = "images/{case}.tif" if key == "images" else "masks/{case}_mask.tif"
        if not text:
            what = f'the patterns layout needs `images` and `masks`, e.g. `{key}: "{example}"`'
            raise ConfigError(f"datasets.{dataset}.{key}: missing; {what}")
        try:
            pattern = Pattern.create(text)
        except ConfigError as error:
            raise ConfigError(f"datasets.{dataset}.{key}: {error}") from None
        own = {"channel"} if key == "images" else {"object", "class"}
        strange = sorted(pattern.names - own - set(SHARED))
        if strange:
            other = "masks" if key == "images" else "images"
            raise ConfigError(f"datasets.{dataset}.{key}: '{text}': {{{strange[0]}}} belongs into `{other}`")
        if "case" not in pattern.names:
            where = f'write it where the case\'s name stands, e.g. `{key}: "{example}"`'
            raise ConfigError(f"datasets.{dataset}.{key}: '{text}' has no {{case}}; {where}")
        patterns.append(pattern)
    if {"object", "class"} <= patterns[1].names:
        raise ConfigError(f"datasets.{dataset}.masks: '{config.masks}': either {{object}} or {{class}}, not both")
    return patterns[0], patterns[1]


def _table(dataset: str, config: DatasetConfig, masks: Pattern, classes: Sequence[str]) -> LabelTable:
    """The label table: one file per object means object numbers, one per class names the classes."""
    if "object" in masks.names:
        return required_table(dataset, config, instances=True)
    if classes and not config.labels:
        return label_table_of({name: number for number, name in enumerate(classes, start=1)}, config)
    return required_table(dataset, config)


def _without_others(root: Path, images: Mapping[str, dict[str, str]]) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Leave out files that are called like another image and a word for masks more: annotations by somebody else."""
    names = {(str(Path(path).parent), stem(root, path)) for path in images}
    kept, others = {}, []
    for path, values in images.items():
        folder, name = str(Path(path).parent), stem(root, path)
        pieces = tokens(name)
        rests = [("".join(pieces[:k]), "".join(pieces[k:])) for k in range(1, len(pieces))]
        if any((folder, first) in names and (rank(rest) or is_derived(rest)) for first, rest in rests):
            others.append(path)
        else:
            kept[path] = values
    shown = f"{len(others)} files are called like an image and a mask, and are not used: {', '.join(others[:SHOWN])}"
    return kept, [shown] if others else []


def _by_case(
    images: Mapping[str, dict[str, str]], masks: Mapping[str, dict[str, str]], shared: Sequence[str]
) -> dict[Key, _Files]:
    """The files of each case, by the values that image and mask share, in the order of these."""
    cases: dict[Key, _Files] = defaultdict(_Files)
    for path, values in sorted(masks.items()):
        files = cases[tuple(values[name] for name in shared)]
        files.masks[values.get("class") or values.get("object") or ""].append(path)
        files.values = values
    for path, values in sorted(images.items()):
        files = cases[tuple(values[name] for name in shared)]
        files.images[values.get("channel", "")].append(path)
        files.values = values
    return dict(sorted(cases.items()))


def _ids(cases: Mapping[Key, _Files]) -> dict[Key, str]:
    """Id of each case: its ``{case}``; where that comes more than once, with the parts of the path before it."""
    names = [files.values["case"] for files in cases.values()]
    if len(set(names)) == len(names):
        return {key: files.values["case"] for key, files in cases.items()}
    return {key: "_".join(files.values[n] for n in SHARED if n in files.values) for key, files in cases.items()}


def _channels(images: Pattern, cases: Mapping[Key, _Files], config: DatasetConfig) -> tuple[str, ...] | None:
    """The channels' names in order: those of the configuration if they are the files', else the files' sorted."""
    if "channel" not in images.names:
        return None
    there = sorted({channel for files in cases.values() for channel in files.images})
    wanted = config.channel_names or []
    return tuple(wanted) if wanted and set(wanted) <= set(there) else tuple(there)


def _add(
    root: Path, case: str, files: _Files, found: Found, config: DatasetConfig, images: Pattern, masks: Pattern
) -> None:
    """Add one case to what was found, or why it cannot be."""
    pictures, labels = _chosen(files, found, config, images, masks)
    there = [path for paths in files.images.values() for path in paths]
    drawn = [path for paths in files.masks.values() for path in paths]
    lacks_channel = [name for name in found.channels or () if name not in files.images]
    lacks_class = [name for name in labels if not labels[name]]
    twice = [paths for paths in (*files.images.values(), *labels.values()) if len(paths) > 1]
    if escapes := outside(root, (*there, *drawn)):
        found.faults += escapes
    elif not there:
        cause = f"no file {filled(images.text, files.values)}"
        found.faults.append(fault("label-without-image", case, drawn[0], cause))
    elif not drawn and not _empty_folder(root, masks, files.values):
        cause = f"no file {filled(masks.text, files.values)}"
        found.faults.append(fault("image-without-label", case, there[0], cause))
    elif lacks_channel:
        cause = f"no file {filled(images.text, files.values | {'channel': lacks_channel[0]})}"
        found.faults.append(fault("channels", case, there[0], cause, "add the channel's file"))
    elif lacks_class:
        cause = f"no file {filled(masks.text, files.values | {'class': lacks_class[0]})}"
        found.faults.append(fault("image-without-label", case, there[0], cause))
    else:
        found.faults += [fault("duplicate-id", case, more, f"the same id as {p[0]}") for p in twice for more in p[1:]]
        values = _class_values(found.labels, labels) if "class" in masks.names else None
        masks_of = tuple(
            path for paths in labels.values() for path in (paths if "object" in masks.names else paths[:1])
        )
        subject, group = files.values.get("subject", ""), files.values.get("group", "")
        kept_apart = config.test is not None and files.values.get("split") == (config.test.split or "")
        found.candidates.append(
            Candidate(case, subject, tuple(pictures), masks_of, group=group, file_values=values or (), test=kept_apart)
        )


def _chosen(
    files: _Files, found: Found, config: DatasetConfig, images: Pattern, masks: Pattern
) -> tuple[list[str], dict[str, list[str]]]:
    """The image files in the order of the channels, and the mask files that count: with classes, those of the table."""
    names = found.channels if found.channels is not None else tuple(files.images)
    pictures = [files.images[name][0] for name in names if files.images.get(name)]
    if "class" not in masks.names or found.labels is None:
        return pictures, dict(files.masks)
    return pictures, {name: files.masks.get(name, []) for name in found.labels.class_names}


def _class_values(table: LabelTable | None, labels: Mapping[str, list[str]]) -> tuple[int, ...]:
    known = dict(table.names) if table is not None else {}
    return tuple(known[name] for name in labels)


def _empty_folder(root: Path, masks: Pattern, values: Mapping[str, str]) -> bool:
    """Whether the masks of a case would be one file per object in a folder of its own, which is there and empty."""
    folder, _, name = filled(masks.text, values).rpartition("/")
    return "object" in masks.names and "{" not in folder and "{object" in name and (root / folder).is_dir()


def _some(paths: Iterable[str]) -> list[str]:
    """A few paths of different folders."""
    by_folder: dict[str, str] = {}
    for path in paths:
        by_folder.setdefault(str(Path(path).parent), path)
    return list(by_folder.values())[:SHOWN]
