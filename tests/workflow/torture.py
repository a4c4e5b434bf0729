"""Kill a study at random moments, run the same plain command again, and compare every result with an undisturbed run.

`python tests/workflow/torture.py --config config/config.yaml --kills 10` (or `make torture N=10`).
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.workflow.study import digests, leftovers, make_study, start


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL the whole process group, as a power cut would."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def finish(folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait for the end; anything but success is an error with the end of the log."""
    if process.wait() != 0:
        tail = (folder / "run.log").read_text(errors="replace")[-4000:]
        raise SystemExit(f"exit code {process.returncode} in {folder}:\n{tail}")


def undisturbed(folder: Path) -> float:
    """Run to the end; seconds taken."""
    begun = time.monotonic()
    finish(folder, start(folder))
    return time.monotonic() - begun


def disturbed(folder: Path, kills: int, window_s: float, seed: int) -> list[float]:
    """Kill ``kills`` runs, each at a moment drawn from ``window_s`` seconds, then let one finish; the moments."""
    rng = random.Random(seed)
    moments = []
    while len(moments) < kills:
        process = start(folder)
        moment = rng.uniform(0.2, window_s)
        try:
            process.wait(timeout=moment)
        except subprocess.TimeoutExpired:
            kill_group(process)
            moments.append(moment)
            print(f"kill {len(moments)} after {moment:.1f} s", flush=True)
        else:
            # It finished before its moment: start over from nothing, so that every kill hits work.
            if process.returncode != 0:
                finish(folder, process)
            shutil.rmtree(folder / "results")
            shutil.rmtree(folder / "data", ignore_errors=True)
    finish(folder, start(folder))
    return moments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--window", type=float, default=None, help="seconds; none: half of an undisturbed run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="medseg-torture-") as scratch:
        text = options.config.read_text()
        calm, rough = make_study(Path(scratch) / "calm", text), make_study(Path(scratch) / "rough", text)
        seconds = undisturbed(calm)
        print(f"undisturbed run: {seconds:.0f} s", flush=True)
        disturbed(rough, options.kills, options.window or seconds / 2, options.seed)
        expected, found = digests(calm), digests(rough)
        different = sorted(k for k in expected.keys() | found.keys() if expected.get(k) != found.get(k))
        if different or leftovers(rough):
            raise SystemExit(f"{len(different)} of {len(expected)} results differ: {different[:5]} {leftovers(rough)}")
        print(f"{options.kills} kills: all {len(expected)} results equal bit for bit")


if __name__ == "__main__":
    main()
