"""Tolerances of metrics that need one, and the classes behind their means, as heading and in words.

A class without a tolerance has no value of such a metric, so a mean over classes may go over fewer of them than Dice
does. All of it is read from rows of ``summary.json`` about one data set and split, whichever model they are of: compare
refuses models that were scored with different tolerances.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from medseg.compare.quantity import MEAN, RANKED, Quantity, metric_quantities, quantity
from medseg.compare.text import UNITS
from medseg.metrics.row import TOLERANCE_MARK

Rows = Iterable[Mapping[str, Any]]
# What a heading says where classes have different tolerances.
PER_CLASS = "tau per class"


def tolerance_of(definition: str) -> str:
    """The tolerance in a score row's definition (``nsd/…@2 mm``); empty for one without."""
    return definition.partition(TOLERANCE_MARK)[2]


def class_tolerances(rows: Rows, one: Quantity) -> dict[str, str]:
    """Class -> tolerance (``2 mm``) of the classes behind the mean of a metric; empty for one that needs none."""
    if not one.needs_tolerance:
        return {}
    mine = (r for r in rows if (r["metric"], r["label"] == MEAN) == (f"{one.name}_subject", False))
    return {str(r["label"]): str(r["tolerance"]) for r in mine if r["tolerance"] and r["mean"] is not None}


def common_tolerance(tolerances: Mapping[str, str]) -> str:
    """For a heading: the tolerance of all classes (``2 mm``), or that each has its own; empty without any."""
    found = set(tolerances.values())
    return "" if not found else shown(found.pop()) if len(found) == 1 else PER_CLASS


def listed(tolerances: Mapping[str, str]) -> str:
    """``2 mm``, or where they differ ``liver 2 mm, tumour 1 mm``."""
    found = set(tolerances.values())
    return found.pop() if len(found) == 1 else ", ".join(f"{label} {size}" for label, size in tolerances.items())


def shown(tolerance: str) -> str:
    """A tolerance as people write it: ``2 um`` is ``2 µm``."""
    size, _, unit = tolerance.rpartition(" ")
    return f"{size} {UNITS.get(unit, unit)}" if size else tolerance


def behind_mean(rows: Rows, one: Quantity) -> str:
    """Which classes and tolerances are behind the mean of a metric, where a heading cannot say it; else empty.

    That is where the classes have different tolerances, or where the mean goes over fewer classes than Dice's does.
    """
    rows = list(rows)
    tolerances = class_tolerances(rows, one)
    ranked = quantity(RANKED)
    mine = (r for r in rows if r["metric"] == f"{ranked.name}_subject" and r["label"] != MEAN)
    every = dict.fromkeys(str(r["label"]) for r in mine if r["mean"] is not None)
    without = [label for label in every if label not in tolerances]
    if not tolerances or not (without or len(set(tolerances.values())) > 1):
        return ""
    text = f"{one.title}: mean over {', '.join(f'{name} ({shown(size)})' for name, size in tolerances.items())}"
    return f"{text}; no tolerance for {', '.join(without)}" if without else text


def sentences(rows: Rows) -> dict[str, str]:
    """Title of each metric that needs a tolerance -> all tolerances, by data set, for its definition."""
    rows = list(rows)
    found: dict[str, str] = {}
    for one in metric_quantities().values():
        parts = []
        for dataset in dict.fromkeys(str(r["dataset"]) for r in rows):
            tolerances = class_tolerances((r for r in rows if r["dataset"] == dataset), one)
            sizes = ", ".join(f"{label} {shown(size)}" for label, size in tolerances.items())
            parts += [f"{dataset}: {sizes}"] if sizes else []
        if parts:
            found[one.title] = f"Tolerances: {'; '.join(parts)}."
    return found
