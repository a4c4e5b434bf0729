"""The configuration: what is refused, and that each refusal tells what to write instead."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from medseg import slices, submission, workflow
from medseg.config import Config, config_schema, load_config
from medseg.config.grids import grid_model, grid_name
from medseg.errors import ConfigError
from medseg.reading import Reading
from medseg.results.key import RunKey
from medseg.settings import merge

ROOT = Path(__file__).parents[2]
# Every key that there is, with a value that differs from the default (``minutes`` and ``epochs`` exclude ``steps``,
# ``name`` of a download excludes ``url``).
FULL: dict[str, Any] = {
    "experiment": "study-1",
    "data_root": "d",
    "results": "r",
    "datasets": {
        "cells": {
            "layout": "patterns",
            "path": "cells",
            "images": "imgs/{case}.tif",
            "masks": "gt/{case}_mask.png",
            "labels": {"cell": 1, "debris": 2},
            "background": [0, 4],
            "instances": True,
            "classes": "classes.csv",
            "regions": [["cells", ["cell"]]],
            "ignore": 255,
            "channels": ["DAPI"],
            "spacing": [0.5, 0.5],
            "unit": "um",
            "sizes": "files",
            "axes": "CYX",
            "subject": "(.*)_",
            "exclude": ["c9"],
            "test": {"column": "split", "value": "held"},
            "series": "3",
            "bids": {"image": ["T1w", "T2w"], "derivative": "manual", "label": "seg"},
            "table": "cases.tsv",
            "corrections": True,
            "splits": "splits.json",
            "download": {"url": "https://example.org/cells.zip", "sha256": "0" * 64},
            "allow": ["empty-label"],
            "fill": -1.0,
            "orientation": "sform",
            "max_gb": 1.5,
            "metrics": {"names": ["hd95", "nsd"], "tolerance": {"cells": 2.0}},
            "postprocess": {
                "crf": {
                    "iterations": 3,
                    "position_weight": 1.0,
                    "position_sigma": 2.0,
                    "appearance_weight": 4.0,
                    "appearance_sigma": 20.0,
                    "intensity_sigma": 0.2,
                },
                "objects": {"solidity": [0.5, 1.0]},
                "threshold": {},
                "fill_holes": True,
                "largest_foreground": True,
                "largest_component": ["cell"],
                "min_size": 3,
                "min_volume": {"cell": 2.5},
                "choose": ["fill_holes"],
            },
            "choices": ["the loss"],
            "generate": {"kind": "cells", "cases": 3, "seed": 1},
        }
    },
    "models": {
        "first": {
            "network": "unet",
            "options": {},
            "freeze": [],
            "allow": [],
            "recipe": "short",
            "loss": "dice_ce",
            "optimizer": "adamw",
            "weight_decay": 0.0,
            "clip": 12.0,
            "compile": False,
            "augment": "default",
            "augmentation": {},
            "foreground": 0.33,
            "plan": {"resolution": "full"},
        },
        "unet": {
            "network": "unet",
            "options": {"deep_supervision": True},
            "start": "first",
            "datasets": ["cells"],
            "freeze": ["encoder"],
            "allow": ["start-overlap"],
            "head": "boundary",
            "dims": 2,
            "recipe": "nnunet",
            "loss": "ce",
            "optimizer": "sgd",
            "lr": 0.01,
            "schedule": "cosine",
            "warmup": 0.1,
            "weight_decay": 0.0,
            "clip": 1.0,
            "average": 0.999,
            "compile": True,
            "augment": "nnunet",
            "augmentation": {"rotation": {"probability": 0.3, "range": [-10.0, 10.0]}},
            "foreground": 0.5,
            "plan": {
                "resolution": "low",
                "spacing": [1.0, 1.0],
                "normalization": "zscore",
                "patch": [32, 32],
                "batch": 4,
                "widths": [8, 16],
                "strides": [[1, 1], [2, 2]],
                "precision": "fp32",
                "channels_last": False,
                "steps": 7,
            },
        },
    },
    "folds": {"scheme": "balanced", "count": 3, "run": [0, 2], "group": "subject", "seed": 4, "file": "f.json"},
    "seeds": [0, 1],
    "ensembles": {"both": {"of": ["unet"]}},
    "budget": {"steps": 10, "patience": 0.2, "memory_gb": 2.0, "host_gb": 4.0},
    "predict": {"mirror": False, "references": False},
    "compare": {"margin": 0.01},
    "tracking": {"uri": "http://mlflow"},
    "threads": 1,
    "processes": 2,
    "loader": {"workers": 1, "timeout_s": 60.0},
    "shards": 2,
    "device": "cpu",
    "container": "medseg.sif",
}
NAMES = {
    ("datasets", "cells", "postprocess", "objects"),
    ("datasets", "cells", "postprocess", "threshold"),
    ("datasets", "cells", "postprocess", "min_volume"),
    ("datasets",),
    ("models",),
    ("ensembles",),
    ("datasets", "cells", "labels"),
    ("datasets", "cells", "metrics", "tolerance"),
    ("models", "unet", "options"),
    ("models", "unet", "augmentation"),
}  # mappings whose keys are free


def minimal() -> dict[str, Any]:
    return {
        "experiment": "e",
        "datasets": {"d": {"layout": "pairs", "path": "p"}},
        "models": {"m": {"network": "unet"}},
        "budget": {"steps": 3},
    }


def keys_of(value: Mapping[str, Any], place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    for key, inner in value.items():
        if place not in NAMES:
            yield place, key
        if isinstance(inner, Mapping):
            yield from keys_of(inner, (*place, key))


KEYS = list(keys_of(FULL))


def changed(base: dict[str, Any], place: tuple[str, ...], key: str, value: Any) -> dict[str, Any]:
    out = copy.deepcopy(base)
    section = out
    for part in place:
        section = section[part]
    section[key] = value
    return out


def refusal(text_or_value: Any, tmp_path: Path | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        if isinstance(text_or_value, str):
            assert tmp_path is not None
            (tmp_path / "c.yaml").write_text(text_or_value)
            load_config([tmp_path / "c.yaml"])
        else:
            load_config([], text_or_value)
    return str(caught.value)


def test_table_of_keys_is_complete() -> None:
    def fields(schema: Mapping[str, Any], section: Mapping[str, Any]) -> set[str]:
        names = set(section.get("properties", {}))
        return names | {n for d in schema["$defs"].values() for n in d.get("properties", {})}

    schema = config_schema()
    assert {key for _, key in KEYS} | {"epochs", "minutes", "name", "folder", "split"} == fields(schema, schema)
    assert load_config([], FULL).model_dump(exclude_none=True) == FULL


@pytest.mark.parametrize(
    ("augment", "rows", "told"),
    [
        ("default", {"blur": {"probability": 0.1}}, "the recipe default is fixed; write augment: nnunet or microscopy"),
        ("nnunet", {"rotaton": {}}, "the recipes have no row 'rotaton', did you mean 'rotation'?"),
        ("nnunet", {"zzz": {}}, "the recipes have no row 'zzz', there are: rotation, scaling"),
        (
            "nnunet",
            {"gamma": {"range": [1.5, 0.5]}},
            "gamma.range: [1.5, 0.5], expected two numbers, rising",
        ),
        ("nnunet", {"elastic": {"range": [0.0, 0.5]}}, "rising, within [0, 0.4]"),
        ("microscopy", {"mirror": {"range": [0.0, 1.0]}}, "expected no range: it has none"),
        ("microscopy", {"mirror": {"probability": 1.5}}, "less than or equal to 1"),
    ],
)
def test_rows_of_augmentation_are_checked(augment: str, rows: dict[str, Any], told: str) -> None:
    value = {**minimal(), "models": {"m": {"network": "unet", "augment": augment, "augmentation": rows}}}
    assert told in refusal(value)


@pytest.mark.parametrize(
    ("network", "options", "told"),
    [
        ("unet", {"deep_supervison": True}, "unet has no option 'deep_supervison', did you mean 'deep_supervision'?"),
        ("unet", {"zzz": 1}, "unet has no option 'zzz', its options: deep_supervision, upsampling"),
        ("unet", {"upsampling": "cubic"}, "upsampling: Input should be 'transposed', 'linear' or 'shuffle'"),
        ("unet", {"deep_supervision": "yes"}, "deep_supervision: Input should be a valid boolean"),
    ],
)
def test_options_are_checked_against_the_network(network: str, options: dict[str, Any], told: str) -> None:
    value = {**minimal(), "models": {"m": {"network": network, "options": options}}}
    text = refusal(value)
    assert told in text
    assert "'models.m.options'" in text


def test_models_are_trained_on_data_sets_that_exist() -> None:
    value = {**minimal(), "datasets": {"a": {"path": "a"}, "b": {"path": "b"}}}
    value["models"] = {"m": {"network": "unet", "datasets": ["b"]}, "n": {"network": "unet"}}
    assert [run[:2] for run in load_config([], value).runs()] == [("a", "n"), ("b", "m"), ("b", "n")]
    value["models"]["m"]["datasets"] = ["c"]
    assert "models.m.datasets: no data set ['c']; there are: a, b" in refusal(value)
    value["models"] = {"m": {"network": "unet", "datasets": ["b"]}, "n": {"network": "unet", "start": "m"}}
    assert "models.n.start: 'm' is not trained on a" in refusal(value)


def one_edit(word: str) -> list[str]:
    places = range(len(word))
    drops = [word[:i] + word[i + 1 :] for i in places if len(word) > 2]
    swaps = [word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in places[:-1]]
    doubles = [word[: i + 1] + word[i:] for i in places]
    replaced = [word[:i] + "q" + word[i + 1 :] for i in places if len(word) > 2]
    return sorted({*drops, *swaps, *doubles, *replaced, word.capitalize()} - {word, ""})


@pytest.mark.parametrize(("place", "key"), KEYS, ids=[".".join((*p, k)) for p, k in KEYS])
def test_a_misspelt_key_is_refused_and_the_right_one_named(place: tuple[str, ...], key: str) -> None:
    for wrong in one_edit(key):
        line = refusal(changed(FULL, place, wrong, 1))
        assert line.count("\n") == 0
        assert f"unknown key '{'.'.join((*place, wrong))}'" in line
        assert f"'{key}'" in line.split("; did you mean ")[1], f"{wrong}: {line}"


@pytest.mark.parametrize("place", sorted({p for p, _ in KEYS}), ids=".".join)
def test_a_key_that_resembles_nothing_gets_the_list(place: tuple[str, ...]) -> None:
    line = refusal(changed(FULL, place, "zzzzzzzz", 1))
    assert all(key in line.split("valid keys:")[1] for p, key in KEYS if p == place)


def test_chosen_channels_keep_their_order() -> None:
    """In the configuration, its copies (whose keys are sorted) and the record of how files are read."""
    base = minimal()
    name = next(iter(base["datasets"]))
    for channels in ({"b": 1, "a": 0}, {"a": 0, "b": "GFP"}):
        base["datasets"][name]["channels"] = channels
        config = load_config([], base)
        again = load_config(
            [], json.loads(json.dumps(config.model_dump(mode="json", exclude_none=True), sort_keys=True))
        )
        for section in (config.datasets[name], again.datasets[name]):
            assert list(section.channels.items()) == list(channels.items())  # type: ignore[union-attr]
            assert section.reading.channels == tuple(channels.values())
            assert Reading.from_json(json.loads(json.dumps(section.reading.to_json()))) == section.reading


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"unit": "mm"}, "unit: mm is about `spacing`, which is not given"),
        ({"sizes": "spacing"}, "sizes: spacing is about `spacing`, which is not given"),
        ({"sizes": "pixels", "spacing": [1.0, 1.0]}, "sizes: pixels uses no size, and `spacing` gives one"),
    ],
)
def test_sizes_and_spacing_agree(given: dict[str, Any], told: str) -> None:
    base = minimal()
    next(iter(base["datasets"].values())).update(given)
    assert told in refusal(base)


def test_a_record_of_reading_is_read_within_its_bounds() -> None:
    full = Reading("ZC2YX", (1, "DAPI"), ("a", "b"), "", (0.5, 0.25, 0.25), "mm", "spacing", "qform", -1024.0)
    assert Reading.from_json(json.loads(json.dumps(full.to_json()))) == full
    assert Reading().to_json() == {}
    assert full.of_labels.axes == "ZYX"
    assert Reading("YXC").of_labels.axes == "YX"
    assert full.spacing_um == (500.0, 250.0, 250.0)
    for wrong in (
        {"axes": "QYX"}, {"axes": 3}, {"channels": [-1]}, {"channels": [1.5]}, {"names": [1]}, {"colour": "red"},
        {"spacing": [1.0]}, {"spacing": [0.0, 1.0]}, {"unit": "cm"}, {"sizes": "spacing"}, {"orientation": "x"},
        {"fill": float("nan")}, {"code": "x"},
    ):  # fmt: skip
        with pytest.raises(ValueError, match="reading"):
            Reading.from_json(wrong)


@pytest.mark.parametrize("text", ["1e-4", "5e-5", "1E-3", "1e4", "1.5e4"])
def test_numbers_that_yaml_reads_as_text_get_a_form_that_it_reads_as_numbers(text: str, tmp_path: Path) -> None:
    config = yaml.safe_dump(minimal()).replace("network: unet", f"network: unet\n    lr: {text}")
    line = refusal(config, tmp_path)
    assert "models.m.lr" in line
    assert text in line
    hinted = line.split("write it as ")[1].split(" ")[0]
    (tmp_path / "d.yaml").write_text(config.replace(text, hinted))
    assert load_config([tmp_path / "d.yaml"]).models["m"].lr == pytest.approx(float(text), rel=1e-9)


@pytest.mark.parametrize("text", ["1e3", "'60'", "2e1"])
def test_the_hint_for_a_whole_number_is_accepted_too(text: str, tmp_path: Path) -> None:
    config = yaml.safe_dump(minimal()).replace("steps: 3", f"steps: {text}")
    line = refusal(config, tmp_path)
    assert "budget.steps" in line
    hinted = line.split("write it as ")[1].split(" ")[0].rstrip(".,;")
    (tmp_path / "d.yaml").write_text(config.replace(text, hinted))
    assert load_config([tmp_path / "d.yaml"]).budget.steps == float(text.strip("'"))


WRONG = [
    (("models", "m"), "lr", -0.1),
    (("models", "m"), "lr", True),
    (("models", "m"), "lr", float("nan")),
    (("models", "m"), "lr", float("inf")),
    (("models", "m"), "weight_decay", float("nan")),
    (("models", "m"), "weight_decay", float("inf")),
    (("models", "m"), "foreground", 1.5),
    (("models", "m"), "network", "nonet"),
    (("models", "m"), "allow", ["overlap"]),
    (("models", "m"), "dims", 4),
    (("models", "m"), "dims", "3"),
    (("models", "m"), "plan", {"patch": [32, 0]}),
    (("models", "m"), "plan", {"patch": 32}),
    (("models", "m"), "plan", {"steps": 2.5}),
    (("datasets", "d"), "labels", {"a": "1"}),
    (("datasets", "d"), "labels", {"a": True}),
    (("datasets", "d"), "instances", "yes"),
    (("datasets", "d"), "instances", 1),
    (("datasets", "d"), "spacing", [0.5, 0.0]),
    (("datasets", "d"), "spacing", [0.5, float("inf")]),
    (("datasets", "d"), "path", 5),
    (("datasets", "d"), "axes", "XYZ"),
    (("datasets", "d"), "axes", "CCYX"),
    (("datasets", "d"), "axes", "CYXS"),
    (("datasets", "d"), "axes", ""),
    (("datasets", "d"), "channels", {}),
    (("datasets", "d"), "channels", {"a": -1}),
    (("datasets", "d"), "channels", {"a": 1.0}),
    (("datasets", "d"), "channels", "gray"),
    (("datasets", "d"), "unit", "cm"),
    ((), "threads", 0),
    ((), "threads", 2.0),
    ((), "seeds", []),
    ((), "seeds", [-1]),
    ((), "experiment", "a b"),
    ((), "experiment", "../x"),
    ((), "experiment", "a\n"),
    ((), "models", {}),
    ((), "models", {"a/b": {"network": "unet"}}),
    ((), "datasets", [1]),
    ((), "budget", {"minutes": float("nan")}),
    ((), "budget", {"minutes": float("inf")}),
    ((), "budget", {"minutes": 0}),
    ((), "budget", {"steps": 0}),
    ((), "budget", {}),
    ((), "budget", {"steps": 5, "minutes": 1.0}),
    ((), "budget", {"epochs": 5, "minutes": 1.0}),
    ((), "folds", {"count": 0}),
    ((), "folds", {"count": 2, "run": [0, 2]}),
    ((), "folds", {"count": 2, "run": [1, 1]}),
    ((), "folds", {"count": 2, "run": [-1]}),
    ((), "folds", {"count": 2, "run": []}),
    ((), "device", "tpu"),
    ((), "compare", {"margin": 0}),
    ((), "compare", {"margin": -0.1}),
]


@pytest.mark.parametrize(("place", "key", "value"), WRONG, ids=[f"{'.'.join((*p, k))}={v}" for p, k, v in WRONG])
def test_impossible_values_are_refused_by_name(place: tuple[str, ...], key: str, value: Any) -> None:
    line = refusal(changed(minimal(), place, key, value))
    assert ".".join((*place, key)) in line


@pytest.mark.parametrize("key", ["datasets", "budget"])
def test_missing_keys_are_named(key: str) -> None:
    value = minimal()
    del value[key]
    assert f"missing key '{key}'" in refusal(value)


def test_folds_of_a_file_and_a_scheme_exclude_each_other() -> None:
    value = {**minimal(), "folds": {"file": "mine.json", "scheme": "nnunet"}}
    assert "the folds of mine.json and scheme nnunet exclude each other" in refusal(value)


def test_all_problems_are_told_at_once() -> None:
    value = changed(changed(minimal(), (), "thread", 1), ("models", "m"), "loss", "dise")
    lines = refusal(value).splitlines()
    assert len(lines) == 2
    assert any("did you mean 'threads'" in line for line in lines)
    assert any("models.m.loss" in line and '"dise"' in line for line in lines)


DAMAGED = {
    "duplicate key": ("threads: 1\nthreads: 2", "duplicate key 'threads'"),
    "duplicate key below": ("budget: {steps: 1, steps: 2}", "duplicate key 'steps'"),
    "alias": ("a: &x [1]\nb: *x", "alias"),
    "merge key": ("a: &x {b: 1}\nc: {<<: *x}", "alias"),
    "no mapping": ("- 1", "expected keys and values"),
    "empty": ("", "expected keys and values"),
    "not yaml": ("a: [1", "c.yaml"),
    "python object": ("a: !!python/object/apply:os.system ['touch canary']", "c.yaml"),
    "unhashable key": ("? [1]\n: 2", "c.yaml"),
    "too large": ("#" * (1 << 20) + "\n", "at most"),
    "deeply nested": ("a: " + "[" * 5000 + "]" * 5000, "c.yaml"),
}


@pytest.mark.parametrize(("text", "expected"), DAMAGED.values(), ids=DAMAGED)
def test_damaged_files_are_refused(text: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert expected in refusal(text, tmp_path)
    assert not (tmp_path / "canary").exists()


def test_missing_and_binary_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such configuration file"):
        load_config([tmp_path / "none.yaml"])
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"b\.yaml"):
        load_config([tmp_path / "b.yaml"])


def test_later_files_and_overrides_win_key_by_key(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(minimal()))
    (tmp_path / "b.yaml").write_text("models: {m: {lr: 0.5}}\nthreads: 7")
    config = load_config([tmp_path / "a.yaml", tmp_path / "b.yaml"], {"threads": 9})
    assert (config.models["m"].network, config.models["m"].lr, config.threads) == ("unet", 0.5, 9)


trees = st.recursive(st.integers(), lambda t: st.dictionaries(st.sampled_from("abc"), t, max_size=3), max_leaves=8)
mappings = st.dictionaries(st.sampled_from("abc"), trees, max_size=3)


@given(mappings, mappings)
def test_merging_keeps_its_laws(a: dict, b: dict) -> None:
    before = copy.deepcopy((a, b))
    assert merge(a, {}) == merge({}, a) == merge(a, a) == a
    both = merge(a, b)
    assert set(both) == set(a) | set(b)
    assert all(both[k] == b[k] for k in b if not isinstance(b[k], dict))
    assert all(both[k] == merge(a[k], b[k]) for k in b if isinstance(b[k], dict) and isinstance(a.get(k), dict))
    assert merge(both, b) == both
    assert (a, b) == before


def test_shipped_schema_is_the_generated_one() -> None:
    shipped = json.loads((ROOT / "workflow" / "schemas" / "config.schema.json").read_text())
    assert shipped == config_schema(), "run `medseg schema > workflow/schemas/config.schema.json`"


def test_every_key_of_the_schema_is_described() -> None:
    schema = config_schema()
    sections = [schema, *schema["$defs"].values()]
    bare = [
        name
        for section in sections
        for name, field in section.get("properties", {}).items()
        # Sections describe themselves; names of things need no words.
        if "description" not in field and "$ref" not in field and name not in {"datasets", "models", "seeds"}
    ]
    assert bare == []


def test_networks_are_those_of_the_zoo() -> None:
    from medseg.engine.placement import DTYPES
    from medseg.losses.table import LOSSES
    from medseg.networks import NETWORKS

    schema = config_schema()["$defs"]
    model, plan = schema["ModelConfig"]["properties"], schema["PlanOverrides"]["properties"]
    assert set(model["network"]["enum"]) == set(NETWORKS)
    assert set(model["loss"]["enum"]) == set(LOSSES)
    assert set(plan["precision"]["anyOf"][0]["enum"]) == set(DTYPES)


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda p: p.name)
def test_shipped_configurations_are_valid(path: Path) -> None:
    assert isinstance(load_config([path]), Config)


# What the workflow makes of a configuration


@pytest.mark.parametrize("value", [1e-3, 1e-4, 1e-5, 3e-6, 2.5e-7, 1e-12, 1e20, 0.1])
def test_the_configuration_on_disk_is_the_same_configuration(value: float, tmp_path: Path) -> None:
    config = load_config([], changed(FULL, ("models", "unet"), "lr", value))
    workflow.write_config(config, tmp_path / "config.json")
    assert load_config([tmp_path / "config.json"]) == config


def test_an_unchanged_configuration_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    workflow.write_config(load_config([], FULL), path)
    first = path.stat().st_ino
    workflow.write_config(load_config([], FULL), path)
    assert path.stat().st_ino == first
    workflow.write_config(load_config([], changed(FULL, (), "threads", 5)), path)
    assert path.stat().st_ino != first


@pytest.mark.parametrize("text", ["[", "[" * 100_000, "&a *a", "!!python/object:os.system x", "2026-13-45", "9" * 5000])
def test_an_override_that_cannot_be_parsed_ends_a_workflow_with_exit_code_2(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        workflow.read_config([], {**minimal(), "budget": {"steps": text}})
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert "--config: " in said and "is no YAML" in said and len(said) < 500


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff", b"[" * 100_000, b"{}", b'{"threads": 2}'])
def test_a_damaged_configuration_is_written_again_when_a_workflow_starts(damage: bytes, tmp_path: Path) -> None:
    path, config = tmp_path / "config.json", load_config([], FULL)
    path.write_bytes(damage)
    workflow.write_config(config, path)
    assert load_config([path]) == config


def test_a_changed_digit_in_what_the_stages_read_is_refused_and_a_copy_may_be_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    workflow.write_config(load_config([], changed(FULL, (), "threads", 5)), path)
    path.write_text(path.read_text().replace('"threads": 5', '"threads": 4'))
    words = r"config\.json: damaged or edited.*run the study again.*without the key 'digest'"
    with pytest.raises(ConfigError, match=words):
        load_config([path])
    facts = json.loads(path.read_text())
    del facts["digest"]
    path.write_text(json.dumps(facts))
    assert load_config([path]).threads == 4


def test_a_bad_configuration_ends_a_workflow_with_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        workflow.read_config([], {**minimal(), "modles": {}})
    assert caught.value.code == 2
    assert "did you mean 'models'" in capsys.readouterr().err


def test_models_share_a_grid_unless_they_override_it() -> None:
    value = minimal()
    value["models"] = {
        "a": {"network": "unet"},
        "b": {"network": "deeplabv3plus", "plan": {"batch": 3}},
        "c": {"network": "unet", "plan": {"spacing": [1.0, 1.0]}},
        "d": {"network": "unet", "plan": {"spacing": [1.0, 1.0], "widths": [8, 16]}},
        "e": {"network": "unet", "plan": {"spacing": [2.0, 1.0]}},
        "f": {"network": "unet", "plan": {"normalization": "none"}},
    }
    config = load_config([], value)
    names = {m: grid_name(config, m) for m in config.models}
    assert names["a"] == names["b"] == "default"
    assert names["c"] == names["d"]
    assert len(set(names.values())) == 4
    assert all(grid_name(config, grid_model(config, g, "d")) == g for g in names.values())


def test_the_model_of_a_grid_is_one_that_is_trained_on_the_data_set() -> None:
    value = minimal()
    value["datasets"]["e"] = value["datasets"]["d"]
    value["models"] = {"a": {"network": "unet", "datasets": ["d"]}, "b": {"network": "unet", "dims": 3}}
    config = load_config([], value)
    assert [grid_model(config, "default", name) for name in ("d", "e")] == ["a", "b"]
    with pytest.raises(ConfigError, match="no model of data set 'd' uses a grid 'grid-12345678'; there are: default"):
        grid_model(config, "grid-12345678", "d")


SLICES = {
    "dataset": lambda c: slices.dataset_slice(c, "d"),
    "plan": lambda c: slices.plan_slice(c, "m"),
    "predict": lambda c: slices.predict_slice(c, "d"),
    "postprocess": lambda c: slices.postprocess_slice(c, "d"),
    "evaluate": lambda c: slices.evaluate_slice(c, "d"),
    "report": slices.report_slice,
    "weights": lambda c: slices.weights_slice(c, "m"),
}
ENCODED = {"network": "deeplabv3plus", "options": {"encoder": "resnet18", "weights": "w.pth"}}
# change -> the slices that must see it; all others must not.
CHANGES = [
    (("datasets", "d"), "labels", {"a": 1}, {"dataset"}),
    (("datasets", "d"), "exclude", ["c1"], {"dataset"}),
    (("datasets", "d"), "test", ["c1"], {"dataset"}),
    (("datasets", "d"), "choices", ["the loss"], {"report"}),
    (("datasets", "d"), "metrics", {"names": ["hd95"]}, {"evaluate"}),
    (("datasets", "d"), "postprocess", {"min_size": 5}, {"postprocess"}),
    (("datasets", "d"), "postprocess", {"crf": {}}, {"predict", "postprocess"}),
    (("datasets", "d"), "postprocess", {"choose": True}, {"postprocess"}),
    (("datasets", "d"), "postprocess", {"choose": ["crf"]}, {"predict", "postprocess"}),
    (("models", "m"), "lr", 0.5, {"plan"}),
    (("models", "m"), "datasets", ["d"], set()),
    ((), "models", {"m": ENCODED}, {"plan", "weights"}),
    (("models", "m"), "allow", ["start-overlap", "start-unrecorded"], set()),
    ((), "budget", {"steps": 4}, {"plan"}),
    ((), "budget", {"steps": 3, "host_gb": 3}, set()),
    ((), "loader", {"workers": 1}, set()),
    ((), "shards", 3, set()),
    ((), "folds", {"seed": 3}, {"dataset"}),
    ((), "folds", {"count": 3}, {"dataset", "plan"}),
    ((), "folds", {"run": [0, 1]}, set()),
    ((), "seeds", [0, 1], set()),
    ((), "tracking", {"uri": "http://x"}, set()),
    ((), "predict", {"mirror": False}, {"predict"}),
    ((), "compare", {"margin": 0.02}, set()),
    ((), "experiment", "other", set()),
]


@pytest.mark.parametrize(
    ("place", "key", "value", "seen"), CHANGES, ids=[f"{'.'.join((*c[0], c[1]))}" for c in CHANGES]
)
def test_a_change_is_seen_by_what_depends_on_it_and_nothing_else(
    place: tuple[str, ...], key: str, value: Any, seen: set[str]
) -> None:
    before, after = load_config([], minimal()), load_config([], changed(minimal(), place, key, value))
    assert {name for name, cut in SLICES.items() if cut(before) != cut(after)} == seen


def test_numbers_of_the_crf_concern_post_processing_alone() -> None:
    one, two = (
        load_config([], changed(minimal(), ("datasets", "d"), "postprocess", {"crf": {"iterations": n}}))
        for n in (1, 2)
    )
    assert slices.predict_slice(one, "d") == slices.predict_slice(two, "d")
    assert slices.postprocess_slice(one, "d") != slices.postprocess_slice(two, "d")
    assert workflow.has_postprocess(one, "d")


def test_a_changed_data_file_is_seen(tmp_path: Path) -> None:
    config = load_config([], {**minimal(), "data_root": str(tmp_path)})
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "a.png").write_bytes(b"1")
    stamps = [slices.dataset_slice(config, "d")]
    assert slices.dataset_slice(config, "d") == stamps[0]
    (tmp_path / "p" / "a.png").write_bytes(b"12")
    stamps.append(slices.dataset_slice(config, "d"))
    (tmp_path / "p" / "b.png").write_bytes(b"1")
    stamps.append(slices.dataset_slice(config, "d"))
    assert len(set(stamps)) == 3


def test_the_file_of_folds_is_the_one_that_ingest_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    value = changed({**minimal(), "data_root": "data"}, ("datasets", "d"), "splits", "mine.json")
    config = load_config([], changed(value, ("datasets", "d"), "download", {"url": "https://example.org/a.zip"}))
    (tmp_path / "data" / "p").mkdir(parents=True)
    here, there = tmp_path / "mine.json", tmp_path / "data" / "p" / "mine.json"
    stamps = [slices.dataset_slice(config, "d")]
    for path in (here, there):
        path.write_text(path.parent.name)
        stamps.append(slices.dataset_slice(config, "d"))
    assert len(set(stamps)) == 3
    # The one in the data set's folder counts, as at ingest.
    here.write_text("changed")
    assert slices.dataset_slice(config, "d") == stamps[-1]


def model_of(**section: Any) -> Any:
    return load_config([], changed(minimal(), ("models",), "m", {"network": "unet", **section})).models["m"]


def test_a_recipe_fills_in_what_is_not_said() -> None:
    short, nnunet = model_of(), model_of(recipe="nnunet")
    assert (short.training.optimizer, short.peak_lr, short.training.augment) == ("adamw", 2e-3, "default")
    assert (nnunet.training.optimizer, nnunet.peak_lr, nnunet.training.augment) == ("sgd", 1e-2, "nnunet")
    assert (nnunet.training.weight_decay, nnunet.training.warmup) == (3e-5, 0.0)
    assert (short.network_options, nnunet.network_options) == ({}, {"deep_supervision": True})
    own = model_of(recipe="nnunet", optimizer="adamw", warmup=0.1, options={"deep_supervision": False})
    assert (own.training.optimizer, own.peak_lr, own.training.warmup) == ("adamw", 2e-3, 0.1)
    assert (own.training.weight_decay, own.training.schedule) == (3e-5, "poly")
    assert own.network_options == {"deep_supervision": False}
    # Rows that have no deep supervision do without.
    assert model_of(network="fcn8s", recipe="nnunet").network_options == {}
    # The recipe's augmentation can be changed, where it can be.
    changes = {"blur": {"probability": 0.0}}
    assert model_of(recipe="nnunet", augmentation=changes).augmentation["blur"].probability == 0.0
    broken = changed(minimal(), ("models",), "m", {"network": "unet", "recipe": "short", "augmentation": changes})
    assert "the recipe default is fixed; write augment: nnunet or microscopy" in refusal(broken)


def test_auto_is_settled_by_the_number_of_steps() -> None:
    auto = model_of()
    assert auto.recipe == "auto"
    assert (auto.training, auto.peak_lr, auto.network_options) == (model_of(recipe="short").training, 2e-3, {})
    assert auto.settled(9_999) == model_of(recipe="short")
    assert auto.settled(10_000) == model_of(recipe="nnunet")
    for recipe in ("short", "nnunet"):
        assert {model_of(recipe=recipe).settled(steps).recipe for steps in (1, 9_999, 10_000, 10**6)} == {recipe}
    own = model_of(optimizer="adamw", options={"deep_supervision": False}).settled(10_000)
    assert (own.training.optimizer, own.peak_lr, own.training.augment) == ("adamw", 2e-3, "nnunet")
    assert own.network_options == {"deep_supervision": False}


def test_rows_of_augmentation_under_auto_need_a_recipe_that_has_rows() -> None:
    section: dict[str, Any] = {"network": "unet", "augmentation": {"blur": {"probability": 0.0}}}
    told = "the recipe default is fixed, and recipe: auto may mean it; write augment: nnunet or microscopy"
    assert told in refusal(changed(minimal(), ("models",), "m", section))
    given = model_of(**section, augment="nnunet")
    assert [given.settled(steps).training.augment for steps in (1, 10_000)] == ["nnunet", "nnunet"]


@pytest.mark.parametrize(
    "start", ["../other/results/a/train/m/fold0-seed0", "runs:/x", "models:/best@champion", "0" * 32]
)
def test_a_start_from_elsewhere_is_no_model_of_the_configuration(start: str) -> None:
    config = load_config([], changed(minimal(), ("models",), "m", {"network": "unet", "start": start}))
    assert workflow.start_of(config, RunKey("d", "m", 0, 1)) == (None, start)


def test_a_start_within_the_configuration_is_the_same_fold_and_seed() -> None:
    models = {"m": {"network": "unet"}, "n": {"network": "unet", "start": "m"}}
    config = load_config([], {**minimal(), "models": models})
    folder = "results/e/d/train/m/fold2-seed7"
    assert workflow.start_of(config, RunKey("d", "n", 2, 7)) == (Path(folder) / "model.json", folder)
    assert workflow.start_of(config, RunKey("d", "m", 2, 7)) == (None, None)
    broken = {**minimal(), "models": {"n": {"network": "unet", "start": "q"}}}
    assert "no model 'q'; there are: n; the path of a folder needs a '/'" in refusal(broken)


def test_readers_are_told_or_follow_the_device() -> None:
    assert submission.reading_workers(load_config([], {**minimal(), "device": "cpu"})) == 0
    assert submission.reading_workers(load_config([], {**minimal(), "device": "cuda"})) == 2
    assert submission.reading_workers(load_config([], {**minimal(), "device": "cuda", "loader": {"workers": 0}})) == 0
