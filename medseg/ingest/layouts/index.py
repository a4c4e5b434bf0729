"""``dataset.json``, which the Decathlon and nnU-Net layouts share: labels, channel names, lists of files."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medseg.config import DatasetConfig
from medseg.errors import ConfigError, Fault
from medseg.image.labels import LabelTable
from medseg.ingest.faults import fault
from medseg.ingest.layouts.found import label_table_of, visible

INDEX = "dataset.json"


def read_index(root: Path, layout: str, faults: list[Fault]) -> dict[str, Any] | None:
    """The content of ``dataset.json``, or None with a fault that explains why."""
    fix = f"the {layout} layout has a file dataset.json, folders imagesTr and labelsTr"
    try:
        index = json.loads((root / INDEX).read_bytes(), object_pairs_hook=_once)
    except FileNotFoundError:
        faults.append(fault("missing", "-", INDEX, "no such file", fix))
        return None
    except OSError as error:
        faults.append(fault("dataset-json", "-", INDEX, f"cannot be read ({error.strerror})", fix))
        return None
    except (ValueError, RecursionError) as error:
        faults.append(fault("dataset-json", "-", INDEX, f"not readable JSON ({error})"))
        return None
    if not isinstance(index, dict):
        faults.append(fault("dataset-json", "-", INDEX, "no mapping of keys to values"))
        return None
    return index


def without_references(root: Path) -> Fault | None:
    """The fault that ``imagesTs`` cannot be a test set: it is missing, or has no published references."""
    if not visible(root, "imagesTs"):
        fix = "correct `test`: name labelled cases, `test: [ID, …]`, or give imagesTs and labelsTs"
        return fault("missing", "-", "imagesTs", "`test: imagesTs`, but no such folder or nothing in it", fix)
    if not visible(root, "labelsTs"):
        cause = f"{len(visible(root, 'imagesTs'))} images in imagesTs, but no references in labelsTs to score them by"
        fix = "add labelsTs, or keep labelled cases apart: `test: [ID, …]`"
        return fault("missing", "-", "labelsTs", cause, fix)
    return None


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A mapping whose keys come once: otherwise the last of two cases or classes would win in silence."""
    twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
    if twice:
        raise ValueError(f"the key {twice[0]!r} is there twice")
    return dict(pairs)


def label_table(index: Mapping[str, Any], config: DatasetConfig, faults: list[Fault]) -> LabelTable | None:
    """The label table of the configuration, or else of dataset.json; None with a fault if neither is usable.

    dataset.json may have ``{"1": "liver"}`` (Decathlon) or ``{"liver": 1}`` (nnU-Net), the latter also with regions
    ``{"whole": [1, 2], "core": 2}`` that ``regions_class_order`` paints, and with ``"ignore": 3``.
    """
    if config.labels:
        return label_table_of(config.class_values, config)
    try:
        return _own_table(index, config)
    except (ValueError, TypeError) as error:
        faults.append(fault("dataset-json", "-", INDEX, f"labels: {error}"))
        return None


def _own_table(index: Mapping[str, Any], config: DatasetConfig) -> LabelTable:
    labels = index.get("labels")
    if not isinstance(labels, dict):
        raise ValueError("no mapping 'labels'")
    if all(re.fullmatch("[0-9]+", key) for key in labels):
        labels = {str(name): int(key) for key, name in labels.items()}
        if len(labels) != len(index["labels"]):
            raise ValueError("two labels have one name")
    values = {str(name): _values(name, value) for name, value in labels.items()}
    ignore = values.pop("ignore")[0] if "ignore" in values else config.ignore
    order = index.get("regions_class_order")
    if order is None and all(len(members) == 1 for members in values.values()):
        names = {name: members[0] for name, members in values.items()}
        return LabelTable.create(names, instances=config.instances, regions=config.regions, ignore=ignore)
    if order is None:
        raise ValueError("regions need 'regions_class_order': the value that each region paints, larger regions first")
    if config.regions or config.instances:
        raise ConfigError("dataset.json has regions; take `regions` and `instances` out of the configuration")
    regions = {name: members for name, members in values.items() if members != [0]}
    if len(_values("regions_class_order", order)) != len(regions):
        raise ValueError(f"regions_class_order {order}: expected one value for each of {list(regions)}")
    return LabelTable.of_regions(regions, _values("regions_class_order", order), ignore=ignore)


def _values(name: object, value: object) -> list[int]:
    """A label's value, or the values of a region, as a list of integers."""
    texts = [str(v) for v in (value if isinstance(value, list) else [value])]
    if not texts or not all(re.fullmatch(r"-?[0-9]{1,9}", text) for text in texts):
        raise ValueError(f"'{name}': {value!r}, expected a whole number or a list of them")
    return [int(text) for text in texts]


def channel_names(index: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Channel names in order from ``channel_names`` or ``modality``: a mapping {"0": "MRI"} or a list."""
    value = index.get("modality", index.get("channel_names"))
    if isinstance(value, dict) and all(re.fullmatch("[0-9]{1,4}", key) for key in value):
        return tuple(str(value[key]) for key in sorted(value, key=int)) or None
    return tuple(str(name) for name in value) or None if isinstance(value, list) else None
