"""What is asked of a cluster: by commands of SLURM that print what they are told to."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medseg import cluster, ending, submission, workflow
from medseg.cluster import Partition, Wanted, impossible, minutes_of, named_in, remarks
from medseg.config import Config, load_config
from medseg.errors import ConfigError, MachineError
from medseg.fence import VARIABLE
from medseg.jobs import Job
from medseg.outputs import writing
from medseg.results.folders import RunFolder
from medseg.takeover import await_submitted, note_submitted, take_over
from medseg.whole import look

SINFO = """cpu*|1:00:00|16000|8|(null)
cpu*|1:00:00|64000|4|(null)
gpu|2-00:00:00|32000+|16|gpu:a100:2(S:0-1),gpu:t4:1
long|infinite|1000|1|gpu:1
"""


@pytest.fixture
def slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Path]]:
    """``slurm(command, text, status)``: a command that prints a text; returns the file of its arguments."""
    programs = tmp_path / "programs"
    programs.mkdir()
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(cluster, "POLL_S", 0.0)
    cluster.partitions.cache_clear()

    def command(name: str, text: str = "", status: int = 0) -> Path:
        script, called = programs / name, programs / f"{name}.called"
        (programs / f"{name}.text").write_text(text)
        script.write_text(f'#!/bin/sh\necho "$@" >> {called}\ncat {programs / name}.text\nexit {status}\n')
        script.chmod(0o755)
        return called

    yield command
    cluster.partitions.cache_clear()


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("30:00", 30), ("1:30:00", 90), ("2-00:00:00", 2880), ("1-12:00", 1440 + 12), ("0:30", 0.5)]
    + [(text, math.inf) for text in ("infinite", "UNLIMITED", "n/a", "")],
)
def test_times_are_those_of_slurm(text: str, minutes: float) -> None:
    assert minutes_of(text) == minutes


def test_partitions_are_what_their_largest_nodes_have(slurm: Callable[..., Path]) -> None:
    slurm("sinfo", SINFO)
    assert cluster.partitions() == (
        Partition("cpu", True, 60, 64000, 8, 0),
        Partition("gpu", False, 2880, 32000, 16, 3),
        Partition("long", False, math.inf, 1000, 1, 1),
    )
    assert cluster.has_gpus()
    names = [cluster.partition_of(name) for name in (None, "gpu", "none,long", "none")]
    assert [one and one.name for one in names] == ["cpu", "gpu", "long", None]


@pytest.mark.parametrize(("value", "name"), [("gpu", "gpu"), ("'gpu'", "gpu"), ("a,b", "a,b"), ("f(wildcards)", None)])
def test_a_partition_is_named_as_profiles_name_it(value: str, name: str | None) -> None:
    assert named_in(value) == name


@pytest.mark.parametrize(
    ("partition", "wanted", "words"),
    [
        (None, Wanted(8, 64000, 0), []),
        ("gpu", Wanted(16, 1, 3), []),
        ("gone", Wanted(1, 1, 0), ["no partition 'gone'", "cpu, gpu, long"]),
        (None, Wanted(1, 1, 1), ["1 GPUs", "partition cpu has none", "train: slurm_partition=gpu", "device: cpu"]),
        ("gpu", Wanted(1, 1, 4), ["4 GPUs", "has 3 on a node", "fewer `processes`"]),
        ("gpu", Wanted(17, 1, 0), ["17 processors", "at most 16", "set-threads: train=16"]),
        ("gpu", Wanted(1, 32001, 0), ["32,001 MB", "at most 32,000", "mem_mb=32000"]),
    ],
)
def test_what_no_node_has_is_named_with_a_way_out(
    partition: str | None, wanted: Wanted, words: list[str], slurm: Callable[..., Path]
) -> None:
    slurm("sinfo", SINFO)
    found = impossible("train", partition, wanted)
    assert len(found) == bool(words)
    assert all(word in found[0] for word in words)


def test_a_time_that_needs_more_windows_than_attempts_is_said() -> None:
    one = Partition("cpu", True, 60, 1000, 8, 0)
    assert remarks("train d/m", one, 1000, 60, 3) == []
    (line,) = remarks("train d/m", one, 1000, 180, 3)
    assert "may take 180 minutes" in line and "after 60" in line and "retries" not in line
    (line,) = remarks("train d/m", one, 1000, 181, 3)
    assert "`retries: 3`" in line
    (line,) = remarks("train d/m", one, 1001, 1, 3)
    assert "1,001 MB" in line and "at most 1,000" in line


@pytest.mark.parametrize("status", [1, None])
def test_a_controller_that_does_not_answer_is_a_users_error(status: int | None, slurm: Callable[..., Path]) -> None:
    if status:
        slurm("squeue", "", status)
    else:
        os.environ["PATH"] = ""
    with pytest.raises(MachineError, match="squeue"):
        cluster.active("name")


# What a job asks for


def fake(monkeypatch: pytest.MonkeyPatch, executor: str, **resources: str) -> Any:
    """Snakemake's workflow, as far as it is asked."""
    rule = SimpleNamespace(resources={name: SimpleNamespace(raw=raw) for name, raw in resources.items()})
    return SimpleNamespace(
        is_main_process=True,
        executor_plugin=SimpleNamespace(name=executor),
        execution_settings=SimpleNamespace(retries=2),
        get_rule=lambda name: rule,
    )


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.chdir(tmp_path)
    return make()


