"""One GPU per job on a shared machine: a token per device, held by the kernel, freed however the job ends.

Snakemake counts GPUs but hands out no device numbers. A value that a batch system set is left alone.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from pathlib import Path
from typing import IO

from medseg.progress import say

POLL_S = 1.0
_held: list[IO[str]] = []


def one_gpu(devices: int | None = None, folder: Path | None = None) -> int | None:
    """Wait for a free GPU, take its token and set ``CUDA_VISIBLE_DEVICES``; return its number.

    Must run before torch starts CUDA. Does nothing without GPUs or when the variable is set already; of several that
    were set for the processes of one training (``LOCAL_RANK``), each takes its own.

    Args:
        devices: number of GPUs; none: the NVIDIA device files of this machine.
        folder: where tokens lie; none: the machine's temporary folder, shared by all jobs of this user.
    """
    count = len(list(Path("/dev").glob("nvidia[0-9]*"))) if devices is None else devices
    if (given := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        mine, rank = given.split(","), int(os.environ.get("LOCAL_RANK", "0"))
        if "LOCAL_RANK" in os.environ and rank < len(mine):
            os.environ["CUDA_VISIBLE_DEVICES"] = mine[rank]
        return None
    if not count:
        return None
    folder = folder or Path(tempfile.gettempdir())
    told = False
    while True:
        for number in range(count):
            token = open(folder / f"medseg-{os.getuid()}-gpu{number}.lock", "w")  # noqa: SIM115 (held until exit)
            try:
                fcntl.flock(token, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                token.close()
                continue
            _held.append(token)
            os.environ["CUDA_VISIBLE_DEVICES"] = str(number)
            return number
        if not told:
            say(f"waiting for one of {count} GPUs")
            told = True
        time.sleep(POLL_S)
