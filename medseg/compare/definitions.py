"""What the numbers of the comparison mean, in words that the report prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medseg.compare.interval import FEWEST_SUBJECTS, LEVEL, RESAMPLES
from medseg.compare.permutation import FLIPS, MOST_ENUMERATED
from medseg.compare.power import POWER
from medseg.compare.quantity import Quantity, families
from medseg.compare.tolerance import sentences
from medseg.metrics.table import METRICS

# What a case counts that was missed or failed, where it is no constant.
_WORST = {"diagonal": "the diagonal of the image", "bits": "log2(1 + voxels of the reference)"}


def definitions(summary: Sequence[Mapping[str, Any]] = ()) -> dict[str, str]:
    """Term -> definition: metrics, what is averaged, and what the statistics are.

    Args:
        summary: rows of the summary, whose tolerances are part of a metric's definition. Families of metrics that no
            row is of are left out; without rows, none is.
    """
    tolerances, found = sentences(summary), {str(row["metric"]).rpartition("_")[0] for row in summary}
    listed = {
        name: members for name, members in families().items() if not found or found & {one.name for one in members}
    }
    every = [one for members in listed.values() for one in members]
    terms = {one.title: " ".join(filter(None, [_metric(one), tolerances.get(one.title)])) for one in every}
    return terms | _means(every) | _cases(every) | _statistics(listed)


def _ranked(every: Sequence[Quantity]) -> str:
    """The metrics that models are ranked by: ``Dice``, or ``PQ (of Dice in data sets that lack it)``."""
    found = sorted((one for one in every if METRICS[one.name].ranks), key=lambda one: -METRICS[one.name].ranks)
    first, *others = [one.title for one in found]
    return f"{first} (in data sets without it {', '.join(others)})" if others else first


def _metric(one: Quantity) -> str:
    """Definition, direction and worst value of a metric."""
    row = METRICS[one.name]
    unit = " In the unit of the images' spacing (mm, um, px)." if one.is_length else ""
    worst = _WORST[row.worst] if isinstance(row.worst, str) else f"{row.worst:g}"
    better = "" if one.higher_is_better else " Lower is better."
    text = f"{row.formula}, of one class in one whole case ({row.paper}; definition {row.definition})."
    return f"{text}{unit}{better} A case that was missed or failed counts {worst}."


def _columns(form: str, which: Sequence[Quantity]) -> str:
    """Names of columns: ``dice_subject, miou_subject and hd95_subject``."""
    *first, last = [form.format(one.column) for one in which]
    return f"{', '.join(first)} and {last}" if first else last


def _means(every: Sequence[Quantity]) -> dict[str, str]:
    pooled = [one for one in every if one.pooled]
    ranked = _ranked(every)
    return {
        "who counts": "Whether a case enters the mean of a class is decided by the reference alone: it does if the "
        "reference shows the class. A prediction without the class then has the worst value. So every model has the "
        "same denominator.",
        "…_subject": f"{_columns('{}_subject', every)}: for each class the mean over subjects of the mean over a "
        "subject's cases, then the mean over classes. Background never counts.",
        "…_case": f"{_columns('{}_case', every)}: for each class the mean over cases, then the mean over classes. "
        "Subjects with many cases weigh more. Equal to …_subject where every case is a subject.",
        "…_pooled": f"{_columns('{}_pooled', pooled)}: what is counted of a class (TP, FP and FN, of voxels or "
        "of objects) is summed over all cases before the formula is applied, then averaged over classes. Large and "
        "crowded cases weigh more. In computer vision the pooled IoU is called mIoU.",
        "median": "For each class the median of the subjects' means, then the mean over classes. Beside the mean of a "
        "distance it shows how far missed cases, which count a whole diagonal, move that mean.",
        "score": f"What models are ranked by. {ranked} where the reference shows the class; where it lacks a class "
        "that other references show, 1 if the prediction left it empty and 0 if it invented it. Averaged like "
        f"…_subject. Equal to the …_subject of that metric where every reference shows every class. A class that no "
        "reference shows has no score.",
    }


def _cases(every: Sequence[Quantity]) -> dict[str, str]:
    ranked = _ranked(every)
    return {
        "left empty": "Of the cases whose reference lacks the class, the share whose prediction lacks it as well.",
        "false volume": "Of the same cases, the mean volume that the prediction gave the class.",
        "missed": "Cases whose reference shows the class and whose prediction, under at least one seed, has none of "
        "it. They have the worst value under that seed.",
        "failed": "Cases that could not be predicted or scored under at least one seed. They have the worst value and "
        "stay in every mean.",
        "penalised": "Classes of cases that have the worst value under at least one seed: missed or failed.",
        "worst tenth": f"Mean {ranked} of the tenth of the cases with the lowest, and (without it) of all "
        "others: how far a mean depends on few cases.",
        "seeds and folds": "The seeds of a case are averaged before anything else, so a case counts once. Folds are "
        "pooled over cases.",
    }


def _statistics(families: Mapping[str, Sequence[Quantity]]) -> dict[str, str]:
    ranked = _ranked([one for members in families.values() for one in members])
    listed = "; ".join(f"{name}: {', '.join(one.title for one in members)}" for name, members in families.items())
    return {
        "interval": f"{LEVEL:.0%} bootstrap-t interval of a mean of subject means: {RESAMPLES:,} resamples of whole "
        "subjects, fixed seed, within the metric's bounds; with two seeds or more, the wider ends of this one and of a "
        f"t interval with the variance between trainings. Below {FEWEST_SUBJECTS} subjects there is none, and the "
        "subjects' own means are shown.",
        "test": "Sign-flip permutation test of the subjects' differences in the score, studentised; adjusted for all "
        f"pairs of models by step-down max-T. All flips up to {MOST_ENUMERATED} subjects, else {FLIPS:,} random ones.",
        "verdict": "A model is called better only if the interval excludes 0, the adjusted p is below 0.05, and both "
        "are on the side of the model that is ranked first. With one seed it is about these trained networks; with two "
        "or more, about the methods, and the variance between trainings is in interval and test.",
        "smallest difference": f"The true difference that the test shows with a power of {POWER:.0%}, with these "
        "subjects and this spread; a verdict, which needs the interval as well, shows it a little less often "
        "(docs/statistics.md). What was not shown may be smaller, and exist.",
        "typical case": "Wilcoxon's signed-rank test (zeros ranked as by Pratt) of the same differences, and the rank-"
        "biserial correlation. It is about the typical subject, not the mean, and decides nothing.",
        "secondary families": "Of each family of metrics the mean over classes of every metric, where the reference "
        f"shows the class, and {ranked} class by class; each family has one correction of its own "
        f"({listed}). They support no verdict.",
    }
