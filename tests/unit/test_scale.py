"""Scaling laws: fits recover laws, walls are their arithmetic, made-up cases are functions of their number."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def scale() -> Any:
    """``benchmarks/scale.py``, which finds the scripts beside it when it is run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        import scale

        return scale


def test_a_fit_is_the_law_that_made_the_numbers(scale: Any) -> None:
    sizes = [10, 20, 50, 100]
    assert scale.fit(sizes, [3 + 0.25 * n for n in sizes]) == {"start": 3.0, "each": 0.25, "r2": 1.0}
    assert scale.at(scale.fit(sizes, [1 + 0.5 * n for n in sizes]), 1000) == pytest.approx(501)
    # What does not vary is explained; what no line explains is not.
    assert scale.fit(sizes, [7.0] * 4) == {"start": 7.0, "each": 0.0, "r2": 1.0}
    assert scale.fit([1, 2, 3, 4], [0.0, 1.0, 1.0, 0.0])["r2"] == pytest.approx(0, abs=1e-9)


def test_walls_are_sums_of_laws(scale: Any) -> None:
    def law(start: float, each: float) -> dict[str, Any]:
        return {"laws": {kind: {"start": start, "each": each} for kind in ("cpu_s", "files")}}

    pictures = {name: law(2.0, 0.01) for name in ("ingest", "fingerprint", "preprocess", "train", "evaluate")}
    whole = {"study": law(50.0, 20.0)}
    starts = {"planned": {"dry run": law(2.0, 0.01)}, "listed": {"start": law(0.1, 1e-4)}}
    plan = {"cases": 1000, "trainings": 100, "nodes": 10, "folds": 5}
    found = scale.walls({"pictures": pictures, "trainings": whole, **starts}, plan)
    assert found["data_set_cpu_s"] == 3 * 12
    assert found["training_overhead_cpu_s"] == 20 + 10 + 10
    assert found["trainings_overhead_min_per_node"] == round(100 * 40 / 10 / 60, 1)
    assert found["trainings_overhead_cpu_h"] == round(100 * 40 / 3600, 1)
    # A training of 30 pictures predicts 6 of them, two files each; of 1,000 it predicts 200.
    assert found["files_per_training"] == 20 + 2 * (200 - 6)
    assert found["files"] == found["store_files"] + 100 * found["files_per_training"] == 12 + 100 * 408
    assert found["dry_run_cpu_s"] == 3
    assert found["looking_cpu_s"] == round(1e-4 * 100 * 408)


def test_a_command_is_counted_with_what_it_leaves(scale: Any, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x").write_bytes(bytes(10_000))
    text = "import os; os.mkdir('a'); open('a/b', 'wb').write(bytes(50_000)); [os.write(1, b'.') for _ in range(500)]"
    found = scale.counted([sys.executable, "-c", text], tmp_path)
    assert found["cpu_s"] > 0 and found["rss_mb"] > 1
    assert 501 <= found["calls"] < 2000
    # The log is ours.
    assert found["files"] == 3 and 0.05 <= found["mb"] < 0.1
    assert scale.left_in(tmp_path)[0] == 3
    with pytest.raises(SystemExit, match="no such thing"):
        scale.counted([sys.executable, "-c", "raise SystemExit('no such thing')"], tmp_path)


def test_made_up_cases_are_functions_of_their_number(scale: Any, tmp_path: Path) -> None:
    for write in (scale.write_pictures, scale.write_volumes):
        write(tmp_path / "all", range(3))
        write(tmp_path / "one", range(2, 3))
    names = [p.relative_to(tmp_path / "one") for p in (tmp_path / "one").rglob("*") if p.is_file()]
    assert len(names) == 5
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "all" / name).read_bytes()
    pictures = {path.read_bytes() for path in (tmp_path / "all" / "images").iterdir()}
    assert len(pictures) == 3


def test_the_results_are_of_all_stages_and_fit(scale: Any) -> None:
    """Of what is written down: every stage has its law, and what grows is explained by it."""
    from medseg.files import read_json

    found = read_json(ROOT / "benchmarks/results/scale.json")
    for name in scale.DATA:
        assert list(found[name]) == list(scale.stages(name))
        assert found[name]["preprocess"]["laws"]["files"]["each"] == 1
        assert found[name]["preprocess"]["laws"]["files"]["r2"] == 1
        assert all(len(stage["measured"]) >= 3 for stage in found[name].values())
    assert found["walls"] == {"of": dict(scale.STUDY), **scale.walls(found)}
    page = (ROOT / "docs/scale.md").read_text()
    assert [line for line in scale.tables(found) if line not in page] == []
