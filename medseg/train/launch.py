"""A training of several processes starts itself again under ``torchrun``."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from medseg.files import read_json


def launch(plan: Path) -> None:
    """Become ``torchrun`` of this very command if the plan wants several processes and this is not one of them."""
    processes = read_json(plan).get("processes", 1)
    if processes == 1 or "WORLD_SIZE" in os.environ:
        return
    runner = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m", "medseg"]
    os.execv(sys.executable, [sys.executable, *runner, *sys.argv[1:]])


def leads() -> bool:
    """Whether this process is the one of its group that writes and speaks."""
    return os.environ.get("RANK", "0") == "0"
