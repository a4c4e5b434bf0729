"""Names and folders of a configuration: each has a place of its own, or is refused when the configuration is read."""

from __future__ import annotations

import itertools
import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from medseg import workflow
from medseg.cli.commands import app
from medseg.config import load_config
from medseg.errors import ConfigError
from medseg.files import SAFE_NAME
from medseg.places import read_study, source_of
from medseg.results.key import TEST
from medseg.results.layout import VALUES, layout, reserved_places
from medseg.results.paths import ANY, SHARD, Results
from medseg.slices import dataset_slice

MADE = {"kind": "cells"}


def study(**changes: Any) -> dict[str, Any]:
    value: dict[str, Any] = {
        "experiment": "study",
        "datasets": {"d": {"path": "p"}},
        "models": {"m": {"network": "unet"}},
        "budget": {"steps": 3},
    }
    return {**value, **changes}


def said(value: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_study([], value)
    return str(caught.value).splitlines()


def datasets(*names: str) -> dict[str, Any]:
    return study(datasets={name: {"path": f"p{place}"} for place, name in enumerate(names)})


def models(*names: str) -> dict[str, Any]:
    return study(models={name: {"network": "unet"} for name in names})


# Names


@pytest.mark.parametrize(
    ("value", "name", "why"),
    [
        (datasets("config.json"), "config.json", "the folder of results uses itself"),
        (datasets("compare"), "compare", "the folder of results uses itself"),
        (datasets("d", "Logs"), "Logs", "the folder of results uses itself"),
        (datasets("compare.log"), "compare.log", "the folder of results uses itself"),
        (models("fingerprint"), "fingerprint", "the folder of results uses itself"),
        (models("m", "Fingerprint"), "Fingerprint", "the folder of results uses itself"),
        (
            datasets("d", "D"),
            "d and D",
            "one folder where upper and lower case are (macOS, Windows), and results are copied",
        ),
        (models("unet", "other", "UNet"), "unet and UNet", "one folder where upper and lower case are"),
        (datasets("aux"), "aux", "Windows"),
        (models("COM1.v2"), "COM1.v2", "Windows"),
        (models("m."), "m.", "Windows"),
        (study(experiment="nul"), "nul", "Windows"),
    ],
)
def test_a_name_that_takes_a_place_is_refused_with_the_reason(value: dict[str, Any], name: str, why: str) -> None:
    (line,) = said(value)
    assert re.match(rf"(datasets|models|experiment): {re.escape(name)} (is|are) ", line)
    assert why in line
    assert "choose another name" in line or "rename one" in line


@pytest.mark.parametrize(
    "name", ["..", ".", ".state", "", "a/b", "a\\b", "a b", "a ", "a:", "-x", "é", "x" * 65, "a,b", "a+b", "a\n"]
)
def test_names_with_a_meaning_for_disks_are_refused_for_everything(name: str) -> None:
    for value in (datasets(name), models(name), study(experiment=name)):
        with pytest.raises(ConfigError, match="should match pattern"):
            load_config([], value)


def test_the_path_that_a_name_collides_with_is_named() -> None:
    for value, place in (
        (datasets("Test"), "(test)"),
        (datasets("compare.log"), "(logs/compare.log)"),
        (models("fingerprint"), "({dataset}/plan/fingerprint.json)"),
    ):
        (line,) = said(value)
        assert place in line


def test_the_page_for_users_lists_all_names_that_are_taken() -> None:
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text()
    _, of_datasets, of_models = re.split(
        r"For a data set:|For a model:", page.partition("## Names")[2].split("- names")[1]
    )
    for text, kind in ((of_datasets, "dataset"), (of_models, "model")):
        names = {re.sub(r"\\(.)", r"\1", name) for name in reserved_places()[kind]}
        assert set(re.findall(r"`([^`]+)`", text)) == {name for name in names if SAFE_NAME.fullmatch(name)}


def test_names_that_resemble_reserved_ones_are_accepted() -> None:
    value = datasets("fingerprint", "compare2", "config", "consul", "train", "fold0-seed0", "com10")
    assert len(read_study([], value).datasets) == 7
    assert len(read_study([], models("compare", "test", "index.json", "auxiliary", "m.v1")).models) == 5


def test_a_workflow_and_a_stage_by_hand_refuse_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.json").write_text(json.dumps(datasets("compare", "logs")))
    with pytest.raises(SystemExit) as caught:
        workflow.read_config([Path("c.json")], {})
    assert caught.value.code == 2
    printed = capsys.readouterr().err
    assert [line.split(" ")[:2] for line in printed.splitlines()] == [["datasets:", "compare"], ["datasets:", "logs"]]
    for words in (
        ["ingest", "--dataset", "logs", "--check"],
        ["download", "--dataset", "logs"],
        ["phantoms", "--dataset", "logs"],
        ["fingerprint", "--manifest", "m", "--out", "o"],
        ["plan", "--model", "m", "--fingerprint", "f", "--out", "o"],
        ["preprocess", "--model", "m", "--manifest", "m", "--fingerprint", "f", "--out", "o"],
        ["weights", "--model", "m", "--out", "o"],
        ["predict", "--model", "m", "--manifest", "m", "--splits", "s", "--fold", "0", "--out", "o"],
        ["postprocess", "--manifest", "m", "--predictions", "p", "--out", "o"],
        ["evaluate", "--manifest", "m", "--predictions", "p", "--out", "o"],
        ["report", "--results", "r", "--out", "o"],
        ["test", "--results", "r"],
        ["track", "init", "--out", "o"],
    ):
        done = CliRunner().invoke(app, [*words, "--config", "c.json"])
        assert isinstance(done.exception, ConfigError), (words, done.exception, done.output)
        assert str(done.exception) == printed.strip(), words
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.json"]


# Folders


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("p", "p"),
        ("p", "./p"),
        ("p", "q/../p"),
        ("p", "p/"),
        ("p", "p/inner"),
        ("p/inner", "p"),
        ("p", "link"),
        ("p", "link/inner"),
        ("p", "ABSOLUTE/p"),
    ],
)
@pytest.mark.parametrize("other", [{}, {"generate": MADE}, {"download": {"url": "https://example.org/a.zip"}}])
def test_a_set_that_is_made_shares_no_folder(
    first: str, second: str, other: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "p").mkdir(parents=True)
    (tmp_path / "data" / "link").symlink_to("p")
    second = second.replace("ABSOLUTE", str(tmp_path / "data"))
    sets = {"made": {"path": first, "generate": MADE}, "apart": {"path": "elsewhere"}, "two": {"path": second, **other}}
    for order in itertools.permutations(sets):
        (line,) = said(study(datasets={name: sets[name] for name in order}))
        assert "made" in line and "two" in line and "apart" not in line
        assert f"path {first}" in line and f"path {second}" in line
    # Real ones may: they are only read.
    assert read_study([], study(datasets={"a": {"path": first}, "b": {"path": second}}))


