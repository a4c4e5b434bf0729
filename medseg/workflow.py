"""What the Snakefile needs when it is parsed: configuration, paths, digests, and the lock on the working folder.

Free of torch, monai and mlflow, since every remote job parses the Snakefile again.
"""

from __future__ import annotations

import atexit
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import yaml

from medseg import jobs
from medseg.config import Config, is_elsewhere
from medseg.errors import ConfigError, MedsegError
from medseg.evaluate.choice import check_choices
from medseg.explained import check_writing, explain
from medseg.fence import allowed
from medseg.jobs import Job
from medseg.places import read_study
from medseg.postprocess.operations import wanted
from medseg.progress import say
from medseg.records import holds, write_record
from medseg.results.key import RunKey, read_fold
from medseg.results.paths import Results
from medseg.stages import rows_of_model, stage_digest
from medseg.starts import require_starts
from medseg.takeover import hold_folder, take_over
from medseg.text import BREAK, escaped
from medseg.whole import clear, look

# What Snakemake logs of a job that ended with a user's error.
FAILED_BY_USER = "non-zero exit status 2."
# No option of a study, but of one run: `snakemake --config verify=true`.
VERIFY = "verify"
# Options with which Snakemake runs no job.
RUN_NOTHING = (
    *("--dry", "--lint", "--list", "--summary", "--detailed-summary", "--dag", "--rulegraph", "--filegraph", "--d3dag"),
    *("--unlock", "--touch", "--report", "--archive", "--cleanup-", "--delete-", "--print-compilation"),
)


def read_config(files: Sequence[Path], overrides: Mapping[str, Any]) -> Config:
    """The configuration of a workflow run; a bad one ends the process with exit code 2 and one line per problem."""
    try:
        return checked_study(files, typed_overrides(overrides))
    except (MedsegError, OSError) as error:
        raise stop(error) from None


def checked_study(files: Sequence[Path], overrides: Mapping[str, Any]) -> Config:
    """The configuration of a study; raise ``ConfigError`` if it is bad."""
    config = read_study(files, overrides)
    check_choices(config)
    return config


def typed_overrides(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Overrides of a configuration from the command line, without those that are about the run."""
    return {key: _typed(value) for key, value in overrides.items() if key != VERIFY}


def _typed(value: Any) -> Any:
    """An override from the command line; Snakemake leaves numbers inside ``--config 'budget={steps: 8}'`` as text."""
    if isinstance(value, Mapping):
        return {key: _scalar(inner) for key, inner in value.items()}
    return [_scalar(inner) for inner in value] if isinstance(value, list) else value


def _scalar(value: Any) -> Any:
    if not isinstance(value, str):
        return _typed(value)
    try:
        return yaml.safe_load(value)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"--config: {value[:80]!r} is no YAML ({' '.join(str(error).split())[:200]})") from None


def stop(error: MedsegError | OSError) -> SystemExit | OSError:
    """Print a user's error without a traceback; the exception to raise for exit code 2 (Snakemake's own is 1).

    An error of the operating system that no user can fix is returned as it is.
    """
    text = str(error) if isinstance(error, MedsegError) else explain(error)
    if text is None:
        return cast(OSError, error)
    sys.stderr.write(f"{escaped(text, keep=BREAK)}\n")
    sys.stderr.flush()
    return SystemExit(2)


def has_ended() -> None:
    """Note that the run has ended well, or has said how it ended."""
    atexit.unregister(_last_word)


def _last_word(folder: Path) -> None:
    """End with 2 and say why, if a run ended on a full disk and nobody was asked what to say.

    Snakemake ends so, with 1, where it cannot write its own notes of a job; the status of a process that is ending can
    be changed in no other way.
    """
    try:
        check_writing(folder)
    except OSError as error:
        if isinstance(stop(error), SystemExit):
            sys.stdout.flush()
            os._exit(2)


def exit_status(logs: Iterable[str], folder: Path) -> int:
    """Status of a run in which a job failed: 2 for a user's error, as by hand; Snakemake's own is 1.

    On a full disk, jobs may fail because their log cannot be written, and Snakemake's may end early: so what is wrong
    with the folder is said once more, at the end.

    Args:
        logs: Snakemake's log of this run.
        folder: where results go.
    """
    has_ended()
    try:
        check_writing(folder)
    except OSError as error:
        if isinstance(stop(error), SystemExit):
            return 2
    return 2 if any(FAILED_BY_USER in Path(log).read_text(errors="replace") for log in logs) else 1


def prefer_this_environment() -> str:
    """Put this environment's ``medseg`` first on the PATH; return the command by which the user can call it."""
    folder = Path(sys.executable).parent
    found = shutil.which("medseg")
    os.environ["PATH"] = os.pathsep.join([str(folder), os.environ.get("PATH", "")])
    if found is not None and Path(found).parent == folder:
        return "medseg"
    inside = folder.is_relative_to(Path.cwd())
    return str((folder.relative_to(Path.cwd()) if inside else folder) / "medseg")


