"""Files that users and other programs write, for ``test_flips.py``: they have no digest, but damage is our message."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from medseg.config import Config, load_config
from medseg.ingest.own_folds import own_folds
from medseg.ingest.run import check
from medseg.ingest.sources import find_cases
from medseg.report.sources import _read_jobs
from tests.faults.flips import FileKind

CASES = ("p1_a", "p1_b", "p2_a", "p3_a")


def _study(root: Path, section: dict[str, Any], **more: Any) -> Config:
    datasets = {"d": {"path": "d", **section}}
    return load_config([], {"data_root": str(root), "datasets": datasets, "budget": {"steps": 1}, **more})


def _files(root: Path, images: str, labels: str) -> None:
    """A picture and a label map of each case; ``{}`` in their names stands for the case."""
    import numpy as np

    from medseg.formats.write import write_labels
    from medseg.image.geometry import Geometry

    for number, case in enumerate(CASES):
        rng = np.random.default_rng(number)
        grid = Geometry.from_spacing((16, 14), (1.0, 1.0))
        image = rng.integers(1, 250, grid.shape).astype(np.uint8)
        truth = np.zeros(grid.shape, np.uint8)
        truth[2 + number : 9, 3:8], truth[10:14, 2 + number : 9] = 1, 2
        write_labels(root / images.format(case), image, grid)
        write_labels(root / labels.format(case), truth, grid)


def _decathlon(folder: Path) -> Path:
    _files(folder / "d", "imagesTr/{}.png", "labelsTr/{}.png")
    index = {
        "name": "größer",
        "modality": {"0": "light"},
        "labels": {"0": "background", "1": "ball", "2": "rod"},
        "numTraining": len(CASES),
        "training": [{"image": f"./imagesTr/{case}.png", "label": f"./labelsTr/{case}.png"} for case in CASES],
    }
    (folder / "d/dataset.json").write_text(json.dumps(index, indent=1, ensure_ascii=False))
    return folder / "d/dataset.json"


def _nnunet(folder: Path) -> Path:
    _files(folder / "d", "imagesTr/{}_0000.png", "labelsTr/{}.png")
    index = {
        "channel_names": {"0": "light"},
        "labels": {"background": 0, "whole": [1, 2], "rod": 2, "ignore": 3},
        "regions_class_order": [1, 2],
        "numTraining": len(CASES),
        "file_ending": ".png",
    }
    (folder / "d/dataset.json").write_text(json.dumps(index))
    return folder / "d/dataset.json"


def _nnunet_listed(folder: Path) -> Path:
    path = _nnunet(folder)
    entries = {c: {"images": [f"imagesTr/{c}_0000.png"], "label": f"labelsTr/{c}.png"} for c in CASES}
    path.write_text(json.dumps({**json.loads(path.read_text()), "dataset": entries}))
    return path


def _sidecar(folder: Path) -> Path:
    _files(folder / "d", "imagesTr/{}_0000.tif", "labelsTr/{}.tif")
    index = {"channel_names": {"0": "light"}, "labels": {"background": 0, "ball": 1, "rod": 2}, "file_ending": ".tif"}
    (folder / "d/dataset.json").write_text(json.dumps({**index, "numTraining": len(CASES)}))
    for part in ("images", "labels"):
        for case in CASES:
            (folder / f"d/{part}Tr/{case}.json").write_text('{"spacing": [0.5, 0.25]}')
    return folder / f"d/imagesTr/{CASES[1]}.json"


def _participants(folder: Path) -> Path:
    for number in range(4):
        base = f"sub-{number}/anat/sub-{number}"
        for name in (f"{base}_T2w.nii.gz", f"derivatives/manual/{base}_dseg.nii.gz"):
            (folder / "d" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "d" / name).write_bytes(b"")
    rows = ["participant_id\tage\tsite", "sub-0\t40\tBärn", "sub-1\t50\tx", "sub-2\t60\tn/a", "sub-3\t70\ty"]
    (folder / "d/participants.tsv").write_text("\n".join(rows) + "\n")
    return folder / "d/participants.tsv"


def _table(name: str, header: str, row: str) -> Callable[[Path], Path]:
    """A table beside the files of the pairs layout; ``{}`` stands for a case, ``[]`` for its subject."""

    def make(folder: Path) -> Path:
        _files(folder / "d", "images/{}.png", "masks/{}.png")
        lines = [row.replace("{}", case).replace("[]", case[:2]) for case in CASES]
        (folder / "d" / name).write_text("\n".join([header, *lines]) + "\n")
        return folder / "d" / name

    return make


def _test_cases(folder: Path) -> Path:
    _files(folder / "d", "images/{}.png", "masks/{}.png")
    (folder / "d/t.csv").write_text("why,case\nfirst,p1_a\n'first',p1_b\n")
    return folder / "d/t.csv"


def _folds_json(folder: Path) -> Path:
    folds = [{"train": list(CASES[2:]), "val": list(CASES[:2])}, {"train": list(CASES[:2]), "val": list(CASES[2:])}]
    (folder / "own.json").write_text(json.dumps({"folds": folds}))
    return folder / "own.json"


def _folds_table(folder: Path) -> Path:
    lines = [f'"{case}";{int(case > "p2")}' for case in CASES]
    (folder / "own.csv").write_text("case;fold\n" + "\n".join(lines) + "\n")
    return folder / "own.csv"


def _yaml(folder: Path) -> Path:
    text = """# a comment, größer
