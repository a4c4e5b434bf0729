"""Trainings of several processes, started under ``torchrun``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from medseg.plan.plan import read_plan


def launch(plan: Path) -> None:
    """Replace this process by ``torchrun`` of its own command if the plan has several processes and this is none."""
    processes = read_plan(plan).machine.processes
    if processes == 1 or "WORLD_SIZE" in os.environ:
        return
    runner = ["-m", "medseg.train.torchrun", "--standalone", f"--nproc-per-node={processes}", "-m", "medseg"]
    os.execv(sys.executable, [sys.executable, *runner, *sys.argv[1:]])


def leads() -> bool:
    """Whether this process is the one of its group that writes files and messages."""
    return os.environ.get("RANK", "0") == "0"
