"""The machine that a process runs on: its devices, memory and processors, and one GPU per job.

The only module that asks the operating system or torch about these. torch is imported where a device is asked for and
nowhere else, so that the rest costs nothing.
"""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from medseg.errors import MachineError
from medseg.progress import say

# Control groups (containers, SLURM jobs): their files, and those of this process.
CGROUP = Path("/sys/fs/cgroup")
MEMBERSHIP = Path("/proc/self/cgroup")
# Linux' account of the machine's memory.
MEMORY = Path("/proc/meminfo")
# Its account of this process.
OWN = Path("/proc/self/status")
# Seconds between two looks for a free GPU.
POLL_S = 1.0
# Where batch systems (SLURM, PBS, LSF, Grid Engine) say which of their jobs a process is of.
BATCH_JOBS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID")
# Tokens of GPUs that this process holds; the kernel frees them when it ends, however it ends.
_held: list[IO[str]] = []


def pick_device(wish: str) -> str:
    """The device that a configuration asks for: ``cpu``, ``cuda`` or ``mps``; ``auto`` is cuda if there is a GPU.

    Raises:
        MachineError: if torch sees no such device.
    """
    import torch

    if wish == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if wish == "cuda" and not torch.cuda.is_available():
        raise MachineError("device 'cuda' was asked for, but torch sees no CUDA device; set device: cpu or auto")
    if wish == "mps" and not torch.backends.mps.is_available():
        raise MachineError("device 'mps' was asked for, but torch sees no Apple GPU; set device: cpu or auto")
    return wish


def fast_precision(device: str) -> str:
    """The reduced precision (bf16 or fp16) that the device computes in hardware and correctly, else ``fp32``.

    Of processors, those with AMX: without bf16 instructions autocast is slower than fp32, and where AVX-512 alone has
    them (AMD), oneDNN 3.12's gradients of a convolution's weights read memory that was never written
    (docs/notebook.md).
    """
    import torch

    if device == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return "bf16" if getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)() else "fp32"


def device_memory() -> int:
    """Bytes of memory of the first CUDA device."""
    import torch

    return int(torch.cuda.get_device_properties(0).total_memory)


def host_memory() -> int:
    """Bytes of main memory that this process can have: the machine's, or less where its control group has a limit."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [int(text) for text in _group_files("memory", "memory.max", "memory.limit_in_bytes") if text.isdigit()]
    return min([machine, *limits])


def available_memory() -> int:
    """Bytes of main memory that this process can still take: of the machine's, and of what its control groups leave.

    What is only kept to be read again (files that were read once) counts as available.
    """
    machine = MEMORY.read_text() if MEMORY.is_file() else ""
    stated = re.search(r"^MemAvailable:\s*(\d+) kB$", machine, re.MULTILINE)
    left = [int(stated[1]) * 1024] if stated else []
    for folder, unified in _group_folders("memory"):
        names = ("memory.max", "memory.current") if unified else ("memory.limit_in_bytes", "memory.usage_in_bytes")
        limit, used = (_content(folder / name) for name in names)
        if limit.isdigit() and used.isdigit():
            kept = re.search(r"^(?:total_)?inactive_file (\d+)$", _content(folder / "memory.stat"), re.MULTILINE)
            left.append(int(limit) - int(used) + (int(kept[1]) if kept else 0))
    return max(0, min([host_memory(), *left]))


def own_memory() -> int:
    """Bytes of main memory that this process has now; 0 where the operating system does not say."""
    stated = re.search(r"^VmRSS:\s*(\d+) kB$", _content(OWN), re.MULTILINE)
    return int(stated[1]) * 1024 if stated else 0


def _content(file: Path) -> str:
    return file.read_text().strip() if file.is_file() else ""


def processors() -> int:
    """Processors that this process can use: those it may run on, or fewer where its control group has a quota."""
    # macOS has no affinity.
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [text.split() for text in _group_files("cpu", "cpu.max", "cpu.cfs_quota_us")]
    periods = _group_files("cpu", "cpu.max", "cpu.cfs_period_us")
    # Version 2 has "quota period" in one file, version 1 a file for each; "max" and -1 are no quota.
    shares = [int(q[0]) / int(p.split()[-1]) for q, p in zip(quotas, periods, strict=True) if q[0].isdigit()]
    return max(1, int(min([allowed, *shares])))


def _group_files(controller: str, unified: str, legacy: str) -> Iterator[str]:
    """Contents of a file of this process's control group and of those around it; nothing where there are none.

    Args:
        controller: that the file belongs to.
        unified: name of the file in version 2 of control groups.
        legacy: its name in version 1.
    """
    for folder, is_unified in _group_folders(controller):
        if (file := folder / (unified if is_unified else legacy)).is_file():
            yield file.read_text().strip()


def _group_folders(controller: str) -> Iterator[tuple[Path, bool]]:
    """Folders of this process's control group and of those around it, and whether they are of version 2."""
    for line in MEMBERSHIP.read_text().splitlines() if MEMBERSHIP.is_file() else []:
        number, controllers, name = line.split(":", 2)
        if number == "0":
            root = CGROUP
        elif controller in controllers.split(","):
            root = CGROUP / controller
        else:
            continue
        group = root / name.strip("/")
        for folder in (group, *(parent for parent in group.parents if parent.is_relative_to(root))):
            yield folder, number == "0"


def gpus() -> list[str]:
    """GPUs that this process may use, by what ``CUDA_VISIBLE_DEVICES`` calls them; torch, which knows better, is not
    asked."""
    if (given := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        return [name.strip() for name in given.split(",") if name.strip()]
    return [str(number) for number in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]


def reserve_gpu(devices: Sequence[str] | None = None, folder: Path | None = None) -> str | None:
    """Wait for a free GPU, reserve it for this process, set ``CUDA_VISIBLE_DEVICES`` to it and return it.

    Snakemake counts GPUs but hands out no device numbers: each GPU has a file whose lock is its token. Must run before
    torch starts CUDA. Returns None, and changes nothing, on a machine without GPUs or where the variable is set to one
    GPU already, as batch systems do. Of several, each process takes one of its own.

    Args:
        devices: names of the GPUs; None: those that this process may use (``gpus``).
        folder: where tokens lie; None: the machine's temporary folder, shared by all jobs of this user.
    """
    names = gpus() if devices is None else list(devices)
    if not names or (len(names) == 1 and "CUDA_VISIBLE_DEVICES" in os.environ):
        return None
    # Within a job of a batch system, GPUs may be numbered from 0 in each job.
    job = next((f"job{os.environ[name]}-" for name in BATCH_JOBS if name in os.environ), "")
    tokens = {
        name: (folder or Path(tempfile.gettempdir())) / f"medseg-{os.getuid()}-{job}gpu{name}.lock" for name in names
    }
    announced = False
    while (taken := _free_gpu(tokens)) is None:
        if not announced:
            say(f"waiting for one of {len(names)} GPUs")
            announced = True
        time.sleep(POLL_S)
    os.environ["CUDA_VISIBLE_DEVICES"] = taken
    return taken


def _free_gpu(tokens: Mapping[str, Path]) -> str | None:
    """The first GPU whose token nobody holds, with its token held from now on; None: all are in use."""
    for name, path in tokens.items():
        token = open(path, "w")  # noqa: SIM115 (held until exit)
        try:
            fcntl.flock(token, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            token.close()
            continue
        _held.append(token)
        return name
    return None
