"""Report: every section is there, data cannot become markup, nothing is fetched, planes are upright."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from medseg.compare.run import run as compare
from medseg.config import Config
from medseg.config.metrics import MetricsConfig
from medseg.errors import DataError, GeometryError
from medseg.evaluate.choice import choose as score_choice
from medseg.evaluate.score import ABSENT, Objects, score_case
from medseg.evaluate.table import write_table
from medseg.files import read_json, sha256_file, write_json, write_text
from medseg.formats.read import read_labels
from medseg.formats.write import write_labels
from medseg.image.geometry import Geometry
from medseg.image.labels import LabelTable
from medseg.image.objects import of_numbers
from medseg.ingest.manifest import Case, Manifest, read_manifest, write_manifest
from medseg.ingest.splits import write_splits
from medseg.metrics.table import METRICS
from medseg.networks import NETWORKS
from medseg.plan.plan import read_plan, write_plan
from medseg.records import read_record, write_record
from medseg.report import experiment_tables, pictures
from medseg.report.chosen import choose
from medseg.report.figures import BoxRow, Look, box_plot, in_themes
from medseg.report.planes import planes_3d
from medseg.report.run import run
from medseg.report.sources import read_experiment
from medseg.results.folders import ModelFolder
from medseg.results.key import RunKey
from medseg.train.history import write_history
from medseg.train.journal import line_of
from medseg.trained import FORMAT
from tests.plans import tiny_plan
from tests.score_tables import GAP

FINGERPRINT = "cd" * 32
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=y>$\\frac{$ {{ 7*7 }}"
SECTIONS = [
    "leaderboard",
    "pairs",
    "distributions",
    "training",
    "overlays",
    "times",
    "plans",
    "data",
    "definitions",
    "provenance",
]
OBJECTS = score_choice(MetricsConfig(), "metrics", objects=True)
Damage = Callable[[NDArray[Any], int, int], NDArray[Any]]


def shift(labels: NDArray[Any], model: int, case: int) -> NDArray[Any]:
    """A prediction: the reference moved by a few voxels, the second model's further."""
    return np.roll(labels, (model + case) % 4 + model, axis=1)


def configuration(root: Path, datasets: Mapping[str, Any], models: Sequence[str] = ("unet", "dilated")) -> Config:
    return Config.model_validate(
        {
            "experiment": "first-light",
            "data_root": str(root / "data"),
            "datasets": datasets,
            "models": {name: {"network": "unet"} for name in models},
            "folds": {"count": 3, "run": [0, 1]},
            "budget": {"steps": 40},
            "tracking": {"uri": "https://jane:secret@tracking.example/x"},
        }
    )


def draw_cells(folder: Path, cases: int) -> tuple[int, Sequence[Path], Sequence[Path]]:
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:40, :48]
    images, labels = [], []
    for k in range(cases):
        truth = np.zeros((40, 48), dtype=np.uint16)
        for number, (r, c) in enumerate(rng.integers(6, 34, (4, 2)), start=1):
            truth[(rows - r) ** 2 + (columns - c) ** 2 < 25] = number
        picture = (40 + 120 * (truth > 0) + rng.integers(0, 30, truth.shape)).astype(np.uint8)
        images.append(folder / "images" / f"c{k}.png")
        labels.append(folder / "masks" / f"c{k}.png")
        for path, array in ((images[-1], picture), (labels[-1], truth)):
            write_labels(path, array, Geometry.from_spacing(truth.shape, (1.0, 1.0)))
    return 2, images, labels


def draw_organs(folder: Path, cases: int) -> tuple[int, Sequence[Path], Sequence[Path]]:
    rng = np.random.default_rng(1)
    affine = np.diag([-1.5, -1.5, 4.0, 1.0])
    images, labels = [], []
    for k in range(cases):
        truth = np.zeros((18, 16, 8), dtype=np.uint8)
        truth[3:8, 4 : 9 + k % 2, 2:6] = 1
        truth[10:15, 4:12, 3:7] = 5
        picture = (truth.astype(np.int16) * 40 + rng.integers(0, 20, truth.shape)).astype(np.int16)
        images.append(folder / "imagesTr" / f"o{k}.nii.gz")
        labels.append(folder / "labelsTr" / f"o{k}.nii.gz")
        for path, array in ((images[-1], picture), (labels[-1], truth)):
            write_labels(path, array, Geometry.create(truth.shape, affine))
    return 3, images, labels


