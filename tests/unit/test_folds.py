"""Folds of the user's own (LB-14), schemes that refuse, and where the configuration names a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from medseg.config import Config, FoldsConfig
from medseg.errors import ConfigError, DatasetFaults
from medseg.ingest.folds import FoldCase, make_folds
from medseg.ingest.own_folds import own_folds
from medseg.ingest.phantoms import generate
from medseg.ingest.run import check, run
from medseg.ingest.splits import read_split

SUBJECTS = {"a1": "a", "a2": "a", "b": "b", "c": "c", "d": "d"}
SOUND = [{"train": ["b", "c", "d"], "val": ["a2", "a1"]}, {"train": ["a1", "a2", "b"], "val": ["d", "c"]}]


def causes(content: Any, tmp_path: Path, name: str = "own.json", subjects: dict[str, str] = SUBJECTS) -> list[str]:
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    folds, faults = own_folds(path, name, subjects)
    assert all((f.code, f.case, f.file) == ("splits", "-", name) for f in faults)
    assert faults or folds
    return [f.cause for f in faults]


@pytest.mark.parametrize("wrapped", [False, True])
def test_either_form_of_json(wrapped: bool, tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    path.write_text(json.dumps({"folds": SOUND, "seed": 1} if wrapped else SOUND))
    folds, faults = own_folds(path, "own.json", SUBJECTS)
    assert faults == []
    assert folds == [{"train": ["b", "c", "d"], "val": ["a1", "a2"]}, {"train": ["a1", "a2", "b"], "val": ["c", "d"]}]


@pytest.mark.parametrize(("name", "separator"), [("own.tsv", "\t"), ("own.csv", ","), ("excel.csv", ";")])
def test_a_table(name: str, separator: str, tmp_path: Path) -> None:
    rows = [("case", "fold", "note"), ("a1", "0", ""), ("a2", "0", "x"), ("b", "1", ""), ("c", "1", ""), ("d", "0", "")]
    path = tmp_path / name
    path.write_text("\n".join(separator.join(row) for row in rows))
    folds, faults = own_folds(path, name, SUBJECTS)
    assert faults == []
    assert folds == [{"train": ["b", "c"], "val": ["a1", "a2", "d"]}, {"train": ["a1", "a2", "d"], "val": ["b", "c"]}]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([{"train": ["b", "x", "y"], "val": ["c"]}], ["x, y not in the data set"]),
        ([{"train": ["b", "c"], "val": ["c"]}], ["c in both 'train' and 'val'"]),
        ([{"train": ["b", "b"], "val": ["c"]}], ["b twice in 'train'"]),
        ([{"train": ["a1", "b"], "val": ["a2"]}], ["1 subjects on both sides, first a (a1 in 'train', a2 in 'val')"]),
        ([{"train": [], "val": ["c"]}], ["no case in 'train'"]),
        ([{"train": ["b"], "val": []}], ["no case in 'val'"]),
        ([{"train": ["b"], "val": "c"}], ["fold 0 has no list of case ids 'val'"]),
        ([{"train": ["b"], "val": [3]}], ["fold 0 has no list of case ids 'val'"]),
        ([{"train": ["b"]}], ["fold 0 has no list of case ids 'val'"]),
        ([["b"]], ["fold 0 has no list"]),
        ([], ["no folds"]),
        ({"fold": []}, ["no list of folds"]),
        ("{", ["no JSON"]),
        (
            [{"train": ["a1", "b", "b"], "val": ["a2", "z"]}, {"train": ["c"], "val": ["c"]}],
            ["fold 0: z not in", "fold 0: b twice", "fold 0: 1 subjects on both sides", "fold 1: c in both"],
        ),
    ],
)
def test_everything_wrong_with_a_file_is_told_at_once(content: Any, words: list[str], tmp_path: Path) -> None:
    told = causes(content, tmp_path)
    assert len(told) == len(words)
    for cause, word in zip(told, words, strict=True):
        assert word in cause


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("case,fold\na1,0\na2,0\nb,1\nc,1\n", "no fold for d"),
        ("case,fold\na1,0\na2,0\nb,1\nc,1\nd,\n", "case d: fold ''"),
        ("case,fold\na1,0\na2,0\nb,1\nc,1\nd,-1\n", "case d: fold '-1'"),
        ("case,fold\na1,0\na2,0\nb,1\nc,1\nd,9\n", "a fold 9 for 5 cases"),
        ("case,fold\na1,0\na2,0\nb,2\nc,2\nd,0\n", "fold 1: no case in 'val'"),
        ("case,fold\na1,0\na2,1\nb,0\nc,1\nd,0\n", "subjects on both sides"),
        ("case,fold\na1,0\na2,0\nb,1\nc,1\nd,0\nx,1\n", "x not in the data set"),
        ("case,fold\na1,0\na2,0\nb,1\nc,1\nd,0\nd,1\n", "d in both"),
        ("case,part\na1,0\n", "no column 'fold'"),
        ("", "empty"),
    ],
)
def test_what_is_wrong_with_a_table(content: str, words: str, tmp_path: Path) -> None:
    told = causes(content, tmp_path, "own.csv")
    assert any(words in cause for cause in told), told


def test_a_missing_file_and_ids_whose_faults_are_told_elsewhere(tmp_path: Path) -> None:
    assert "cannot be read" in own_folds(tmp_path / "no.json", "no.json", SUBJECTS)[1][0].cause
    assert "cannot be read" in own_folds(tmp_path / "no.tsv", "no.tsv", SUBJECTS)[1][0].cause
    path = tmp_path / "own.json"
    path.write_text(json.dumps([{"train": ["b", "x"], "val": ["c", "y"]}]))
    assert "y not in" in own_folds(path, "own.json", SUBJECTS, {"x"})[1][0].cause
    assert own_folds(path, "own.json", SUBJECTS, {"x", "y"})[1] == []


# Schemes that do not fit the cases


@pytest.mark.parametrize(
    ("members", "folds", "words"),
    [
        (
            [FoldCase("a1", "a"), FoldCase("a2", "a"), FoldCase("b", "b")],
            {"scheme": "nnunet", "count": 2},
            r"'a' \(a1, a2\)",
        ),
        ([FoldCase("a", "a"), FoldCase("b", "b")], {"scheme": "site"}, "2 of 2 cases have none"),
        ([FoldCase("a", "a", "n"), FoldCase("b", "b")], {"scheme": "site"}, "1 of 2 cases have none"),
        ([FoldCase("a", "a", "n"), FoldCase("b", "b", "n")], {"scheme": "site"}, "two sites, there is n"),
        (
            [FoldCase("a", "s", "n"), FoldCase("b", "s", "w")],
            {"scheme": "site"},
            "'s' on both sides, it was at n and w",
        ),
        ([FoldCase("a", "a", "n"), FoldCase("b", "b", "w")], {"scheme": "site", "run": [2]}, "fold 2 of 2"),
        ([FoldCase("a", "a"), FoldCase("b", "b")], {"count": 3}, "3 folds need 3 subjects, there are 2"),
    ],
)
def test_a_scheme_that_does_not_fit(members: list[FoldCase], folds: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_folds(members, FoldsConfig.model_validate(folds))


def test_run_is_checked_where_the_number_of_folds_is_known() -> None:
    with pytest.raises(ValueError, match="distinct: numbers from 0 to 4, or all"):
        FoldsConfig.model_validate({"run": [5]})
    for wrong in ([], [0, 0]):
        with pytest.raises(ValueError, match="distinct: numbers"):
            FoldsConfig.model_validate({"run": wrong, "scheme": "site"})
    assert FoldsConfig.model_validate({"run": [7], "scheme": "site"}).run == [7]


# In the stage


def config(root: Path, folds: dict[str, Any], **section: Any) -> Config:
    cells = {"layout": "pairs", "path": "data", "labels": {"cell": 1}, "instances": True, **section}
    return Config.model_validate(
        {
            "experiment": "test",
            "data_root": str(root),
            "datasets": {"data": cells},
            "models": {"unet": {"network": "unet"}},
            "folds": folds,
            "budget": {"steps": 1},
        }
    )


def test_the_file_of_the_data_set_comes_before_the_one_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate("cells", 4, 0, tmp_path / "data")
    ids = [f"cells_{k:03d}" for k in range(4)]
    first = [{"train": ids[:1], "val": ids[1:]}]
    second = [{"train": ids[:3], "val": ids[3:]}]
    third = [{"train": ids[:2], "val": ids[2:]}]
    (tmp_path / "all.json").write_text(json.dumps(first))
    (tmp_path / "own.json").write_text(json.dumps(second))
    monkeypatch.chdir(tmp_path)

    def val(folds: dict[str, Any], **section: Any) -> list[str]:
        run(config(tmp_path, folds, **section), "data", tmp_path / "out")
        assert json.loads((tmp_path / "out" / "splits.json").read_text())["scheme"] == "file"
        return read_split(tmp_path / "out" / "splits.json", 0)[1]

    assert val({"file": "all.json"}) == ids[1:]
    assert val({"file": "all.json"}, splits="own.json") == ids[3:]
    # One in the data set's folder comes before one of this name in the working folder.
    (tmp_path / "data" / "own.json").write_text(json.dumps(third))
    assert val({"file": "all.json"}, splits="own.json") == ids[2:]
    with pytest.raises(ConfigError, match="fold 3 of 1"):
        check(config(tmp_path, {"file": "all.json", "run": [3]}), "data")


def test_faults_of_files_and_of_folds_are_told_together(tmp_path: Path) -> None:
    generate("cells", 4, 0, tmp_path / "data")
    (tmp_path / "data" / "masks" / "cells_001.png").unlink()
    fold = {"train": ["cells_000", "cells_001"], "val": ["cells_002", "ghost"]}
    (tmp_path / "data" / "own.json").write_text(json.dumps([fold]))
    with pytest.raises(DatasetFaults) as caught:
        check(config(tmp_path, {"file": "own.json"}), "data")
    assert [f.code for f in caught.value.faults] == ["image-without-label", "splits"]
    assert caught.value.faults[1].cause == "fold 0: ghost not in the data set"
    # A case that is left out because its fault is allowed is no case any more.
    with pytest.raises(DatasetFaults, match="cells_001, ghost not in the data set"):
        check(config(tmp_path, {"file": "own.json"}, allow=["image-without-label"]), "data")


def test_one_fold_of_the_user_s_own(tmp_path: Path) -> None:
    """`count: 1` says that the file has one; without a file there would be nothing to validate on."""
    generate("cells", 4, 0, tmp_path / "data")
    ids = [f"cells_{k:03d}" for k in range(4)]
    (tmp_path / "data" / "mine.json").write_text(json.dumps([{"train": ids[:3], "val": ids[3:]}]))
    one = {"count": 1, "run": [0]}
    with pytest.raises(ValueError, match=r"folds.count: 1 fold of data would leave no case to validate on"):
        config(tmp_path, one)
    run(config(tmp_path, one, splits="mine.json"), "data", tmp_path / "out")
    assert read_split(tmp_path / "out" / "splits.json", 0) == (ids[:3], ids[3:])
    run(config(tmp_path, {**one, "file": "mine.json"}), "data", tmp_path / "out")