def make(**more: Any) -> Config:
    section = {"layout": "pairs", "path": "d", "labels": {"a": 1}}
    return load_config([], {"experiment": "e", "datasets": {"d": section}, "budget": {"minutes": 20}, **more})


def test_memory_and_time_grow_with_attempts_as_far_as_the_partition_has_them(
    config: Config, slurm: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    slurm("sinfo", "cpu*|1:30:00|9000|8|(null)\ngpu|infinite|20000|8|gpu:1\n")
    job = Job(config, "train", 2, False, "d", "unet")
    memory, minutes = job.memory_mb(), job.minutes()
    assert (4000 < memory < 9000 < 2 * memory) and (minutes, 2 * minutes > 90) == (50, True)
    asked = [submission.memory_and_time(fake(monkeypatch, "slurm"), "train", job, n) for n in (1, 2, 3)]
    assert asked == [(memory, 50), (9000, 90), (9000, 90)]
    elsewhere = fake(monkeypatch, "slurm", slurm_partition="'gpu'")
    assert submission.memory_and_time(elsewhere, "train", job, 2) == (2 * memory, 100)
    assert submission.memory_and_time(fake(monkeypatch, "kubernetes"), "train", job, 3) == (3 * memory, 150)


def test_where_networks_run_is_not_asked_of_the_machine_that_submits(
    config: Config, slurm: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(submission.machine, "gpus", lambda: ["0"])
    submission.settle_device(config, submits=False)
    assert submission.wants_gpu(config) == 1
    slurm("sinfo", "cpu*|infinite|1|1|(null)\n")
    submission.settle_device(config, submits=True)
    assert submission.wants_gpu(config) == 0
    cluster.partitions.cache_clear()
    slurm("sinfo", SINFO)
    monkeypatch.setattr(submission.machine, "gpus", list)
    submission.settle_device(config, submits=True)
    assert submission.wants_gpu(config) == 1
    # Jobs inherit it, and plan with as many processors as they train with.
    assert os.environ[cluster.VARIABLE] == "cuda"
    assert (submission.planning_threads(config, None), submission.planning_threads(config, 64)) == (2, 64)
    submission.settle_device(make(device="cpu"), submits=True)
    assert os.environ[cluster.VARIABLE] == "cpu"
    monkeypatch.setattr(cluster, "is_slurm", lambda: False)
    with pytest.raises(SystemExit) as stopped:
        submission.settle_device(config, submits=True)
    assert stopped.value.code == 2
    assert "`device: cuda`" in capsys.readouterr().err
    submission.settle_device(make(device="cuda"), submits=True)
    assert submission.wants_gpu(make(device="cuda")) == 1


def test_processes_of_a_training_need_a_gpu_each(
    config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(submission.machine, "gpus", lambda: ["0", "1"])
    assert submission.gpus_here(config) == 2
    with pytest.raises(SystemExit):
        submission.gpus_here(make(processes=4))
    assert "this machine has 2; give `processes: 2` or less" in capsys.readouterr().err
    monkeypatch.setattr(submission.machine, "gpus", list)
    assert submission.gpus_here(make(processes=4)) == 1


def test_an_executor_that_shares_no_files_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    one = fake(monkeypatch, "kubernetes")
    one.local_exec, one.storage_settings = False, SimpleNamespace(shared_fs_usage=frozenset())
    with pytest.raises(ConfigError, match="kubernetes shares no files"):
        submission.require_shared_files(one)
    one.storage_settings.shared_fs_usage = [SimpleNamespace(name="INPUT_OUTPUT")]
    submission.require_shared_files(one)


# Jobs that a run which was killed has left


def test_jobs_of_an_earlier_run_are_waited_for(
    config: Config, slurm: Callable[..., Path], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    root = Path("results/e")
    assert await_submitted(root, lambda: "study") is None
    note_submitted(root, "name", "study")
    slurm("squeue", status=1)
    with pytest.raises(MachineError, match=r"delete results/e/\.run/submitted\.json"):
        await_submitted(root, lambda: "study")
    called = slurm("squeue", "7|RUNNING|1:00 of 2:00|node1|rule_train_wildcards_d_m_0_0\n")
    cancelled = slurm("scancel")
    looks = []

    def pause(seconds: float) -> None:
        looks.append(seconds)
        # SLURM's controller restarts meanwhile.
        slurm("squeue", "7|RUNNING|1:00 of 2:00|node1|rule_train_wildcards_d_m_0_0\n", status=int(len(looks) == 2))
        if len(looks) == 4:
            slurm("squeue")

    assert cluster.wait_for("name", stop=False, pause=pause) == 1
    told = capsys.readouterr().err
    assert told.count("asking again") == 1
    assert told.count("SLURM job 7 of an earlier run, rule_train_wildcards_d_m_0_0: RUNNING, 1:00 of 2:00 node1") == 1
    assert "--name=name" in called.read_text()
    assert not cancelled.exists()
    assert await_submitted(root, lambda: "study") is None


def test_jobs_of_a_run_of_something_else_are_cancelled_and_what_they_made_is_made_again(
    config: Config, slurm: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = Path("results/e")
    monkeypatch.setenv(VARIABLE, "")
    take_over(root)
    before, after = root / "d/plan/fingerprint.json", root / "compare/summary.json"
    with writing(before):
        workflow.write_config(config, before)
    os.utime(RunFolder(root).made / "d/plan/fingerprint.json.json", (1, 1))
    note_submitted(root, "name", "study")
    with writing(after):
        workflow.write_config(config, after)
    calls = iter([[cluster.BatchJob("8", "PENDING", "rule_train", "0:00 of 2:00", "(Priority)")], []])
    cancelled = slurm("scancel")
    monkeypatch.setattr(cluster, "active", lambda name: next(calls))
    since = await_submitted(root, lambda: "another study")
    assert "--name=name" in cancelled.read_text()
    assert since is not None
    assert list(look(config, since=since)) == [after]


def test_a_damaged_note_stops_nobody(config: Config, capsys: pytest.CaptureFixture[str]) -> None:
    note = RunFolder(Path("results/e")).submitted
    note.parent.mkdir(parents=True)
    note.write_text("{")
    assert await_submitted(Path("results/e"), lambda: "study") is not None
    assert "damaged" in capsys.readouterr().err


def test_a_run_that_has_ended_leaves_no_note(config: Config) -> None:
    root = Path("results/e")
    note_submitted(root, "name", "study")
    ending.has_ended(config)
    assert not RunFolder(root).submitted.exists()


def test_a_run_that_fails_leaves_a_note_while_it_has_jobs(
    config: Config, slurm: Callable[..., Path], tmp_path: Path
) -> None:
    note = RunFolder(Path("results/e")).submitted
    note_submitted(Path("results/e"), "name", "study")
    for text, status, kept in (("7|RUNNING|1:00|node1|rule_train\n", 0, True), ("", 1, True), ("", 0, False)):
        slurm("squeue", text, status)
        assert ending.exit_status([], tmp_path, config) == 1
        assert note.exists() == kept


def test_a_node_sends_no_curves_to_a_sqlite_file(
    config: Config, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from medseg.records import write_record
    from medseg.tracking import LiveTracking, live
    from medseg.tracking.spec import RunSpec

    asked = []
    monkeypatch.setattr(live, "load_mlflow", lambda *_: asked.append("mlflow"))
    spec, store = RunSpec("d", "unet", 0, 0, "f", {}), Path("results/e/tracking/store.json")
    monkeypatch.setenv(cluster.VARIABLE, "cpu")
    for uri, follows in (("sqlite:///mlflow.db", False), ("http://127.0.0.1:9", True)):
        write_record(store, {"uri": uri, "experiment": "e"})
        assert LiveTracking(store, spec, Path("journal"))._can_follow() == follows
    write_record(store, {"uri": "sqlite:///mlflow.db", "experiment": "e"})
    with LiveTracking(store, spec, Path("journal")):
        pass
    store.unlink()
    with LiveTracking(store, spec, Path("journal")):
        pass
    assert not asked
    assert "off" in capsys.readouterr().err
