"""The table of stages: what code a stage can execute, so that a change re-runs what depends on it and nothing else.

A row names where a stage's code begins, and which tables it takes rows of; of those, a model's or a data set's own rows
count. A stage that only looks a name up in a table (is there such a network?) executes no row of it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medseg.networks import NETWORKS, options_of
from medseg.provenance import ROOT, TABLES, Rows, closure_digest, import_closure

NETWORK = ("NETWORKS", "ENCODERS")
HEAD = ("HEADS", "SPLITTERS")


@dataclass(frozen=True, slots=True)
class Stage:
    """What a stage can execute.

    Attributes:
        modules: where its code begins.
        tables: those whose rows it executes; all rows, unless it is said which are used.
    """

    modules: tuple[str, ...]
    tables: tuple[str, ...] = ()


STAGES: Mapping[str, Stage] = {
    "phantoms": Stage(("medseg.ingest.phantoms",), ("FORMATS",)),
    "ingest": Stage(("medseg.ingest.run",), ("FORMATS",)),
    # The code that reads a case, by which it is kept what reading it gave.
    "ingest_case": Stage(("medseg.ingest.checks",), ("FORMATS",)),
    "fingerprint": Stage(("medseg.plan.survey",), ("FORMATS",)),
    # The memory of a training step is counted for every plan, the pace of training is measured for a budget in minutes.
    "plan": Stage(("medseg.plan.run", "medseg.engine.memory", "medseg.engine.resources"), (*NETWORK, *HEAD, "LOSSES")),
    "pace": Stage(("medseg.train.pace",), (*NETWORK, *HEAD, "LOSSES")),
    "preprocess": Stage(("medseg.preprocess.run",), ("FORMATS",)),
    # The code of one case, by which finished cases are kept: another option in the configuration prepares none again,
    # and training, which draws from what was sampled by a case's key, keeps its bits.
    "preprocess_case": Stage(("medseg.preprocess.cases",), ("FORMATS",)),
    "train": Stage(("medseg.train.run",), (*NETWORK, *HEAD, "LOSSES")),
    "predict": Stage(("medseg.predict.run",), (*NETWORK, *HEAD, "FORMATS")),
    "predict_case": Stage(("medseg.predict.cases",), (*NETWORK, *HEAD, "FORMATS")),
    "ensemble": Stage(("medseg.predict.together",), (*NETWORK, *HEAD, "FORMATS")),
    # Of cases that several models predict together.
    "ensemble_case": Stage(("medseg.predict.cases", "medseg.predict.ensemble"), (*NETWORK, *HEAD, "FORMATS")),
    "choose": Stage(("medseg.postprocess.choose",), ("OPERATIONS", "FORMATS")),
    "postprocess": Stage(("medseg.postprocess.run",), ("OPERATIONS", "FORMATS")),
    "evaluate": Stage(("medseg.evaluate.run",), ("METRICS", "FORMATS")),
    "compare": Stage(("medseg.compare.run",), ("METRICS",)),
    "report": Stage(("medseg.report.run",), ("METRICS", "FORMATS")),
    "track": Stage(("medseg.tracking",), ("METRICS",)),
}


def stage_digest(stage: str, used: Rows | None = None, root: Path = ROOT) -> str:
    """Digest (16 hex digits) of the code that a stage can execute.

    Args:
        stage: row of ``STAGES``.
        used: table -> the rows that are used, where that is known (``rows_of_model``); of other tables all count.
        root: the package.
    """
    return closure_digest(STAGES[stage].modules, _rows(STAGES[stage], used or {}), root)


def stage_modules(stage: str, used: Rows | None = None, root: Path = ROOT) -> frozenset[str]:
    """Names of the modules whose code is in ``stage_digest``."""
    rows = _rows(STAGES[stage], used or {})
    return frozenset().union(*(import_closure(module, root, rows) for module in STAGES[stage].modules))


def _rows(stage: Stage, used: Rows) -> Rows:
    rows: dict[str, Collection[str]] = {table: () for table in TABLES.values() if table not in stage.tables}
    return rows | {table: names for table, names in used.items() if table in stage.tables}


def rows_of_model(network: str, options: Mapping[str, Any], loss: str, head: str | None = None) -> Rows:
    """The rows that training and using one model execute.

    Args:
        network: its name in ``NETWORKS``.
        options: those that are given; the others have their defaults.
        loss: its name in ``LOSSES``.
        head: its name in ``HEADS``; none or empty: the network's default, since whether data has objects is not always
            known from the configuration.
    """
    heads = (head or NETWORKS[network].heads[0],)
    encoder = getattr(options_of(network, options), "encoder", None)
    # DeepLab v3+ over the plan's own encoder takes none of the table.
    encoders = () if encoder in (None, "planned") else (encoder,)
    return {"NETWORKS": (network,), "ENCODERS": encoders, "LOSSES": (loss,), "HEADS": heads, "SPLITTERS": heads}


def rows_of_plan(plan: Mapping[str, Any]) -> Rows:
    """The rows that training and using the model of a plan (its JSON) execute."""
    network = plan["network"]
    return rows_of_model(network["name"], network["options"], plan["training"]["loss"], network["head"])
