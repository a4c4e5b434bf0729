"""Simulations of the statistics of `medseg compare`: how often its intervals hold and its tests and verdicts err.

    python benchmarks/simulations.py [--parts coverage rare_class family failures power training ranking]
                                     [--scale 1] [--out benchmarks/results/statistics.json]

Every part draws studies whose truth is known, from fixed seeds, and asks the package's own functions. `--scale 0.1`
takes a tenth of the studies. One core; the numbers do not depend on the number of threads.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from medseg.compare.interval import contributions, macro_mean, mean_interval
from medseg.compare.permutation import holm, max_t, test_caution
from medseg.compare.power import can_be_shown, equivalence, signed_rank, smallest_difference
from medseg.compare.ranking import winners_excess
from medseg.compare.training_variance import method_difference

ROOT = Path(__file__).resolve().parents[1]
Array = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Array]

RESAMPLES = 999
FLIPS = 999
ALPHA = 0.05


def per_subject(generator: np.random.Generator, n: int, subject: float, case: float, models: int = 1) -> Array:
    """(n, models) deviations of subjects with 1 or more cases (geometric, mean 3.3): means are unequally noisy."""
    cases = generator.geometric(0.3, size=n)[:, None]
    noise = generator.standard_normal((n, models)) * case / np.sqrt(cases)
    return subject * generator.standard_normal((n, models)) + noise


def skewed(mean: float, subject: float, case: float, misses: float = 0.0) -> Draw:
    """Subjects' mean scores: logistic of normal subject and case effects, 1 to many cases, some scored 0."""

    def draw(generator: np.random.Generator, n: int) -> Array:
        cases = generator.geometric(0.3, size=n)
        member = np.repeat(np.arange(n), cases)
        effect = mean + subject * generator.standard_normal(n)[member] + case * generator.standard_normal(len(member))
        scores = 1.0 / (1.0 + np.exp(-effect))
        scores[generator.random(len(member)) < misses] = 0.0
        return (np.bincount(member, weights=scores) / cases)[:, None]

    return draw


def normal(generator: np.random.Generator, n: int) -> Array:
    return 0.8 + per_subject(generator, n, 0.04, 0.05)


def missed_subjects(generator: np.random.Generator, n: int) -> Array:
    """One case per subject, closely alike, and 8 % of them missed."""
    scores = 0.9 + 0.03 * generator.standard_normal((n, 1))
    return np.where(generator.random((n, 1)) < 0.08, 0.0, scores)


def two_classes(generator: np.random.Generator, n: int) -> Array:
    """A class that everybody has and one that three subjects in ten have, at least two."""
    table = np.hstack([skewed(2.2, 0.6, 0.5)(generator, n), skewed(0.8, 0.6, 0.5)(generator, n)])
    lacks = generator.random(n) > 0.3
    lacks[:2] = False
    table[lacks, 1] = np.nan
    return table


COHORTS: dict[str, Draw] = {
    "normal": normal,
    "skewness -1.5": skewed(2.2, 0.6, 0.5),
    "skewness -1.8": skewed(2.5, 0.7, 0.5),
    "skewness -2.5": skewed(3.0, 1.0, 0.5),
    "skewness -1.5, 8 % of cases missed": skewed(2.2, 0.6, 0.5, 0.08),
    "8 % of subjects missed": missed_subjects,
    "two classes, one in 3 of 10 subjects": two_classes,
}


def coverage(scale: float) -> list[dict[str, Any]]:
    """How often the 95 % interval contains the true mean, beside the percentile method's."""
    rows = []
    for name, draw in COHORTS.items():
        large = draw(np.random.default_rng(1), 1_000_000)
        truth, shape = macro_mean(large), float(stats.skew(large[:, 0]))
        for n in (6, 10, 20, 50, 100):
            generator, studies = np.random.default_rng(n), int(2000 * scale)
            held = np.zeros((studies, 2), bool)
            width, seen = np.zeros(studies), np.zeros(studies, bool)
            for study in range(studies):
                table = draw(generator, n)
                found = mean_interval(table, resamples=RESAMPLES, seed=study)
                held[study] = found.low <= truth <= found.high, within(truth, percentile(table, study))
                width[study], seen[study] = found.high - found.low, bool((table == 0.0).any())
            row = {"cohort": name, "skewness": round(shape, 2), "n": n, "studies": studies}
            row |= {"bootstrap_t": share(held[:, 0]), "percentile": share(held[:, 1]), "width": round(width.mean(), 4)}
            if name == "8 % of subjects missed":
                row |= {"studies_without_a_miss": share(~seen), "held_without": share(held[~seen, 0])}
                row |= {"held_with": share(held[seen, 0])}
            rows.append(show(row))
    return rows


