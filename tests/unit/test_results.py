"""The layout of results: one spelling of every path, patterns and concrete paths from the same methods."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from medseg.errors import MedsegError
from medseg.predict.record import PredictedCase, Predictions, find_scored, read_predictions, write_predictions
from medseg.records import write_record
from medseg.results.folders import PredictionFolder, StoreFolder
from medseg.results.key import TEST, RunKey
from medseg.results.layout import layout, reserved_names, reserved_places
from medseg.results.paths import ANY, DATASET, GRID, JOBS, MODEL, SHARD, Results

ROOT = Path(__file__).resolve().parents[2]
KEY = RunKey("cells", "unet", 1, 7)
# Everything that belongs to the layout: names of files, and the names of folders made of fold and seed.
NAMES = re.compile(
    r"(^|/)(manifest\.tsv|test\.tsv|test\.json|splits\.json|index\.json|fingerprint\.json|model\.json|model\.safetensors"
    r"|history\.jsonl|timing\.json|predictions\.json|leaderboard\.csv|summary\.json|scores\.parquet|opened\.json"
    r"|store\.json|synced\.txt|config\.json|index\.html|download\.json|\.state|benchmarks|logs)(/|$)"
)
STAGES = {
    "ingest",
    "plan",
    "preprocess",
    "train",
    "predict",
    "postprocess",
    "evaluate",
    "compare",
    "report",
    "tracking",
}
# Who may spell one of these names, since it means another file.
ELSEWHERE = {
    "ingest/download.py": {"/.download.json", ".download.json"},
    "tracking/pages.py": {"report/index.html"},  # an artifact's name in MLflow
}


def test_layout_on_disk() -> None:
    results = Results(Path("results/tiny"))
    run = "fold1-seed7"
    assert results.ingest("cells").manifest == Path("results/tiny/cells/ingest/manifest.tsv")
    assert results.plan("cells").plan("unet") == Path("results/tiny/cells/plan/unet.json")
    assert results.store("cells", "default").shard("0-of-3").name == "shard-0-of-3.json"
    assert results.model(KEY).weights == Path(f"results/tiny/cells/train/unet/{run}/model.safetensors")
    assert results.scores(KEY) == Path(f"results/tiny/cells/evaluate/unet/{run}.parquet")
    assert results.scores_shard(KEY, "0-of-3") == results.scores(KEY).parent / f"{run}-shards" / "shard-0-of-3.parquet"
    assert results.state(KEY) == Path(f"results/tiny/.state/cells/unet/{run}")
    assert results.log("train") == Path("results/tiny/logs/{dataset}/train/{model}-fold{fold}-seed{seed}.log")
    assert results.log("phantoms", "cells") == Path("results/tiny/logs/cells/phantoms.log")


def test_results_of_test_cases_lie_apart_and_their_model_is_the_same() -> None:
    results, test = Results(Path("r")), RunKey("cells", "unet", 1, 7, TEST)
    assert results.model(test) == results.model(KEY)
    assert results.predict(test).record == Path("r/test/cells/predict/unet/fold1-seed7/predictions.json")
    assert results.scores(test) == Path("r/test/cells/evaluate/unet/fold1-seed7.parquet")


def test_a_pattern_with_names_put_in_is_the_path() -> None:
    results = Results(Path("r"))
    names = {
        "dataset": KEY.dataset,
        "model": KEY.model,
        "fold": KEY.fold,
        "seed": KEY.seed,
        "grid": "g",
        "shard": "0-of-2",
    }
    for pattern, path in [
        (results.model(ANY).description, results.model(KEY).description),
        (results.predict(ANY).shard(SHARD), results.predict(KEY).shard("0-of-2")),
        (results.scores(ANY), results.scores(KEY)),
        (results.store(DATASET, GRID).index, results.store("cells", "g").index),
        (results.plan(DATASET).plan(MODEL), results.plan("cells").plan("unet")),
        (results.state(ANY), results.state(KEY)),
    ]:
        assert str(pattern).format(**names) == str(path)


def test_no_two_files_share_a_path_and_every_rule_has_a_log_of_its_own() -> None:
    paths = layout()
    assert len(set(paths)) == len(paths)
    assert len(set(JOBS.values())) == len(JOBS)


def test_names_that_the_layout_leaves_no_room_for() -> None:
    reserved = reserved_names()
    taken = ["config.json", "compare", "report", "tracking", "logs", "benchmarks", "test", "weights", "compare.log"]
    assert all(reserved["dataset"].fullmatch(name) for name in [*taken, "Compare", "CONFIG.json"])
    assert reserved["model"].fullmatch("fingerprint")
    assert not any(reserved["dataset"].fullmatch(name) for name in ("cells", "fingerprint", "compare2", "config"))
    assert not any(reserved["model"].fullmatch(name) for name in ("unet", "compare", "test"))


def test_the_layout_has_room_for_every_case() -> None:
    assert reserved_places()["case"] == {}
    names = {StoreFolder(Path()).case(case).name for case in ("index.json", "shard-0-of-4.json", "index", "a.case")}
    assert not names & {"index.json", "shard-0-of-4.json"} and len(names) == 4


def test_models_are_found_by_their_description(tmp_path: Path) -> None:
    results = Results(tmp_path)
    for key in (KEY, RunKey("organs", "unet", 0, 0)):
        results.model(key).folder.mkdir(parents=True)
        results.model(key).description.write_text("{}")
    results.model(RunKey("cells", "unet", 2, 0)).folder.mkdir(parents=True)
    assert [m.folder.name for m in results.models()] == ["fold1-seed7", "fold0-seed0"]
    assert results.models("cells") == [results.model(KEY)]


def spelled(tree: ast.Module) -> list[str]:
    """Literals outside docstrings that name a path of the layout, or make the name of a run's folder."""
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs:
            if NAMES.search(node.value) and not re.search(r"\s", node.value):
                found.append(node.value)
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and isinstance(node.right, ast.Constant):
            if node.right.value in STAGES:
                found.append(f"/ {node.right.value}")
        elif isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "{}" for part in node.values]
            if re.search(r"(^|/)fold\{\}-seed\{\}", "".join(str(part) for part in parts)):
                found.append("".join(str(part) for part in parts))
    return found


