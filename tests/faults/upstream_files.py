"""Files of ingest, plan, preprocess, weights and downloads, for ``test_flips.py``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from medseg.config import Config, DownloadConfig, load_config
from medseg.errors import DataError
from medseg.files import sha256_bytes, sha256_file
from medseg.image.geometry import Geometry
from medseg.image.labels import LabelTable
from medseg.ingest import download
from medseg.ingest.grouping import Grouping
from medseg.ingest.manifest import Case, Manifest, read_manifest, write_manifest, write_test
from medseg.ingest.recorded import read_test
from medseg.ingest.splits import read_folds, read_split, write_splits
from medseg.kept import kept, write_stamp
from medseg.plan.fingerprint import Fingerprint, read_fingerprint, write_fingerprint
from medseg.plan.plan import read_plan, write_plan
from medseg.preprocess.inverse import InverseRecord
from medseg.preprocess.store import PreparedCase, kept_case, open_store, write_case, write_index
from medseg.records import read_record, write_record
from medseg.shards import Shard, read_shards
from medseg.tracking.store import read_store
from medseg.transfer import _known, _State, _state_file
from medseg.weights.record import read_weights_record, write_weights_record
from medseg.workflow import write_config
from medseg.workload import case_sizes, planned
from tests.faults.flips import FileKind
from tests.plans import tiny_plan

URL = "https://example.org/archive.tar"
SHA256 = "0123456789abcdef" * 4


def _made(value: Any) -> Any:
    """What was read, where nothing means that the file is refused and its owner makes it again."""
    if value in (None, ()):
        raise DataError("refused")
    return value


def _case(name: str, **more: Any) -> Case:
    grid = Geometry.create((12, 10, 6), np.diag([0.7, 0.7, 2.5, 1.0]), "mm")
    images, labels = (f"images/{name}_ß.nii.gz",), (f"labels/{name}.nii.gz",)
    return Case(name, "s1", images, labels, (SHA256,), (SHA256[::-1],), grid, "int16", {0: 700, 1: 20}, **more)


def ingested(folder: Path) -> None:
    """Everything that ingest writes."""
    cases = (_case("a", fill=-1024.0, site="x"), _case("b", remarks=("an axis of length 1 was dropped",)))
    labels = LabelTable.create({"liver": 1, "lesion": 2}, regions={"organ": [1, 2], "lesion": [2]}, ignore=9)
    grouping = Grouping("file", "subjects.csv")
    write_test([_case("t")], ["a fault that was allowed"], {"cases": ["t"], "file": None}, folder)
    write_manifest(Manifest("d", 3, ("CT",), labels, cases, ("fault · a",), ("z",), grouping), folder)
    write_splits(folder / "splits.json", [{"train": ["a"], "val": ["b"]}, {"train": ["b"], "val": ["a"]}], seed=4)


def _ingest(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        ingested(folder)
        return folder / name

    return make


def _of_test(path: Path) -> Any:
    table = path.with_name("test.tsv")
    return read_manifest(table), read_test(table)


def _fingerprint(folder: Path) -> Path:
    numbers = {"mean": 93.25, "std": 41.5, "median": 90.0, "p00_5": -17.0, "p99_5": 201.5, "min": -80.0, "max": 350.0}
    shapes, spacings = ((40, 38, 20), (42, 36, 18)), ((0.7, 0.7, 2.5), (0.75, 0.75, 3.0))
    facts = Fingerprint("d", 3, ("CT",), 3, 2, "mm", True, shapes, spacings, 0.93, (numbers,), ((1, 2), (2,)), True)
    write_fingerprint(folder / "fingerprint.json", facts)
    return folder / "fingerprint.json"


def _plan(folder: Path) -> Path:
    reasons = {"memory": "7.25 GB for a training step, counted; at most 8.00 GB", "lr": "of the recipe"}
    write_plan(folder / "unet.json", replace(tiny_plan(dims=3, lr=0.0123), reasons=reasons))
    return folder / "unet.json"


def _store(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        rng = np.random.default_rng(3)
        native = Geometry.from_spacing((16, 12), (1.0, 1.5))
        record = InverseRecord(native, (0, 1), (False, True), (1, 2), (14, 9), (14, 9))
        image, labels = rng.random((1, 14, 9)).astype(np.float32), rng.integers(0, 3, (14, 9)).astype(np.uint8)
        rows = np.argwhere(labels == 1).astype(np.int32)
        entry = write_case(folder / "a.case", "key", image, labels, rows, record)
        write_index(folder, "d", tiny_plan().grid, {"a": entry})
        return folder / name

    return make


def _indexed(path: Path) -> Any:
    """The index, and from there every array."""
    grid, cases, digests = open_store(path.with_name("index.json"))
    return grid, digests, [(c.record, *_arrays(c)) for c in cases.values()]


def _arrays(case: PreparedCase) -> list[Any]:
    return [case.read_image().tolist(), case.read_labels().tolist(), case.read_locations().tolist()]


def _kept_case(path: Path) -> Any:
    if (entry := kept_case(path, "key")) is None:
        raise DataError("prepared again")
    case = PreparedCase.open(path)
    return entry, case, case.record, _arrays(case)


def _stamp(folder: Path) -> Path:
    (folder / "a").write_bytes(b"first")
    write_stamp(folder / ".case.json", "key", [folder / "a"], facts={"more": [1, 2.5, "x"]})
    return folder / ".case.json"


def _shards(folder: Path) -> Path:
    for index in range(2):
        Shard(index, 2).write(folder, {"dataset": "d", "cases": [f"c{index}", f"c{index + 2}"]})
    return Shard(1, 2).record(folder)


def _weights(folder: Path) -> Path:
    (folder / "encoder.pth").write_bytes(b"weights")
    write_weights_record(folder / "unet.json", "encoder.pth", None, folder / "encoder.pth")
    return folder / "unet.json"


def _config() -> Config:
    section = {"layout": "pairs", "path": "d", "labels": {"nucleus": 1}, "download": {"url": URL}}
    changes = {"plan": {"patch": [32, 48], "steps": 70}, "network": "unet"}
    return load_config([], {"datasets": {"d": section}, "models": {"m": changes}, "budget": {"minutes": 1.5}})


def _config_json(folder: Path) -> Path:
    write_config(_config(), folder / "config.json")
    return folder / "config.json"


def _downloaded(folder: Path) -> Path:
    write_record(folder / download.RECORD, {"url": URL, "sha256": SHA256, "bytes": 1234567})
    return folder / download.RECORD


def _noted(folder: Path) -> Path:
    (folder / "archive.part").write_bytes(b"archive")
    path = download._noted(folder / "d")
    path.write_text(f"{sha256_file(folder / 'archive.part')}  archive.tar\n")
    return path


def _held_to_note(path: Path) -> str:
    """What is wrong with the archive by its noted checksum: nothing, or it is refused."""
    wrong = download._checksum_error(path.with_name("archive.part"), DownloadConfig(url=URL), path.with_name("d"))
    if wrong:
        raise DataError(wrong)
    return wrong


def _store_json(folder: Path) -> Path:
    write_record(folder / "store.json", {"uri": "sqlite:///mlflow.db", "experiment": "study", "experiment_id": "1"})
    return folder / "store.json"


def _transfer(folder: Path) -> Path:
    (folder / "x.part").write_bytes(b"beginning")
    write_record(_state_file(folder / "x.part"), asdict(_State(sha256_bytes(URL.encode()), 1000, '"tag"')))
    return _state_file(folder / "x.part")


UPSTREAM: dict[str, FileKind] = {
    "manifest.tsv": FileKind(_ingest("manifest.tsv"), read_manifest),
    "dataset.json": FileKind(_ingest("dataset.json"), lambda path: read_manifest(path.with_name("manifest.tsv"))),
    "test.tsv": FileKind(_ingest("test.tsv"), _of_test),
    "test.json": FileKind(_ingest("test.json"), _of_test),
    "splits.json": FileKind(_ingest("splits.json"), lambda path: [read_folds(path), read_split(path, 1)]),
    "sizes of cases, manifest": FileKind(
        _ingest("manifest.tsv"), lambda path: _made(case_sizes(path, path.with_name("dataset.json")))
    ),
    "sizes of cases, data set": FileKind(
        _ingest("dataset.json"), lambda path: _made(case_sizes(path.with_name("manifest.tsv"), path))
    ),
    "fingerprint.json": FileKind(_fingerprint, read_fingerprint),
    "plan": FileKind(_plan, read_plan),
    "memory of a step": FileKind(_plan, lambda path: _made(found.step_gb if (found := planned(path)) else None)),
    "index.json": FileKind(_store("index.json"), _indexed),
    "prepared case": FileKind(_store("a.case"), _kept_case),
    "prepared case, by the index": FileKind(_store("a.case"), _indexed),
    "stamp of kept work": FileKind(_stamp, lambda path: _made(kept(path, "key"))),
    "stamp's other facts": FileKind(_stamp, lambda path: read_record(path, "medseg preprocess")),
    "record of a shard": FileKind(_shards, lambda path: read_shards(path.parent, 2, "preprocess")),
    "record of weights": FileKind(_weights, lambda path: read_weights_record(path, "encoder.pth", None)),
    "config.json": FileKind(_config_json, lambda path: load_config([path])),
    "record of a download": FileKind(
        _downloaded, lambda path: download._record(path.parent, DownloadConfig(url=URL, sha256=None))
    ),
    "checksum of a download": FileKind(_noted, _held_to_note),
    "store.json": FileKind(_store_json, read_store),
    "state of a transfer": FileKind(_transfer, lambda path: _made(_known(URL, path.with_name("x.part")))),
}
