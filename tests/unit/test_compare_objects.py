"""Compare on data whose labels number objects: ranked by PQ, pooled over objects, no case without its rows."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from medseg.compare.block import blocks
from medseg.compare.rows import read_scores
from medseg.compare.run import read_leaderboard, read_summary, run
from medseg.compare.scored import of_frame
from medseg.compare.terminal import terminal_leaderboard
from medseg.config.metrics import MetricsConfig
from medseg.errors import DataError
from medseg.evaluate.choice import choose
from medseg.evaluate.score import FAILED, Objects, score_case
from medseg.image.geometry import Geometry
from medseg.image.labels import LabelTable
from medseg.image.objects import of_numbers
from medseg.late import resolve
from medseg.metrics.matching import Matching
from medseg.metrics.object_quantities import object_quantities
from medseg.metrics.quantities import QUANTITIES
from medseg.metrics.table import METRICS
from medseg.results.key import RunKey
from tests.score_tables import counts_of, score_rows, write_scores

TABLE = LabelTable.create({"cell": 1}, instances=True)
SIDE = 24
ALL = choose(MetricsConfig(names=[name for name, row in METRICS.items() if "tolerance" not in row.needs]), "m", True)
SPARE = choose(MetricsConfig(), "m", objects=True)
Maps = tuple[np.ndarray, np.ndarray | None]


def rows_read(path: Path) -> pd.DataFrame:
    """The rows of a score file, checked and completed."""
    return pd.concat([table.to_pandas() for table in read_scores([path]).tables()]).astype({"status": "object"})


def cells(count: int, gap: int = 1) -> np.ndarray:
    """So many cells of 4 x 4 pixels, in rows of four."""
    numbers = np.zeros((SIDE, SIDE), int)
    for k in range(count):
        row, column = divmod(k, 4)
        numbers[row * 5 : row * 5 + 4, column * (4 + gap) : column * (4 + gap) + 4] = k + 1
    return numbers


def rows_of(cases: Mapping[str, Maps], model: str = "unet", choice: Any = SPARE, **key: Any) -> list[Mapping[str, Any]]:
    """Score rows of a training, from the object numbers of reference and prediction; None: the case failed."""
    rows: list[Mapping[str, Any]] = []
    run_key = RunKey(key.pop("dataset", "cells"), model, key.pop("fold", 0), key.pop("seed", 0))
    grid = Geometry.from_spacing((SIDE, SIDE), (1.0, 1.0), "px")
    for case, (reference, prediction) in cases.items():
        objects = Objects(of_numbers(reference), None if prediction is None else of_numbers(prediction))
        channels = None if objects.prediction is None else objects.prediction.channels
        made = (objects.reference.channels, channels, TABLE, grid)
        failure = "out of memory" if prediction is None else ""
        more = {"choice": choice, "objects": objects, "fingerprint": "f" * 64}
        rows += score_case(run_key, case, case, *made, failure, "ab" * 32, **more)
    return rows


def compared(tmp_path: Path, rows: Iterable[Mapping[str, Any]]) -> tuple[list[dict[str, str]], dict[str, Any]]:
    run([write_scores(tmp_path / "s.parquet", rows)], tmp_path / "out")
    return read_leaderboard(tmp_path / "out"), read_summary(tmp_path / "out")


def merged(numbers: np.ndarray) -> np.ndarray:
    """The same voxels as one object per row."""
    return np.where(numbers > 0, (numbers - 1) // 4 + 1, 0)


def eroded(numbers: np.ndarray) -> np.ndarray:
    """Every object without its last row: found, by a poor outline."""
    return np.where(np.roll(numbers, -1, 0) == numbers, numbers, 0)


def test_models_of_objects_are_ranked_by_panoptic_quality_and_those_of_classes_by_dice(tmp_path: Path) -> None:
    truth = {f"c{k}": cells(4 + k % 8, gap=0) for k in range(10)}
    rows = rows_of({case: (n, merged(n)) for case, n in truth.items()}, "whole")
    rows += rows_of({case: (n, eroded(n)) for case, n in truth.items()}, "apart")
    for model, dice in (("a", 0.9), ("b", 0.8)):
        rows += score_rows({f"c{k}": {"organ": counts_of(dice)} for k in range(10)}, dataset="organs", model=model)
    board, summary = compared(tmp_path, rows)
    assert [(r["dataset"], r["model"], r["ranked_by"]) for r in board] == [
        ("cells", "apart", "pq"),
        ("cells", "whole", "pq"),
        ("organs", "a", "dice"),
        ("organs", "b", "dice"),
    ]
    apart, whole, organ, _ = board
    # One object for a row of cells has the better Dice.
    assert float(whole["dice_subject"]) == 1.0 > float(apart["dice_subject"])
    assert float(apart["score_subject"]) == float(apart["pq_subject"]) == pytest.approx(0.75)
    # Only objects of a single cell are found.
    assert float(whole["pq_subject"]) < 0.3 < float(whole["merge_rate_subject"])
    # What was not computed is empty.
    assert (organ["pq_subject"], organ["ap50_pooled"], apart["ap75_subject"]) == ("", "", "")
    cell_pair, organ_pair = summary["pairs"]
    assert "in mean PQ, 95 % interval" in cell_pair["sentence"]
    assert "in mean Dice, 95 % interval" in organ_pair["sentence"]
    tested = {(r["dataset"], r["family"]) for r in summary["secondary"]}
    assert tested == {(d, f) for d in ("cells", "organs") for f in ("overlap", "surface")} | {("cells", "objects")}
    assert summary["definitions"]["score"].startswith("What models are ranked by. PQ (in data sets without it Dice)")
    table, organs = terminal_leaderboard(tmp_path / "out").split("\n\n")[:2]
    heading = table.splitlines()[2].split("  ")
    assert [h.strip() for h in heading if h.strip()][:7] == [
        "rank",
        "model",
        "PQ",
        "95 % interval",
        "AP@0.5",
        "mean AP",
        "Dice",
    ]
    assert "PQ" not in organs.splitlines()[2]


def test_objects_beside_change_no_number_of_classes(tmp_path: Path) -> None:
    truth = {f"c{k}": cells(4 + k % 8, gap=0) for k in range(10)}
    organs: list[Mapping[str, Any]] = []
    for model, gain in (("a", 0.1), ("b", 0.0)):
        cases = {f"c{k}": {"x": counts_of(0.7 + gain + k / 100), "y": (0, k % 2, k // 5)} for k in range(10)}
        organs += score_rows(cases, dataset="organs", model=model)
    alone, summary = compared(tmp_path, organs)
    beside, both = compared(tmp_path, organs + rows_of({case: (n, eroded(n)) for case, n in truth.items()}))
    assert alone == beside[1:]
    for part in ("rows", "pairs", "secondary", "winners", "tails"):
        assert summary[part] == [row for row in both[part] if row["dataset"] == "organs"]


def test_scores_of_summed_quantities_are_those_of_all_objects_together(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    cases: dict[str, Maps] = {}
    for k in range(6):
        truth = cells(3 + 2 * k)
        said = np.where(generator.random(truth.shape) < 0.25, 0, np.where(truth == 2, 1, truth))
        cases[f"c{k}"] = truth, said
    side_by_side = [
        np.concatenate([np.where(pair[side] > 0, pair[side] + 100 * k, 0) for k, pair in enumerate(cases.values())])
        for side in (0, 1)
    ]
    sums = object_quantities(Matching.of(*side_by_side))
    (board,), summary = compared(tmp_path, rows_of(cases, choice=ALL))
    pooled = {name for name, row in METRICS.items() if row.pooled and "objects" in row.needs}
    assert pooled >= {"ap50", "map", "map95", "pq", "sq", "rq", "aji", "aji_plus", "f1_50"}
    for name in pooled:
        assert float(board[f"{name}_pooled"]) == pytest.approx(resolve(METRICS[name].pooled)(sums), abs=1e-6)
    # An image of three cells weighs as much as one of thirteen in the mean over cases.
    assert board["ap50_pooled"] != board["ap50_case"]
    found = {(r["metric"], r["label"]): r for r in summary["rows"]}
    assert found["pq_pooled", "mean"]["mean"] == found["pq_pooled", "cell"]["mean"] == float(board["pq_pooled"])
    assert found["vi_merge_subject", "cell"]["unit"] == "bit"


def test_seeds_are_averaged_before_quantities_are_summed() -> None:
    truth = cells(4)
    rows = rows_of({"c1": (truth, truth)}, seed=0) + rows_of({"c1": (truth, np.where(truth == 1, 0, truth))}, seed=1)
    (block,) = blocks(of_frame(pd.DataFrame(rows)))
    assert block.counts["matched_50"].tolist() == [[3.5]]
    assert block.values["ap50"].tolist() == [[(1 + 3 / 4) / 2]]
    assert block.ranked == "pq"


def test_images_without_objects_count_in_the_score_and_in_nothing_else(tmp_path: Path) -> None:
    truth, nothing = cells(6), np.zeros((SIDE, SIDE), int)
    cases: dict[str, Maps] = {"found": (truth, truth), "missed": (truth, nothing)}
    cases |= {"left": (nothing, nothing), "invented": (nothing, truth)}
    (board,), summary = compared(tmp_path, rows_of(cases, choice=ALL))
    assert float(board["pq_case"]) == float(board["ap50_case"]) == 0.5
    assert float(board["merge_rate_case"]) == float(board["count_error_case"]) == 0.5
    assert float(board["score_subject"]) == (1 + 0 + 1 + 0) / 4
    assert (board["n_lacking"], board["n_missed"]) == ("2", "1")
    # Summed over cases, the invented objects are no objects of the reference, but objects.
    assert float(board["ap50_pooled"]) == pytest.approx(6 / (12 + 12 - 6))
    worst = {r["metric"]: r["mean"] for r in summary["rows"] if r["label"] == "cell"}
    assert worst["vi_merge_case"] == pytest.approx(math.log2(1 + 6 * 16) / 2, abs=1e-6)


def test_a_case_that_failed_or_is_not_there_has_the_worst_values(tmp_path: Path) -> None:
    truth = {f"c{k}": cells(6) for k in range(3)}
    whole = rows_of({case: (n, n) for case, n in truth.items()}, "whole", ALL)
    failed = rows_of({case: (n, None if case == "c2" else n) for case, n in truth.items()}, "failed", ALL)
    lacking = rows_of({case: (n, n) for case, n in truth.items() if case != "c2"}, "lacking", ALL)
    scores = rows_read(write_scores(tmp_path / "s.parquet", [*whole, *failed, *lacking]))
    rows = scores[scores["case"] == "c2"].pivot(index="model", columns="metric", values="value")
    assert rows.loc["failed"].to_dict() == rows.loc["lacking"].to_dict()
    for name, metric in METRICS.items():
        if name in rows:
            assert rows.loc["failed", name] == pytest.approx(metric.worst_of(math.hypot(SIDE, SIDE), 96))
    assert rows.loc["failed", ["n_objects_ref", "n_objects_pred", "matched_50", "pq_iou", "n_merged"]].tolist() == [
        6,
        0,
        0,
        0,
        0,
    ]
    assert rows.loc["failed", ["aji_intersection", "aji_union", "aji_plus_union"]].tolist() == [0, 96, 96]
    assert scores.loc[(scores["case"] == "c2") & (scores["model"] == "lacking"), "status"].str.startswith(FAILED).all()
    board, _ = compared(tmp_path, [*whole, *failed, *lacking])
    assert [(r["model"], r["pq_case"], r["pq_pooled"]) for r in board[1:]] == [
        (name, "0.666667", "0.8") for name in ("failed", "lacking")
    ]


@pytest.mark.parametrize("gone", ["matched_65", "n_objects_ref", "pq", "ap50"])
def test_a_case_without_a_row_of_its_objects_is_an_error(tmp_path: Path, gone: str) -> None:
    rows = rows_of({f"c{k}": (cells(3), cells(3)) for k in range(2)})
    short = [r for r in rows if (r["case"], r["metric"]) != ("c1", gone)]
    with pytest.raises(
        DataError, match=rf"cells/val/unet/0/0/c1/c1/cell lacks {gone}; every case needs dice, iou, pq, tp"
    ):
        read_scores([write_scores(tmp_path / "s.parquet", short)])


def test_quantities_of_objects_are_needed_by_all_or_none(tmp_path: Path) -> None:
    rows = rows_of({"c1": (cells(3), cells(3))})
    counted = [name for name, one in QUANTITIES.items() if "objects" in one.needs]
    with pytest.raises(DataError, match=r"lacks aji_intersection, aji_plus_intersection, .*, pq_tp; every case needs"):
        read_scores([write_scores(tmp_path / "s.parquet", [r for r in rows if r["metric"] not in counted])])
    without: Sequence[str] = [name for name, row in METRICS.items() if "objects" in row.needs]
    plain = [r for r in rows if r["metric"] not in [*counted, *without]]
    assert len(rows_read(write_scores(tmp_path / "s.parquet", plain))) == len(plain)


def test_values_out_of_bounds_are_refused(tmp_path: Path) -> None:
    rows = [dict(r) for r in rows_of({"c1": (cells(3), cells(3))}, choice=ALL)]
    next(r for r in rows if r["metric"] == "merge_rate")["value"] = 1.5
    with pytest.raises(DataError, match=r"c1/c1/cell/merge_rate has value 1\.5"):
        read_scores([write_scores(tmp_path / "s.parquet", rows)])


def test_the_summary_is_json_without_nan(tmp_path: Path) -> None:
    nothing = np.zeros((SIDE, SIDE), int)
    compared(tmp_path, rows_of({"c1": (nothing, nothing)}, choice=ALL))
    json.loads((tmp_path / "out" / "summary.json").read_text(), parse_constant=pytest.fail)