ARCHIVE, OTHER = ({"url": f"https://example.org/{name}.zip"} for name in "ab")


@pytest.mark.parametrize(
    ("one", "two", "why"),
    [
        ({"path": "p", "download": ARCHIVE}, {"path": "p", "download": ARCHIVE}, None),
        ({"path": "p", "download": ARCHIVE}, {"path": "link", "download": ARCHIVE}, None),
        ({"path": "p", "download": ARCHIVE}, {"path": "p"}, None),
        ({"path": "p", "download": ARCHIVE}, {"path": "link/inner"}, None),
        ({"path": "p", "download": ARCHIVE}, {"path": "p", "download": OTHER}, "give both the same `download`"),
        ({"path": "p", "download": ARCHIVE}, {"path": "p/inner", "download": ARCHIVE}, "no `download`"),
        ({"path": "p", "download": ARCHIVE}, {"path": "p/inner", "download": OTHER}, "no `download`"),
        ({"path": "p/inner", "download": ARCHIVE}, {"path": "p"}, "one is downloaded into its own"),
        ({"path": "p", "download": ARCHIVE}, {"path": "p", "generate": MADE}, "two is generated into its own"),
        ({"path": "p", "generate": MADE}, {"path": "p/inner", "download": ARCHIVE}, "one is generated into its own"),
    ],
)
def test_one_download_can_be_read_as_several_data_sets(
    one: dict[str, Any], two: dict[str, Any], why: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "p").mkdir(parents=True)
    (tmp_path / "data" / "link").symlink_to("p")
    # Among others that share a folder rightly.
    sets = {"one": one, "two": two, "read": {"path": "q"}, "again": {"path": "q"}, "apart": {"path": "p2"}}
    for order in itertools.permutations(sets):
        value = study(datasets={name: sets[name] for name in order})
        if why is not None:
            (line,) = said(value)
            assert why in line and "one (path" in line and "two (path" in line
            continue
        config = read_study([], value)
        assert source_of(config, "one") == "one"
        assert source_of(config, "two") == ("two" if "download" in two else "one")
        assert source_of(config, "read") is None and source_of(config, "apart") is None