def add_dataset(
    config: Config,
    results: Path,
    name: str,
    files: tuple[int, Sequence[Path], Sequence[Path]],
    table: LabelTable,
    damage: Damage = shift,
    allowed: tuple[str, ...] = (),
    objects: bool = False,
) -> list[Path]:
    """Write what ingest, plan, train, predict and evaluate leave of a data set; returns the score files."""
    dims, images, labels = files
    root = Path(config.data_root) / config.datasets[name].path
    cases = []
    for image, label in zip(images, labels, strict=True):
        _, grid = read_labels(label)
        case = image.name.split(".")[0]
        paths = (str(image.relative_to(root)),), (str(label.relative_to(root)),)
        cases.append(Case(case, case, *paths, (sha256_file(image),), (sha256_file(label),), grid, "u1", {1: 9}))
    manifest = Manifest(name, dims, ("intensity",), table, tuple(cases), allowed)
    write_manifest(manifest, results / name / "ingest")
    ids = [c.id for c in cases]
    folds = [{"train": [i for i in ids if i not in ids[k::3]], "val": ids[k::3]} for k in range(3)]
    write_splits(results / name / "ingest" / "splits.json", folds, seed=0)
    scores = []
    for number, model in enumerate(config.models):
        plan = tiny_plan(
            model if model in NETWORKS else "unet",
            dims,
            model=model,
            steps=40,
            reasons={"patch": "fits the <b>budget</b>"},
        )
        plan = plan.changed(head="boundary", classes=2) if objects else plan
        write_plan(results / name / "plan" / f"{model}.json", plan)
        for fold in config.folds.run:
            add_run(results, manifest, model, number, fold, folds[fold]["val"], root, damage, objects)
            scores.append(results / name / "evaluate" / model / f"fold{fold}-seed0.parquet")
    return scores


def add_run(
    results: Path,
    manifest: Manifest,
    model: str,
    number: int,
    fold: int,
    ids: Sequence[str],
    root: Path,
    damage: Damage,
    objects: bool = False,
) -> None:
    base, run_name = results / manifest.dataset, f"fold{fold}-seed0"
    folder = base / "predict" / model / run_name
    entries, rows = {}, []
    for case_id in ids:
        case = manifest.case(case_id)
        reference, grid = read_labels(root / case.labels[0])
        predicted = damage(reference, number, int(re.sub(r"\D", "", case_id)))
        path = folder / Path(case.labels[0]).name
        write_labels(path, predicted, grid)
        entries[case_id] = {"file": path.name, "sha256": sha256_file(path)}
        maps = [manifest.labels.to_channels(m) for m in (reference, predicted)]
        key = RunKey(manifest.dataset, model, fold, 0)
        made = (manifest.labels, grid, "", entries[case_id]["sha256"])
        more = {"objects": Objects(*map(of_numbers, (reference, predicted))), "choice": OBJECTS} if objects else {}
        rows += score_case(key, case_id, case.subject, *maps, *made, fingerprint=FINGERPRINT, **more)
    facts = {"dataset": manifest.dataset, "split": "val", "model": model, "fold": fold, "seed": 0}
    facts |= {"fingerprint": FINGERPRINT, "weights_sha256": "ab" * 32, "mirror": manifest.dims == 2}
    write_record(folder / "predictions.json", {**facts, "cases": entries})
    write_table(base / "evaluate" / model / f"{run_name}.parquet", pd.DataFrame(rows))
    train = ModelFolder(base / "train" / model / run_name)
    about = {"name": manifest.dataset, "dims": manifest.dims, "channels": ["CT"], "labels": manifest.labels.to_json()}
    provenance = {"medseg": "0.1.0", "git": "abc123", "python": "3.11", "packages": "1234567"}
    description = {"format": FORMAT, "dataset": about, "fold": fold, "seed": 0, "fingerprint": FINGERPRINT}
    description |= {
        "plan": read_plan(base / "plan" / f"{model}.json").to_json(),
        "inputs": {},
        "parameters": 1234567,
        "allowed": [],
    }
    description |= {"decoding": {"foreground": 0.4, "seed": 0.6, "min_size": 15.0, "max_hole": 7.5}} if objects else {}
    write_record(train.description, {**description, "weights_sha256": "ab" * 32, "provenance": provenance})
    lines = [line_of(s, s, {"train/loss": float(np.exp(-s / 20)) + fold / 9}) for s in range(40)]
    lines += [line_of(13 * k, k, {"val/dice/mean": d}) for k, d in enumerate([None, 0.5, 0.7 + fold / 9])]
    timing = {"seconds": 75.0, "steps": 40, "attempts": 1, "device": "cpu", "threads": 2}
    write_history(train, "".join(lines).encode(), FINGERPRINT, timing)
    write_text(
        results / "benchmarks" / manifest.dataset / "train" / f"{model}-{run_name}.tsv",
        "s\th:m:s\tmax_rss\n75.2\t0:01:15\t812.4\n",
    )


