"""The table of metrics: every row says what others need, names a function that is there, and stands in the docs."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import math
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from medseg import slices
from medseg.config import Config, load_config
from medseg.config.metrics import MetricsConfig
from medseg.errors import ConfigError
from medseg.evaluate.choice import DEFAULT, check_choices, choice_of, choose, coarse_tolerances
from medseg.evaluate.score import COLUMNS, score_case
from medseg.image.geometry import Geometry
from medseg.image.labels import LabelTable
from medseg.metrics.pair import Pair, value_of
from medseg.metrics.quantities import QUANTITIES
from medseg.metrics.table import METRICS
from medseg.results.key import RunKey

ROOT = Path(__file__).parents[2]


def write_metrics() -> object:
    spec = importlib.util.spec_from_file_location("write_metrics", ROOT / "docs" / "write_metrics.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def resolved(name: str) -> object:
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(module), function)


@pytest.mark.parametrize("name", METRICS)
def test_every_row_is_whole(name: str) -> None:
    metric = METRICS[name]
    assert list(inspect.signature(resolved(metric.function)).parameters) == ["pair"]
    assert metric.title
    assert metric.formula
    assert metric.paper
    assert metric.oracle
    assert metric.low < metric.high
    assert metric.definition.startswith(name.removesuffix("_faces") + "/")
    assert METRICS[name] is metric
    assert metric.definition.rsplit("-v", 1)[1].isdigit()
    assert (metric.unit == "length") == (metric.worst == "diagonal")
    assert (metric.unit == "bit") == (metric.worst == "bits")
    assert metric.low <= metric.worst_of(12.0, 9) <= metric.high
    # The worst value is at the worse end; distances and entropies have none, so what no value of a grid exceeds it is.
    worst = {"diagonal": 12.0, "bits": math.log2(10)}.get(metric.worst, metric.high)
    assert metric.worst_of(12.0, 9) == (metric.low if metric.better == "higher" else worst)
    assert (metric.family == "objects") == ("objects" in metric.needs)
    # Models are ranked by shares.
    assert not metric.ranks or (metric.low, metric.high, metric.better, metric.scope) == (0, 1, "higher", "always")
    if metric.pooled:
        same = Pair(np.eye(4, dtype=int), np.eye(4, dtype=int), (1, 1), numbers=(np.eye(4, dtype=int),) * 2)
        sums = {**asdict(same.counts), **same.object_quantities}
        assert resolved(metric.pooled)(sums) == (1.0 if metric.better == "higher" else 0.0)
        assert set(sums) <= set(QUANTITIES)
    tests = "".join(path.read_text() for path in (ROOT / "tests" / "unit").glob("test_*.py"))
    assert f'"{name}"' in tests or metric.function.split(":")[1] in tests


def test_names_are_no_columns_of_other_tables() -> None:
    names = [*METRICS, *QUANTITIES]
    assert len(set(names)) == len(names)
    assert not set(names) & {*COLUMNS, "score", "mean"}


def test_definitions_are_distinct_and_know_their_own_rows() -> None:
    assert len({metric.definition for metric in METRICS.values()}) == len(METRICS)
    for metric in METRICS.values():
        mine = metric.definition_of(2.0, "mm")
        assert [m.definition for m in METRICS.values() if m.matches(mine)] == [metric.definition]
    nsd = METRICS["nsd"]
    assert nsd.definition_of(2.5, "um") == f"{nsd.definition}@2.5 um"
    assert not nsd.matches(nsd.definition)
    assert not METRICS["hd"].matches(f"{METRICS['hd'].definition}@2 mm")


@pytest.mark.parametrize("name", METRICS)
def test_every_row_has_its_edge_cases(name: str) -> None:
    metric = METRICS[name]
    page = write_metrics()
    cases = page.object_cases() if "objects" in metric.needs else page.edge_cases()
    diagonal = 12 * math.hypot(2.5, 0.8, 0.8)

    def value(case: str) -> float:
        maps = cases[case]
        return value_of(metric, Pair(*maps, (2.5, 0.8, 0.8)[-maps[0].ndim :], tolerance=1.0, numbers=maps))

    best = 1.0 if metric.better == "higher" else 0.0
    assert value("equal") == value("equal, the whole image") == best
    shown = int(np.count_nonzero(cases["prediction empty"][0]))
    grid = math.hypot(*(12 * s for s in (2.5, 0.8, 0.8)[-cases["prediction empty"][0].ndim :]))
    assert value("prediction empty") == pytest.approx(metric.worst_of(grid, shown))
    assert math.isnan(value("both empty"))
    assert math.isnan(value("reference empty"))
    for case in cases:
        assert math.isnan(value(case)) or metric.low <= value(case) <= min(metric.high, diagonal)


def test_the_page_is_what_its_script_writes() -> None:
    module = write_metrics()
    text = (ROOT / "docs" / "metrics.md").read_text()
    assert text == module.page(), "run: python docs/write_metrics.py"
    for name, metric in METRICS.items():
        assert f"| `{name}` | {metric.title} | `{metric.definition}` |" in text


def test_the_table_is_free_of_numpy_and_torch() -> None:
    script = (
        "import sys, medseg.metrics.table as t; print([m for m in ('numpy', 'scipy', 'torch') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
    tree = ast.parse((ROOT / "medseg" / "metrics" / "table.py").read_text())
    literals = [node for node in ast.walk(tree) if isinstance(node, ast.Dict)]
    assert len(literals) == 1, "a code digest tells the rows of a literal apart"


# What the configuration chooses


def test_scores_of_objects_are_computed_where_labels_number_them() -> None:
    found = list(choose(MetricsConfig(), "m", objects=True).of_label("cell"))
    objects = ["ap50", "map", "pq", "sq", "rq", "aji_plus", "f1_50", "count_error", "merge_rate", "split_rate"]
    assert found == [*DEFAULT.of_label("cell"), *objects]
    # What models are ranked by is always there.
    named = choose(MetricsConfig(names=["are"]), "m", objects=True)
    assert list(named.of_label("cell")) == ["dice", "iou", "pq", "are"]
    assert not any("objects" in METRICS[name].needs for name in DEFAULT.of_label("cell"))


def test_scores_of_objects_need_labels_that_number_them() -> None:
    def config(**more: object) -> Config:
        section = {"path": "p", "labels": {"cell": 1}, "metrics": {"names": ["ap75"]}, **more}
        return load_config([], {"datasets": {"cells": section}, "budget": {"steps": 1}})

    numbered = LabelTable.create({"cell": 1}, instances=True)
    cause = r"datasets\.cells\.metrics\.names: 'ap75' is a score of single objects, .*set `instances: true`"
    # Whether labels number objects is known when they are found: one layout says so itself.
    check_choices(config())
    with pytest.raises(ConfigError, match=cause):
        choice_of(config(), "cells", replace(numbered, instances=False))
    assert "ap75" in choice_of(config(instances=True), "cells", numbered).metrics
    assert "ap75" in choice_of(config(layout="dsb2018"), "cells", numbered).metrics


def test_without_a_section_all_metrics_but_those_by_name_are_computed() -> None:
    assert list(DEFAULT.of_label("liver")) == ["dice", "iou", "hd", "hd95", "assd", "masd"]
    choice = choose(MetricsConfig(tolerance={"liver": 2.0}), "m")
    assert list(choice.of_label("liver")) == ["dice", "iou", "hd", "hd95", "assd", "masd", "nsd"]
    assert list(choice.of_label("tumour")) == ["dice", "iou", "hd", "hd95", "assd", "masd"]


def test_names_choose_and_dice_and_iou_stay() -> None:
    choice = choose(MetricsConfig(names=["nsd_faces", "hd95"], tolerance={"liver": 2.0}), "m")
    assert list(choice.of_label("liver")) == ["dice", "iou", "hd95", "nsd_faces"]
    assert list(choose(MetricsConfig(names=[]), "m").of_label("liver")) == ["dice", "iou"]


@pytest.mark.parametrize(
    ("section", "cause"),
    [
        ({"names": ["hd59"]}, "metrics.names: no metric 'hd59'; did you mean 'hd95'"),
        ({"names": ["qqq"]}, "there are: dice, iou"),
        ({"names": ["pqq"]}, "metrics.names: no metric 'pqq'; did you mean 'pq'"),
        ({"names": ["nsd"]}, "'nsd' needs a tolerance, which has no default"),
        ({"names": ["hd"], "tolerance": {"liver": 1.0}}, "none of the metrics named uses it"),
    ],
)
def test_what_cannot_be_computed_is_refused_before_anything_runs(section: dict[str, object], cause: str) -> None:
    data = {"livers": {"path": "p", "labels": {"liver": 1}, "metrics": section}}
    config = load_config([], {"datasets": data, "budget": {"steps": 1}})
    with pytest.raises(ConfigError, match=cause):
        check_choices(config)


def test_tolerances_are_of_classes_that_are_scored() -> None:
    data = {"livers": {"path": "p", "layout": "decathlon", "metrics": {"tolerance": {"liver": 2.0}}}}
    config = load_config([], {"datasets": data, "budget": {"steps": 1}})
    organs = LabelTable.create({"liver": 1, "tumour": 2})
    assert choice_of(config, "livers", organs).tolerance == {"liver": 2.0}
    with pytest.raises(ConfigError, match=r"livers\.metrics\.tolerance: no class or region 'liver'; there are: spleen"):
        choice_of(config, "livers", LabelTable.create({"spleen": 1}))
    data = {"livers": {"path": "p", "labels": {"liver": 1}, "metrics": {"tolerance": {"lever": 1.0}}}}
    with pytest.raises(ConfigError, match=r"no class or region \['lever'\]; there are: liver"):
        load_config([], {"datasets": data, "budget": {"steps": 1}})
    data["livers"]["regions"] = {"lever": ["liver"]}
    assert load_config([], {"datasets": data, "budget": {"steps": 1}}).datasets["livers"].metrics.tolerance


def test_tolerances_near_the_voxels_in_plane_are_reported() -> None:
    choice = choose(MetricsConfig(tolerance={"liver": 1.2, "tumour": 1.1}), "m")
    # Slices may be thick; what counts is the larger of the sides within them.
    lines = coarse_tolerances(choice, [(5.0, 0.5, 0.8), (0.5, 0.7, 5.0)], "mm")
    assert lines == [
        "warning: the tolerance 1.1 mm of 'tumour' is less than 1.5 times the in-plane spacing of 0.8 mm; NSD then "
        "measures how the border falls on the voxels"
    ]
    assert coarse_tolerances(choice, [], "mm") == []
    # As a NIfTI file holds 0.8.
    assert coarse_tolerances(choice, [(0.800000011920929,) * 3], "mm") == lines
    assert len(coarse_tolerances(choice, [(1.0, 0.5)], "px")) == 2


def test_tolerances_stand_in_the_rows() -> None:
    table = LabelTable.create({"ball": 1, "rod": 2})
    labels = np.array([[[0, 1, 1, 2, 0, 0]]], np.uint8)
    grid = Geometry.from_spacing(labels.shape, (1.0, 1.0, 1.0), "mm")
    choice = choose(MetricsConfig(names=["nsd", "nsd_faces"], tolerance={"rod": 1.0}), "m")
    rows = score_case(RunKey("d", "m", 0, 0), "c", "s", labels, np.roll(labels, 2, 2), table, grid, choice=choice)
    found = {(r["label"], r["metric"]): (r["definition"], r["value"], r["unit"]) for r in rows}
    assert found["rod", "nsd"] == (f"{METRICS['nsd'].definition}@1 mm", 0.0, "1")
    # Of each body's six faces, one is 1 from the other body; the four around it are so at one of their edges.
    assert found["rod", "nsd_faces"] == (f"{METRICS['nsd_faces'].definition}@1 mm", pytest.approx(1 / 6, abs=1e-5), "1")
    assert ("ball", "nsd") not in found
    failed = score_case(RunKey("d", "m", 0, 0), "c", "s", labels, None, table, grid, "why", choice=choice)
    assert {r["value"] for r in failed if r["metric"] in ("nsd", "nsd_faces")} == {0.0}


def test_a_changed_tolerance_evaluates_again_and_nothing_else() -> None:
    data = {"livers": {"path": "p", "labels": {"liver": 1}}}
    configs = [
        load_config([], {"datasets": {"livers": {**data["livers"], "metrics": section}}, "budget": {"steps": 1}})
        for section in ({}, {"tolerance": {"liver": 2.0}})
    ]
    by_dataset = {
        name: function
        for name, function in vars(slices).items()
        if name.endswith("_slice") and "dataset" in inspect.signature(function).parameters
    }
    changed = {name for name, f in by_dataset.items() if f(configs[0], "livers") != f(configs[1], "livers")}
    assert changed == {"evaluate_slice"}
    assert {"dataset_slice", "predict_slice", "postprocess_slice"} <= set(by_dataset)