def test_nobody_else_spells_the_layout() -> None:
    package, wrong = ROOT / "medseg", []
    for path in sorted(package.rglob("*.py")):
        name = str(path.relative_to(package))
        if not name.startswith("results/"):
            allowed = ELSEWHERE.get(name, set())
            wrong += [f"{name}: {text}" for text in spelled(ast.parse(path.read_text())) if text not in allowed]
    assert not wrong


def test_no_rule_spells_the_layout() -> None:
    for path in [*sorted((ROOT / "workflow").rglob("*.smk")), ROOT / "workflow" / "Snakefile"]:
        words = re.findall(r"\"([^\"]*)\"", re.sub(r"#.*", "", path.read_text()))
        assert not [word for word in words if NAMES.search(word) or "fold{" in word], path.name


def test_the_layout_imports_nothing_but_the_standard_library() -> None:
    script = (
        "import sys, medseg.results.layout; "
        "print([m for m in sys.modules if m.split('.')[0] in ('numpy', 'pandas', 'torch', 'pydantic', 'yaml')])"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout.strip() == "[]"


# predictions.json


def predictions(folder: Path, **digests: str) -> Predictions:
    cases = {case: PredictedCase(f"{case}.png", digest) for case, digest in digests.items()}
    return Predictions(folder, KEY, "ef" * 32, "ab" * 32, True, cases)


def test_predictions_come_back_as_they_were_written(tmp_path: Path) -> None:
    soft = {"file": "a.b2nd", "sha256": "cd"}
    cases = {"a": PredictedCase("a.png", "12", probabilities=soft), "b": PredictedCase(failed="not finite")}
    for done in (None, {"min_size": 5}):
        made = Predictions(tmp_path, RunKey("cells", "unet", 1, 7, TEST), "ef" * 32, "ab" * 32, None, cases, done)
        write_predictions(made)
        assert read_predictions(PredictionFolder(tmp_path).record) == made


@pytest.mark.parametrize("text", ['{"cases": {}}', "[]", '{"dataset": "d", "cases": 1}', "{"])
def test_a_damaged_record_is_an_error_that_names_it(tmp_path: Path, text: str) -> None:
    path = PredictionFolder(tmp_path).record
    path.write_text(text)
    with pytest.raises(MedsegError, match=r"predictions\.json: .*run `medseg predict` again"):
        read_predictions(path)


def test_a_record_of_another_version_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = PredictionFolder(tmp_path).record
    for facts in ({"cases": {}}, {"dataset": "d", "cases": 1}):
        write_record(path, facts)
        with pytest.raises(MedsegError, match=r"predictions\.json: not as this version of medseg writes it"):
            read_predictions(path)


def test_what_is_shown_is_what_was_scored(tmp_path: Path) -> None:
    for name, digest in (("one", "1"), ("two", "2")):
        write_predictions(predictions(tmp_path / name, a=digest))
    folders = [PredictionFolder(tmp_path / name) for name in ("absent", "one", "two")]
    assert find_scored(folders, {"a": "2"}).folder == tmp_path / "two"
    assert find_scored(folders, {"a": "1"}).folder == tmp_path / "one"
    for scored in ({"a": "3"}, {"z": "1"}):
        with pytest.raises(MedsegError, match="are those that were scored"):
            find_scored(folders, scored)
