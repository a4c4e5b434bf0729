"""What a process can have of its machine, by made-up control groups; GPU tokens, by processes and made-up devices."""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
from pathlib import Path

import pytest

from medseg import machine

SCRIPT = """
import os, sys
from pathlib import Path
from medseg import machine
machine.POLL_S = 0.05
number = machine.reserve_gpu(devices=sys.argv[2:], folder=Path(sys.argv[1]))
print(number, os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
sys.stdin.read()
"""


def start(folder: Path, **variables: str) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if k != "CUDA_VISIBLE_DEVICES"} | variables
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    names = variables["CUDA_VISIBLE_DEVICES"].split(",") if variables else ["0", "1"]
    return subprocess.Popen([sys.executable, "-c", SCRIPT, str(folder), *names], env=environment, text=True, **pipes)


def line(stream) -> str:
    return stream.readline().strip()


def test_two_devices_serve_two_jobs_and_the_third_waits_for_a_death(tmp_path: Path) -> None:
    jobs = [start(tmp_path) for _ in range(2)]
    try:
        taken = {line(job.stdout) for job in jobs}
        assert taken == {"0 0", "1 1"}
        jobs.append(start(tmp_path))
        assert line(jobs[2].stderr) == "waiting for one of 2 GPUs"
        ready = selectors.DefaultSelector()
        ready.register(jobs[2].stdout, selectors.EVENT_READ)
        assert ready.select(0.2) == []
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
    assert machine.reserve_gpu(folder=tmp_path) is None
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "5"
    assert list(tmp_path.iterdir()) == []


def test_machines_without_devices_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert machine.reserve_gpu(devices=[], folder=tmp_path) is None
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    assert list(tmp_path.iterdir()) == []


def test_of_several_gpus_that_were_given_each_process_takes_its_own(tmp_path: Path) -> None:
    # Processes of one training in a batch job, or trainings side by side in one allocation.
    jobs = [start(tmp_path, CUDA_VISIBLE_DEVICES="3,5", SLURM_JOB_ID="7") for _ in range(2)]
    # GPUs of another job may have the same numbers, and are others.
    jobs.append(start(tmp_path, CUDA_VISIBLE_DEVICES="3,5", SLURM_JOB_ID="8"))
    try:
        assert {line(job.stdout) for job in jobs[:2]} == {"3 3", "5 5"}
        assert line(jobs[2].stdout) == "3 3"
    finally:
        for job in jobs:
            job.kill()
            job.communicate()


@pytest.mark.parametrize(("given", "names"), [("3,5", ["3", "5"]), ("", []), ("GPU-8a, GPU-9b", ["GPU-8a", "GPU-9b"])])
def test_gpus_are_those_that_were_given(given: str, names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
    assert machine.gpus() == names


# Control groups

LIMITS = [
    ("0::/job/step", {"job/memory.max": "3000", "job/step/memory.max": "max"}, 3000),
    ("0::/job/step", {"job/memory.max": "4000", "job/step/memory.max": "3000"}, 3000),
    ("4:memory:/job\n0::/", {"memory/job/memory.limit_in_bytes": "1000"}, 1000),
    ("4:cpu,memory:/\n", {"memory/memory.limit_in_bytes": "800"}, 800),
]
QUOTAS = [
    ("0::/job/step", {"job/cpu.max": "100000 100000", "job/step/cpu.max": "max 100000"}, 1),
    ("0::/", {"cpu.max": "50000 100000"}, 1),
    ("4:cpu,cpuacct:/job\n0::/", {"cpu/job/cpu.cfs_quota_us": "100000", "cpu/job/cpu.cfs_period_us": "50000"}, 2),
]


def in_groups(membership: str, files: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "membership").write_text(membership)
    for name, text in files.items():
        path = folder / "groups" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    monkeypatch.setattr(machine, "CGROUP", folder / "groups")
    monkeypatch.setattr(machine, "MEMBERSHIP", folder / "membership")


@pytest.mark.parametrize(("membership", "files", "expected"), LIMITS, ids=[m for m, _, _ in LIMITS])
def test_memory_is_that_of_the_container(
    membership: str, files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_groups(membership, files, tmp_path, monkeypatch)
    assert machine.host_memory() == expected


LEFT = [
    ("0::/job", {"job/memory.max": "1000", "job/memory.current": "400"}, 600),
    ("0::/job", {"job/memory.max": "1000", "job/memory.current": "900", "job/memory.stat": "inactive_file 300"}, 400),
    ("0::/a/b", {"a/memory.max": "500", "a/memory.current": "450", "a/b/memory.max": "max"}, 50),
    ("0::/job", {"job/memory.max": "1000", "job/memory.current": "1200"}, 0),
    ("0::/job", {"job/memory.max": "max", "job/memory.current": "1"}, 7000 * 1024),
    (
        "4:memory:/job\n0::/",
        {
            "memory/job/memory.limit_in_bytes": "1000",
            "memory/job/memory.usage_in_bytes": "700",
            "memory/job/memory.stat": "cache 1\ntotal_inactive_file 100",
        },
        400,
    ),
]


@pytest.mark.parametrize(("membership", "files", "expected"), LEFT)
def test_memory_that_is_left_is_what_machine_and_container_leave(
    membership: str, files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_groups(membership, files, tmp_path, monkeypatch)
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemFree: 10 kB\nMemAvailable:    7000 kB\n")
    monkeypatch.setattr(machine, "MEMORY", tmp_path / "meminfo")
    assert machine.available_memory() == expected


@pytest.mark.parametrize(("membership", "files", "expected"), QUOTAS, ids=[m for m, _, _ in QUOTAS])
def test_processors_are_those_that_the_container_may_use(
    membership: str, files: dict[str, str], expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    in_groups(membership, files, tmp_path, monkeypatch)
    assert machine.processors() == expected


def test_without_control_groups_all_of_the_machine_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_groups("0::/", {"cpu.max": "max 100000", "memory.max": "max"}, tmp_path, monkeypatch)
    assert machine.host_memory() == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 5, 7})
    assert machine.processors() == 3
    monkeypatch.setattr(machine, "MEMBERSHIP", tmp_path / "none")
    assert machine.processors() == 3


def test_the_module_costs_no_torch() -> None:
    script = "import sys, medseg.machine as m; m.host_memory(); m.processors(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


@pytest.mark.parametrize(
    ("amx", "avx512_bf16", "precision"), [(True, True, "bf16"), (False, True, "fp32"), (False, False, "fp32")]
)
def test_processors_compute_in_bf16_only_with_amx(
    amx: bool, avx512_bf16: bool, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without it, gradients of convolutions in bf16 read memory that nobody has written (docs/notebook.md).
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: avx512_bf16)
    assert machine.fast_precision("cpu") == precision