def summary(results: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(results / "compare" / "summary.json")
    return found


def add_gaps(files: Sequence[Path]) -> None:
    """Rows of a made-up distance in every score file: what is missing of Dice, times 20, in the unit of the grid."""
    for path in files:
        table = pd.read_parquet(path)
        rows = table[table["metric"] == "dice"].copy()
        unit = rows["spacing"].iloc[0].split()[-1]
        rows = rows.assign(metric="gap", definition=GAP.definition, value=20 * (1 - rows["value"]), unit=unit)
        rows.loc[rows["n_pred"] == 0, "value"] = rows["diagonal"]
        rows.loc[rows["n_ref"] == 0, "value"] = np.nan
        write_table(path, pd.concat([table, rows]))


def build(
    root: Path, *, label: str = "nucleus", damage: Damage = shift, gap: bool = False, objects: bool = False
) -> tuple[Config, Path]:
    """A study of 2 data sets x 2 models x 2 folds; returns its configuration and results folder.

    ``objects``: the objects of the cells are scored, not only their class.
    """
    results = root / "results" / "first-light"
    config = configuration(
        root,
        {
            "cells": {"layout": "pairs", "path": "cells", "labels": {label: 1}, "instances": True},
            "organs": {"layout": "decathlon", "path": "organs"},
        },
    )
    write_json(results / "config.json", config.model_dump(mode="json"))
    cells, organs = draw_cells(root / "data" / "cells", 6), draw_organs(root / "data" / "organs", 6)
    table = LabelTable.create({label: 1}, instances=True)
    files = add_dataset(config, results, "cells", cells, table, damage, (f"label-values · c1 · {label}",), objects)
    files += add_dataset(config, results, "organs", organs, LabelTable.create({"liver": 1, "kidney": 5}), damage)
    write_text(results / "benchmarks" / "cells" / "fingerprint.tsv", "s\th:m:s\tmax_rss\n0.4\t0:00:00\tNA\n")
    write_text(results / "benchmarks" / "weights" / "deeplab.tsv", "s\th:m:s\tmax_rss\n0.4\t0:00:00\tNA\n")
    if gap:
        add_gaps(files)
    compare(files, results / "compare")
    return config, results


def report(root: Path, results: Path) -> str:
    run(results, results / "config.json", root / "data", results / "report")
    return (results / "report" / "index.html").read_text(encoding="utf-8")


class Page(HTMLParser):
    """Elements with their attributes, visible text, and whether every element is closed in order."""

    VOID = frozenset({"meta", "link", "img", "source", "br", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text.append(data)

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    root = tmp_path_factory.mktemp("study")
    _, results = build(root)
    return root, results, report(root, results)


@pytest.fixture
def blank(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures are made and not drawn, which takes most of the time of a report."""
    picture = io.BytesIO()
    Image.new("L", (1, 1)).save(picture, format="png")
    monkeypatch.setattr(Figure, "savefig", lambda _, out, **__: out.write(picture.getvalue()))


def test_every_section_and_its_facts_are_there(study: tuple[Path, Path, str]) -> None:
    page = Page(study[2])
    assert page.open == []
    assert [a["id"] for tag, a in page.elements if tag == "section"] == SECTIONS
    for fact in (
        "2 models (unet, dilated) on 2 data sets",
        "cells: 6 cases of 6 subjects, 2-D",
        "organs: 6 cases of 6 subjects, 3-D",
        "Budget of each training: 40 steps",
        "Faults allowed by name",
        "label-values · c1 · nucleus",
        "liver = 1, kidney = 5",
        "fold 0: 4 / 2",
        "1,234,567",
        "1 min 15 s",
        "812 MB",
        "cells: time jobs peak memory organs: time jobs peak memory fingerprint 0.4 s 1 – –",
        "train 5 min 01 s 4 812 MB",
        "decided by the reference alone",
        "Unit of independence Each case by itself: nobody declared which belong together (6 cases).",
        "Post-processing None: the network's own label maps are scored.",
        "over all 6 cases, those of validation folds included",
        "Left out or allowed 1 fault allowed by name (label-values).",
        "Chosen by these scores Nobody declared",
        "Test set None was declared; all numbers are of validation folds.",
        "a difference between these trained networks (2 trainings each) cannot be shown with 4 subjects",
        "abc123",
        "fits the <b>budget</b>",
        "Mirror images averaged in predictions averaged in predictions",
        "Mirror images not used in predictions not used in predictions",
    ):
        assert fact in page.words, fact
    # Weights are fetched for a model, not for a data set.
    assert "deeplab" not in page.words


def test_numbers_on_the_page_are_those_of_the_leaderboard(study: tuple[Path, Path, str]) -> None:
    _, results, text = study
    words = Page(text).words
    for row in read_json(results / "compare" / "summary.json")["rows"]:
        if row["metric"] == "dice_subject" and row["label"] != "mean":
            assert f"{row['mean']:.3f}" in words
            assert row["low"] is None or f"[{row['low']:.3f}, {row['high']:.3f}]" in words


@pytest.mark.usefixtures("blank")
def test_every_metric_of_the_table_is_on_the_page_with_unit_and_direction(tmp_path: Path) -> None:
    """The rows of a metric that nobody has thought of, of which lower values are better."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METRICS, "gap", GAP)
        _, results = build(tmp_path, gap=True)
        words = Page(report(tmp_path, results)).words
    rows = {(r["dataset"], r["model"], r["metric"], r["label"]): r for r in summary(results)["rows"]}
    assert "Surface metrics" in words
    for dataset, unit in (("cells", "px"), ("organs", "mm")):
        row = rows[dataset, "unet", "gap_subject", "mean"]
        cells = f"{row['mean']:.2f} {unit} no interval {row['median']:.2f} {unit} {row['n_penalised']}"
        assert f"Gap (lower is better) unet {cells}" in words
        pair = next(r for r in summary(results)["secondary"] if (r["dataset"], r["metric"]) == (dataset, "gap_subject"))
        assert f"mean Gap {pair['difference']:+.2f} {unit}".replace("+-", "-").replace("-", "\N{MINUS SIGN}") in words
    assert "Gap (mm)" in words


def add_nsd(files: Sequence[Path], tolerances: Mapping[str, str]) -> None:
    """Rows of NSD, with the values of Dice, in every score file, for the classes that have a tolerance."""
    for path in files:
        table = pd.read_parquet(path)
        rows = table[(table["metric"] == "dice") & table["label"].isin(tolerances)]
        sizes = METRICS["nsd"].definition + "@" + rows["label"].map(tolerances)
        write_table(path, pd.concat([table, rows.assign(metric="nsd", definition=sizes)]))


@pytest.mark.usefixtures("blank")
def test_tolerances_stand_in_every_table_and_classes_without_one_are_named(tmp_path: Path) -> None:
    config, results = build(tmp_path)
    files = sorted(results.glob("*/evaluate/*/*.parquet"))
    originals = {path: path.read_bytes() for path in files}
    words = {}
    for tolerances in ({"kidney": "2 mm"}, {"liver": "3 mm", "kidney": "1 mm"}):
        for path, data in originals.items():
            path.write_bytes(data)
        add_nsd(files, tolerances)
        asked = {name: float(size.removesuffix(" mm")) for name, size in tolerances.items()}
        value = config.model_dump(mode="json")
        value["datasets"]["organs"]["metrics"]["tolerance"] = asked
        write_json(results / "config.json", value)
        compare(files, results / "compare")
        words[len(tolerances)] = Page(report(tmp_path, results)).words
    nsd = next(
        r["mean"]
        for r in summary(results)["rows"]
        if (r["model"], r["metric"], r["label"]) == ("unet", "nsd_subject", "liver")
    )
    one, two = words[1], words[2]
    # Leaderboard, means of the family, its classes, secondary family, definition.
    assert one.count("NSD (2 mm)") >= 5
    assert "mean NSD (2 mm)" in one
    assert one.count("NSD: mean over kidney (2 mm); no tolerance for liver.") == 2
    assert "Tolerances: organs: kidney 2 mm." in one
    assert two.count("NSD (tau per class)") >= 5
    assert two.count("NSD: mean over kidney (1 mm), liver (3 mm).") == 2
    assert re.search(rf"{nsd:.3f} \(\d\.\d+, at 3 mm\)", two)
    assert "no tolerance" not in two


@pytest.mark.parametrize(
    ("change", "row"),
    [
        ({"clip": 1.0}, "Largest gradient norm 12 1"),
        ({"warmup": 0.5}, "Warm-up share 0.05 0.5"),
        ({"freeze": ("encoder",)}, "Frozen parts – encoder"),
        ({"patience": 0.1}, "Patience – 0.1"),
        ({"augmentation": {"blur": {"p": 0.5}}}, "Changes of the augmentation – blur: p: 0.5"),
    ],
)
def test_models_that_differ_look_different(study: tuple[Path, Path, str], change: dict[str, Any], row: str) -> None:
    experiment = read_experiment(study[1], study[1] / "config.json")
    plan = tiny_plan("unet", 2, steps=40)
    plans = {("cells", "unet"): plan.to_json(), ("cells", "dilated"): plan.changed(**change).to_json()}
    table = experiment_tables.plans(replace(experiment, plans=plans), "cells")
    differ = [" ".join([r["heading"], *r["values"]]) for r in table["rows"] if r["differ"]]
    assert differ == [row]


def test_the_page_is_whole_in_itself(study: tuple[Path, Path, str]) -> None:
    _, results, text = study
    page = Page(text)
    assert not {tag for tag, _ in page.elements} & {"script", "iframe", "object", "embed", "form", "base"}
    policy = [a["content"] for tag, a in page.elements if tag == "meta" and "http-equiv" in a]
    assert policy == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    for tag, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name)
            if name in ("src", "srcset", "href", "action", "poster", "background", "data"):
                assert re.match(r"data:(image/png;base64,|,$)|#[a-z]+$", value or ""), (tag, name, value)
            if name == "style":
                assert "url(" not in (value or "")
    style = text[text.index("<style>") : text.index("</style>")]
    assert "url(" not in style
    assert "@import" not in style
    images = {p.read_bytes() for p in (results / "report" / "figures").glob("*.png")}
    # 3 classes and 2 x 2 curves in two themes each, 2 data sets x 3 cases x 2 models of overlays; and for tracking,
    # 2 data sets x 4 fixed cases x 2 models.
    assert len(list((results / "report" / "figures").iterdir())) == 2 * 3 + 2 * 4 + 12 + 16
    assert all(image.startswith(b"\x89PNG") for image in images)


def test_user_and_password_of_the_tracking_server_are_left_out(study: tuple[Path, Path, str]) -> None:
    assert "secret" not in study[2]
    assert "jane" not in study[2]


def test_links_within_the_page_lead_somewhere(study: tuple[Path, Path, str]) -> None:
    page = Page(study[2])
    ids = {a["id"] for _, a in page.elements if "id" in a}
    links = {str(a["href"])[1:] for tag, a in page.elements if tag == "a"}
    assert links == ids


def test_the_same_results_give_the_same_bytes_and_stale_figures_go(study: tuple[Path, Path, str]) -> None:
    root, results, text = study
    folder = results / "report" / "figures"
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    (folder / "dice-gone-0.png").write_bytes(b"old")
    assert report(root, results) == text
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_names_from_data_never_become_markup(tmp_path: Path) -> None:
    _, results = build(tmp_path, label=HOSTILE)
    page = Page(report(tmp_path, results))
    assert page.open == []
    assert not {tag for tag, _ in page.elements} & {"script", "b onerror"}
    assert not [a for _, a in page.elements if any(name.startswith("on") for name in a) or a.get("src") == "x"]
    assert " ".join(HOSTILE.split()) in page.words


@pytest.mark.usefixtures("blank")
def test_a_class_that_no_reference_shows_has_no_score_on_the_page(tmp_path: Path) -> None:
    _, results = build(tmp_path)
    for path in results.glob("cells/evaluate/*/*.parquet"):
        table = pd.read_parquet(path)
        table[["n_ref", "n_pred"]] = 0
        is_score = table["metric"].isin(METRICS)
        table.loc[is_score, "value"] = np.nan
        table.loc[~is_score, "value"] = 0.0
        table["status"] = ABSENT
        write_table(path, table)
    compare(sorted(results.glob("*/evaluate/*/*.parquet")), results / "compare")
    page = Page(report(tmp_path, results))
    assert "undefined no interval" in page.words
    assert "no reference shows the class" in page.words
    assert "No case with a defined score." in page.words


@pytest.mark.usefixtures("blank")
def test_planned_but_not_evaluated_is_named(tmp_path: Path) -> None:
    _, results = build(tmp_path)
    kept = [p for p in sorted(results.glob("*/evaluate/*/*.parquet")) if "cells/evaluate/dilated" not in str(p)]
    compare(kept, results / "compare")
    words = Page(report(tmp_path, results)).words
    assert "Not in this report:" in words
    assert "cells / dilated / fold 1 / seed 0" in words


@pytest.mark.usefixtures("blank")
def test_what_was_scored_is_what_is_shown(tmp_path: Path) -> None:
    _, results = build(tmp_path)
    text = report(tmp_path, results)
    # Left by an earlier configuration, with post-processing: other label maps of the same cases.
    for path in sorted(results.glob("cells/predict/*/*/predictions.json")):
        facts = read_record(path, "")
        folder = results / "cells" / "postprocess" / path.parent.parent.name / path.parent.name
        for entry in facts["cases"].values():
            labels, grid = read_labels(path.parent / entry["file"])
            write_labels(folder / entry["file"], np.zeros_like(labels), grid)
            entry["sha256"] = sha256_file(folder / entry["file"])
        write_record(folder / "predictions.json", facts)
    assert report(tmp_path, results) == text
    for path in results.glob("cells/predict/*/*/predictions.json"):
        path.unlink()
    with pytest.raises(DataError, match="are those that were scored"):
        report(tmp_path, results)


@pytest.mark.usefixtures("blank")
def test_a_failed_case_is_on_the_page_without_a_picture(tmp_path: Path) -> None:
    _, results = build(tmp_path)
    path = results / "cells" / "evaluate" / "unet" / "fold0-seed0.parquet"
    table = pd.read_parquet(path)
    gone = table["case"] == sorted(set(table["case"]))[0]
    write_table(path, table[~gone])
    facts_path = results / "cells" / "predict" / "unet" / "fold0-seed0" / "predictions.json"
    facts = read_record(facts_path, "")
    facts["cases"][table.loc[gone, "case"].iloc[0]] = {"failed": "not finite"}
    write_record(facts_path, facts)
    compare(sorted(results.glob("*/evaluate/*/*.parquet")), results / "compare")
    words = Page(report(tmp_path, results)).words
    rows = {(r["model"], r["metric"], r["label"]): r for r in read_json(results / "compare" / "summary.json")["rows"]}
    assert rows["unet", "dice_subject", "nucleus"]["n_failed"] == 1
    assert f"{rows['unet', 'dice_subject', 'nucleus']['mean']:.3f}" in words


@pytest.mark.parametrize(
    ("victim", "message"),
    [
        ("data/cells/images/c*.png", "changed since `medseg ingest`"),
        ("results/first-light/cells/predict/*/*/*.png", "changed since it was made"),
        ("results/first-light/organs/train/unet/fold0-seed0/history.jsonl", "not a training journal"),
        ("results/first-light/compare/summary.json", "no readable JSON"),
    ],
)
@pytest.mark.usefixtures("blank")
def test_changed_or_damaged_results_are_refused_and_no_page_appears(tmp_path: Path, victim: str, message: str) -> None:
    _, results = build(tmp_path)
    for path in tmp_path.glob(victim):
        path.write_bytes(path.read_bytes() + b"{")
    with pytest.raises(DataError, match=message):
        report(tmp_path, results)
    assert not (results / "report" / "index.html").exists()


def test_a_comparison_of_other_trainings_than_those_that_are_there_is_refused(tmp_path: Path) -> None:
    config, results = build(tmp_path)
    path = results / "cells" / "train" / "unet" / "fold0-seed0" / "model.json"
    facts = read_record(path, "")
    write_record(path, {**facts, "fingerprint": "e" * 64})
    with pytest.raises(DataError, match=r"summary.json: comes from another training of cells/unet/fold0-seed0"):
        run(results, results / "config.json", Path(config.data_root), tmp_path / "out")
    write_record(path, facts)
    timing = path.with_name("timing.json")
    write_record(timing, {**read_record(timing, ""), "fingerprint": "e" * 64})
    with pytest.raises(DataError, match=r"timing.json: of another training than model.json beside it"):
        run(results, results / "config.json", Path(config.data_root), tmp_path / "out")
    assert not (tmp_path / "out" / "index.html").exists()


def test_a_prediction_on_another_grid_is_refused(tmp_path: Path) -> None:
    _, results = build(tmp_path)
    for path in results.glob("organs/predict/*/*/predictions.json"):
        facts, scores = read_record(path, ""), Path(str(path.parent).replace("/predict/", "/evaluate/") + ".parquet")
        table = pd.read_parquet(scores)
        for entry in facts["cases"].values():
            file = path.parent / entry["file"]
            labels, grid = read_labels(file)
            write_labels(file, labels, grid.cropped((0, 0, 1), labels.shape))
            table["prediction"] = table["prediction"].replace(entry["sha256"], sha256_file(file))
            entry["sha256"] = sha256_file(file)
        write_record(path, facts)
        write_table(scores, table)
    compare(sorted(results.glob("*/evaluate/*/*.parquet")), results / "compare")
    with pytest.raises(GeometryError, match="differ by 1"):
        report(tmp_path, results)


def test_best_median_and_worst_case() -> None:
    chosen = choose(pd.Series({"a": 0.5, "b": 0.9, "c": 0.1, "d": 0.7}))
    assert [(c.standing, c.case) for c in chosen] == [("worst", "c"), ("median", "a"), ("best", "b")]
    assert [(c.standing, c.case) for c in choose(pd.Series({"a": 0.5}))] == [("worst and median and best", "a")]
    assert choose(pd.Series(dtype=float)) == []


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0)])
@pytest.mark.parametrize("flips", [(False, False, False), (True, False, True), (False, True, True)])
def test_volumes_are_shown_upright_whatever_their_stored_orientation(
    order: tuple[int, int, int], flips: tuple[bool, bool, bool]
) -> None:
    # A patient in RAS+ with a mark that is far right, front and top.
    ras = np.zeros((20, 14, 9), dtype=np.uint8)
    ras[16:19, 10:13, 6:8] = 1
    grid = Geometry.create(ras.shape, np.diag([1.0, 2.0, 3.0, 1.0])).reoriented(order, flips)
    stored = ras.transpose(order)[tuple(slice(None, None, -1) if f else slice(None) for f in flips)]
    planes = planes_3d(stored[None].astype(np.float32), [stored, np.zeros_like(stored)], grid)
    assert planes.pixels == ((2.0, 1.0), (3.0, 1.0), (3.0, 2.0))
    for plane in planes.labels[0]:
        rows, columns = np.nonzero(plane)
        # Right is shown left, front (or top) is shown up, and in the sagittal plane front is left.
        assert rows.mean() < (plane.shape[0] - 1) / 2
        assert columns.mean() < (plane.shape[1] - 1) / 2


