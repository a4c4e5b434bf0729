"""The scores of a block seed by seed, as statements about methods need them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medseg.compare.block import Block, Values
from medseg.compare.interval import subject_means
from medseg.compare.quantity import SCORE
from medseg.results.key import ALL


def by_seed(block: Block, name: str) -> Values:
    """(R, S, C) subject means of the score or a metric, one table for each repetition of the training.

    On validation folds a repetition is a seed: its trainings of all folds, each on the cases of its fold. On a test
    set, which all trainings predict, every training is one.
    """
    if block.split == "test":
        groups = [[key] for key in block.trainings]
    else:
        groups = [[key for key in block.trainings if key[1] == seed] for seed in block.seeds]
    tables = []
    for keys in groups:
        merged = np.full(block.score.shape, np.nan)
        for key in keys:
            found = block.trainings[key][name]
            merged = np.where(np.isfinite(found), found, merged)
        tables.append(subject_means(merged, block.subjects)[1])
    return np.stack(tables)


def folds_of(block: Block) -> NDArray[np.int64]:
    """(S,) the fold whose networks scored each subject, in the order of ``subject_means``; 0 for all on a test set."""
    fold_of: dict[str, int] = {}
    for (fold, _), tables in block.trainings.items():
        for case in np.flatnonzero(np.isfinite(tables[SCORE]).any(axis=1)):
            fold_of.setdefault(block.subjects[case], 0 if block.split == "test" or fold == ALL else fold)
    return np.array([fold_of.get(subject, 0) for subject in sorted(set(block.subjects))], dtype=np.int64)
