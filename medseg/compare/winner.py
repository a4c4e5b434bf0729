"""How stable the first place is: resampled rankings, other schemes of ranking, and the luck of the best of many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medseg.compare.block import Block
from medseg.compare.interval import FEWEST_SUBJECTS, subject_means
from medseg.compare.ranking import first_places, rank_agreement, schemes, winners_excess
from medseg.compare.summary import number


def winner_rows(blocks: Sequence[Block], ranking: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per data set and split with two models or more, about the model that is ranked first."""
    by_name = {(b.dataset, b.split, b.model): b for b in blocks}
    rows = []
    for dataset, split in dict.fromkeys((r["dataset"], r["split"]) for r in ranking):
        names = [r["model"] for r in ranking if (r["dataset"], r["split"]) == (dataset, split)]
        if len(names) < 2:
            continue
        found = [by_name[dataset, split, name] for name in names]
        tables = np.stack([subject_means(b.score, b.subjects)[1] for b in found])
        # Resamples of a handful of subjects say nothing.
        if np.isfinite(tables[0]).any(axis=1).sum() < FEWEST_SUBJECTS:
            continue
        shares, excess = first_places(tables), winners_excess(tables)
        other = schemes(tables)
        named = {"rank": [names[k] for k in other.rank], "median": [names[k] for k in other.median]}
        row = {"dataset": dataset, "split": split, "model": names[0], "models": len(names)}
        row |= {"first_share": {name: number(s) for name, s in zip(names, shares, strict=True)}}
        row |= {"kendall_tau": number(rank_agreement(tables)), "excess": number(excess), "schemes_agree": other.agree}
        rows.append(
            {**row, "by_mean_rank": named["rank"], "by_median": named["median"], "sentence": _sentence(row, named)}
        )
    return rows


def _sentence(row: dict[str, Any], named: dict[str, list[str]]) -> str:
    """The row in words."""
    name = row["model"]
    text = f"{name} comes first in {row['first_share'][name]:.0%} of resamples of the subjects"
    if row["excess"] is not None:
        text += f"; the best of {row['models']} equal models would exceed their mean by {row['excess']:.3f} here"
    others = [f"by {how.replace('rank', 'mean rank')} {', '.join(who)}" for how, who in named.items() if who != [name]]
    return text + (f"; {' and '.join(others)} would be first" if others else "")
