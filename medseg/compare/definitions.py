"""What the numbers of the comparison mean, in words that the report prints."""

from __future__ import annotations

from medseg.compare.interval import FEWEST_SUBJECTS, LEVEL, RESAMPLES
from medseg.compare.permutation import FLIPS, MOST_ENUMERATED
from medseg.compare.power import POWER
from medseg.metrics.table import METRICS

DEFINITIONS = {
    **{
        m.title: f"{m.formula} of one class over all annotated voxels of one whole case, without smoothing "
        f"({m.paper}; definition {m.definition})."
        for m in METRICS.values()
    },
    "who counts": "Whether a case enters the mean of a class is decided by the reference alone: it does if the "
    "reference shows the class. A prediction without the class then scores 0. So every model has the same denominator.",
    "…_subject": "dice_subject and miou_subject: for each class the mean over subjects of the mean over a subject's "
    "cases, then the mean over classes. Background never counts.",
    "…_case": "dice_case and miou_case: for each class the mean over cases, then the mean over classes. Subjects with "
    "many cases weigh more. Equal to …_subject where every case is a subject.",
    "…_pooled": "dice_pooled and miou_pooled: TP, FP and FN of a class are summed over all cases before the formula is "
    "applied, then averaged over classes. Large objects weigh more. In computer vision this pooled IoU is called mIoU.",
    "score": "What models are ranked by. Dice where the reference shows the class; where it lacks a class that other "
    "references show, 1 if the prediction left it empty and 0 if it invented it. Averaged like …_subject. Equal to "
    "dice_subject where every reference shows every class. A class that no reference shows has no score.",
    "left empty": "Of the cases whose reference lacks the class, the share whose prediction lacks it as well.",
    "false volume": "Of the same cases, the mean volume that the prediction gave the class.",
    "missed": "Cases whose reference shows the class and whose prediction, under at least one seed, has none of it. "
    "They score 0 under that seed.",
    "failed": "Cases that could not be predicted or scored under at least one seed. They have the worst value and stay "
    "in every mean.",
    "worst tenth": "Mean Dice of the tenth of the cases with the lowest Dice, and (without it) of all others: how far "
    "a mean depends on few cases.",
    "seeds and folds": "The seeds of a case are averaged before anything else, so a case counts once. Folds are pooled "
    "over cases.",
    "interval": f"{LEVEL:.0%} bootstrap-t interval of a mean of subject means: {RESAMPLES:,} resamples of whole "
    "subjects, fixed seed, within the metric's bounds; with two seeds or more, the wider ends of this one and of a t "
    f"interval with the variance between trainings. Below {FEWEST_SUBJECTS} subjects there is none, and the "
    "subjects' own means are shown.",
    "test": "Sign-flip permutation test of the subjects' differences in the score, studentised; adjusted for all pairs "
    f"of models by step-down max-T. All flips up to {MOST_ENUMERATED} subjects, else {FLIPS:,} random ones.",
    "verdict": "A model is called better only if the interval excludes 0, the adjusted p is below 0.05, and both are "
    "on the side of the model that is ranked first. With one seed it is about these trained networks; with two or "
    "more, about the methods, and the variance between trainings is in interval and test.",
    "smallest difference": f"The true difference that the test shows with a power of {POWER:.0%}, with these subjects "
    "and this spread; a verdict, which needs the interval as well, shows it a little less often "
    "(docs/statistics.md). What was not shown may be smaller, and exist.",
    "typical case": "Wilcoxon's signed-rank test (zeros ranked as by Pratt) of the same differences, and the rank-"
    "biserial correlation. It is about the typical subject, not the mean, and decides nothing.",
    "secondary family": "Mean Dice and mean IoU where the reference shows the class, and the Dice of each class, with "
    "one correction of their own. They support no verdict.",
}