def rare_class(scale: float) -> list[dict[str, Any]]:
    """Coverage of the mean of two classes, normal scores, the second shown by a few subjects only."""
    rows = []
    for n, carriers in itertools.product((20, 60), (2, 3, 4, 6, 10)):
        generator, studies = np.random.default_rng(n), int(2000 * scale)
        held = []
        for study in range(studies):
            table = np.array([0.9, 0.6]) + np.array([0.05, 0.12]) * generator.standard_normal((n, 2))
            table[carriers:, 1] = np.nan
            found = mean_interval(table, resamples=RESAMPLES, seed=study)
            held.append(found.low <= 0.75 <= found.high)
        rows.append(show({"n": n, "subjects_with_class": carriers, "studies": studies, "bootstrap_t": share(held)}))
    return rows


def percentile(table: Array, seed: int) -> Array:
    """The percentile interval of the mean of complete subjects; for two classes, of the mean over classes."""
    generator = np.random.default_rng(seed)
    drawn = table[generator.integers(0, len(table), (RESAMPLES, len(table)))]
    if np.isfinite(table).all():
        return np.quantile(drawn.mean(axis=(1, 2)), [0.025, 0.975])
    present = np.isfinite(drawn)
    means = np.where(present, drawn, 0.0).sum(axis=1) / np.maximum(present.sum(axis=1), 1)
    counted = present.any(axis=1)
    return np.quantile(np.where(counted, means, 0.0).sum(axis=1) / counted.sum(axis=1), [0.025, 0.975])


def judge(gaps: Array, study: int, true_gaps: Array | None = None, ties: bool = True) -> dict[str, bool]:
    """What is (wrongly) shown by any of P comparisons: by the test, by the verdict, by signed rank with Holm.

    Only comparisons whose true difference is 0 count.
    """
    null = np.ones(gaps.shape[1], bool) if true_gaps is None else true_gaps == 0.0
    tests = max_t(gaps, flips=FLIPS, seed=study)
    shown = [k for k, test in enumerate(tests) if null[k] and test.p_adjusted <= ALPHA]
    found = {"test": bool(shown), "verdict": False, "verdict_without_caution": False}
    if not ties:  # with ties, scipy enumerates the signed-rank test of few subjects, for most of a second
        found["signed_rank"] = any(p <= ALPHA for p in holm([signed_rank(g)[0] for g in gaps.T]))
    for k in shown:
        if not can_be_shown(len(gaps), gaps.shape[1]) or found["verdict_without_caution"]:
            continue
        interval = mean_interval(gaps[:, [k]], bounds=(-1, 1), resamples=RESAMPLES, seed=study)
        mean = interval.mean
        if (interval.low > 0 and mean > 0) or (interval.high < 0 and mean < 0):
            found["verdict"] = True
            found["verdict_without_caution"] |= not test_caution(gaps[:, k])
    return found


def pairwise(scores: Array) -> Array:
    """(n, M) -> (n, M (M - 1) / 2) differences of every two models."""
    return np.stack([scores[:, a] - scores[:, b] for a, b in itertools.combinations(range(scores.shape[1]), 2)], axis=1)


def errors(draw: Draw, n: int, studies: int, ties: bool = True, **about: Any) -> dict[str, Any]:
    """A row: the share of studies of n subjects in which something is shown that is not so."""
    generator = np.random.default_rng(n)
    found = [judge(draw(generator, n), study, ties=ties) for study in range(studies)]
    return show({**about, "n": n, "studies": studies} | {k: share([f[k] for f in found]) for k in found[0]})


