"""Studies on a SLURM cluster of one node with two GPUs that are none: the same bits as on one machine.

Skipped, with the reason, where no such cluster can be brought up (`loopback_slurm`).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.workflow import loopback_slurm
from tests.workflow.loopback_slurm import Cluster, loopback, until
from tests.workflow.study import BIN, TINY, digests, environment, make_study, medseg, run

pytest.importorskip("snakemake_executor_plugin_slurm", reason="the extra `slurm` is not installed")
pytestmark = [
    pytest.mark.workflow,
    pytest.mark.skipif(bool(loopback_slurm.why_not()), reason=loopback_slurm.why_not()),
]
# A cluster of one node answers at once; and it has no accounts.
QUICK = (
    *("--slurm-no-account", "--slurm-init-seconds-before-status-checks", "1", "--seconds-between-status-checks", "1"),
    "--slurm-keep-successful-logs",
)
# Long enough to be met while it trains.
LONG = TINY.replace("steps: 300", "steps: 1500").replace("run: [0]", "run: [0, 1]")
TRAIN = "cells/train/unet"
ON_THE_WAY = 300.0
Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with loopback(tmp_path_factory.mktemp("slurm")) as made:
        yield made


@pytest.fixture(scope="module")
def long_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two longer trainings, on one machine, up to these."""
    folder = make_study(tmp_path_factory.mktemp("long") / "study", LONG)
    done = run(folder, "--until", "train", "tracking_init")
    assert done.returncode == 0, done.stdout[-4000:]
    return folder


@pytest.fixture
def untrained(long_study: Path, tmp_path: Path) -> Path:
    """A copy of it in which nothing was trained yet."""
    folder = Path(shutil.copytree(long_study, tmp_path / "untrained", symlinks=True))
    for made in ("cells/train", "logs/cells/train", ".run/made/cells/train", ".state"):
        shutil.rmtree(folder / "results/tiny" / made)
    return folder


@pytest.fixture
def start(cluster: Cluster) -> Iterator[Start]:
    """``start(folder, options)``: the study on the cluster, without `--cores`; its output goes to `run.log`.

    What is left of it after a test is ended.
    """
    started = []

    def begin(folder: Path, *options: str) -> subprocess.Popen[bytes]:
        command = [str(BIN / "snakemake"), "--profile", "profiles/slurm", *QUICK, *options]
        with open(folder / "run.log", "ab") as log:
            started.append(
                subprocess.Popen(
                    command, cwd=folder, env=environment(folder), stdout=log, stderr=log, start_new_session=True
                )
            )
        return started[-1]

    yield begin
    for process in started:
        kill(process)
    cluster.clear()


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the main process, and nothing that the cluster runs."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def log_of(folder: Path) -> str:
    return (folder / "run.log").read_text()


def ends_well(process: subprocess.Popen[bytes], folder: Path) -> str:
    assert process.wait() == 0, log_of(folder)[-6000:]
    return log_of(folder)


def attempts(folder: Path, fold: int = 0) -> int:
    return int(json.loads((folder / "results/tiny" / TRAIN / f"fold{fold}-seed0/timing.json").read_text())["attempts"])


def is_training(folder: Path, fold: int = 0) -> bool:
    """Whether a training is on its way; it saves its state within seconds, and when it is asked to stop."""
    log = training_log(folder, fold)
    return log.exists() and "loss" in log.read_text()


def training_log(folder: Path, fold: int) -> Path:
    return folder / f"results/tiny/logs/{TRAIN}-fold{fold}-seed0.log"


