"""Commands that run a whole study: the workflow that comes with the package, in the user's own folder."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from medseg.errors import ConfigError, MedsegError
from medseg.machine import processors
from medseg.progress import say

PACKAGE = Path(__file__).resolve().parents[1]
DEMO = Path("demo.yaml")
# Options by which the user says how much may run at once, or where: nothing is added to them.
CORES = ("--cores", "-c", "--jobs", "-j", "--profile", "--workflow-profile", "--executor", "-e")
# Looked for by Snakemake itself; the user's own comes before ours.
OWN_PROFILE = Path("profiles/default")

Passed = Annotated[
    list[str] | None, typer.Argument(metavar="[OPTIONS OF SNAKEMAKE]...", help="handed on to snakemake as they are")
]


def run(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="configuration: YAML")], options: Passed = None
) -> None:
    """Run a study from its checks to the report, in the current folder; after a stop, the same command resumes.

    It is `snakemake --snakefile <the workflow of this package> --configfile CONFIG`, with all processors. Any option of
    Snakemake may follow: `-n` shows what would run, `--cores 4` bounds it, `--config 'budget={steps: 8}'` overrides a
    value of the configuration.
    """
    if str(config).startswith("-"):
        raise ConfigError(f"{config}: the configuration comes first: medseg run my.yaml {config} ...")
    if not config.is_file():
        raise ConfigError(
            f"{config}: no such configuration file; `medseg new FOLDER -o {config}` writes one for a folder of images"
        )
    run_workflow(config, options or [])


def demo(options: Passed = None) -> None:
    """Run the demonstration in the current folder: two generated data sets, two networks, a report in minutes.

    Its configuration is written to demo.yaml; one that is there is used as it is. Options of Snakemake may follow.
    """
    if not DEMO.is_file():
        DEMO.write_bytes((workflow_folder() / "config" / "config.yaml").read_bytes())
        say(f"wrote {DEMO}, the demonstration's configuration; `medseg run {DEMO}` is the same as `medseg demo`")
    run_workflow(DEMO, options or [])


def workflow_folder() -> Path:
    """The folder with the Snakefile: inside an installed package, beside it in a clone."""
    inside = PACKAGE / "_workflow"
    folder = inside if inside.is_dir() else PACKAGE.parent
    if not (folder / "Snakefile").is_file():
        raise MedsegError(
            f"{folder}: no Snakefile; this medseg was installed without its workflow: install it again from its wheel "
            "(pip install --force-reinstall --no-deps medseg)"
        )
    return folder


def run_workflow(config: Path, options: Sequence[str]) -> NoReturn:
    """Become `snakemake` on a configuration: signals and the exit status are Snakemake's own.

    Args:
        config: file of the configuration.
        options: of Snakemake.
    """
    command = snakemake_command(config, options)
    sys.stdout.flush()
    sys.stderr.flush()
    # No child: whoever stops or kills this process stops the workflow itself.
    os.execv(command[0], command)


def snakemake_command(config: Path, options: Sequence[str]) -> list[str]:
    """The command line of a study's workflow.

    Targets may be among the options, so nothing stands before them that takes any number of values.
    """
    folder = workflow_folder()
    command = [sys.executable, "-P", "-m", "snakemake", "--configfile", str(config)]
    command += ["--snakefile", str(folder / "Snakefile")]
    if not OWN_PROFILE.exists():
        # Of one that is given twice, the later counts.
        command += ["--workflow-profile", str(folder / OWN_PROFILE)]
    if not any(_given(option, options) for option in CORES):
        command += ["--cores", str(processors())]
    return [*command, *options]


def _given(option: str, options: Sequence[str]) -> bool:
    """Whether an option is among those of a command line: `--cores 2`, `--cores=2`, `--core 2`, `-c2`."""
    if not option.startswith("--"):
        return any(one.startswith(option) for one in options)
    names = (one.partition("=")[0] for one in options if len(one) > len("--x"))
    return any(name.startswith("--") and option.startswith(name) for name in names)
