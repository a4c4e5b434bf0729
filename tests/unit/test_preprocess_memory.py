"""Host memory of preprocessing: estimated before anything is read, kept within the budget, refused with numbers."""

from __future__ import annotations

import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from medseg.errors import DataError
from medseg.files import sha256_file
from medseg.image.geometry import Geometry
from medseg.image.labels import LabelTable
from medseg.ingest.manifest import Case, Manifest, read_manifest
from medseg.plan.plan import Grid
from medseg.preprocess import cases as preparing
from medseg.preprocess import memory
from medseg.preprocess import run as stage
from medseg.preprocess.memory import PROCESS_BYTES, MemoryGate, case_bytes, host_budget, require_fit

EDGE = 56
STATISTICS = {"mean": 100.0, "std": 30.0, "p00_5": 0.0, "p99_5": 190.0}


def work_of(folder: Path, image: str, label: str, channels: int, spacing: float, scaling: str) -> preparing.Preparation:
    """One case of EDGE^3 voxels in the stored types ``image`` and ``label``."""
    rng = np.random.default_rng(0)
    shape = (EDGE,) * 3
    voxels = (rng.random((*shape, channels)[: 3 + (channels > 1)]) * 200 + 1).astype(image)
    nibabel.save(nibabel.Nifti1Image(voxels, np.eye(4)), folder / "image.nii")
    labels = (np.indices(shape).sum(axis=0) > EDGE).astype(label)
    nibabel.save(nibabel.Nifti1Image(labels, np.eye(4), dtype=label), folder / "label.nii.gz")
    case = Case(
        id="a",
        subject="a",
        images=("image.nii",),
        labels=("label.nii.gz",),
        images_sha256=(sha256_file(folder / "image.nii"),),
        labels_sha256=(sha256_file(folder / "label.nii.gz"),),
        geometry=Geometry.create(shape, np.eye(4)),
        dtype=image,
        label_counts={},
    )
    manifest = Manifest("d", 3, ("MR",) * channels, LabelTable.create({"ball": 1}), (case,))
    grid = Grid("mm", True, (spacing,) * 3, (scaling,) * channels, (STATISTICS,) * channels)
    return preparing.Preparation(manifest, grid, folder, "code")


@pytest.mark.parametrize("scaling", ["zscore", "zscore_nonzero", "ct", "percentile"])
@pytest.mark.parametrize("spacing", [0.8, 1.0, 1.6])
@pytest.mark.parametrize(
    ("image", "label", "channels"), [("int16", "uint8", 1), ("uint8", "float32", 2), ("float64", "int16", 1)]
)
def test_the_estimate_is_an_upper_bound_and_no_wild_one(
    tmp_path: Path, image: str, label: str, channels: int, spacing: float, scaling: str
) -> None:
    work = work_of(tmp_path, image, label, channels, spacing, scaling)
    (case,) = work.manifest.cases
    preparing.prepare_case(case, work, tmp_path / "warm")
    tracemalloc.start()
    preparing.prepare_case(case, work, tmp_path / "out")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= case_bytes(case, work.grid, tmp_path) <= 3 * peak


def test_larger_cases_need_more(tmp_path: Path) -> None:
    needs = []
    for spacing in (2.0, 1.0, 0.5, 0.25):
        work = work_of(tmp_path, "int16", "uint8", 1, spacing, "zscore")
        needs.append(case_bytes(work.manifest.cases[0], work.grid, tmp_path))
    assert needs == sorted(needs)
    # An axis that keeps its own spacing costs what it costs.
    own = Grid("mm", True, (1.0, 1.0, 0.0), ("zscore",), (STATISTICS,))
    assert case_bytes(work.manifest.cases[0], own, tmp_path) == needs[1]
    # A missing file is told when it is read, not here.
    assert case_bytes(work.manifest.cases[0], own, tmp_path / "nowhere") > 0


def tight(study: Any, host_gb: float) -> Any:
    budget = study.config.budget.model_copy(update={"host_gb": host_gb})
    return study.config.model_copy(update={"budget": budget})


def test_a_case_beyond_the_budget_is_refused_before_it_is_read(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "read_case_image", lambda *_: pytest.fail("read"))
    inputs = (study.manifest("flat"), study.fingerprint("flat"), tmp_path, "code", 2)
    with pytest.raises(DataError) as caught:
        stage.run(tight(study, 0.3), "unet", *inputs)
    message = str(caught.value)
    for part in ("'f3'", "host budget of 0.30 GB", "budget.host_gb", "0.4", "plan.spacing"):
        assert part in message
    assert not (tmp_path / "index.json").exists()


def test_what_is_prepared_needs_no_memory(study: Any) -> None:
    """A store made on a large machine is gathered on a small one."""
    index = study.index("flat")
    before = index.stat().st_mtime_ns
    stage.run(tight(study, 0.1), "unet", study.manifest("flat"), study.fingerprint("flat"), index.parent, "code", 1)
    assert index.stat().st_mtime_ns > before


def test_workers_share_the_budget(study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With memory for two cases at a time, four workers never hold three, and the result is the same."""
    cases = read_manifest(study.manifest("flat")).cases
    monkeypatch.setattr(stage, "case_bytes", lambda *_, **__: 1_000)
    monkeypatch.setattr(stage, "host_budget", lambda _: PROCESS_BYTES + 2_500)
    inside, most, lock = 0, 0, threading.Lock()
    prepare = stage.prepare_case

    def counted(*args: Any) -> Any:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        time.sleep(0.02)
        entry = prepare(*args)
        with lock:
            inside -= 1
        return entry

    monkeypatch.setattr(stage, "prepare_case", counted)
    stage.run(study.config, "unet", study.manifest("flat"), study.fingerprint("flat"), tmp_path, "code", len(cases))
    assert most == 2
    for case in cases:
        made, expected = (folder / f"{case.id}.case" for folder in (tmp_path, study.index("flat").parent))
        assert made.read_bytes() == expected.read_bytes()


def test_the_gate_lets_through_what_fits() -> None:
    gate, under_way, seen = MemoryGate(PROCESS_BYTES + 100), [], []

    def job(need: int) -> None:
        with gate.hold(need):
            under_way.append(need)
            seen.append(sum(under_way))
            time.sleep(0.002)
            under_way.remove(need)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(job, [100, 60, 60, 40, 1, 99, 50, 50] * 3))
    assert max(seen) <= 100


def test_memory_is_given_back_after_an_error() -> None:
    gate = MemoryGate(PROCESS_BYTES + 10)
    for _ in range(3):
        with pytest.raises(ValueError, match="broken"), gate.hold(10):
            raise ValueError("broken")


def test_refusals_name_the_largest_first() -> None:
    needs = {f"c{k}": k * 10**9 for k in range(12)}
    require_fit(needs, 11 * 10**9 + PROCESS_BYTES)
    with pytest.raises(DataError, match=r"'c11' 11.00 GB, 'c10' .* and 1 more .* at least 11.3 "):
        require_fit(needs, 5 * 10**9 + PROCESS_BYTES)


def test_the_budget_is_half_of_the_memory_of_this_process_or_as_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "host_memory", lambda: 3001)
    assert host_budget(None) == 1500
    assert host_budget(1.5) == 1_500_000_000
