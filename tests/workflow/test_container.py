"""Jobs in a container: the command that Snakemake makes of them, given to a stand-in for Apptainer."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.workflow.study import make_study, run

pytestmark = [pytest.mark.workflow, pytest.mark.exhaustive]
# Notes what it is called with, and runs the command without a container.
STAND_IN = """#!/usr/bin/env python3
import os, sys
if "--version" in sys.argv:
    print("apptainer version 1.3.4")
    raise SystemExit
with open("apptainer.calls", "a") as calls:
    calls.write(" ".join(sys.argv[1:-1]) + "\\n")
os.execvp(sys.argv[-3], sys.argv[-3:])
"""


@pytest.fixture
def programs(tmp_path: Path) -> dict[str, str]:
    program = tmp_path / "programs" / "apptainer"
    program.parent.mkdir()
    program.write_text(STAND_IN)
    program.chmod(0o755)
    return {"PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}"}


def test_jobs_run_in_the_image_that_the_configuration_names(tmp_path: Path, programs: dict[str, str]) -> None:
    folder = make_study(tmp_path / "study")
    (folder / "medseg.sif").touch()
    options = ("--sdm", "apptainer", "--apptainer-args", "--nv --bind /shared", "--until", "ingest")
    refused = run(folder, *options, variables=programs)
    assert refused.returncode == 2
    assert "`container: FILE.sif`" in refused.stdout
    done = run(folder, *options, "--config", "container=medseg.sif", variables=programs)
    assert done.returncode == 0, done.stdout[-4000:]
    calls = (folder / "apptainer.calls").read_text().splitlines()
    assert len(calls) == 2
    assert all("exec" in call and "--nv --bind /shared" in call and "medseg.sif bash -c" in call for call in calls)
    assert (folder / "results/tiny/cells/ingest/manifest.tsv").is_file()
