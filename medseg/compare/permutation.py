"""Sign-flip permutation tests of paired differences, adjusted for a family of comparisons by max-T."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medseg.compare.interval import TIE, unseen_share

Array = NDArray[np.float64]

# Up to this many subjects all sign flips are enumerated: 2**12 of them, the mirrored half being the same.
MOST_ENUMERATED = 13
FLIPS = 10_000
_BLOCK = 2_000_000
NO_SUBJECT = "no common subject"


@dataclass(frozen=True, slots=True)
class Test:
    """One comparison of a family of P.

    Attributes:
        p: two-sided p-value of this comparison alone; NaN if refused.
        p_adjusted: the same, adjusted for the family; NaN if refused.
        statistic: Student's t of the contributions (mean over standard error), infinite where all are equal.
        n_subjects: subjects that have a difference (which may be zero).
        exact: whether all sign flips were enumerated.
        flips: number of sign flips that were looked at, the unflipped one included.
        reason: empty, or why the test was refused.
    """

    p: float
    p_adjusted: float
    statistic: float
    n_subjects: int
    exact: bool
    flips: int
    reason: str = ""


def max_t(differences: ArrayLike, *, flips: int = FLIPS, seed: int = 0) -> list[Test]:
    """Test P comparisons of paired contributions against "no difference", with the family-wise error held.

    Under the null hypothesis a subject's differences may as well have the opposite sign. All P differences of a
    subject are flipped together, which keeps their dependence (Good 2005, chapter 3); the step-down max-T of Westfall
    & Young (1993, algorithm 4.1) then adjusts the P p-values. The statistic is |sum d| / sqrt(sum d^2), which orders
    flips and comparisons as Student's t does and stays finite where t does not. Random flips give
    p = (1 + as extreme) / (1 + flips) (Phipson & Smyth 2010).

    An adjusted p-value is never below P times the smallest p-value that n subjects can give, 2^(1 - n): where
    comparisons repeat one another (three models always the same distance apart), max-T alone would take no price for
    their number.

    Args:
        differences: (S, P) or (S,) contributions of S subjects to the P differences; NaN where the subject is not
            common to the pair.
        flips: random sign flips where enumeration is too long.
        seed: seed of the random flips.

    Returns:
        One test per column; refused where a column has no common subject.
    """
    gaps = np.asarray(differences, dtype=np.float64)
    gaps = gaps.reshape(len(gaps), -1)
    common = np.isfinite(gaps)
    gaps = without_ties(np.where(common, gaps, 0.0))
    counts = common.sum(axis=0)
    subjects = np.flatnonzero((gaps != 0.0).any(axis=1))  # flipping a zero changes nothing
    scaled = normalised(gaps[subjects])
    p, adjusted, exact, total = family(_Columns(scaled), np.abs(np.einsum("sp->p", scaled)), counts, flips, seed)
    tests = []
    for k, n in enumerate(counts.tolist()):
        t = float(student(gaps[common[:, k], k][None])[0]) if n else math.nan
        found = (float(p[k]), float(adjusted[k]), t, n, exact, total)
        tests.append(Test(*found) if n else Test(math.nan, math.nan, math.nan, 0, exact, 0, NO_SUBJECT))
    return tests


class Columns(Protocol):
    """Normalised differences (subjects, P) of a family, whose flipped sums are asked for in any order of columns."""

    @property
    def subjects(self) -> int:
        """Those who differ in anything."""

    def of(self, order: NDArray[np.intp]) -> Callable[[Array], Array]:
        """A function from (F, subjects) signs to the (F, P) absolute sums, columns in this order."""


class _Columns:
    """Normalised differences (subjects, P), whose flipped sums are asked for in any order of columns."""

    def __init__(self, scaled: Array) -> None:
        self._scaled = scaled

    @property
    def subjects(self) -> int:
        """Those who differ in anything."""
        return len(self._scaled)

    def of(self, order: NDArray[np.intp]) -> Callable[[Array], Array]:
        """A function from (F, subjects) signs to the (F, P) sums, columns in this order."""
        scaled = self._scaled[:, order]
        # einsum, not matmul: its order of summation does not depend on the number of threads.
        return lambda signs: np.abs(np.einsum("fs,sp->fp", signs, scaled))


def family(
    columns: Columns, observed: Array, counts: NDArray[np.integer], flips: int, seed: int
) -> tuple[Array, Array, bool, int]:
    """p-values alone and adjusted of all columns, NaN without a subject; whether all flips were enumerated; flips."""
    tested = np.flatnonzero(counts)
    exact = columns.subjects <= MOST_ENUMERATED
    order = tested[np.argsort(-observed[tested], kind="stable")]
    total, alone, joint = _exceedances(columns, order, observed[order], flips, seed, exact)
    floors = len(tested) * 0.5 ** (counts[order] - 1.0)
    p, adjusted = np.full(len(counts), np.nan), np.full(len(counts), np.nan)
    p[order] = alone / total
    adjusted[order] = np.maximum.accumulate(np.minimum(np.maximum(joint / total, floors), 1.0))
    return p, adjusted, exact, total


def without_ties(gaps: Array) -> Array:
    """Differences that are rounding, as zeros."""
    return np.where(np.abs(gaps) > TIE, gaps, 0.0)


def pair_parts(count: int, numbers: int) -> Iterator[slice]:
    """Parts of so many rows of so many numbers that fit into memory."""
    size = max(1, _BLOCK // max(numbers, 1))
    return (slice(start, min(start + size, count)) for start in range(0, count, size))


def normalised(gaps: Array) -> Array:
    """Columns divided by the root of their sum of squares, which no flip changes; zero columns stay zero."""
    # Scaled first: squares of tiny differences must not vanish.
    largest = np.abs(gaps).max(axis=0, initial=0.0)
    scaled = gaps / np.where(largest > 0, largest, 1.0)
    lengths = np.sqrt(np.einsum("sp,sp->p", scaled, scaled))
    return np.asarray(scaled / np.where(lengths > 0, lengths, 1.0))


def student(gaps: Array) -> Array:
    """(K, n) -> (K,) Student's t; infinite if all differences are equal and not zero, NaN for one subject."""
    n = gaps.shape[1]
    if n < 2:
        return np.full(len(gaps), np.nan)
    mean, spread = gaps.mean(axis=1), gaps.std(axis=1, ddof=1)
    varies = spread > TIE * np.maximum(1.0, np.abs(mean))
    equal = np.where(np.abs(mean) <= TIE, 0.0, np.copysign(np.inf, mean))
    return np.where(varies, mean / np.where(varies, spread, 1.0) * np.sqrt(n), equal)