experiment: study
data_root: "data"
datasets:
  cells: {layout: pairs, path: cells, labels: {nucleus: 1}, instances: true, exclude: [a, b]}
  organs:
    layout: decathlon
    path: organs
    download: {url: 'https://example.org/a.tar'}
models:
  unet: {network: unet, loss: dice_ce, plan: {patch: [32, 48], steps: 70}}
  big: {network: unet, dims: 2, options: {deep_supervision: true}}
folds: {count: 3, run: [0, 2], seed: 7}
seeds: [0, 1]
budget: {minutes: 1.5}
"""
    (folder / "study.yaml").write_text(text)
    return folder / "study.yaml"


def _json(folder: Path) -> Path:
    study = load_config([_yaml(folder)]).model_dump_json(exclude_unset=True)
    (folder / "study.json").write_text(study)
    return folder / "study.json"


def _benchmark(folder: Path) -> Path:
    """Snakemake's table of seconds and memory of a job."""
    path = folder / "d" / "ingest.tsv"
    path.parent.mkdir()
    path.write_text("s\th:m:s\tmax_rss\tmean_load\n12.5000\t0:00:12\t812.25\t97.1\n3.5\t0:00:03\tNA\t-\n")
    return path


def _jobs(path: Path) -> Any:
    return list(_read_jobs(path.parents[1], ["d"]))


def _found(section: dict[str, Any]) -> Callable[[Path], Any]:
    """What is found of a data set before an image is opened; faults are part of it."""

    def read(path: Path) -> Any:
        root = next(parent for parent in path.parents if parent.name == "d")
        return find_cases("d", root, _study(root.parent, section).datasets["d"])

    return read


def _checked(section: dict[str, Any], **more: Any) -> Callable[[Path], Any]:
    """What all of ``medseg ingest --check`` finds, images included."""

    def read(path: Path) -> Any:
        root = next(parent for parent in path.parents if parent.name == "d")
        return check(_study(root.parent, section, **{"folds": {"count": 2}, **more}), "d")

    return read


def _folds(path: Path) -> Any:
    return own_folds(path, path.name, {case: case[:2] for case in CASES})


BY_NAME = {"subject": "^([^_]*)"}
PAIRS = {"layout": "pairs", "labels": {"ball": 1, "rod": 2}}
SUBJECTS = _table("s.csv", "case,subject", "{},[]")
USERS: dict[str, FileKind] = {
    "configuration, YAML": FileKind(_yaml, lambda path: load_config([path]), signed=False),
    "configuration, JSON": FileKind(_json, lambda path: load_config([path]), signed=False),
    "Decathlon's dataset.json": FileKind(_decathlon, _found({"layout": "decathlon", **BY_NAME}), signed=False),
    "dataset.json of a layout to guess": FileKind(_decathlon, _found(BY_NAME), signed=False),
    "nnU-Net's dataset.json": FileKind(_nnunet, _found({"layout": "nnunet", **BY_NAME}), signed=False),
    "nnU-Net's dataset.json with a list": FileKind(
        _nnunet_listed, _found({"layout": "nnunet", **BY_NAME}), signed=False
    ),
    "nnU-Net's spacing": FileKind(_sidecar, _found({"layout": "nnunet", **BY_NAME}), signed=False),
    "BIDS' participants.tsv": FileKind(
        _participants, _found({"layout": "bids", "labels": {"x": 1}, "bids": {"derivative": "manual"}}), signed=False
    ),
    "table of cases": FileKind(
        _table("t.tsv", "case\timage\tlabel\tsubject\tfold", "{}\timages/{}.png\tmasks/{}.png\t[]\t0"),
        _found({"layout": "table", "table": "t.tsv", "labels": {"ball": 1, "rod": 2}}),
        signed=False,
    ),
    "table of subjects": FileKind(SUBJECTS, _found({**PAIRS, "subject": "s.csv"}), signed=False),
    "table of test cases": FileKind(_test_cases, _found({**PAIRS, **BY_NAME, "test": "t.csv"}), signed=False),
    "Snakemake's benchmark of a job": FileKind(_benchmark, _jobs, signed=False),
    "folds of one's own, JSON": FileKind(_folds_json, _folds, signed=False),
    "folds of one's own, table": FileKind(_folds_table, _folds, signed=False),
}
# With every image read each time, which takes too long for every day.
CHECKED: dict[str, FileKind] = {
    "Decathlon's dataset.json, all checks": FileKind(
        _decathlon, _checked({"layout": "decathlon", **BY_NAME}), signed=False
    ),
    "nnU-Net's dataset.json, all checks": FileKind(_nnunet, _checked({"layout": "nnunet", **BY_NAME}), signed=False),
    "table of subjects, all checks": FileKind(SUBJECTS, _checked({**PAIRS, "subject": "s.csv"}), signed=False),
}
