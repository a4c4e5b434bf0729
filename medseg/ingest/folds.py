"""Cross-validation folds: which cases are trained on and which are validated on, never one subject on both sides."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medseg.config import FoldsConfig
from medseg.errors import ConfigError
from medseg.ingest.splits import Fold

# The seed that nnU-Net's own five folds are made with.
NNUNET_SEED = 12345
# A swap of subjects must bring the shares this much closer; below, it is rounding.
WORTHWHILE = 1e-9


@dataclass(frozen=True, slots=True)
class FoldCase:
    """What folds need to know of a case.

    Attributes:
        id, subject, site: as in ``medseg.ingest.manifest.Case``.
        classes: label values, background left out, that its reference shows.
    """

    id: str
    subject: str
    site: str = ""
    classes: frozenset[int] = frozenset()


def make_folds(members: Sequence[FoldCase], folds: FoldsConfig) -> list[Fold]:
    """Split cases into folds by the scheme that the configuration names; the order of the input does not matter.

    Args:
        members: all cases.
        folds: scheme, count and seed.

    Returns:
        Per fold ``{"train": ids, "val": ids}``, sorted; every case is validated on in exactly one fold, and no subject
        is on both sides of any.

    Raises:
        ConfigError: if the scheme does not fit the cases, or ``run`` names a fold that there is not.
    """
    parts = SCHEMES[folds.scheme](sorted(members, key=lambda m: m.id), folds)
    check_run(folds, len(parts))
    everyone = {member.id for member in members}
    return [{"train": sorted(everyone - set(part)), "val": sorted(part)} for part in parts]


def check_run(folds: FoldsConfig, count: int) -> None:
    """Raise ``ConfigError`` if ``run`` names a fold beyond those that came out."""
    beyond = [k for k in folds.validated if k >= count]
    if beyond:
        raise ConfigError(f"folds.run: fold {beyond[0]} of {count}; they count from 0 to {count - 1}")


def balanced(members: Sequence[FoldCase], folds: FoldsConfig) -> list[list[str]]:
    """Folds of equal size, whole subjects, with equal shares of each class and site.

    Subjects are shuffled by the seed, then each, largest first, joins the fold with the fewest cases; so folds differ
    by at most the cases of one subject. Then subjects with equally many cases swap places while that brings the shares
    of classes and sites closer to one another (the aim of Sechidis et al. 2011, On the stratification of multi-label
    data); sizes stay, and where all subjects are alike nothing moves.
    """
    groups = _subjects(members)
    if len(groups) < folds.count:
        fix = "lower the count" if len(groups) > 1 else "train on all cases without validation, `folds: all`"
        raise ConfigError(
            f"folds.count: {folds.count} folds need {folds.count} subjects, there are {len(groups)}; {fix}"
        )
    names = sorted(groups)
    order = np.random.Generator(np.random.PCG64(folds.seed)).permutation(len(names))
    parts: list[list[str]] = [[] for _ in range(folds.count)]
    sizes = [0] * folds.count
    for name in sorted((names[i] for i in order), key=lambda n: -len(groups[n])):
        smallest = sizes.index(min(sizes))
        parts[smallest].append(name)
        sizes[smallest] += len(groups[name])
    _even_out(parts, groups)
    return [[member.id for name in part for member in groups[name]] for part in parts]


def _subjects(members: Sequence[FoldCase]) -> dict[str, list[FoldCase]]:
    groups: dict[str, list[FoldCase]] = defaultdict(list)
    for member in members:
        groups[member.subject].append(member)
    return groups


def _even_out(parts: list[list[str]], groups: dict[str, list[FoldCase]]) -> None:
    """Swap subjects between parts, in place, until no swap brings the shares of classes and sites closer."""
    traits = {name: {t for m in cases for t in (*m.classes, m.site)} for name, cases in groups.items()}
    # What all subjects have, or none, cannot be shared unevenly.
    kinds = sorted(set().union(*traits.values()) - set.intersection(*traits.values()), key=repr)
    if not kinds:
        return
    has = {name: np.array([kind in known for kind in kinds], float) for name, known in traits.items()}
    weights = 1.0 / np.sum(list(has.values()), axis=0)
    sums = [np.sum([has[name] for name in part], axis=0) for part in parts]
    moved = True
    while moved:
        moved = False
        for a in range(len(parts)):
            for b in range(a + 1, len(parts)):
                while (swap := _best_swap(parts[a], parts[b], sums[a] - sums[b], has, weights, groups)) is not None:
                    i, j = swap
                    change = has[parts[b][j]] - has[parts[a][i]]
                    sums[a], sums[b] = sums[a] + change, sums[b] - change
                    parts[a][i], parts[b][j] = parts[b][j], parts[a][i]
                    moved = True


def _best_swap(
    one: list[str],
    other: list[str],
    lead: NDArray[np.float64],
    has: dict[str, NDArray[np.float64]],
    weights: NDArray[np.float64],
    groups: dict[str, list[FoldCase]],
) -> tuple[int, int] | None:
    """The swap of equally large subjects that lowers the weighted sum of squares of the shares most, or None.

    ``lead`` is by how much ``one`` has more subjects of each kind; weights make rare kinds count as much as common
    ones. Moving a difference d from one to the other changes the sum of squares of their shares by 2 (lead + d) d.
    """
    first, second = (_one_of_each(part, has, groups) for part in (one, other))
    a, b = (np.array([has[part[k]] for k in kept]) for part, kept in ((one, first), (other, second)))
    size_a, size_b = (np.array([len(groups[p[k]]) for k in kept]) for p, kept in ((one, first), (other, second)))
    linear = (b @ (weights * lead))[None, :] - (a @ (weights * lead))[:, None]
    square = (a * a @ weights)[:, None] + (b * b @ weights)[None, :] - 2 * (a * weights) @ b.T
    gain = np.where(size_a[:, None] == size_b[None, :], -2 * (linear + square), -np.inf)
    best = np.unravel_index(int(np.argmax(gain)), gain.shape)
    if gain[best] <= WORTHWHILE:
        return None
    return first[int(best[0])], second[int(best[1])]


def _one_of_each(part: list[str], has: dict[str, NDArray[np.float64]], groups: dict[str, list[FoldCase]]) -> list[int]:
    """Positions of one subject for each combination of kinds and size: swapping either of two alike is the same."""
    seen: dict[tuple[int, bytes], int] = {}
    for position, name in enumerate(part):
        seen.setdefault((len(groups[name]), has[name].tobytes()), position)
    return list(seen.values())


def nnunet(members: Sequence[FoldCase], folds: FoldsConfig) -> list[list[str]]:
    """nnU-Net's own folds: sorted case ids, ``KFold`` shuffled with seed 12345 (Isensee et al. 2021)."""
    from sklearn.model_selection import KFold

    for cases in _subjects(members).values():
        if len(cases) > 1:
            raise ConfigError(
                f"folds.scheme: nnunet splits cases, and would put subject '{cases[0].subject}' ({cases[0].id}, "
                f"{cases[1].id}) on both sides; use balanced"
            )
    if len(members) < folds.count:
        raise ConfigError(f"folds.count: {folds.count} folds need {folds.count} cases, there are {len(members)}")
    splitter = KFold(n_splits=folds.count, shuffle=True, random_state=NNUNET_SEED)
    return [[members[k].id for k in val] for _, val in splitter.split(members)]


