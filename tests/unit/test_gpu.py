"""One GPU per job: tokens that the kernel holds, tried with processes and made-up devices."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

import pytest

from medseg import gpu

SCRIPT = """
import os, sys
from pathlib import Path
from medseg import gpu
gpu.POLL_S = 0.05
number = gpu.one_gpu(devices=2, folder=Path(sys.argv[1]))
print(number, os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
sys.stdin.read()
"""


def start(folder: Path) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder)], env=environment, text=True, **pipes)


def line(stream) -> str:
    return stream.readline().strip()


def test_two_devices_serve_two_jobs_and_the_third_waits_for_a_death(tmp_path: Path) -> None:
    jobs = [start(tmp_path) for _ in range(2)]
    try:
        taken = {line(job.stdout) for job in jobs}
        assert taken == {"0 0", "1 1"}
        jobs.append(start(tmp_path))
        assert line(jobs[2].stderr) == "waiting for one of 2 GPUs"
        assert select.select([jobs[2].stdout], [], [], 0.2)[0] == []
        jobs[0].kill()
        freed = {"0 0", "1 1"} - {f"{n} {n}" for n in _held_by(tmp_path, jobs[1])}
        jobs[0].wait()
        assert line(jobs[2].stdout) in freed
    finally:
        for job in jobs:
            job.kill()
            job.communicate()


def _held_by(folder: Path, job: subprocess.Popen[str]) -> set[int]:
    """Device numbers whose token files a process has open."""
    links = [os.readlink(p) for p in Path(f"/proc/{job.pid}/fd").iterdir() if p.is_symlink()]
    names = [Path(target).name for target in links if Path(target).parent == folder]
    return {int(name.removesuffix(".lock").rpartition("gpu")[2]) for name in names}


def test_a_device_that_the_batch_system_chose_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5")
    assert gpu.one_gpu(devices=2, folder=tmp_path) is None
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"
    assert list(tmp_path.iterdir()) == []


def test_machines_without_devices_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpu.one_gpu(devices=0, folder=tmp_path) is None
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    assert list(tmp_path.iterdir()) == []


def test_processes_of_one_training_each_take_their_own_of_the_gpus_they_were_given(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert gpu.one_gpu(devices=8, folder=tmp_path) is None
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,5"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert gpu.one_gpu(devices=8, folder=tmp_path) is None
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"
    # One device for two processes: both have it.
    assert gpu.one_gpu(devices=8, folder=tmp_path) is None
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"
    assert not list(tmp_path.iterdir())