def pause(folder: Path, fold: int) -> None:
    """Stop the process of a training in a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().decode(errors="replace").split("\0")
            if (
                "train" in words
                and "--fold" in words
                and words[words.index("--fold") + 1] == str(fold)
                and path.with_name("cwd").samefile(folder)
            ):
                found.append(int(path.parent.name))
    assert found
    for pid in found:
        os.kill(pid, signal.SIGSTOP)


def models(folder: Path) -> dict[str, str]:
    found = {name: digest for name, digest in digests(folder).items() if "/train/" in name}
    assert found
    return found


def test_a_whole_study_on_a_cluster_has_the_bits_of_one_machine(
    finished: Path, cluster: Cluster, start: Start, tmp_path: Path
) -> None:
    folder = make_study(tmp_path / "study")
    told = ends_well(start(folder), folder)
    assert digests(folder) == digests(finished)
    assert told.count("several machines cannot share a SQLite file") == 1
    # Curves are there all the same, sent at the end.
    assert "unsent" not in told
    assert medseg(folder, "track", "sync", "results/tiny").returncode == 0
    assert attempts(folder) == 1
    assert not cluster.jobs()


@pytest.mark.exhaustive
def test_a_drained_node_a_cancelled_job_and_one_out_of_time_change_no_bit(
    long_study: Path, untrained: Path, cluster: Cluster, start: Start
) -> None:
    cluster.set_node("drain")
    process = start(untrained, "--until", "train")
    until(lambda: len(cluster.jobs("train", "PENDING")) == 2, "both wait for the node", ON_THE_WAY)
    cluster.set_node("resume")
    # Both at once, with a GPU each.
    until(lambda: is_training(untrained, 0) and is_training(untrained, 1), "both train", ON_THE_WAY)
    cancelled, late = sorted(cluster.jobs("train", "RUNNING"), key=int)
    gpus = {cluster.ask("scontrol", "show", "job", "-d", one).split("(IDX:")[1][0] for one in (cancelled, late)}
    assert gpus == {"0", "1"}
    # SLURM looks at its clock every half minute, by when a quick machine would be through; it wakes what it ends.
    for fold in (0, 1):
        pause(untrained, fold)
    cluster.ask("scancel", cancelled)
    cluster.ask("scontrol", "update", f"JobId={late}", "TimeLimit=0:01")
    until(lambda: "JobState=CANCELLED" in cluster.ask("scontrol", "show", "job", cancelled), "it is cancelled")
    until(lambda: "JobState=TIMEOUT" in cluster.ask("scontrol", "show", "job", late), "its time is up", ON_THE_WAY)
    told = ends_well(process, untrained)
    assert told.count("Trying to restart job") == 2
    # Each saved its state when it was asked to stop, and went on there.
    assert [attempts(untrained, fold) for fold in (0, 1)] == [2, 2]
    assert all("resumed after step" in training_log(untrained, fold).read_text() for fold in (0, 1))
    assert models(untrained) == models(long_study)


@pytest.mark.exhaustive
def test_processes_of_one_training_share_a_job_with_a_gpu_each(tmp_path: Path, cluster: Cluster, start: Start) -> None:
    config = TINY.replace("steps: 300", "steps: 60").replace("threads: 1", "threads: 2\nprocesses: 2")
    folder, alone = make_study(tmp_path / "cluster", config), make_study(tmp_path / "alone", config)
    process = start(folder, "--until", "train")
    until(lambda: cluster.jobs("train", "RUNNING"), "it trains", ON_THE_WAY)
    assert "gpu:fake:2(IDX:0-1)" in cluster.ask("scontrol", "show", "job", "-d", *cluster.jobs("train"))
    ends_well(process, folder)
    done = run(alone, "--until", "train")
    assert done.returncode == 0, done.stdout[-4000:]
    assert models(folder) == models(alone)


@pytest.mark.exhaustive
def test_jobs_of_a_run_that_was_killed_are_waited_for(
    long_study: Path, untrained: Path, cluster: Cluster, start: Start
) -> None:
    first = start(untrained, "--until", "train")
    until(lambda: is_training(untrained, 0), "it trains", ON_THE_WAY)
    kill(first)
    running = cluster.jobs("train")
    assert len(running) == 2
    # The same command, by the package's own program.
    command = [sys.executable, "-m", "medseg", "run", "config/config.yaml", "--workflow-profile", "slurm", *QUICK]
    done = subprocess.run(
        [*command, "--until", "train"], cwd=untrained, env=environment(untrained), capture_output=True, text=True
    )
    told = done.stdout + done.stderr
    assert done.returncode == 0, told[-6000:]
    assert all(f"SLURM job {one} of an earlier run" in told for one in running)
    assert "has been submitted" not in told
    assert [attempts(untrained, fold) for fold in (0, 1)] == [1, 1]
    assert models(untrained) == models(long_study)


@pytest.mark.exhaustive
def test_jobs_of_a_run_of_another_configuration_are_cancelled(untrained: Path, cluster: Cluster, start: Start) -> None:
    first = start(untrained, "--until", "train")
    until(lambda: is_training(untrained, 0), "it trains", ON_THE_WAY)
    kill(first)
    before = cluster.jobs("train")
    told = ends_well(start(untrained, "--config", "budget={steps: 40}", "--until", "train"), untrained)
    assert "are of another configuration, code or data; cancelling them" in told
    assert not set(before) & set(cluster.jobs())
    plan = json.loads((untrained / "results/tiny" / TRAIN / "fold0-seed0/model.json").read_text())["plan"]
    assert plan["training"]["steps"] == 40


@pytest.mark.exhaustive
def test_what_no_partition_has_is_said_before_anything_is_submitted(
    untrained: Path, cluster: Cluster, start: Start
) -> None:
    process = start(untrained, "--set-resources", "train:mem_mb=99999999", "--set-threads", "train=999")
    assert process.wait() == 2
    told = log_of(untrained)
    assert "train: asks for 999 processors" in told and "train: asks for 99,999,999 MB of memory" in told
    assert "has been submitted" not in told
