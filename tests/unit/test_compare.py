"""Compare: means computed by hand, undefined scores that stay visible, common cases only, equal bytes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medseg.compare.leaderboard import leaderboard_rows, pair_rows, summary_rows
from medseg.compare.run import read_leaderboard, run, terminal_leaderboard
from medseg.compare.scores import blocks, read_scores
from medseg.compare.statistics import bootstrap_macro_interval, bootstrap_mean_interval, compare_paired, holm
from medseg.errors import DataError

# A case is {class: (tp, fp, fn)}.
Counts = Mapping[str, tuple[int, int, int]]


def score_rows(
    cases: Mapping[str, Counts],
    *,
    dataset: str = "cells",
    model: str = "unet",
    fold: int = 0,
    seed: int = 0,
    subjects: Mapping[str, str] | None = None,
) -> list[dict[str, Any]]:
    """Score rows as evaluate writes them, from counts."""
    rows = []
    for case, classes in cases.items():
        for label, (tp, fp, fn) in classes.items():
            whole = tp + fp + fn
            values = {
                "dice": 2 * tp / (2 * tp + fp + fn) if whole else math.nan,
                "iou": tp / whole if whole else math.nan,
                "tp": tp,
                "fp": fp,
                "fn": fn,
                "volume_ref": (tp + fn) * 0.5,
            }
            for metric, value in values.items():
                undefined = isinstance(value, float) and math.isnan(value)
                rows.append(
                    {
                        "dataset": dataset,
                        "model": model,
                        "fold": fold,
                        "seed": seed,
                        "case": case,
                        "subject": (subjects or {}).get(case, case),
                        "label": label,
                        "metric": metric,
                        "value": float(value),
                        "unit": "1",
                        "status": "undefined: absent from both" if undefined else "ok",
                    }
                )
    return rows


def write_scores(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_parquet(path, index=False)
    return path


def summary_of(out: Path) -> dict[tuple[str, str, str], dict[str, Any]]:
    rows = json.loads((out / "summary.json").read_text())["rows"]
    return {(r["model"], r["metric"], r["label"]): r for r in rows}


# Dice a: 0.8, 0.5; Dice b: 0.4, undefined.  IoU a: 2/3, 1/3; b: 1/4.
TWO_CLASSES: dict[str, Counts] = {
    "c1": {"a": (4, 1, 1), "b": (1, 3, 0)},
    "c2": {"a": (10, 20, 0), "b": (0, 0, 0)},
}


def test_macro_and_micro_means_are_those_computed_by_hand(tmp_path: Path) -> None:
    run([write_scores(tmp_path / "s.parquet", score_rows(TWO_CLASSES))], tmp_path / "out")
    found = summary_of(tmp_path / "out")
    assert found["unet", "dice", "a"]["mean"] == pytest.approx((0.8 + 0.5) / 2)
    assert found["unet", "dice", "b"]["mean"] == pytest.approx(0.4)
    # Class means first, then their mean; the mean over all three defined scores would be 0.5667.
    assert found["unet", "dice", "mean"]["mean"] == pytest.approx((0.65 + 0.4) / 2)
    assert found["unet", "iou", "mean"]["mean"] == pytest.approx(((2 / 3 + 1 / 3) / 2 + 1 / 4) / 2)
    assert found["unet", "dice_micro", "a"]["mean"] == pytest.approx(28 / (28 + 22), abs=1e-6)
    assert found["unet", "iou_micro", "a"]["mean"] == pytest.approx(14 / (14 + 22), abs=1e-6)
    assert found["unet", "dice_micro", "mean"]["mean"] == pytest.approx((28 / 50 + 2 / 5) / 2, abs=1e-6)


def test_undefined_missed_and_spurious_scores_are_counted(tmp_path: Path) -> None:
    cases: dict[str, Counts] = {
        "both-empty": {"a": (0, 0, 0)},
        "missed": {"a": (0, 0, 7)},
        "spurious": {"a": (0, 3, 0)},
        "perfect": {"a": (5, 0, 0)},
    }
    run([write_scores(tmp_path / "s.parquet", score_rows(cases))], tmp_path / "out")
    row = summary_of(tmp_path / "out")["unet", "dice", "a"]
    assert row["mean"] == pytest.approx(1 / 3, abs=1e-6)
    assert (row["n"], row["n_undefined"], row["n_missed"], row["n_spurious"]) == (3, 1, 1, 1)
    assert row["n_partly_undefined"] == 0
    (line,) = read_leaderboard(tmp_path / "out")
    assert (line["n_cases"], line["n_undefined"]) == ("4", "1")
    assert len(pd.read_parquet(tmp_path / "out" / "scores.parquet")) == 4 * 6


def test_only_undefined_scores_give_null_and_the_last_rank(tmp_path: Path) -> None:
    empty: dict[str, Counts] = {"c1": {"a": (0, 0, 0)}, "c2": {"a": (0, 0, 0)}}
    wrong: dict[str, Counts] = {"c1": {"a": (0, 1, 0)}, "c2": {"a": (0, 0, 0)}}
    rows = score_rows(empty, model="never") + score_rows(wrong, model="spurious")
    run([write_scores(tmp_path / "s.parquet", rows)], tmp_path / "out")
    found = summary_of(tmp_path / "out")
    assert found["never", "dice", "mean"]["mean"] is None
    assert found["never", "dice", "mean"]["note"] == "no defined value"
    assert found["spurious", "dice", "mean"]["note"] == "one subject only"
    lines = read_leaderboard(tmp_path / "out")
    assert [(r["rank"], r["model"], r["dice_mean"]) for r in lines] == [
        ("1", "spurious", "0.0"),
        ("2", "never", ""),
    ]
    assert "undefined" in terminal_leaderboard(tmp_path / "out")


def test_seeds_of_a_case_are_averaged_first_and_folds_are_pooled() -> None:
    dice = {"half": (1, 2, 0), "full": (1, 0, 0)}  # 0.5 and 1.0
    rows = []
    for fold, case in enumerate(["c1", "c2"]):
        rows += score_rows({case: {"a": dice["half"]}}, fold=fold, seed=0)
        rows += score_rows({case: {"a": dice["full"]}}, fold=fold, seed=1)
    rows += score_rows({"c3": {"a": dice["full"]}}, fold=1, seed=1)
    (block,) = blocks(pd.DataFrame(rows))
    assert block.values["dice"].tolist() == [[0.75], [0.75], [1.0]]
    assert (block.folds, block.seeds) == ((0, 1), (0, 1))
    row = next(r for r in summary_rows(block) if r["metric"] == "dice")
    assert row["n"] == 3
    assert row["mean"] == pytest.approx(2.5 / 3, abs=1e-6)


def test_a_score_undefined_under_one_seed_only_is_told() -> None:
    rows = score_rows({"c1": {"a": (0, 0, 0)}}, seed=0) + score_rows({"c1": {"a": (0, 2, 0)}}, seed=1)
    (block,) = blocks(pd.DataFrame(rows))
    row = next(r for r in summary_rows(block) if r["metric"] == "dice")
    assert (row["mean"], row["n_undefined"], row["n_partly_undefined"], row["n_spurious"]) == (0.0, 0, 1, 1)


def test_pairs_use_common_cases_only_and_say_how_many() -> None:
    good: dict[str, Counts] = {f"c{k}": {"a": (9, 1, k % 3)} for k in range(10)}
    poor: dict[str, Counts] = {f"c{k}": {"a": (5, 4, k % 2)} for k in range(2, 14)}
    found = blocks(pd.DataFrame(score_rows(poor, model="poor") + score_rows(good, model="good")))
    ranking = leaderboard_rows(found, [r for b in found for r in summary_rows(b)])
    assert [r["model"] for r in ranking] == ["good", "poor"]
    (pair,) = pair_rows(found, ranking)
    assert (pair["first"], pair["second"]) == ("good", "poor")
    assert (pair["n_common"], pair["n_only_first"], pair["n_only_second"], pair["n"]) == (8, 2, 4, 8)
    expected = np.mean([18 / (19 + k % 3) - 10 / (14 + k % 2) for k in range(2, 10)])
    assert pair["difference"] == pytest.approx(expected, abs=1e-6)
    assert (pair["wins"], pair["ties"], pair["losses"], pair["effect"]) == (8, 0, 0, 1.0)
    assert pair["p"] == pytest.approx(2 / 2**8, abs=1e-6)  # the smallest of a signed-rank test with 8 pairs
    assert pair["p_holm"] == pair["p"]  # one class, one pair of models: a family of one


def test_holm_covers_every_class_and_their_mean() -> None:
    generator = np.random.default_rng(0)
    rows = []
    for model, shift in (("x", 0), ("y", 30), ("z", 31)):
        cases = {
            f"c{k}": {name: (int(generator.integers(50, 60)), shift, int(generator.integers(5))) for name in ("a", "b")}
            for k in range(9)
        }
        rows += score_rows(cases, model=model)
    found = blocks(pd.DataFrame(rows))
    pairs = pair_rows(found, leaderboard_rows(found, [r for b in found for r in summary_rows(b)]))
    assert len(pairs) == 3 * 3
    assert {p["label"] for p in pairs} == {"mean", "a", "b"}
    adjusted = holm([p["p"] for p in pairs])
    assert [p["p_holm"] for p in pairs] == pytest.approx(adjusted, abs=1e-5)
    assert min(p["p_holm"] for p in pairs) == pytest.approx(9 * min(p["p"] for p in pairs), abs=1e-5)


@pytest.mark.parametrize(
    ("p", "adjusted"),
    [
        # Holm (1979): multiply the k-th smallest by m - k + 1, never below the one before.
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.5, 0.9], [1.0, 1.0]),
        ([0.01, math.nan, 0.02], [0.02, math.nan, 0.02]),
        ([], []),
    ],
)
def test_holm_table(p: list[float], adjusted: list[float]) -> None:
    assert holm(p) == pytest.approx(adjusted, nan_ok=True)


def test_bootstrap_agrees_with_the_normal_interval_of_a_mean() -> None:
    values = np.random.default_rng(1).normal(0.8, 0.1, 400)
    found = bootstrap_mean_interval(values, [str(k) for k in range(400)])
    half = 1.96 * values.std() / 20
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.05 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.05 * half)


def test_copies_of_a_case_within_a_subject_bring_no_certainty() -> None:
    values = np.random.default_rng(2).normal(size=30)
    subjects = np.array([f"s{k}" for k in range(30)])
    once = bootstrap_mean_interval(values, subjects)
    often = bootstrap_mean_interval(np.repeat(values, 10), np.repeat(subjects, 10))
    assert (often.low, often.high) == pytest.approx((once.low, once.high))
    assert (often.n, often.n_groups) == (300, 30)


def test_two_groups_give_the_interval_of_all_four_resamples() -> None:
    found = bootstrap_mean_interval([0.0, 1.0], ["a", "b"])
    assert (found.low, found.mean, found.high) == (0.0, 0.5, 1.0)


def test_coverage_is_near_its_level() -> None:
    generator = np.random.default_rng(3)
    subjects = [str(k) for k in range(60)]
    hits = 0
    for _ in range(200):
        found = bootstrap_mean_interval(generator.beta(8, 2, 60), subjects, resamples=500)
        hits += found.low <= 0.8 <= found.high
    assert 0.88 <= hits / 200 <= 0.99


def test_nan_is_counted_and_too_few_subjects_give_no_interval() -> None:
    found = bootstrap_mean_interval([0.5, math.nan, 0.7], ["a", "b", "a"])
    assert (found.mean, found.n, found.n_groups, found.n_undefined) == (pytest.approx(0.6), 2, 1, 1)
    assert math.isnan(found.low)
    assert found.reason == "one subject only"
    assert math.isnan(bootstrap_macro_interval(np.full((2, 2), math.nan), ["a", "b"]).mean)


def test_wilcoxon_all_tied_is_one_and_few_pairs_are_refused() -> None:
    subjects = [str(k) for k in range(8)]
    values = np.linspace(0.5, 0.9, 8)
    tied = compare_paired(values, values + 1e-12, subjects)
    assert (tied.p, tied.effect, tied.ties, tied.status) == (1.0, 0.0, 8, "ok")
    five = compare_paired(values, values - np.array([0.1] * 5 + [0.0] * 3), subjects)
    assert math.isnan(five.p)
    assert five.status == "refused: 5 subjects that differ, 6 needed"
    assert (five.wins, five.ties, five.losses) == (5, 3, 0)


def test_the_test_sees_subjects_not_cases() -> None:
    generator = np.random.default_rng(4)
    first, second = generator.normal(0.02, 0.03, (2, 7))
    cases = compare_paired(np.repeat(first, 5), np.repeat(second, 5), [f"s{k // 5}" for k in range(35)])
    alone = compare_paired(first, second, [f"s{k}" for k in range(7)])
    assert cases.p == alone.p
    assert cases.wins == 5 * alone.wins


def test_the_same_scores_give_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    one = write_scores(tmp_path / "one.parquet", score_rows(TWO_CLASSES, model="one"))
    two = write_scores(tmp_path / "two.parquet", score_rows(TWO_CLASSES, model="two")[::-1])
    run([one, two], tmp_path / "x")
    run([two, one], tmp_path / "y")
    names = sorted(p.name for p in (tmp_path / "x").iterdir())
    assert names == ["leaderboard.csv", "scores.parquet", "summary.json"]
    for name in names:
        assert (tmp_path / "x" / name).read_bytes() == (tmp_path / "y" / name).read_bytes()


def test_terminal_table_is_aligned_and_narrow(tmp_path: Path) -> None:
    cases: dict[str, Counts] = {f"c{k}": {"a": (8, 1, k)} for k in range(4)}
    long = "m" * 64
    rows = score_rows(cases, model=long) + score_rows(cases, model="unet")
    rows += score_rows(cases, dataset="organs", model="unet")
    run([write_scores(tmp_path / "s.parquet", rows)], tmp_path / "out")
    text = terminal_leaderboard(tmp_path / "out")
    tables = text.split("\n\n")
    assert [t.splitlines()[0] for t in tables[:2]] == ["cells", "organs"]
    assert max(map(len, text.splitlines())) <= 100
    for table in tables[:2]:
        assert len({len(line) for line in table.splitlines()[1:]}) == 1
    mean = np.mean([16 / (17 + k) for k in range(4)])
    assert f"{mean:.3f}  [" in tables[1]


def broken(change: str) -> list[dict[str, Any]]:
    rows = score_rows(TWO_CLASSES)
    if change == "twice":
        rows.append(rows[0])
    elif change == "lost row":
        rows.pop(0)
    elif change == "lost class":
        rows = [r for r in rows if (r["case"], r["label"]) != ("c2", "b")]
    elif change == "silent nan":
        rows[0]["value"] = math.nan
    elif change == "mean as class":
        rows = score_rows({"c1": {"mean": (1, 0, 0)}})
    elif change == "two subjects":
        rows += score_rows({"c1": TWO_CLASSES["c1"]}, model="other", subjects={"c1": "s9"})
    elif change == "text":
        rows[0]["fold"] = "first"
        for row in rows:
            row["fold"] = str(row["fold"])
    return rows


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("twice", "stands there twice"),
        ("lost row", "lacks some of dice"),
        ("lost class", "lacks some of the classes"),
        ("silent nan", "has value nan and status 'ok'"),
        ("mean as class", "a class is called 'mean'"),
        ("two subjects", "several subjects"),
        ("text", "expected whole numbers"),
    ],
)
def test_contradictory_scores_are_refused(tmp_path: Path, change: str, told: str) -> None:
    path = write_scores(tmp_path / "s.parquet", broken(change))
    with pytest.raises(DataError, match=told):
        run([path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"lost\.parquet: no such file"):
        read_scores([tmp_path / "lost.parquet"])
    whole = write_scores(tmp_path / "s.parquet", score_rows(TWO_CLASSES)).read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut\.parquet: not a readable score table"):
        read_scores([tmp_path / "cut.parquet"])
    with pytest.raises(DataError, match="lacks columns status"):
        read_scores([write_scores(tmp_path / "t.parquet", [{"dataset": "x", **dict.fromkeys(COLUMNS_BUT_STATUS, 1)}])])
    with pytest.raises(DataError, match="run `medseg compare` first"):
        terminal_leaderboard(tmp_path)


COLUMNS_BUT_STATUS = ("model", "fold", "seed", "case", "subject", "label", "metric", "value", "unit")
