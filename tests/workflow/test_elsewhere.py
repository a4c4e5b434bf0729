"""The workflow away from its clone: `medseg run` in a folder of its own, and as a module of another Snakefile.

A study that the clone finished is taken there: what is found finished has the same rules, parameters and results.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from medseg import __version__
from tests.workflow.study import BIN, digests, environment, jobs

pytestmark = pytest.mark.workflow
R = "results/tiny"
# As `snakedeploy deploy-workflow` writes it, but for the address.
DEPLOYED = """
from snakemake.utils import min_version


min_version("6.10.0")


configfile: "config/config.yaml"


module medseg:
    snakefile:
        "{snakefile}"
    config:
        config


use rule * from medseg{names}
"""
RUN = (sys.executable, "-m", "medseg", "run", "config/config.yaml", "--cores", "2")
SNAKEMAKE = (str(BIN / "snakemake"), "--cores", "2")


@pytest.fixture
def elsewhere(finished: Path, tmp_path: Path) -> Path:
    """The finished study without the clone around it."""
    clone = ("medseg", "workflow", "profiles", "Snakefile", "environment.yml")
    folder = Path(shutil.copytree(finished, tmp_path / "elsewhere", symlinks=True))
    for name in clone:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return folder


def call(clone: Path, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a folder, with the package of the clone; output and errors come back together."""
    return subprocess.run(
        command, cwd=folder, env=environment(clone), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def deploy(clone: Path, folder: Path, names: str = "") -> None:
    (folder / "workflow").mkdir(exist_ok=True)
    text = DEPLOYED.format(snakefile=clone / "workflow/Snakefile", names=names)
    (folder / "workflow/Snakefile").write_text(text)
    shutil.copytree(clone / "profiles", folder / "profiles", dirs_exist_ok=True)


def remade(clone: Path, folder: Path, *command: str) -> str:
    """What a command prints that makes the comparison again, with the same bits, under a token of its own."""
    before, token = digests(folder), (folder / R / ".run/token").read_text()
    shutil.rmtree(folder / R / "compare")
    done = call(clone, folder, *command)
    assert done.returncode == 0, done.stdout[-3000:]
    assert digests(folder) == before
    assert (folder / R / ".run/token").read_text() != token, "jobs of earlier runs would not be fenced off"
    return done.stdout


def test_run_in_a_folder_of_its_own_goes_on_with_the_study(finished: Path, elsewhere: Path) -> None:
    assert jobs(call(finished, elsewhere, *RUN, "-n").stdout) == set()
    out = remade(finished, elsewhere, *RUN)
    assert f"report:      {R}/report/index.html" in out
    assert "(snakemake --configfile config/config.yaml " in (elsewhere / ".snakemake/medseg.lock").read_text()
    (elsewhere / "config/config.yaml").write_text("experiment: tiny\n")
    assert call(finished, elsewhere, *RUN).returncode == 2
    assert call(finished, elsewhere, *RUN, "--no-such-option").returncode == 2


def test_as_a_module_it_finds_the_study_finished_and_makes_what_is_lost(finished: Path, elsewhere: Path) -> None:
    deploy(finished, elsewhere)
    assert jobs(call(finished, elsewhere, *SNAKEMAKE, "-n").stdout) == set()
    out = remade(finished, elsewhere, *SNAKEMAKE)
    assert "Dice" in out
    assert f"report:      {R}/report/index.html" in out
    assert "train" in jobs(call(finished, elsewhere, *SNAKEMAKE, "-n", "--config", "budget={steps: 301}").stdout)


def test_as_a_module_a_users_error_of_a_job_is_exit_code_2(finished: Path, elsewhere: Path) -> None:
    deploy(finished, elsewhere)
    config = elsewhere / "config/config.yaml"
    config.write_text(config.read_text().replace("labels: {cell: 1}\n    instances: true\n", "labels: {cell: 1}\n"))
    assert "instances" not in config.read_text()
    done = call(finished, elsewhere, *SNAKEMAKE, "--config", "budget={steps: 2}")
    assert done.returncode == 2, done.stdout[-3000:]
    assert "label-values" in done.stdout
    assert "fix it and run the same command again" in done.stdout


def test_a_workflow_of_another_version_than_the_package_says_which_is_needed(finished: Path, elsewhere: Path) -> None:
    """As where `snakedeploy` pins a tag, and another medseg is installed."""
    shutil.copytree(finished / "workflow", elsewhere / "pinned/workflow")
    rules = elsewhere / "pinned/workflow/rules/common.smk"
    rules.write_text(rules.read_text().replace(f'VERSION = "{__version__}"', 'VERSION = "9.9.9"'))
    shutil.copytree(finished / "profiles", elsewhere / "profiles")
    done = call(finished, elsewhere, *SNAKEMAKE, "-n", "--snakefile", "pinned/workflow/Snakefile")
    assert done.returncode == 2, done.stdout[-3000:]
    assert f"medseg {__version__} is installed" in done.stdout
    assert "install medseg 9.9.9 beside Snakemake" in done.stdout
    assert "Traceback" not in done.stdout


@pytest.mark.exhaustive
def test_rules_that_another_snakefile_renames_ask_for_the_same_resources(finished: Path, elsewhere: Path) -> None:
    def resources(names: str) -> list[str]:
        deploy(finished, elsewhere, names)
        done = call(finished, elsewhere, *SNAKEMAKE, "-n", "-F", "--quiet", "host")
        assert done.returncode == 0, done.stdout[-3000:]
        return sorted(line.strip() for line in done.stdout.splitlines() if "resources:" in line)

    plain = resources("")
    assert len(set(plain)) > 2
    assert resources(" as seg_*") == plain