def test_of_three_on_one_folder_the_one_that_downloads_another_archive_is_refused() -> None:
    sets = {"a": {"path": "p", "download": ARCHIVE}, "b": {"path": "p"}, "c": {"path": "p", "download": OTHER}}
    for order in itertools.permutations(sets):
        (line,) = said(study(datasets={name: sets[name] for name in order}))
        assert "a (path p)" in line and "c (path p)" in line


def test_what_ingest_depends_on_is_the_same_before_and_after_another_ones_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    config = read_study([], study(datasets={"a": {"path": "p", "download": ARCHIVE}, "b": {"path": "p/inner"}}))
    before = dataset_slice(config, "b")
    (tmp_path / "data" / "p" / "inner").mkdir(parents=True)
    (tmp_path / "data" / "p" / "inner" / "file").touch()
    assert dataset_slice(config, "b") == before


def test_folders_beside_one_another_are_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sets = {f"s{place}": {"path": path, "generate": MADE} for place, path in enumerate(["p", "p2", "p-3", "q/p", "pp"])}
    assert read_study([], study(datasets=sets))


@pytest.mark.parametrize(
    ("changes", "made", "why"),
    [
        ({"data_root": "results"}, False, None),
        ({"data_root": "results", "path": "study"}, False, "is among the results"),
        ({"data_root": ".", "path": "results/study/d/predict"}, False, "is among the results"),
        ({"data_root": "data", "path": "../results/study"}, False, "is among the results"),
        ({"data_root": ".", "path": "link"}, False, "is among the results"),
        ({"data_root": ".", "path": "."}, False, None),
        ({"data_root": ".", "path": "."}, True, "lies around the results"),
        ({"data_root": ".", "path": "results"}, True, "lies around the results"),
        ({"data_root": ".", "path": "results/other"}, True, None),
        ({"data_root": ".", "results": ".", "path": "study"}, False, "is among the results"),
        ({"results": "data", "experiment": "p"}, False, "is among the results"),
    ],
)
def test_results_and_data_lie_apart(
    changes: dict[str, str], made: bool, why: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.symlink("results/study", tmp_path / "link")
    path = changes.get("path", "p")
    section = {"path": path, **({"generate": MADE} if made else {})}
    rest = {name: value for name, value in changes.items() if name != "path"}
    value = study(datasets={"d": section}, **rest)
    if why is None:
        assert read_study([], value)
    else:
        (line,) = said(value)
        assert line.startswith("datasets.d.path: ") and why in line


@pytest.mark.parametrize("changes", [{"results": ".", "experiment": "mlflow.db"}, {"results": "f"}, {"results": "r"}])
def test_results_do_not_take_the_place_of_a_file(
    changes: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f").write_text("")
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "study").write_text("")
    (line,) = said(study(**changes))
    assert line.startswith("experiment: ") and "place of a file" in line


# The whole layout

ODD = [
    *("a", "b", "a-b", "b-c", "a-fold0-seed0", "fold0-seed0", "fold0-seed0-shards", "shard-0-of-2", "index"),
    *("index.json", "config", "train", "predict", "plan", "test.x", "m-shard-0-of-2", "default", "grid-00000000"),
    *("a.json", "a.log", "shard-0-of-2.parquet", "a-fold0-seed0-shard-0-of-2", "fingerprint", "model.json"),
    *("overlay", "dark", "a.parquet", "predictions.json", "state.safetensors"),
]
# Always among them: names of equal pieces, whose border a join would lose ("a" and "a-a" would be "a-a" and "a").
NAMES = st.one_of(st.sampled_from(ODD), st.from_regex(r"\A[a-c0][a-c0._-]{0,4}[a-c0]\Z"))
SOME_NAMES = st.lists(NAMES, max_size=2).map(lambda more: list({name.lower(): name for name in ["a", "a-a", *more]}))
NUMBERS = st.integers(0, 12)


def legal(names: dict[str, list[str]]) -> bool:
    value = study(
        datasets={name: {"path": f"p/{name}"} for name in names["dataset"]},
        models={name: {"network": "unet"} for name in names["model"]},
    )
    try:
        read_study([], value)
    except ConfigError:
        return False
    return True


@settings(max_examples=25, deadline=None)
@given(
    names=st.fixed_dictionaries({"dataset": SOME_NAMES, "model": SOME_NAMES, "case": SOME_NAMES}),
    numbers=st.lists(NUMBERS, min_size=2, max_size=2, unique=True),
)
def test_no_two_results_have_one_path_and_none_lies_below_a_file_of_another(
    names: dict[str, list[str]], numbers: list[int]
) -> None:
    assume(legal(names))
    values: dict[str, list[Any]] = {
        **names,
        "fold": numbers,
        "seed": numbers,
        "grid": ["default", "grid-00000000"],
        "shard": ["0-of-2", "1-of-2", "1-of-20"],
    }
    assert values.keys() == VALUES.keys()
    report = Results(Path()).report
    figures = [report.figure("overlay", "{dataset}", "{case}", "{model}"), report.figure("dice", "{dataset}", "{fold}")]
    figures += [report.figure("curve-loss", "{dataset}"), report.figure("curve-loss", "{dataset}", "dark")]
    found: dict[str, str] = {}
    for pattern in map(str, (*layout(), *figures)):
        wildcards = sorted(set(re.findall(r"\{(\w+)\}", pattern)))
        for chosen in itertools.product(*(values[name] for name in wildcards)):
            path = pattern.format(**dict(zip(wildcards, chosen, strict=True))).lower()
            assert path not in found, (path, pattern, found[path])
            found[path] = pattern
    # Pictures lie in the folder that the layout names.
    folders = {path for path, pattern in found.items() if pattern == str(report.figures)}
    for path in found:
        for parent in map(str, Path(path).parents):
            assert parent not in found or parent in folders, (path, parent)


def test_what_belongs_to_a_training_is_named_by_data_set_model_fold_and_seed() -> None:
    results, test = Results(Path("r")), replace(ANY, split=TEST)
    for key in (ANY, test):
        paths = [results.model(key).folder, results.state(key), results.scores(key), results.scores_shard(key, SHARD)]
        paths += [results.predict(key).record, results.postprocess(key).record, results.predict(key).shard(SHARD)]
        for path in paths:
            assert set(re.findall(r"\{(\w+)\}", str(path))) - {"shard"} == {"dataset", "model", "fold", "seed"}, path