def begin(config: Config, overrides: Mapping[str, Any]) -> list[str]:
    """Take the working folder and the results for this process, and leave the configuration where the stages read it.

    Nothing is written or removed where Snakemake is only asked what it would do.

    Args:
        config: the experiment.
        overrides: what the command gives besides (``--config verify=true``: read every file that was made).

    Returns:
        Results that have to be made again, since a file was deleted or changed.
    """
    try:
        results, verify = Results.of(config), _scalar(overrides.get(VERIFY)) is True
        check_writing(Path.cwd())
        hold_folder(Path.cwd(), results.root)
        if not runs_jobs(sys.argv[1:]):
            found = look(config, verify=verify)
            for damage in found.values():
                if not damage.unfinished:
                    say(f"{damage.why}: a run makes it again, and what follows from it")
            return [str(path) for path in found]
        atexit.register(_last_word, Path.cwd())
        write_config(config, results.config)
        return [str(path) for path in clear(config, verify=verify)]
    except (MedsegError, OSError) as error:
        raise stop(error) from None


def runs_jobs(arguments: Sequence[str]) -> bool:
    """Whether a Snakemake command runs jobs; others print something, or work on Snakemake's own notes."""
    short = [one for one in arguments if re.fullmatch(r"-[a-zA-Z]+", one)]
    return not any("n" in one for one in short) and not any(one.startswith(RUN_NOTHING) for one in arguments)


def join() -> None:
    """Stop a job of an earlier run with exit code 2, before Snakemake removes the files that it would make.

    A cluster may begin it after a later run has finished the same.
    """
    try:
        with allowed():
            return
    except (MedsegError, OSError) as error:
        raise stop(error) from None


def start(config: Config, jobs: Iterable[tuple[str, Any]]) -> None:
    """Look whether all is there that jobs start from, and take over what an earlier run left, before the first job.

    Args:
        config: the experiment.
        jobs: name of the rule and wildcards of each job that is to run.
    """
    try:
        require_starts(config, jobs)
        take_over(Results.of(config).root)
    except (MedsegError, OSError) as error:
        raise stop(error) from None


def write_config(config: Config, path: Path) -> None:
    """Write the checked configuration to where the stages read it, if it changed or was damaged."""
    value = json.loads(config.model_dump_json())
    if not holds(path, value):
        write_record(path, value)


def key_of(wildcards: Any) -> RunKey:
    """The training that a job is about."""
    return RunKey(wildcards.dataset, wildcards.model, read_fold(wildcards.fold), int(wildcards.seed))


def weights_of(config: Config, model: str) -> Path | None:
    """Record of the weights that a model's encoder starts from, if there are any."""
    return Results.of(config).weights(model) if config.models[model].options.get("weights") else None


def start_of(config: Config, key: RunKey) -> tuple[Path | None, str | None]:
    """What a training starts from: the file that it waits for, and the model as `medseg train --start` wants it.

    A folder outside the study is waited for by nobody (``medseg.starts``).
    """
    start = config.models[key.model].start
    if start is None:
        return None, None
    if not is_elsewhere(start):
        model = Results.of(config).model(replace(key, model=start))
        return model.description, str(model.folder)
    return None, start


def code_of(config: Config, stage: str, wildcards: Any) -> str:
    """Digest of the code that a stage's job can execute: of tables, the rows that its model and data set use.

    Args:
        config: the experiment.
        stage: row of ``medseg.stages.STAGES``.
        wildcards: of the job.
    """
    used: dict[str, Collection[str]] = {}
    if (name := getattr(wildcards, "model", None)) is not None:
        model = config.models[name]
        used |= rows_of_model(model.network, model.network_options, model.loss, model.head)
    if (dataset := getattr(wildcards, "dataset", None)) is not None:
        used["OPERATIONS"] = wanted(config.datasets[dataset].postprocess)
    if stage == "plan" and config.budget.minutes:
        return f"{stage_digest(stage, used)}-{stage_digest('pace', used)}"
    return stage_digest(stage, used)


def has_postprocess(config: Config, dataset: str) -> bool:
    """Whether the data set names any operation."""
    return config.datasets[dataset].postprocess.applies


def job(config: Config, rule: str, wildcards: Any, threads: int) -> Job:
    """A job of a rule, which knows how much memory and time it may take."""
    dataset, model = (getattr(wildcards, name, None) for name in ("dataset", "model"))
    return Job(config, rule, threads, bool(wants_gpu(config)), dataset, model)


def wants_gpu(config: Config) -> int:
    """GPUs of a job that runs a network: 1 if configured, or if ``auto`` and an NVIDIA device file exists; else 0."""
    return int(config.device == "cuda" or (config.device == "auto" and has_gpu()))


def has_gpu() -> bool:
    """Whether this machine has an NVIDIA device file; torch, which knows better, is not asked."""
    return any(Path("/dev").glob("nvidia[0-9]*"))


def training_gpus(config: Config) -> int:
    """GPUs of one training."""
    return wants_gpu(config) * config.processes


def reading_seconds(config: Config) -> int:
    """How long reading a batch may take, in whole seconds, as Snakemake's resources are."""
    return math.ceil(config.loader.timeout_s)


def reading_workers(config: Config) -> int:
    """Processes that read a training's batches ahead."""
    return jobs.reading_workers(config, bool(wants_gpu(config)))
