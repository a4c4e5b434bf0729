"""The whole layout as a list, and the names that it leaves no room for."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from medseg.results.key import ALL, TEST
from medseg.results.paths import ANY, CASE, DATASET, GRID, JOBS, MODEL, SHARD, Results

# What may stand for a wildcard.
VALUES = {
    **dict.fromkeys(("dataset", "model", "case"), r"[^/]+"),
    "fold": rf"(\d+|{ALL})",
    "seed": r"\d+",
    "grid": r"(default|grid-[0-9a-f]{8})",
    "shard": r"\d+-of-\d+",
}


def layout() -> tuple[Path, ...]:
    """Every path below ``results/{experiment}``, with wildcards."""
    results = Results(Path())
    ingest, plan, store = results.ingest(DATASET), results.plan(DATASET), results.store(DATASET, GRID)
    model, test = results.model(ANY), replace(ANY, split=TEST)
    of_splits = [
        path
        for key in (ANY, test)
        for folder in (results.predict(key), results.postprocess(key))
        for path in (folder.record, folder.shard(SHARD))
    ]
    of_splits += [path for f in map(results.postprocess, (ANY, test)) for path in (f.effect, f.timing)]
    of_splits += [path for key in (ANY, test) for path in (results.scores(key), results.scores_shard(key, SHARD))]
    comparisons = [
        path
        for folder in (results.compare, results.test.compare)
        for path in (folder.scores, folder.leaderboard, folder.summary)
    ]
    return (
        results.config,
        results.download(DATASET),
        results.weights(MODEL),
        *(ingest.manifest, ingest.dataset, ingest.splits, ingest.test_manifest, ingest.test_declaration),
        *(plan.fingerprint, plan.plan(MODEL), store.index, store.shard(SHARD), store.case(CASE)),
        *(
            model.weights,
            model.description,
            model.postprocess,
            model.quality,
            model.history,
            model.timing,
            model.members,
            results.state(ANY),
        ),
        *of_splits,
        *comparisons,
        *(results.report.page, results.report.figures, results.tracking.store, results.tracking.synced),
        results.test.opened,
        results.tested_ensemble(test).members,
        *(results.log(job) for job in JOBS),
        *(results.benchmark(job) for job in JOBS),
    )


def reserved_names() -> dict[str, re.Pattern[str]]:
    """For a ``dataset``, a ``model`` and a ``case``: names that it cannot have, since the layout uses them itself."""
    return {
        kind: re.compile("|".join(sorted(names - {""})), re.IGNORECASE)
        for kind, names in ((kind, places.keys()) for kind, places in reserved_places().items())
    }


def reserved_places() -> dict[str, dict[str, Path]]:
    """For a ``dataset``, a ``model`` and a ``case``: a regular expression for names that it cannot have -> their path.

    A name is taken where the layout has, in one folder, both a part made of that name and another that could be equal:
    ``{model}.json`` and ``fingerprint.json``, ``{case}`` and ``shard-{shard}.json``. Upper and lower case are one, as
    they are on many disks.
    """
    found: dict[str, dict[str, Path]] = {"dataset": {}, "model": {}, "case": {}}
    paths = [path.parts for path in layout()]
    for path in paths:
        for depth, part in enumerate(path):
            named = re.fullmatch(r"\{(dataset|model|case)\}([^{]*)", part)
            if named is None:
                continue
            beside = {other[depth] for other in paths if len(other) > depth and other[:depth] == path[:depth]}
            others = (name.removesuffix(named[2]) for name in beside - {part} if name.endswith(named[2]))
            for name in sorted(others):
                found[named[1]].setdefault(_expression(name), Path(*path[:depth], f"{name}{named[2]}"))
    return found


def _expression(part: str) -> str:
    """Regular expression of what a part of a path with wildcards can be."""
    pieces = re.split(r"\{(\w+)\}", part)
    return "".join(VALUES[piece] if place % 2 else re.escape(piece) for place, piece in enumerate(pieces))