def by_site(members: Sequence[FoldCase], folds: FoldsConfig) -> list[list[str]]:
    """One fold per site, in the order of their names: trained on all others, validated on this one."""
    nowhere = [member.id for member in members if not member.site]
    sites = sorted({member.site for member in members})
    if nowhere:
        raise ConfigError(
            f"folds.scheme: site, but {len(nowhere)} of {len(members)} cases have none (first {nowhere[0]}); "
            "give a column site (table), or participants.tsv with one (bids)"
        )
    if len(sites) < 2:
        raise ConfigError(f"folds.scheme: site needs two sites, there is {', '.join(sites) or 'none'}; use balanced")
    for subject, cases in sorted(_subjects(members).items()):
        places = sorted({member.site for member in cases})
        if len(places) > 1:
            raise ConfigError(
                f"folds.scheme: site would put subject '{subject}' on both sides, it was at {' and '.join(places)}; "
                "use balanced, or correct the sites"
            )
    return [[member.id for member in members if member.site == site] for site in sites]


# Scheme (a value of `folds.scheme`) -> the case ids that each fold is validated on.
SCHEMES: dict[str, Callable[[Sequence[FoldCase], FoldsConfig], list[list[str]]]] = {
    "balanced": balanced,
    "nnunet": nnunet,
    "site": by_site,
}
