"""What the Snakefile needs when it is parsed: configuration, paths, digests, and the lock on the working folder.

Free of torch, monai and mlflow, since every remote job parses the Snakefile again.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from medseg import cluster
from medseg.config import Config, is_elsewhere
from medseg.config import members_of as config_members
from medseg.ending import stop, watch
from medseg.errors import ConfigError, MedsegError
from medseg.evaluate.choice import check_choices
from medseg.explained import check_writing
from medseg.fence import allowed
from medseg.places import read_study
from medseg.postprocess.operations import possible
from medseg.progress import say
from medseg.records import holds, write_record
from medseg.results.folders import RunFolder
from medseg.results.key import RunKey, read_fold
from medseg.results.paths import Results
from medseg.stages import rows_of_model, stage_digest
from medseg.starts import require_starts
from medseg.submission import (
    digest_of_study,
    keep_notes,
    require_possible,
    require_shared_files,
    run_name,
    submits_to_slurm,
)
from medseg.takeover import await_submitted, forget_submitted, hold_folder, note_submitted, take_over
from medseg.tracking.store import check_uri, database_of
from medseg.whole import clear, look

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


def prefer_this_environment() -> str:
    """Put this environment's ``medseg`` first on the PATH; return the command by which the user can call it."""
    folder = Path(sys.executable).parent
    found = shutil.which("medseg")
    os.environ["PATH"] = os.pathsep.join([str(folder), os.environ.get("PATH", "")])
    if found is not None and Path(found).parent == folder:
        return "medseg"
    inside = folder.is_relative_to(Path.cwd())
    return str((folder.relative_to(Path.cwd()) if inside else folder) / "medseg")


def require_files(provider: str | None) -> None:
    """End with exit code 2 if Snakemake is to keep results elsewhere than in files (``--default-storage-provider``).

    Stages read and write files beside those that Snakemake knows of and would carry there and back: states of
    trainings, lists of what was made, cases of a data set.
    """
    if provider is not None:
        raise stop(
            ConfigError(
                f"--default-storage-provider {provider}: results have to lie on a file system, for stages read and "
                "write files that Snakemake does not know of, as states of trainings; leave the option out. Data come "
                "from a bucket by `download: {url: s3://BUCKET/NAME.zip}`, results go there as a whole: docs/team.md, "
                "Buckets"
            )
        )


def begin(config: Config, overrides: Mapping[str, Any]) -> list[str]:
    """Take the working folder and the results for this process, and leave the configuration where the stages read it.

    Waits for jobs that a run which was killed has left to a cluster. Nothing is written or removed where Snakemake is
    only asked what it would do.

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
        watch(Path.cwd())
        since = await_submitted(results.root, lambda: digest_of_study(config))
        write_config(config, results.config)
        return [str(path) for path in clear(config, verify=verify, since=since)]
    except (MedsegError, OSError) as error:
        raise stop(error) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


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


def start(config: Config, workflow: Any, own_name: Callable[[str], str]) -> None:
    """Look whether all is there that jobs start from, and take over what an earlier run left, before the first job.

    Args:
        config: the experiment.
        workflow: Snakemake's, about to run.
        own_name: our name of a rule (``as_module.own_names``).
    """
    root, jobs = Results.of(config).root, list(workflow.dag.needrun_jobs())
    try:
        require_shared_files(workflow)
        require_starts(config, [(own_name(job.rule.name), job.wildcards) for job in jobs])
        if slurm := submits_to_slurm(workflow):
            require_possible(jobs)
        if RunFolder(root).submitted.is_file():
            keep_notes(workflow)
        take_over(root)
        forget_submitted(root)
        if slurm:
            note_submitted(root, run_name(workflow), digest_of_study(config))
    except (MedsegError, OSError) as error:
        raise stop(error) from None
    if os.environ.get(cluster.VARIABLE) and database_of(check_uri(config.tracking.uri)) is not None:
        say(
            "tracking: several machines cannot share a SQLite file, so curves are sent when all else is done; to see "
            "them while trainings run, give `tracking: {uri: http://…}`, an MLflow server that the nodes reach"
        )


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
        used |= _rows_of(config, name)
    if (dataset := getattr(wildcards, "dataset", None)) is not None:
        used["OPERATIONS"] = possible(config.datasets[dataset].postprocess)
    if stage == "plan" and config.budget.minutes:
        return f"{stage_digest(stage, used)}-{stage_digest('pace', used)}"
    return stage_digest(stage, used)


def _rows_of(config: Config, name: str) -> dict[str, Collection[str]]:
    """Table -> the rows that a model uses, or the members of an ensemble."""
    used: dict[str, Collection[str]] = {}
    for one in config.ensembles[name].of if name in config.ensembles else [name]:
        model = config.models[one]
        rows = rows_of_model(model.network, model.network_options, model.loss, model.head)
        used = {table: sorted({*used.get(table, ()), *names}) for table, names in rows.items()}
    return used


def members_of(config: Config, key: RunKey) -> list[RunKey]:
    """The trainings of an ensemble."""
    return [RunKey(*run) for run in config_members(config, key.dataset, key.model, key.fold)]


def inner_of(config: Config, key: RunKey) -> list[RunKey]:
    """The trainings whose validation cases a model's post-processing is chosen on: other folds of the model."""
    if not config.datasets[key.dataset].postprocess.choose:
        return []
    others = (replace(key, fold=fold) for fold in config.folds.validated)
    return [one for one in others if one.fold != key.fold]


def has_postprocess(config: Config, dataset: str) -> bool:
    """Whether the data set names any operation, or lets some be chosen."""
    return config.datasets[dataset].postprocess.applies
