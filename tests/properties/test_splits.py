"""Laws of folds, for any cohort."""

from __future__ import annotations

import os
import random
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medseg.config import FoldsConfig
from medseg.errors import ConfigError
from medseg.ingest.folds import FoldCase, make_folds
from medseg.ingest.splits import Fold
from medseg.ingest.subjects import subject_rule, suspect

SITES = ("", "north", "south")


@st.composite
def cohorts(draw: st.DrawFn, rich: bool = True) -> list[FoldCase]:
    """Subjects with one to four scans each, as in real cohorts; rich: with classes and sites that differ."""
    members = []
    for s, scans in enumerate(draw(st.lists(st.integers(1, 4), min_size=2, max_size=30))):
        site = draw(st.sampled_from(SITES)) if rich else ""
        for k in range(scans):
            classes = draw(st.frozensets(st.integers(1, 3))) if rich else frozenset({1, 2})
            members.append(FoldCase(f"s{s}_{k}", f"s{s}", site, classes))
    return members


SEEDS = st.integers(0, 2**32)
COUNTS = st.integers(2, 6)


def folds_of(members: list[FoldCase], count: int, seed: int, scheme: str = "balanced") -> list[Fold]:
    return make_folds(members, FoldsConfig.model_validate({"count": count, "seed": seed, "scheme": scheme}))


def leaked(members: list[FoldCase], folds: list[Fold]) -> set[str]:
    subject_of = {m.id: m.subject for m in members}
    sides = [({subject_of[c] for c in f["train"]}, {subject_of[c] for c in f["val"]}) for f in folds]
    return set().union(*(train & val for train, val in sides))


@settings(deadline=None)
@given(cohorts(), COUNTS, SEEDS, st.randoms())
def test_laws_of_folds(members: list[FoldCase], count: int, seed: int, shuffler: random.Random) -> None:
    if len({m.subject for m in members}) < count:
        with pytest.raises(ConfigError, match=f"{count} folds need {count} subjects"):
            folds_of(members, count, seed)
        return
    folds = folds_of(members, count, seed)
    assert len(folds) == count
    # Every case is validated on exactly once, and is in training everywhere else.
    assert Counter(c for fold in folds for c in fold["val"]) == Counter(m.id for m in members)
    for fold in folds:
        assert fold["val"]
        assert fold["train"]
        assert sorted(fold["train"] + fold["val"]) == sorted(m.id for m in members)
    # No subject on both sides.
    assert not leaked(members, folds)
    # Balanced to within one subject's cases.
    sizes = [len(fold["val"]) for fold in folds]
    assert max(sizes) - min(sizes) <= max(Counter(m.subject for m in members).values())
    # The order of the input does not matter.
    shuffled = members[:]
    shuffler.shuffle(shuffled)
    assert folds_of(shuffled, count, seed) == folds


def unstratified(members: list[FoldCase], count: int, seed: int) -> list[Fold]:
    """Folds without a look at classes and sites: shuffled subjects, largest first, into the smallest fold."""
    groups: dict[str, list[str]] = defaultdict(list)
    for member in members:
        groups[member.subject].append(member.id)
    names = sorted(groups)
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(names))
    parts: list[list[str]] = [[] for _ in range(count)]
    for name in sorted((names[i] for i in order), key=lambda n: -len(groups[n])):
        min(parts, key=len).extend(groups[name])
    everyone = {m.id for m in members}
    return [{"train": sorted(everyone - set(part)), "val": sorted(part)} for part in parts]


@settings(deadline=None)
@given(cohorts(rich=False), COUNTS, SEEDS)
def test_where_all_cases_are_alike_nothing_is_stratified(members: list[FoldCase], count: int, seed: int) -> None:
    if len({m.subject for m in members}) >= count:
        assert folds_of(members, count, seed) == unstratified(members, count, seed)


def spread(members: list[FoldCase], folds: list[Fold], kind: object) -> list[int]:
    """Subjects per fold that have a class (a number) or come from a site (text)."""
    return [len({m.subject for m in members if m.id in f["val"] and kind in (*m.classes, m.site)}) for f in folds]


