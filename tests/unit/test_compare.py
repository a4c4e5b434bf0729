"""Compare: means computed by hand, the reference decides who counts, verdicts that cannot name the wrong model."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from medseg.compare import interval
from medseg.compare.block import blocks
from medseg.compare.rows import read_scores
from medseg.compare.run import read_leaderboard, run
from medseg.compare.scored import of_frame
from medseg.compare.summary import summary_rows
from medseg.compare.terminal import terminal_leaderboard
from medseg.compare.verdict import ABOUT_NETWORKS
from medseg.errors import ConfigError, DataError
from medseg.evaluate.score import COLUMNS
from medseg.metrics.table import METRICS
from tests.score_tables import DIAGONAL, GAP, NEAR, Counts, counts_of, score_rows, write_scores


def compared(tmp_path: Path, rows: Iterable[Mapping[str, Any]], margin: float | None = None) -> dict[str, Any]:
    """``summary.json`` of the comparison of score rows, with the leaderboard under ``board``."""
    run([write_scores(tmp_path / "s.parquet", rows)], tmp_path / "out", margin)
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    return {**summary, "board": read_leaderboard(tmp_path / "out")}


def study(scores: Mapping[str, Iterable[float]], **more: Any) -> list[dict[str, Any]]:
    """Rows of one class whose Dice per case is given, for each model."""
    rows = []
    for model, values in scores.items():
        cases = {f"c{k:03d}": {"a": counts_of(v)} for k, v in enumerate(values)}
        rows += score_rows(cases, model=model, **more)
    return rows


def summary_of(out: Path) -> dict[tuple[str, str, str], dict[str, Any]]:
    rows = json.loads((out / "summary.json").read_text())["rows"]
    return {(r["model"], r["metric"], r["label"]): r for r in rows}


# Dice a: 0.8, 0.5; Dice b: 0.4, undefined.  IoU a: 2/3, 1/3; b: 1/4.
TWO_CLASSES: dict[str, Counts] = {
    "c1": {"a": (4, 1, 1), "b": (1, 3, 0)},
    "c2": {"a": (10, 20, 0), "b": (0, 0, 0)},
}


def test_means_are_those_computed_by_hand(tmp_path: Path) -> None:
    run([write_scores(tmp_path / "s.parquet", score_rows(TWO_CLASSES))], tmp_path / "out")
    found = summary_of(tmp_path / "out")
    assert found["unet", "dice_subject", "a"]["mean"] == pytest.approx((0.8 + 0.5) / 2)
    assert found["unet", "dice_subject", "b"]["mean"] == pytest.approx(0.4)
    # Class means first, then their mean; the mean over all three defined scores would be 0.5667.
    assert found["unet", "dice_subject", "mean"]["mean"] == pytest.approx((0.65 + 0.4) / 2)
    assert found["unet", "iou_subject", "mean"]["mean"] == pytest.approx(((2 / 3 + 1 / 3) / 2 + 1 / 4) / 2)
    assert found["unet", "dice_pooled", "a"]["mean"] == pytest.approx(28 / (28 + 22), abs=1e-6)
    assert found["unet", "iou_pooled", "a"]["mean"] == pytest.approx(14 / (14 + 22), abs=1e-6)
    assert found["unet", "dice_pooled", "mean"]["mean"] == pytest.approx((28 / 50 + 2 / 5) / 2, abs=1e-6)


def test_subjects_count_once_and_cases_stand_beside_them(tmp_path: Path) -> None:
    cases: dict[str, Counts] = {"c1": {"a": counts_of(0.9)}, "c2": {"a": counts_of(0.7)}, "c3": {"a": counts_of(0.4)}}
    rows = score_rows(cases, subjects={"c1": "s1", "c2": "s1", "c3": "s2"})
    (row,) = compared(tmp_path, rows)["board"]
    assert float(row["dice_subject"]) == pytest.approx((0.8 + 0.4) / 2)
    assert float(row["dice_case"]) == pytest.approx((0.9 + 0.7 + 0.4) / 3)
    assert (row["n_cases"], row["n_subjects"]) == ("3", "2")
    assert row["points"] == "0.4000 0.8000"
    assert row["dice_low"] == ""
    assert "2 subjects; an interval needs 6" in row["note"]
    text = terminal_leaderboard(tmp_path / "out")
    assert "by case" in text
    assert "subjects 0.4000 0.8000" in text


def test_the_reference_decides_who_counts(tmp_path: Path) -> None:
    cases: dict[str, Counts] = {
        "both-empty": {"a": (0, 0, 0)},
        "missed": {"a": (0, 0, 7)},
        "spurious": {"a": (0, 3, 0)},
        "perfect": {"a": (5, 0, 0)},
    }
    run([write_scores(tmp_path / "s.parquet", score_rows(cases))], tmp_path / "out")
    row = summary_of(tmp_path / "out")["unet", "dice_subject", "a"]
    assert row["mean"] == pytest.approx(1 / 2)
    assert (row["n"], row["n_missed"], row["n_failed"], row["n_lacking"], row["n_spurious"]) == (2, 1, 0, 2, 1)
    assert row["left_empty"] == pytest.approx(1 / 2)
    assert row["false_volume"] == pytest.approx((0 + 1.5) / 2)
    score = summary_of(tmp_path / "out")["unet", "score_subject", "a"]
    assert score["mean"] == pytest.approx((1 + 0 + 0 + 1) / 4)
    (line,) = read_leaderboard(tmp_path / "out")
    assert (line["n_cases"], line["n_lacking"], line["volume_unit"]) == ("4", "2", "ml")
    assert "left empty" in terminal_leaderboard(tmp_path / "out")


def test_a_class_that_no_reference_shows_has_no_mean_and_moves_none(tmp_path: Path) -> None:
    cases: dict[str, Counts] = {f"c{k}": {"a": counts_of(0.8), "b": (0, 0, 0)} for k in range(8)}
    clean = score_rows(cases, model="clean")
    stray = score_rows({**cases, "c0": {"a": counts_of(0.8), "b": (0, 1, 0)}}, model="stray")
    found = compared(tmp_path, clean + stray)
    rows = {(r["model"], r["metric"], r["label"]): r for r in found["rows"]}
    for model in ("clean", "stray"):
        for metric in ("dice_subject", "dice_case", "dice_pooled", "iou_pooled", "score_subject"):
            assert rows[model, metric, "b"]["mean"] is None
            assert rows[model, metric, "mean"]["mean"] == rows[model, metric, "a"]["mean"]
    assert rows["stray", "dice_subject", "b"]["left_empty"] == pytest.approx(7 / 8)
    assert rows["stray", "dice_subject", "b"]["false_volume"] == pytest.approx(0.5 / 8)
    assert [row["rank"] for row in found["board"]] == ["1", "1"]
    assert found["pairs"][0]["difference"] == 0.0
    assert found["pairs"][0]["verdict"] == "not shown"


def test_only_undefined_scores_give_no_number_and_say_why(tmp_path: Path) -> None:
    rows = score_rows({"c1": {"a": (0, 0, 0)}, "c2": {"a": (0, 1, 0)}}, model="one")
    rows += score_rows({"c1": {"a": (0, 0, 0)}, "c2": {"a": (0, 0, 0)}}, model="two")
    found = compared(tmp_path, rows)
    assert {row["dice_subject"] for row in found["board"]} == {""}
    assert {row["note"] for row in found["board"]} == {"no reference shows the class"}
    assert "none" in terminal_leaderboard(tmp_path / "out")
    assert found["winners"] == []


def test_seeds_of_a_case_are_averaged_first_and_folds_are_pooled() -> None:
    dice = {"half": (1, 2, 0), "full": (1, 0, 0)}  # 0.5 and 1.0
    rows = []
    for fold, case in enumerate(["c1", "c2"]):
        rows += score_rows({case: {"a": dice["half"]}}, fold=fold, seed=0)
        rows += score_rows({case: {"a": dice["full"]}}, fold=fold, seed=1)
    (block,) = blocks(of_frame(pd.DataFrame(rows)))
    assert block.values["dice"].tolist() == [[0.75], [0.75]]
    assert (block.folds, block.seeds) == ((0, 1), (0, 1))
    one = block.trainings[1, 0]["dice"]
    assert math.isnan(one[0, 0])
    assert one[1, 0] == 0.5
    row = next(r for r in summary_rows([block]) if r["metric"] == "dice_subject")
    assert (row["n"], row["mean"]) == (2, 0.75)


# The right values of verdicts


def test_inventing_a_tumour_in_every_healthy_image_is_not_better(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    dice = generator.uniform(0.7, 0.9, 40)
    rows = []
    for model, gain, invented in (("a", 0.0, 0), ("b", 0.013, 400)):
        cases: dict[str, Counts] = {f"t{k}": {"tumour": counts_of(v + gain)} for k, v in enumerate(dice)}
        cases |= {f"h{k}": {"tumour": (0, invented, 0)} for k in range(40)}
        rows += score_rows(cases, model=model)
    found = compared(tmp_path, rows)
    (pair,) = found["pairs"]
    assert [row["model"] for row in found["board"]] == ["a", "b"]
    assert (pair["verdict"], pair["first"]) == ("better", "a")
    assert pair["sentence"].startswith("a is better than b")
    assert any("b has the higher Dice" in note for note in pair["notes"])
    assert [float(row["left_empty"]) for row in found["board"]] == [1.0, 0.0]
    (dice_row,) = (r for r in found["secondary"] if (r["metric"], r["label"]) == ("dice_subject", "mean"))
    assert dice_row["difference"] == pytest.approx(-0.013, abs=1e-4)


def test_no_verdict_for_the_typical_case_against_the_mean(tmp_path: Path) -> None:
    generator = np.random.default_rng(1)
    other = generator.uniform(0.75, 0.85, 60)
    found = compared(tmp_path, study({"a": other + np.array([0.01] * 51 + [-0.07] * 9), "b": other}))
    (pair,) = found["pairs"]
    assert [row["model"] for row in found["board"]] == ["b", "a"]
    assert pair["verdict"] == "not shown"
    # Wilcoxon's test alone would have named the second.
    assert pair["p_typical"] < 0.01
    assert pair["effect_typical"] < 0


def test_leaderboard_and_verdict_point_the_same_way_whoever_has_many_images(tmp_path: Path) -> None:
    generator = np.random.default_rng(2)
    rows = []
    subjects = {f"c{k:03d}": "big" if k < 100 else f"s{(k - 100) // 2}" for k in range(118)}
    base = generator.uniform(0.6, 0.8, 118)
    for model, gain in (("a", np.where(np.arange(118) < 100, 0.05, -0.02)), ("b", np.zeros(118))):
        cases = {case: {"a": counts_of(base[k] + gain[k])} for k, case in enumerate(subjects)}
        rows += score_rows(cases, model=model, subjects=subjects)
    found = compared(tmp_path, rows)
    (pair,) = found["pairs"]
    first = found["board"][0]
    assert (first["model"], pair["first"]) == ("b", "b")
    assert pair["difference"] == pytest.approx((9 * 0.02 - 0.05) / 10, abs=1e-4)
    assert pair["verdict"] in ("better", "not shown")
    # By images the other model is ahead, and both numbers are shown.
    assert float(first["dice_case"]) < float(found["board"][1]["dice_case"])


def test_a_model_that_lacks_its_hardest_case_is_not_first(tmp_path: Path) -> None:
    easy = [0.9] * 9
    rows = study({"whole": [*easy, 0.3]}) + study({"gap": [v + 0.001 for v in easy]})
    found = compared(tmp_path, rows)
    assert [row["model"] for row in found["board"]] == ["whole", "gap"]
    gap = found["board"][1]
    assert (gap["n_cases"], gap["n_failed"]) == ("10", "1")
    assert float(gap["dice_subject"]) == pytest.approx(9 * 0.901 / 10, abs=1e-4)
    assert "failed" in terminal_leaderboard(tmp_path / "out")
    table = pd.read_parquet(tmp_path / "out" / "scores.parquet")
    added = table[(table.model == "gap") & (table.case == "c009")]
    assert set(added.status) == {"failed: no score row of this case, which other trainings have"}
    assert dict(zip(added.metric, added.value, strict=True))["fn"] == 10_000


def test_what_six_subjects_and_three_models_cannot_show(tmp_path: Path) -> None:
    base = np.linspace(0.6, 0.8, 6)
    found = compared(tmp_path, study({"a": base + 0.1, "b": base + 0.05, "c": base}))
    assert {pair["verdict"] for pair in found["pairs"]} == {"cannot be shown"}
    assert all("with 6 subjects and 3 comparisons" in pair["sentence"] for pair in found["pairs"])
    assert all(pair["p_alone"] == pytest.approx(2 / 2**6) for pair in found["pairs"])
    assert {pair["smallest"] for pair in found["pairs"]} == {None}
    assert "cannot be shown" in terminal_leaderboard(tmp_path / "out")


def test_three_trainings_of_one_model_are_not_three_methods(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    base = generator.uniform(-0.05, 0.05, 40)
    scores = {f"m{k}": mean + base + generator.normal(0, 0.01, 40) for k, mean in enumerate((0.928, 0.896, 0.930))}
    found = compared(tmp_path, study(scores))
    better = [pair for pair in found["pairs"] if pair["verdict"] == "better"]
    assert better
    for pair in better:
        assert pair["scope"] == "networks"
        assert "these two trained networks" in pair["sentence"]
        assert ABOUT_NETWORKS in pair["notes"]


def test_with_seeds_the_luck_of_trainings_is_in_the_interval(tmp_path: Path) -> None:
    generator = np.random.default_rng(4)
    base = generator.uniform(0.85, 0.95, 40)
    rows: list[dict[str, Any]] = []
    for model, luck in (("a", (0.0, -0.032, 0.002)), ("b", (-0.03, 0.0, -0.034))):
        for seed, shift in enumerate(luck):
            rows += study({model: base + shift + generator.normal(0, 0.002, 40)}, seed=seed)
    found = compared(tmp_path, rows)
    (pair,) = found["pairs"]
    assert (pair["scope"], pair["verdict"]) == ("methods", "not shown")
    assert "these methods" in pair["sentence"]
    # One seed against one seed, the same numbers would have been called a difference of these networks.
    alone = compared(tmp_path, [r for r in rows if r["seed"] == 0])
    assert alone["pairs"][0]["verdict"] == "better"
    assert pair["high"] - pair["low"] > 3 * (alone["pairs"][0]["high"] - alone["pairs"][0]["low"])
    assert all(row["note"].startswith("variance of 3 seeds included; with 40 subjects") for row in found["board"])
    # What could have been shown counts the luck of trainings, too.
    assert pair["smallest"] > 2 * alone["pairs"][0]["smallest"]


def test_more_seeds_never_hide_what_few_subjects_leave_open(tmp_path: Path) -> None:
    """One miss in 20 subjects: the bootstrap-t interval reaches far down, and a second training changes nothing."""
    values = [*np.linspace(0.88, 0.95, 19), 0.0]
    one = compared(tmp_path, study({"a": values}))["board"][0]
    two = compared(tmp_path, study({"a": values}) + study({"a": values}, seed=1))["board"][0]
    assert float(two["dice_low"]) <= float(one["dice_low"]) < 0.5
    assert float(two["dice_high"]) >= float(one["dice_high"])


def test_methods_are_equivalent_only_by_both_intervals(tmp_path: Path) -> None:
    generator = np.random.default_rng(8)
    base = generator.uniform(0.88, 0.9, 50)
    worse = np.where(np.arange(50) == 0, 0.3, base)
    rows: list[dict[str, Any]] = []
    for seed in (0, 1):
        rows += study({"a": base, "b": worse}, seed=seed)
    (pair,) = compared(tmp_path, rows, margin=0.05)["pairs"]
    assert pair["high"] > 0.05
    assert pair["verdict"] == "not shown"


def test_seeds_and_a_class_in_no_reference(tmp_path: Path) -> None:
    cases: dict[str, Counts] = {f"c{k}": {"a": (0, 0, 0)} for k in range(8)}
    rows = [row for m in "xy" for seed in (0, 1) for row in score_rows(cases, model=m, seed=seed)]
    (pair,) = compared(tmp_path, rows)["pairs"]
    assert (pair["difference"], pair["p"], pair["verdict"]) == (None, None, "cannot be shown")


def test_trainings_with_few_subjects_in_many_folds_support_no_statement_about_methods(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    for model, gain in (("a", 0.1), ("b", 0.0)):
        for seed in (0, 1):
            for fold in range(5):
                mine = {
                    f"c{fold}{k}": {"a": counts_of(0.7 + gain + 0.001 * fold)} for k in range(2 if fold == 0 else 1)
                }
                rows += score_rows(mine, model=model, seed=seed, fold=fold)
    (pair,) = compared(tmp_path, rows)["pairs"]
    assert (pair["low"], pair["p"]) == (None, None)
    assert pair["verdict"] == "not shown"
    assert "6 subjects in 5 folds" in pair["note"]


def test_what_a_failed_case_would_have_invented_is_not_known(tmp_path: Path) -> None:
    cases: dict[str, Counts] = {f"c{k}": {"a": counts_of(0.8)} for k in range(6)} | {"h1": {"a": (0, 8, 0)}}
    rows = score_rows({**cases, "h2": {"a": (0, 8, 0)}}, model="whole") + score_rows(cases, model="gap")
    found = {r["model"]: r for r in compared(tmp_path, rows)["rows"] if (r["metric"], r["label"]) == ("dice_case", "a")}
    assert found["gap"]["false_volume"] == found["whole"]["false_volume"] == 4.0
    assert found["gap"]["left_empty"] == 0.0


def test_a_clear_and_repeated_difference_is_shown_for_methods(tmp_path: Path) -> None:
    generator = np.random.default_rng(5)
    base = generator.uniform(0.7, 0.8, 30)
    rows: list[dict[str, Any]] = []
    for model, gain in (("a", 0.1), ("b", 0.0)):
        for seed in range(3):
            rows += study({model: base + gain + generator.normal(0, 0.005, 30)}, seed=seed)
    (pair,) = compared(tmp_path, rows)["pairs"]
    assert (pair["first"], pair["verdict"], pair["scope"]) == ("a", "better", "methods")


def test_equivalence_needs_a_margin_and_stays_within_it(tmp_path: Path) -> None:
    generator = np.random.default_rng(6)
    base = generator.uniform(0.7, 0.8, 40)
    rows = study({"a": base + generator.normal(0, 0.005, 40), "b": base})
    (without,) = compared(tmp_path, rows)["pairs"]
    assert without["verdict"] == "not shown"
    assert without["smallest"] == pytest.approx(2.87 * 0.005 / 40**0.5, rel=0.4)
    (within,) = compared(tmp_path, rows, margin=0.01)["pairs"]
    assert within["verdict"] == "equivalent"
    assert "within 0.01" in within["sentence"]
    (narrow,) = compared(tmp_path, rows, margin=0.0005)["pairs"]
    assert narrow["verdict"] == "not shown"


def test_a_margin_must_be_above_zero(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="above 0"):
        compared(tmp_path, study({"a": [0.8] * 6}), margin=0.0)


def test_the_luck_of_the_winner_of_equals_is_shown(tmp_path: Path) -> None:
    generator = np.random.default_rng(7)
    scores = {f"m{k}": generator.uniform(0.7, 0.8, 20) for k in range(4)}
    found = compared(tmp_path, study(scores))
    (winner,) = found["winners"]
    assert winner["model"] == found["board"][0]["model"]
    assert sum(winner["first_share"].values()) == pytest.approx(1, abs=1e-4)
    assert 0.003 < winner["excess"] < 0.02
    assert f"{winner['model']} comes first in" in terminal_leaderboard(tmp_path / "out").replace("\n  ", " ")


def test_the_tail_of_a_mean(tmp_path: Path) -> None:
    found = compared(tmp_path, study({"a": [0.9] * 18 + [0.1, 0.3]}))
    (tail,) = found["tails"]
    assert (tail["n_worst"], tail["worst"]) == (2, ["c018", "c019"])
    assert (tail["worst_tenth"], tail["trimmed"]) == (pytest.approx(0.2), pytest.approx(0.9))
    assert float(found["board"][0]["worst_tenth"]) == pytest.approx(0.2)


def test_families_are_corrected_apart(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    rows = []
    for model in ("x", "y", "z"):
        cases = {
            f"c{k}": {name: counts_of(generator.uniform(0.6, 0.8)) for name in ("a", "b")} for k in range(12)
        }  # fmt: skip
        rows += score_rows(cases, model=model)
    found = compared(tmp_path, rows)
    assert {pair["comparisons"] for pair in found["pairs"]} == {3}
    overlap = [row for row in found["secondary"] if row["family"] == "overlap"]
    assert {row["comparisons"] for row in overlap} == {3 * 4}
    assert {(r["metric"], r["label"]) for r in overlap} == {
        ("dice_subject", "mean"),
        ("iou_subject", "mean"),
        ("dice_subject", "a"),
        ("dice_subject", "b"),
    }
    surface = [row for row in found["secondary"] if row["family"] == "surface"]
    assert {row["label"] for row in surface} == {"mean"}
    assert {row["comparisons"] for row in surface} == {len(surface)}
    assert all(row["p"] >= row["p_alone"] - 1e-6 for row in [*found["pairs"], *found["secondary"]])


# Every row of the table of metrics, also one that nobody has thought of


def two_models(missed: int = 0) -> list[dict[str, Any]]:
    """Forty cases; ``a`` overlaps better by 0.05 and so has the smaller distances; ``b`` misses the first cases."""
    base = np.random.default_rng(9).uniform(0.7, 0.8, 40)
    rows = study({"a": base + 0.05})
    cases = {f"c{k:03d}": {"a": (0, 0, 10_000) if k < missed else counts_of(v)} for k, v in enumerate(base)}
    return rows + score_rows(cases, model="b")


def test_a_metric_of_which_lower_is_better_flows_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = compared(tmp_path, two_models())
    monkeypatch.setitem(METRICS, "gap", GAP)
    found = compared(tmp_path, two_models())
    # Ranks, verdicts and the other numbers are the same.
    assert found["pairs"] == before["pairs"]
    old = list(before["board"][0])
    assert [[row[c] for c in old] for row in found["board"]] == [list(row.values()) for row in before["board"]]
    best, other = found["board"]
    assert best["model"] == "a"
    assert float(best["gap_subject"]) == pytest.approx(20 * (1 - float(best["dice_subject"])), abs=1e-4)
    assert float(best["gap_subject"]) < float(other["gap_subject"])
    assert 0 < float(best["gap_low"]) < float(best["gap_subject"]) < float(best["gap_high"]) < 50
    assert best["gap_unit"] == "mm"
    (row,) = (r for r in found["secondary"] if (r["metric"], r["label"]) == ("gap_subject", "mean"))
    # The smaller distance is the better one.
    assert (row["first"], row["better"], row["family"], row["unit"]) == ("a", "a", "surface", "mm")
    assert row["difference"] == pytest.approx(-1.0, abs=1e-3)
    assert row["high"] < 0
    assert row["comparisons"] == sum(r["family"] == "surface" for r in found["secondary"])
    assert "lower is better" in found["definitions"]["Gap"].lower()
    terminal = terminal_leaderboard(tmp_path / "out")
    assert max(map(len, terminal.splitlines())) <= 100
    assert "Gap" not in terminal  # the table has no room for all of them


def test_the_secondary_row_favours_the_model_with_the_smaller_distance(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METRICS, "gap", GAP)
    rows = two_models()
    for row in rows:
        if row["metric"] == "gap":  # the model that overlaps better has the larger distances
            row["value"] = 20.0 - row["value"]
    found = compared(tmp_path, rows)
    better = {(r["metric"], r["label"]): r["better"] for r in found["secondary"]}
    assert better["dice_subject", "mean"] == "a"
    assert better["gap_subject", "mean"] == "b"
    assert found["pairs"][0]["first"] == "a"


def test_missed_cases_count_the_diagonal_and_the_median_shows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METRICS, "gap", GAP)
    rows = [r for r in two_models(missed=2) if (r["model"], r["case"]) != ("b", "c039")]
    found = compared(tmp_path, rows)
    (row,) = (r for r in found["rows"] if (r["model"], r["metric"], r["label"]) == ("b", "gap_subject", "mean"))
    table = pd.read_parquet(tmp_path / "out" / "scores.parquet")
    mine = table[(table.model == "b") & (table.metric == "gap")].set_index("case")["value"]
    assert [mine["c000"], mine["c001"], mine["c039"]] == [DIAGONAL] * 3
    assert (row["n_missed"], row["n_failed"], row["n_penalised"]) == (2, 1, 3)
    assert row["mean"] == pytest.approx(mine.mean(), abs=1e-6)
    assert row["median"] == pytest.approx(mine.median(), abs=1e-6)
    assert row["median"] < row["mean"] <= row["high"] <= DIAGONAL
    (line,) = (r for r in found["board"] if r["model"] == "b")
    assert (line["n_penalised"], float(line["gap_median"])) == ("3", row["median"])


def test_a_metric_with_a_tolerance_stands_where_one_is_configured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(METRICS, "near", NEAR)
    cases: dict[str, Counts] = {f"c{k}": {"x": counts_of(0.8), "y": counts_of(0.7)} for k in range(8)}
    cases["c8"] = {"x": (0, 0, 9), "y": counts_of(0.7)}
    without = compared(tmp_path, score_rows(cases))
    assert without["board"][0]["near_subject"] == ""
    assert not any(r["metric"].startswith("near") for r in without["rows"])
    found = compared(tmp_path, score_rows(cases, tolerances={"y": "2 mm"}))
    near = {r["label"]: r for r in found["rows"] if r["metric"] == "near_subject"}
    assert set(near) == {"mean", "y"}
    assert near["mean"]["mean"] == near["y"]["mean"] == pytest.approx(0.7, abs=1e-4)
    assert near["mean"]["tolerance"] == "2 mm"
    assert near["mean"]["n_penalised"] == 0  # the class that was missed has no value of it
    other = score_rows(cases, model="other", tolerances={"y": "3 mm"})
    with pytest.raises(DataError, match=r"several definitions: near/made-up-v1@2 mm, near/made-up-v1@3 mm"):
        compared(tmp_path, score_rows(cases, tolerances={"y": "2 mm"}) + other)


def tolerant(tolerances: Mapping[str, str]) -> list[dict[str, Any]]:
    """Twenty cases; all show the liver, which the first one misses, and three show the tumour."""
    cases: dict[str, Counts] = {
        f"c{k:02d}": {"liver": counts_of(0.9 - k / 100), "tumour": counts_of(0.8) if k < 3 else (0, 0, 0)}
        for k in range(20)
    }
    cases["c00"] = {**cases["c00"], "liver": (0, 0, 100)}
    return score_rows(cases, tolerances=tolerances)


def test_counts_beside_a_mean_are_of_the_classes_that_it_goes_over(tmp_path: Path) -> None:
    found = compared(tmp_path, tolerant({"tumour": "2 mm"}))
    rows = {(r["metric"], r["label"]): r for r in found["rows"]}
    counts = ("n", "n_subjects", "n_missed", "n_failed", "n_penalised", "n_lacking", "left_empty")
    assert [rows["nsd_subject", "mean"][c] for c in counts] == [3, 3, 0, 0, 0, 17, 1.0]
    assert [rows["nsd_subject", "mean"][c] for c in counts] == [rows["nsd_subject", "tumour"][c] for c in counts]
    # Metrics of both classes, and the ranking, count both.
    assert [rows["hd95_subject", "mean"][c] for c in counts] == [20, 20, 1, 0, 1, 17, 1.0]
    assert found["board"][0]["n_missed"] == "1"


def test_a_class_that_no_reference_shows_counts_among_the_lacking_of_every_metric(tmp_path: Path) -> None:
    cases: dict[str, Counts] = {f"c{k}": {"a": counts_of(0.8), "b": (0, 0, 0)} for k in range(8)}
    found = compared(tmp_path, score_rows(cases, tolerances={"a": "1 mm"}))
    lacking = {r["metric"]: r["n_lacking"] for r in found["rows"] if r["label"] == "mean"}
    assert (lacking["dice_subject"], lacking["hd95_subject"], lacking["nsd_subject"]) == (8, 8, 0)


@pytest.mark.parametrize(
    ("tolerances", "size", "classes", "heading"),
    [
        ({"liver": "2 mm", "tumour": "2 mm"}, "2 mm", "liver, tumour", "NSD (2 mm)"),
        ({"tumour": "2 mm"}, "2 mm", "tumour", "NSD (2 mm)"),
        ({"liver": "2 um", "tumour": "2 um"}, "2 um", "liver, tumour", "NSD (2 µm)"),
        ({"liver": "3 mm", "tumour": "1 mm"}, "liver 3 mm, tumour 1 mm", "liver, tumour", "NSD (tau per class)"),
    ],
)
def test_the_tolerance_stands_wherever_the_metric_does(
    tolerances: dict[str, str], size: str, classes: str, heading: str, tmp_path: Path
) -> None:
    found = compared(tmp_path, tolerant(tolerances))
    (row,) = found["board"]
    assert (row["nsd_tolerance"], row["nsd_classes"]) == (size, classes)
    text = terminal_leaderboard(tmp_path / "out")
    assert f" {heading} " in text.splitlines()[2]
    behind = " ".join(line for line in text.splitlines() if line.startswith("NSD: mean over"))
    wanted = {
        "NSD (2 mm)": "NSD: mean over tumour (2 mm); no tolerance for liver" if len(tolerances) == 1 else "",
        "NSD (tau per class)": "NSD: mean over liver (3 mm), tumour (1 mm)",
    }
    assert behind == wanted.get(heading, "")
    sizes = ", ".join(f"{label} {tau}" for label, tau in tolerances.items()).replace(" um", " µm")
    assert found["definitions"]["NSD"].endswith(f"Tolerances: cells: {sizes}.")
    assert "Tolerances" not in found["definitions"]["Dice"]
    assert (row["nsd_faces_tolerance"], row["nsd_faces_classes"]) == (size, classes)


def test_distances_in_several_units_are_never_averaged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "gap", GAP)
    rows = two_models()
    for row in rows:
        if (row["case"], row["metric"]) == ("c003", "gap"):
            row["unit"] = "px"
    with pytest.raises(DataError, match="cells/gap has values in mm and px"):
        compared(tmp_path, rows)


def test_a_test_set_is_compared_apart_from_validation_folds(tmp_path: Path) -> None:
    val = {f"v{k}": {"a": counts_of(0.9)} for k in range(6)}
    test = {f"t{k}": {"a": counts_of(0.7)} for k in range(7)}
    rows = []
    for fold in (0, 1):
        rows += score_rows({c: v for k, (c, v) in enumerate(val.items()) if k % 2 == fold}, fold=fold)
        rows += score_rows(test, fold=fold, split="test")
    found = compared(tmp_path, rows)
    assert [(r["split"], r["n_cases"], float(r["dice_subject"])) for r in found["board"]] == [
        ("test", "7", 0.7),
        ("val", "6", 0.9),
    ]
    assert "cells, test set" in terminal_leaderboard(tmp_path / "out")


def test_models_of_other_folds_or_classes_are_not_compared(tmp_path: Path) -> None:
    one = study({"a": [0.8] * 4})
    with pytest.raises(DataError, match=r"scored on folds \[0\], 'b' on \[1\]"):
        compared(tmp_path, one + study({"b": [0.8] * 4}, fold=1))
    other = score_rows({f"c{k:03d}": {"z": counts_of(0.8)} for k in range(4)}, model="b")
    with pytest.raises(DataError, match="scored on classes"):
        compared(tmp_path, one + other)


def test_the_same_scores_give_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    one = write_scores(tmp_path / "one.parquet", score_rows(TWO_CLASSES, model="one"))
    two = write_scores(tmp_path / "two.parquet", score_rows(TWO_CLASSES, model="two")[::-1])
    run([one, two], tmp_path / "x")
    run([two, one], tmp_path / "y")
    names = sorted(p.name for p in (tmp_path / "x").iterdir() if not p.name.startswith("."))
    assert names == ["leaderboard.csv", "scores.parquet", "summary.json"]
    for name in names:
        assert (tmp_path / "x" / name).read_bytes() == (tmp_path / "y" / name).read_bytes()


def test_terminal_table_is_aligned_and_narrow(tmp_path: Path) -> None:
    cases: dict[str, Counts] = {f"c{k}": {"a": (8, 1, k)} for k in range(8)}
    long = "m" * 64
    rows = score_rows(cases, model=long) + score_rows(cases, model="unet")
    rows += score_rows(cases, dataset="organs", model="unet")
    run([write_scores(tmp_path / "s.parquet", rows)], tmp_path / "out")
    text = terminal_leaderboard(tmp_path / "out")
    tables = text.split("\n\n")
    assert [t.splitlines()[0] for t in tables[:2]] == ["cells", "organs"]
    assert max(map(len, text.splitlines())) <= 100
    for table in tables[:2]:
        lines = table.splitlines()[1:]
        last = max(k for k, line in enumerate(lines) if line.startswith("─"))
        assert len({len(line) for line in lines[: last + 1]}) == 1
    mean = np.mean([16 / (17 + k) for k in range(8)])
    assert f"{mean:.3f}  [" in tables[1]


def test_the_terminal_has_room_for_what_matters_most(tmp_path: Path) -> None:
    cases: dict[str, Counts] = {
        f"c{k}": {"a": counts_of(0.8 - k / 50), "b": (0, k % 2, 0) if k < 4 else counts_of(0.7)} for k in range(18)
    }
    subjects = {f"c{k}": f"s{k // 2 if k < 6 else k}" for k in range(18)}
    short = score_rows(cases, model="unet", subjects=subjects, tolerances={"a": "2 mm"})
    run([write_scores(tmp_path / "s.parquet", short)], tmp_path / "out")
    heading = terminal_leaderboard(tmp_path / "out").splitlines()[2]
    assert heading.split("  ")[-1] == "subjects"
    for column in ("score", "Dice", "mIoU", "HD95 (mm)", "NSD (2 mm)", "left empty"):
        assert f" {column} " in heading
    text = " ".join(terminal_leaderboard(tmp_path / "out").split())
    assert "Dice, mIoU, HD95, NSD: mean over classes" in text
    long = [{**row, "model": "m" * 40} for row in short]
    run([write_scores(tmp_path / "s.parquet", long)], tmp_path / "long")
    lines = terminal_leaderboard(tmp_path / "long").splitlines()
    assert max(map(len, lines)) <= 100
    assert " mIoU " in lines[2]
    # What has no column is not explained, and its place is named.
    assert " HD95 " not in lines[2]
    text = " ".join(" ".join(lines).split())
    assert "Dice, mIoU: mean over classes of the mean of subject means (dice_subject, miou_subject), where" in text
    assert "lower is better" not in text
    assert "NSD: mean over" not in text
    assert "No room here for by case, HD95 (mm), NSD (2 mm)." in text
    assert "in leaderboard.csv and in the report" in text


def test_the_terminal_explains_no_column_that_it_has_not(tmp_path: Path) -> None:
    compared(tmp_path, study({"a": [0.8] * 6}))
    text = terminal_leaderboard(tmp_path / "out")
    assert "score: what" not in text
    assert "left empty" not in text
    assert "No room" not in text


def test_resamples_that_are_kept_are_those_that_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(n: int) -> NDArray[np.float64]:
        return np.concatenate(list(interval.resample_counts(n, 300, 7)))

    monkeypatch.setattr(interval, "_BLOCK", 1000)
    monkeypatch.setattr(interval, "_drawn", {})
    generator = np.random.default_rng(7)
    blocks_ = [generator.integers(0, 30, size=(min(33, 300 - start), 30)) for start in range(0, 300, 33)]
    expected = np.stack([np.bincount(row, minlength=30) for block in blocks_ for row in block]).astype(np.float64)
    assert (drawn(30) == expected).all()
    monkeypatch.setattr(interval, "_draw", None)  # not drawn again
    assert (drawn(30) == expected).all()
    assert drawn(30).dtype == np.float64


def test_resamples_are_kept_within_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interval, "_drawn", {})
    monkeypatch.setattr(interval, "_KEPT_BYTES", 300 * 45)
    for n in (20, 21, 22, 300):
        assert sum(map(len, interval.resample_counts(n, 300, 0))) == 300
    # One that is larger than the bound is kept alone.
    assert [key[0] for key in interval._drawn] == [300]
    assert sum(map(len, interval.resample_counts(20, 300, 0))) == 300
    assert [key[0] for key in interval._drawn] == [20]


def broken(change: str) -> list[dict[str, Any]]:
    rows = score_rows(TWO_CLASSES)
    if change == "twice":
        rows.append(rows[0])
    elif change == "lost row":
        rows.pop(0)
    elif change == "lost class":
        rows = [r for r in rows if (r["case"], r["label"]) != ("c2", "b")]
    elif change == "class lost under one seed":
        again = score_rows(TWO_CLASSES, seed=1)
        rows += [r for r in again if (r["case"], r["label"]) != ("c1", "a")]
    elif change == "silent nan":
        rows[0]["value"] = math.nan
    elif change == "mean as class":
        rows = score_rows({"c1": {"mean": (1, 0, 0)}})
    elif change == "two subjects":
        rows += score_rows({"c1": TWO_CLASSES["c1"]}, model="other", subjects={"c1": "s9"})
    elif change == "reference differs":
        rows += score_rows({"c1": {"a": (4, 1, 2), "b": (1, 3, 0)}, "c2": TWO_CLASSES["c2"]}, model="other")
    elif change == "other definition":
        rows[0]["definition"] = "dice/other"
    elif change == "beyond bounds":
        rows[0]["value"] = 1.5
    elif change == "text":
        rows[0]["fold"] = "first"
        for row in rows:
            row["fold"] = str(row["fold"])
    return rows


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("twice", "is there twice"),
        ("lost row", "c1/a lacks dice; every case needs dice, iou"),
        ("reference differs", "references of different n_ref"),
        ("other definition", "is defined as 'dice/other'"),
        ("beyond bounds", "within the metric's bounds"),
        ("lost class", "lacks some of the classes"),
        ("class lost under one seed", "lacks some of the classes"),
        ("silent nan", "has value nan and status 'ok'"),
        ("mean as class", "a class is called 'mean'"),
        ("two subjects", "several subjects"),
        ("text", "expected whole numbers"),
    ],
)
def test_contradictory_scores_are_refused(tmp_path: Path, change: str, message: str) -> None:
    path = write_scores(tmp_path / "s.parquet", broken(change))
    with pytest.raises(DataError, match=message):
        run([path], tmp_path / "out")
    assert not list((tmp_path / "out").glob("[!.]*"))


def test_missing_and_damaged_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"lost\.parquet: no such file"):
        read_scores([tmp_path / "lost.parquet"])
    whole = write_scores(tmp_path / "s.parquet", score_rows(TWO_CLASSES)).read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"cut\.parquet: not a score table with a digest"):
        read_scores([tmp_path / "cut.parquet"])
    with pytest.raises(DataError, match="lacks columns status"):
        few = [{column: 1 for column in COLUMNS if column != "status"}]
        read_scores([write_scores(tmp_path / "t.parquet", few)])
    with pytest.raises(DataError, match="run `medseg compare` first"):
        terminal_leaderboard(tmp_path)
