"""Laws of folds, for any cohort."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.errors import ConfigError
from medseg.ingest.splits import make_folds

# Subjects with one to four scans each, as in real cohorts.
COHORTS = st.lists(st.integers(1, 4), min_size=2, max_size=40).map(
    lambda scans: [(f"s{s}_{k}", f"s{s}") for s, n in enumerate(scans) for k in range(n)]
)
SEEDS = st.integers(0, 2**32)


@settings(deadline=None)
@given(COHORTS, st.integers(2, 6), SEEDS, st.randoms())
def test_laws_of_folds(cohort: list[tuple[str, str]], count: int, seed: int, random: object) -> None:
    cases, subjects = [c for c, _ in cohort], [s for _, s in cohort]
    subject_of = dict(cohort)
    if len(set(subjects)) < count:
        with pytest.raises(ConfigError, match=f"{count} folds need {count} subjects"):
            make_folds(cases, subjects, count, seed)
        return
    folds = make_folds(cases, subjects, count, seed)
    assert len(folds) == count
    # Every case is validated on exactly once, and is in training everywhere else.
    assert Counter(c for fold in folds for c in fold["val"]) == Counter(cases)
    for fold in folds:
        assert fold["val"]
        assert fold["train"]
        assert sorted(fold["train"] + fold["val"]) == sorted(cases)
        # No subject on both sides.
        assert not {subject_of[c] for c in fold["train"]} & {subject_of[c] for c in fold["val"]}
    # Balanced to within one subject's cases.
    sizes = [len(fold["val"]) for fold in folds]
    assert max(sizes) - min(sizes) <= max(Counter(subjects).values())
    # The order of the input does not matter.
    shuffled = cohort[:]
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert make_folds([c for c, _ in shuffled], [s for _, s in shuffled], count, seed) == folds


def test_the_seed_matters() -> None:
    cases = [f"c{k}" for k in range(30)]
    first, again, other = (make_folds(cases, cases, 5, seed) for seed in (0, 0, 1))
    assert first == again != other