def test_the_plane_with_the_largest_error_is_shown() -> None:
    reference = np.zeros((12, 12, 12), dtype=np.uint8)
    reference[3:9, 3:9, 3:9] = 1
    prediction = reference.copy()
    prediction[:, :, 7] = 0
    grid = Geometry.create(reference.shape, np.eye(4))
    planes = planes_3d(np.zeros((1, 12, 12, 12), dtype=np.int16), [reference, prediction], grid)
    assert planes.labels[0][0].any()
    assert not planes.labels[1][0].any()


def test_charts_are_the_same_bytes_each_time_and_differ_by_theme() -> None:
    rows = [
        BoxRow("a$b_{$", Look("#0072B2", "o", "●", True), np.array([0.1, np.nan, 0.9])),
        BoxRow("none", Look("#D55E00", "s", "□", False), np.array([np.nan])),
    ]

    def draw() -> Mapping[str, bytes]:
        return in_themes(lambda theme: box_plot(rows, (0.0, 1.0), "Dice", theme))

    assert draw() == draw()
    assert draw()["light"] != draw()["dark"]
    assert b"Software" not in draw()["light"]


def test_manifest_written_by_the_fixture_is_one_that_ingest_reads(study: tuple[Path, Path, str]) -> None:
    assert read_manifest(study[1] / "cells" / "ingest" / "manifest.tsv").labels.instances


