"""What code prints in a process of its own with a number of threads."""

from __future__ import annotations

import subprocess
import sys


def printed(code: str, threads: int) -> str:
    """The output of Python code; libraries read the number of threads when they are loaded."""
    variables = {name: str(threads) for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    return subprocess.run(
        [sys.executable, "-c", code], env=variables, check=True, capture_output=True, text=True
    ).stdout
