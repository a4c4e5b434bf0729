"""Which cases are shown: the best, median and worst one, further bad ones, and some that are always the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from medseg.report.sources import Experiment, Run
from medseg.results.key import fold_order

# Cases that are drawn of every model, whatever its scores; of each fold at least one.
FIXED = 4
# Cases on the sheet of the worst ones of a model.
WORST = 6


@dataclass(frozen=True, slots=True)
class ChosenCase:
    """A case worth looking at: its standing (best, median, worst of the best model) and its id."""

    standing: str
    case: str


def case_scores(experiment: Experiment, dataset: str, model: str) -> pd.Series:
    """Mean of the ranked metric of each case over seeds, then over its defined classes, of the cases with a picture.

    Cases whose reference shows no class are left out; so is one that failed, which has a score but nothing to show.
    """
    scores, ranked = experiment.scores_of(dataset, model), experiment.ranked(dataset).name
    mine = scores[scores["metric"] == ranked]
    by_class = mine.groupby(["case", "label"], sort=True)["value"].mean()
    found = by_class.groupby(level="case", sort=True).mean().dropna()
    return found[[run_of_case(experiment, dataset, model, str(case)) is not None for case in found.index]]


def worst(scores: pd.Series) -> list[str]:
    """The cases with the lowest scores, the lowest first (ties by id)."""
    return [case for _, case in sorted((float(v), str(k)) for k, v in scores.items())[:WORST]]


def fixed(experiment: Experiment, dataset: str) -> list[str]:
    """Validation cases that follow from the folds alone, so that pictures of different models and runs are alike."""
    folds = experiment.config.folds.validated
    each = max(1, FIXED // len(folds))
    chosen = []
    for fold in folds:
        cases = sorted(experiment.splits[dataset]["folds"][fold]["val"])
        chosen += [cases[(2 * k + 1) * len(cases) // (2 * each)] for k in range(min(each, len(cases)))]
    return list(dict.fromkeys(chosen))


def choose(scores: pd.Series) -> list[ChosenCase]:
    """The worst, median and best case by score (ties by id), fewer if there are fewer cases."""
    ranked = sorted(((float(v), str(k)) for k, v in scores.items()))
    places = {"worst": 0, "median": (len(ranked) - 1) // 2, "best": len(ranked) - 1}
    chosen: dict[str, list[str]] = {}
    for standing, place in places.items():
        if ranked:
            chosen.setdefault(ranked[place][1], []).append(standing)
    return [ChosenCase(" and ".join(standings), case) for case, standings in chosen.items()]


def run_of_case(experiment: Experiment, dataset: str, model: str, case: str) -> Run | None:
    """The run whose prediction of a case is shown: the first seed that has one."""
    runs = [run for run in experiment.runs_of(dataset, model) if case in run.cases]
    return min(runs, key=lambda run: (run.seed, fold_order(run.fold)), default=None)


def run_values(experiment: Experiment, run: Run, case: str) -> Mapping[tuple[str, str], float]:
    """(metric or quantity, class) -> value of one case under one run, of ``SHOWN``; NaN where undefined."""
    scores = experiment.scores[run.key]
    rows = scores.loc[scores["case"] == case, ["metric", "label", "value"]].itertuples(index=False)
    return {(str(metric), str(label)): float(value) for metric, label, value in rows}