def family(scale: float) -> list[dict[str, Any]]:
    """Family-wise error for equal models: ties, unequal subjects, unequal noise, one model truly better."""

    def tied(models: int) -> Draw:
        def draw(generator: np.random.Generator, n: int) -> Array:
            common = per_subject(generator, n, 0.05, 0.0)
            return pairwise(np.round(0.85 + common + per_subject(generator, n, 0.01, 0.03, models), 2))

        return draw

    def unequal(models: int) -> Draw:
        def draw(generator: np.random.Generator, n: int) -> Array:
            noise = per_subject(generator, n, 0.01, 0.03, models)
            noise[:, 0] *= 4.0
            return pairwise(noise)

        return draw

    rows = []
    for name, made in (("ties, unequal subjects", tied), ("one model four times as noisy", unequal)):
        for models, n in itertools.product((2, 5, 10), (6, 10, 20, 50)):
            rows.append(errors(made(models), n, int(4000 * scale), null=name, models=models))
    for n in (10, 20, 50):
        generator, studies = np.random.default_rng(n), int(4000 * scale)
        shift = np.array([0.05, 0, 0, 0, 0])
        found = [
            judge(pairwise(per_subject(generator, n, 0.01, 0.03, 5) + shift), study, pairwise(shift[None])[0])
            for study in range(studies)
        ]
        row = {"null": "one of five truly better; errors among the equal four", "models": 5, "n": n, "studies": studies}
        rows.append(show(row | {k: share([f[k] for f in found]) for k in found[0]}))
    return rows


def failures(scale: float) -> list[dict[str, Any]]:
    """Errors with rare large failures, under both meanings of "no difference"."""

    def one_fails(q: float, noise: float, models: int = 2) -> Draw:
        """The first model fails in a share q by 0.5, the others are worse by 0.5 q everywhere: equal means."""

        def draw(generator: np.random.Generator, n: int) -> Array:
            scores = noise * generator.standard_normal((n, models))
            scores[:, 0] -= 0.5 * (generator.random(n) < q)
            scores[:, 1:] -= 0.5 * q
            return pairwise(scores)

        return draw

    def all_fail(generator: np.random.Generator, n: int) -> Array:
        return pairwise(0.01 * generator.standard_normal((n, 2)) - 0.5 * (generator.random((n, 2)) < 0.08))

    rows = []
    for q, noise in ((0.08, 0.01), (0.08, 0.03), (0.04, 0.01), (0.02, 0.01)):
        for n in (6, 10, 20, 50, 100, 200):
            about = {"null": "equal means: one model fails, the other is a little worse", "failures": q, "noise": noise}
            unseen = round((1 - q) ** n, 3)
            rows.append(
                errors(one_fails(q, noise), n, int(2000 * scale), False, models=2, no_failure_drawn=unseen, **about)
            )
    for n in (20, 50, 100):
        about = {
            "null": "equal means: one model fails, four others are a little worse",
            "failures": 0.08,
            "noise": 0.01,
        }
        rows.append(errors(one_fails(0.08, 0.01, 5), n, int(1000 * scale), False, models=5, **about))
    for n in (6, 10, 20, 50, 100):
        about = {"null": "exchangeable: both models fail alike", "failures": 0.08, "noise": 0.01, "models": 2}
        rows.append(errors(all_fail, n, int(2000 * scale), False, **about))
    return rows


def power(scale: float) -> list[dict[str, Any]]:
    """Share of true differences shown, normal noise: max-T, verdict, and signed rank with Holm; and of MDDs, 0.8."""
    rows = []
    for models, n in itertools.product((2, 5), (10, 20, 50)):
        studies, generator = int(1000 * scale), np.random.default_rng(n)
        pairs = models * (models - 1) // 2
        unit = smallest_difference(scaled_to_unit(n), pairs)
        shift = np.zeros(models)
        shift[0] = unit  # in units of the standard deviation of a difference
        found = []
        for study in range(studies):
            gaps = pairwise(generator.standard_normal((n, models)) / np.sqrt(2) + shift)
            tests, typical = max_t(gaps, flips=FLIPS, seed=study), holm([signed_rank(g)[0] for g in gaps.T])
            interval = mean_interval(gaps[:, [0]] / 100, bounds=(-1, 1), resamples=RESAMPLES, seed=study)
            test = tests[0].p_adjusted <= ALPHA
            found.append((test, test and interval.low > 0, typical[0] <= ALPHA))
        row = {"models": models, "n": n, "studies": studies, "difference_in_sd": round(unit, 3)}
        for place, name in enumerate(("test", "verdict", "signed_rank")):
            row[name] = share([f[place] for f in found])
        rows.append(show(row))
    for n in (10, 20, 50):
        studies, generator = int(2000 * scale), np.random.default_rng(n)
        found = [
            equivalence(0.02 + per_subject(generator, n, 0.01, 0.02), 0.02, resamples=RESAMPLES, seed=s).equivalent
            for s in range(studies)
        ]
        rows.append(
            show({"equivalence": "true difference at the margin", "n": n, "studies": studies, "shown": share(found)})
        )
    return rows