@settings(deadline=None)
@given(st.integers(2, 6), st.integers(0, 40), st.integers(1, 40), SEEDS, st.booleans())
def test_each_fold_has_its_share_of_a_rare_class_or_site(
    count: int, many: int, few: int, seed: int, site: bool
) -> None:
    rare = [
        FoldCase(f"r{k}", f"r{k}", "far" if site else "", frozenset({1}) if site else frozenset({1, 2}))
        for k in range(few)
    ]
    members = rare + [FoldCase(f"c{k}", f"c{k}", "", frozenset({1})) for k in range(many)]
    if len(members) >= count:
        shares = spread(members, folds_of(members, count, seed), "far" if site else 2)
        assert max(shares) - min(shares) <= 1


@settings(deadline=None)
@given(cohorts(), COUNTS, SEEDS)
def test_stratifying_never_makes_shares_less_even(members: list[FoldCase], count: int, seed: int) -> None:
    if len({m.subject for m in members}) < count:
        return
    kinds = {kind for m in members for kind in (*m.classes, m.site)}

    def unevenness(folds: list[Fold]) -> float:
        shares = [np.array(spread(members, folds, kind), float) for kind in kinds]
        return float(sum((s**2).sum() / s.sum() for s in shares))

    before, after = unstratified(members, count, seed), folds_of(members, count, seed)
    assert sorted(len(f["val"]) for f in before) == sorted(len(f["val"]) for f in after)
    assert unevenness(after) <= unevenness(before) + 1e-9


def test_no_subject_leaks_in_random_cohorts() -> None:
    """Many cohorts, drawn without hypothesis so that it can be ten thousand: MEDSEG_COHORTS=10000."""
    rng = random.Random(0)
    for number in range(int(os.environ.get("MEDSEG_COHORTS", "200"))):
        members = [
            FoldCase(
                f"s{s}_{k}",
                f"s{s}",
                rng.choice(SITES),
                frozenset(rng.sample((1, 2, 3), rng.randint(0, 3))),
            )
            for s in range(rng.randint(6, 60))
            for k in range(rng.randint(1, 4))
        ]
        assert not leaked(members, folds_of(members, rng.randint(2, 6), number)), number


def test_the_seed_matters() -> None:
    members = [FoldCase(f"c{k}", f"c{k}") for k in range(30)]
    first, again, other = (folds_of(members, 5, seed) for seed in (0, 0, 1))
    assert first == again != other


@given(st.integers(2, 6), st.integers(1, 60))
def test_nnunet_folds_are_those_of_its_rule(count: int, cases: int) -> None:
    """KFold of scikit-learn 1.x, written out: shuffled positions, the first folds one larger."""
    ids = [f"case_{k:03d}" for k in range(cases)]
    members = [FoldCase(case, case) for case in reversed(ids)]
    if cases < count:
        with pytest.raises(ConfigError, match=f"{count} folds need {count} cases"):
            folds_of(members, count, 0, "nnunet")
        return
    order = np.arange(cases)
    np.random.RandomState(12345).shuffle(order)
    expected = [sorted(ids[k] for k in part) for part in np.array_split(order, count)]
    assert [fold["val"] for fold in folds_of(members, count, 0, "nnunet")] == expected


@given(cohorts())
def test_leaving_one_site_out(members: list[FoldCase]) -> None:
    members = [m for m in members if m.site]
    sites = sorted({m.site for m in members})
    if len(sites) < 2:
        with pytest.raises(ConfigError, match="two sites"):
            folds_of(members, 5, 0, "site")
        return
    folds = folds_of(members, 5, 0, "site")
    site_of = {m.id: m.site for m in members}
    assert [{site_of[c] for c in fold["val"]} for fold in folds] == [{site} for site in sites]
    assert all(sorted(f["train"] + f["val"]) == sorted(site_of) for f in folds)
    assert not leaked(members, folds)


# Ids that look as if subjects repeat

WORDS = st.text("abcxyzP0123456789", min_size=1, max_size=5)


@given(st.lists(st.lists(WORDS, min_size=1, max_size=4), min_size=1, max_size=12), st.sampled_from("_.-"))
def test_the_suggested_expression_groups_what_was_suspected(parts: list[list[str]], separator: str) -> None:
    ids = sorted({separator.join(words) for words in parts})
    found = suspect(ids)
    if found is None:
        return
    one, other, pattern = found
    subject_of = subject_rule("data", pattern)
    groups = {subject_of(case) for case in ids}
    assert one != other
    assert subject_of(one) == subject_of(other)
    assert 1 < len(groups) < len(ids)
    assert None not in groups