def _exceedances(
    columns: Columns,
    order: NDArray[np.intp],
    observed: Array,
    flips: int,
    seed: int,
    exact: bool,
) -> tuple[int, NDArray[np.int64], NDArray[np.int64]]:
    """Flips looked at; those as extreme as each comparison; those whose maximum over it and the later ones is."""
    pairs, sums = len(order), columns.of(order)
    alone, joint, total = np.zeros(pairs, np.int64), np.zeros(pairs, np.int64), 0
    if not exact:  # the observed signs are one of the flips
        alone, joint, total = alone + 1, joint + 1, 1
    n = columns.subjects
    for block in _all_signs(n) if exact else _random_signs(n, flips, seed, pairs):
        for part in pair_parts(len(block), 10 * pairs):  # what is compared at once stays near the processor
            statistics = sums(block[part])
            alone += (statistics >= observed - TIE).sum(axis=0)
            largest = np.maximum.accumulate(statistics[:, ::-1], axis=1)[:, ::-1]
            joint += (largest >= observed - TIE).sum(axis=0)
        total += len(block)
    return total, alone, joint


def _all_signs(n: int) -> Iterator[Array]:
    """All sign vectors of n subjects up to a common sign, as one block of (2^(n - 1), n); the first has no flip."""
    numbers = np.arange(2 ** max(n - 1, 0))
    yield _signs((numbers[:, None] >> np.arange(n)) & 1)


def _random_signs(n: int, flips: int, seed: int, pairs: int) -> Iterator[Array]:
    generator = np.random.default_rng(seed)
    block = max(1, _BLOCK // max(n, pairs))
    for start in range(0, flips, block):
        yield _signs(generator.integers(0, 2, size=(min(block, flips - start), n), dtype=np.int8))


def _signs(bits: NDArray[np.integer]) -> Array:
    return 1.0 - 2.0 * bits.astype(np.float64)


def test_caution(differences: ArrayLike) -> str:
    """One sentence on failures too rare to be seen that would undo the difference; empty if none could.

    Where the better model fails in a share q of all subjects, n subjects show no failure with probability (1 - q)^n,
    and then no test can know: one that finds a real difference of that size in data without failures finds this one
    too. The sentence gives the largest share that n subjects miss with a probability of 5 %, and the loss in those
    subjects that reverses the order. It is empty where that loss is larger than the range of a score, 1.

    Args:
        differences: (S,) contributions of the subjects to one difference of scores between 0 and 1.
    """
    gaps = np.asarray(differences, dtype=np.float64).ravel()
    gaps = gaps[np.isfinite(gaps)]
    return rare_failures(float(gaps.mean()) if len(gaps) else 0.0, len(gaps))


def rare_failures(mean: float, n: int) -> str:
    """:func:`test_caution` of ``n`` subjects with this mean difference."""
    if n == 0 or abs(mean) <= TIE:
        return ""
    share = unseen_share(n)
    loss = abs(mean) * (1.0 - share) / share
    if loss > 1.0:
        return ""
    return (
        f"with {n} subject{'' if n == 1 else 's'}, failures in up to {share:.{0 if share > 0.03 else 1}%} of subjects "
        f"can go unseen; a loss of {loss:.{2 if loss > 0.095 else 3}f} there by the better model reverses the order"
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the p-values of a family (Holm 1979); NaN (a refused test) stays NaN and does not count."""
    p = np.asarray(p_values, dtype=np.float64)
    order = [int(i) for i in np.argsort(p, kind="stable") if np.isfinite(p[i])]
    adjusted = np.full(len(p), np.nan)
    running = 0.0
    for position, index in enumerate(order):
        running = max(running, (len(order) - position) * float(p[index]))
        adjusted[index] = min(running, 1.0)
    return [float(value) for value in adjusted]
