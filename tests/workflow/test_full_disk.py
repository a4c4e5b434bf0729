"""A whole study on a disk that is too small: exit 2 and one line; with more room, the same command and bits."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.disks import small_disk
from tests.workflow.study import digests, leftovers, make_study, run

pytestmark = [pytest.mark.workflow, pytest.mark.exhaustive]

FULL = "this folder: no space left: more is needed than the "
KIB = 1024


def test_a_study_on_a_disk_that_fills_up(finished: Path, tmp_path: Path) -> None:
    source = make_study(tmp_path / "source")
    with small_disk(tmp_path / "small", "60m") as disk:
        subprocess.run(["cp", "-r", f"{source}/.", str(disk)], check=True)
        found = os.statvfs(disk)
        taken = (found.f_blocks - found.f_bavail) * found.f_frsize // KIB

        resize(disk, taken + 200)
        refused = run(disk)
        assert refused.returncode == 2
        assert refused.stdout.splitlines()[-1].startswith(FULL), refused.stdout
        assert not (disk / "results").exists()

        resize(disk, taken + 1200)
        stopped = run(disk)
        assert stopped.returncode == 2, stopped.stdout
        assert "Traceback" not in stopped.stdout
        assert stopped.stdout.splitlines()[-1].startswith(FULL), stopped.stdout
        assert (disk / "data" / "cells" / "phantoms.json").exists(), "it began"

        resize(disk, taken + 60 * KIB)
        done = run(disk)
        assert done.returncode == 0, done.stdout
        assert digests(disk) == digests(finished)
        assert not leftovers(disk)


def resize(disk: Path, kib: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={kib}k", str(disk)], check=True)