def scaled_to_unit(n: int) -> Array:
    """n numbers of standard deviation 1."""
    numbers = stats.norm.ppf((np.arange(n) + 0.5) / n)
    return numbers / numbers.std(ddof=1)


def training(scale: float) -> list[dict[str, Any]]:
    """Errors of statements about methods when each training's luck has a standard deviation of 0.015."""
    rows = []
    for n, folds, seeds in itertools.product((20, 60), (1, 2, 5), (2, 3)):
        studies, generator = int(1000 * scale), np.random.default_rng(n + folds)
        fold = np.arange(n) % folds
        wrong_b = wrong_a = verdict_b = one_seed = held = 0
        for study in range(studies):
            common = 0.88 + 0.05 * generator.standard_normal((n, 1))
            first, second = (trained(generator, common, fold, seeds) for _ in range(2))
            found = method_difference(first, second, fold)
            gaps = first.mean(axis=0) - second.mean(axis=0)
            scope_a = max_t(contributions(gaps), flips=FLIPS, seed=study)[0].p <= ALPHA
            wrong_b, wrong_a = wrong_b + (found.p <= ALPHA), wrong_a + scope_a
            verdict_b += (found.p <= ALPHA) and scope_a
            held += found.low <= 0.0 <= found.high
            one_seed += max_t(contributions(first[0] - second[0]), flips=FLIPS, seed=study)[0].p <= ALPHA
        row = {"n": n, "folds": folds, "seeds": seeds, "studies": studies, "methods": wrong_b / studies}
        row |= {"methods_and_flips": verdict_b / studies, "coverage": held / studies}
        row |= {"networks_flips": wrong_a / studies, "networks_flips_one_seed": one_seed / studies}
        rows.append(show({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}))
    return rows


def trained(generator: np.random.Generator, common: Array, fold: NDArray[np.int_], seeds: int) -> Array:
    """(seeds, n, 1) scores of one method: what all models find hard, the training's luck, and the case's own."""
    luck = 0.015 * generator.standard_normal((seeds, int(fold.max()) + 1))[:, fold, None]
    return common + luck + 0.02 * generator.standard_normal((seeds, len(fold), 1))


def ranking(scale: float) -> list[dict[str, Any]]:
    """How much the best of M equal models exceeds the truth, and what `winners_excess` says of it."""
    rows = []
    for models, n in itertools.product((2, 5, 10), (10, 30)):
        studies, generator = int(500 * scale), np.random.default_rng(n)
        true, said = np.zeros(studies), np.zeros(studies)
        for study in range(studies):
            scores = per_subject(generator, n, 0.05, 0.0) + per_subject(generator, n, 0.01, 0.03, models)
            true[study] = scores.mean(axis=0).max() - scores.mean()
            said[study] = winners_excess(scores.T[:, :, None], resamples=200, seed=study)
        row = {"models": models, "n": n, "studies": studies}
        rows.append(show(row | {"excess": round(true.mean(), 5), "estimated": round(said.mean(), 5)}))
    return rows


PARTS = {
    "coverage": coverage,
    "rare_class": rare_class,
    "family": family,
    "failures": failures,
    "power": power,
    "training": training,
    "ranking": ranking,
}


def within(value: float, ends: Array) -> bool:
    return bool(ends[0] <= value <= ends[1])


def share(found: Any) -> float | None:
    return round(float(np.mean(found)), 4) if len(found) else None


def show(row: dict[str, Any]) -> dict[str, Any]:
    print(json.dumps(row), flush=True)
    return row


def hardware() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {"processor": names[0] if names else platform.processor(), "cores": os.cpu_count(), "cores_used": 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/statistics.json")
    given = parser.parse_args()
    made = json.loads(given.out.read_text()) if given.out.exists() else {}
    for part in given.parts:
        start = time.process_time()
        rows = PARTS[part](given.scale)
        made[part] = {"scale": given.scale, "cpu_s": round(time.process_time() - start), "rows": rows}
        made |= {"resamples": RESAMPLES, "flips": FLIPS, "hardware": hardware()}
        made |= {"python": platform.python_version(), "numpy": np.__version__}
        given.out.write_text(json.dumps(made, indent=2) + "\n")


if __name__ == "__main__":
    main()