def test_objects_have_a_section_with_numbers_charts_and_the_worst_images(tmp_path: Path) -> None:
    _, results = build(tmp_path, label=HOSTILE, objects=True)
    page, found = Page(report(tmp_path, results)), summary(results)["objects"]
    assert page.open == []
    assert not {tag for tag, _ in page.elements} & {"script", "b onerror"}
    sections = [a["id"] for tag, a in page.elements if tag == "section"]
    assert sections == [*SECTIONS[:3], "objects", *SECTIONS[3:]]
    assert {str(a["href"])[1:] for tag, a in page.elements if tag == "a"} == {*sections}
    assert [(row["dataset"], row["model"]) for row in found] == [("cells", "dilated"), ("cells", "unet")]
    pooled = {(r["model"], r["metric"]): r["mean"] for r in summary(results)["rows"] if r["dataset"] == "cells"}
    for row in found:
        assert row["curve"][0]["ap"] == pooled[row["model"], "ap50_pooled"]
        missed, wrong = row["n_ref"] - row["n_matched"], row["n_pred"] - row["n_matched"]
        counts = f"{row['n_ref']:.0f} {row['n_pred']:.0f} {row['n_matched']:.0f} {missed:.0f} {wrong:.0f}"
        ap = f"{row['n_merged']:.0f} {row['n_split']:.0f} {row['curve'][0]['ap']:.3f}"
        assert f"{row['model']} {counts} {ap} no interval +0.0" in page.words
    names = {p.name for p in (results / "report" / "figures").glob("*.png")}
    charts = {"ap,cells,0", "counts,cells,unet,0", "counts,cells,dilated,0", "sizes,cells", "pq,cells,0"}
    assert {f"{name}{theme}.png" for name in charts for theme in ("", ",dark")} <= names
    assert sum(name.startswith("worst,cells,") for name in names) == 2 * 4
    assert not [name for name in names if name.startswith(("worst,organs", "ap,organs", "sizes,organs"))]
    for fact in (
        "PQ of the model ranked first",
        "Dice of the model ranked first",
        "AP@0.5 mean AP F1@0.5 count error Dice",
        "PQ or Dice of every case, by class and model",
        "prediction, wrong (FP)",
        "M a predicted object that merges several",
        "Head boundary boundary",
        "Foreground from 0.4 0.4",
        "Smallest object (voxels) 15 15",
        "the cases that are scored had no part in it",
        "No interval of AP: 4 subjects; an interval needs 6.",
    ):
        assert fact in page.words, fact


@pytest.mark.usefixtures("blank")
def test_every_case_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, results = build(tmp_path, objects=True)
    read: list[tuple[str, str]] = []
    for name in ("read_case_image", "read_case_labels"):
        original = getattr(pictures, name)
        monkeypatch.setattr(
            pictures, name, lambda case, folder, o=original, n=name: (read.append((n, case.id)), o(case, folder))[1]
        )
    report(tmp_path, results)
    assert len(read) == len(set(read))
    # Folds 0 and 1 of three were run; every case of the cells is counted, of the organs those that are drawn are read.
    assert sum(name == "read_case_labels" and case.startswith("c") for name, case in read) == 4
