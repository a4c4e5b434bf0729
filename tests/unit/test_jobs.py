"""What jobs of the workflow ask a cluster for: plain numbers before there is a manifest, then what the cases need."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from medseg.config import Config, load_config
from medseg.files import write_text
from medseg.ingest.recorded import write_table
from medseg.jobs import (
    CLASS_MAP,
    CUDA_MB,
    DAY_MINUTES,
    DECODED_MB,
    GPU_PACE,
    PROCESS_MB,
    START_MINUTES,
    THREAD_PACE,
    Job,
)
from medseg.preprocess.arrays import DECODED_BYTES
from medseg.records import write_record
from medseg.results.paths import Results
from medseg.submission import job
from medseg.workload import case_sizes, planned


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.chdir(tmp_path)
    return make()


def make(**more: Any) -> Config:
    section = {"layout": "pairs", "path": "d", **more.pop("dataset", {})}
    models = more.pop("models", {"m": {"network": "unet"}})
    return load_config(
        [], {"experiment": "e", "datasets": {"d": section}, "models": models, "budget": {"steps": 1}, **more}
    )


def manifest(*shapes: tuple[int, ...], spacing: tuple[float, ...] = (1.0, 1.0, 1.0), channels: int = 1) -> None:
    """A manifest with no more in it than the sizes of its cases."""
    files = Results(Path("results/e")).ingest("d")
    affine = [[s if i == j else 0.0 for j in range(4)] for i, s in enumerate(spacing)] + [[0.0, 0.0, 0.0, 1.0]]
    rows = [json.dumps({"shape": shape, "voxel_to_world": affine, "unit": "mm"}) for shape in shapes]
    quoted = ['"' + row.replace('"', '""') + '"' for row in rows]
    table = "case\tgeometry\n" + "".join(f"c{i}\t{row}\n" for i, row in enumerate(quoted))
    write_table(files.manifest, table, files.dataset, {"channels": ["CT"] * channels})


def write_plan(steps: int = 10, gflop: float | None = None, batch: int = 2, patch: tuple[int, ...] = (10, 10)) -> None:
    """A plan with no more in it than the work of its training."""
    reasons = {"memory": "7.25 GB for a training step, counted; at most 8.00 GB"}
    if gflop is not None:
        reasons["work"] = f"{gflop:.6f} GFLOP for a training step, counted"
    value = {"reasons": reasons, "training": {"steps": steps, "batch": batch}, "network": {"patch": patch}}
    write_record(Results(Path("results/e")).plan("d").plan("m"), value)


def rounded(megabytes: float) -> int:
    return 100 * math.ceil(megabytes / 100)


def memory(config: Config, rule: str, threads: int = 1, gpu: bool = False) -> int:
    return Job(config, rule, threads, gpu, "d", "m").memory_mb()


ALL = ("ingest", "fingerprint", "plan", "preprocess", "train", "predict", "postprocess", "evaluate", "compare", "track")


def test_before_anything_ran_every_rule_has_plain_numbers(config: Config) -> None:
    for rule in ALL:
        one = Job(config, rule, 1, False, "d", "m")
        assert 1000 <= one.memory_mb() <= 8000
        assert one.minutes() >= 20


def test_large_cases_and_more_of_them_at_once_need_more(config: Config) -> None:
    manifest((64, 64, 32))
    small = {rule: memory(config, rule) for rule in ALL}
    manifest((512, 512, 500), (512, 512, 500), (64, 64, 32))
    for rule in ("fingerprint", "preprocess", "predict", "evaluate"):
        assert memory(config, rule) > small[rule]
    # 26 bytes a voxel while a case is read, as many cases as there are threads; and no more than there are.
    one, two = (26 + 4) * 512 * 512 * 500 / 1e6, memory(config, "fingerprint", threads=2)
    assert two == pytest.approx(600 + 2 * one, abs=200)
    assert memory(config, "fingerprint", threads=8) == pytest.approx(two, abs=200)
    assert memory(config, "compare") == small["compare"]


def test_the_host_budget_of_the_configuration_counts(config: Config) -> None:
    manifest((512, 512, 400))
    given = make(budget={"steps": 1, "host_gb": 20})
    assert memory(given, "preprocess") == pytest.approx(20_600, abs=100)
    refined = make(budget={"steps": 1, "host_gb": 20}, dataset={"postprocess": {"crf": {}}})
    assert memory(refined, "postprocess") == pytest.approx(20_600, abs=100)


def test_training_needs_what_the_plan_counted(config: Config) -> None:
    plan = Results(Path("results/e")).plan("d").plan("m")
    assert planned(plan) is None
    unplanned = memory(config, "train")
    manifest((100, 100, 100))
    write_plan()
    assert planned(plan).step_gb == 7.25
    assert memory(config, "plan") == memory(config, "train")
    # The case is kept decoded: an image of 4 and labels of 1 byte a voxel.
    assert memory(config, "train") == rounded(1500 + 7250 + 5)
    assert memory(config, "train") > unplanned
    assert memory(make(processes=2), "train") == rounded(1500 + 2 * (7250 + 5))
    assert memory(make(loader={"workers": 3}), "train") == rounded(1500 + 7250 + 5 + 3 * (PROCESS_MB + 5))
    # On a GPU, the host holds no step; two processes read for each that trains.
    assert memory(config, "train", gpu=True) == rounded(CUDA_MB + 5 + 2 * (PROCESS_MB + 5))
    assert memory(make(processes=2), "train", gpu=True) == rounded(2 * (CUDA_MB + 5 + 2 * (PROCESS_MB + 5)))
    manifest(*[(512, 512, 100)] * 9)
    assert memory(config, "train", gpu=True) == rounded(CUDA_MB + DECODED_MB + 2 * (PROCESS_MB + DECODED_MB))
    assert math.ceil(DECODED_BYTES / 1e6) == DECODED_MB


def test_one_process_predicts_however_many_train(config: Config) -> None:
    manifest((64, 64, 32))
    for gpu in (False, True):
        assert memory(make(processes=4, loader={"workers": 8}), "predict", gpu=gpu) == memory(
            config, "predict", gpu=gpu
        )


@pytest.mark.parametrize("facts", ["{", "{}", "[]", '{"channels": null}'])
@pytest.mark.parametrize("table", ["", "case\tsubject\nx\ty\n", "case\tgeometry\nx\t{}\n", "case\tgeometry\nx\n"])
def test_a_file_that_cannot_be_read_does_not_stop_the_job_that_writes_it_again(
    table: str, facts: str, config: Config
) -> None:
    files = Results(Path("results/e"))
    unknown = {rule: memory(config, rule) for rule in ALL}
    write_text(files.ingest("d").manifest, table)
    write_text(files.ingest("d").dataset, facts)
    write_text(files.plan("d").plan("m"), facts)
    assert {rule: memory(config, rule) for rule in ALL} == unknown
    write_table(files.ingest("d").manifest, table, files.ingest("d").dataset, {"channels": ["CT"]})
    assert {rule: memory(config, rule) for rule in ALL} == unknown


def test_a_plan_says_how_much_memory_and_work_it_counted(study: Any) -> None:
    found = planned(study.plan("flat"))
    assert found is not None and found.step_gb is not None and found.operations is not None
    assert 0 <= found.step_gb < 1
    assert 1e6 < found.operations < 1e12
    assert found.steps == 4


def test_sizes_are_those_of_the_manifest(study: Any) -> None:
    manifest = study.manifest("solid")
    sizes = case_sizes(manifest, manifest.with_name("dataset.json"))
    assert all(size.voxels > 1000 and size.channels >= 1 for size in sizes)


def test_finely_resolved_cases_are_prepared_on_the_usual_grid(config: Config) -> None:
    files = Results(Path("results/e")).ingest("d")
    manifest((100, 100, 10), spacing=(0.5, 0.5, 4.0), channels=2)
    assert [(s.voxels, s.prepared, s.channels) for s in case_sizes(files.manifest, files.dataset)] == [
        (100_000,) * 2 + (2,)
    ]


def minutes(config: Config, rule: str, threads: int = 1, gpu: bool = False) -> int:
    return Job(config, rule, threads, gpu, "d", "m").minutes() - START_MINUTES


def test_time_of_a_training_follows_budget_or_the_work_that_the_plan_counted(config: Config) -> None:
    assert minutes(make(budget={"minutes": 20}), "train") == minutes(make(budget={"minutes": 20}), "plan") == 30
    assert minutes(config, "train") == DAY_MINUTES
    assert minutes(config, "plan") == 0
    # A tenth of a second for all else, and a quarter for validation beside the steps.
    write_plan(steps=12_000, gflop=THREAD_PACE / 1e9)
    assert minutes(make(threads=1), "train") == math.ceil(12_000 * 1.1 * 1.25 / 60)
    assert minutes(make(threads=2), "train") == math.ceil(12_000 * 0.6 * 1.25 / 60)
    write_plan(steps=12_000, gflop=GPU_PACE / 1e9)
    assert minutes(make(threads=2), "train", gpu=True) == math.ceil(12_000 * 1.1 * 1.25 / 60)
    fixed = make(budget={"minutes": 20}, models={"m": {"network": "unet", "plan": {"steps": 9}}})
    assert minutes(fixed, "train", gpu=True) == minutes(config, "train", gpu=True)
    # Of an earlier version, which counted no work.
    write_plan(steps=12_000)
    assert minutes(config, "train") == DAY_MINUTES


def test_time_of_other_stages_follows_cases_voxels_threads_and_shards(config: Config) -> None:
    manifest(*[(100, 100, 100)] * 600)
    assert minutes(config, "ingest") == 600 * (5 + 2) / 60
    assert minutes(config, "preprocess", threads=4) == 600 * (5 + 5) / 60 / 4
    # Two fifths of the cases, in five folds.
    assert minutes(config, "evaluate") == 0.4 * 600 * (5 + 10) / 60
    assert minutes(make(folds={"count": 2}), "evaluate") == 600 * (5 + 10) / 60
    without = minutes(config, "predict")
    assert without == 0.4 * 600 * (5 + 10) / 60
    # A third of a step of 100 voxels, 64 times over: overlapping windows and mirror images.
    write_plan(gflop=THREAD_PACE / 1e9 / 1e4, batch=1)
    assert minutes(make(threads=1), "predict") == math.ceil(without + 0.4 * 600 * 1e6 / 3 / 100 * 64 / 1e4 / 60)
    assert minutes(make(shards=4), "predict_shard") == math.ceil(minutes(make(shards=4), "predict") / 4)


def test_a_job_is_made_of_its_wildcards(config: Config) -> None:
    class Wildcards:
        dataset = "d"

    made = job(config, "preprocess", Wildcards(), 3)
    assert (made.dataset, made.model, made.threads) == ("d", None, 3)


def test_objects_of_several_classes_have_a_class_map_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    manifest((2000, 2000, 100))
    cells = {"instances": True, "labels": {"a": 1}}
    typed = {"instances": True, "labels": {"a": 1, "b": 2}, "classes": "t.csv"}
    one, several = (Job(make(dataset=section), "predict", 1, False, "d", "m").memory_mb() for section in (cells, typed))
    assert several - one == pytest.approx(CLASS_MAP * 4e8 / 1e6, abs=100)
