"""What the Snakefile needs when it is parsed: configuration, paths, digests, and the lock on the working folder.

Free of torch, monai and mlflow, since every remote job parses the Snakefile again.
"""

from __future__ import annotations

import atexit
import functools
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import yaml

from medseg import cluster, jobs, machine
from medseg.config import Config, is_elsewhere
from medseg.errors import ConfigError, MachineError, MedsegError
from medseg.evaluate.choice import check_choices
from medseg.explained import check_writing, explain
from medseg.fence import allowed
from medseg.files import digest_of
from medseg.jobs import Job
from medseg.places import read_study
from medseg.postprocess.operations import wanted
from medseg.progress import say
from medseg.records import holds, write_record
from medseg.results.folders import RunFolder
from medseg.results.key import RunKey, read_fold
from medseg.results.paths import Results
from medseg.slices import dataset_slice
from medseg.stages import STAGES, rows_of_model, stage_digest
from medseg.starts import require_starts
from medseg.takeover import await_submitted, hold_folder, note_submitted, take_over
from medseg.text import BREAK, escaped
from medseg.tracking.store import check_uri, database_of
from medseg.whole import clear, look

# What Snakemake logs of a job that ended with a user's error.
FAILED_BY_USER = "non-zero exit status 2."
# No option of a study, but of one run: `snakemake --config verify=true`.
VERIFY = "verify"
# Snakemake asks for the resources of a job several times.
_say_once = functools.cache(say)
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


def has_ended(config: Config | None = None) -> None:
    """Note that the run has ended well, or has said how it ended.

    Args:
        config: the experiment, whose jobs have all ended; None: some may not have.
    """
    atexit.unregister(_last_word)
    if config is not None:
        RunFolder(Results.of(config).root).submitted.unlink(missing_ok=True)


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
        atexit.register(_last_word, Path.cwd())
        since = await_submitted(results.root, digest_of_study(config))
        write_config(config, results.config)
        return [str(path) for path in clear(config, verify=verify, since=since)]
    except (MedsegError, OSError) as error:
        raise stop(error) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def digest_of_study(config: Config) -> str:
    """Digest of all that results depend on: configuration, code, and files of the data sets."""
    code = {stage: stage_digest(stage) for stage in STAGES}
    data = {name: dataset_slice(config, name) for name in config.datasets}
    return digest_of({"config": config.model_dump(mode="json"), "code": code, "data": data})


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
        require_starts(config, [(own_name(job.rule.name), job.wildcards) for job in jobs])
        if slurm := _submits_to_slurm(workflow):
            require_possible(jobs)
        if RunFolder(root).submitted.is_file():
            _keep_notes(workflow)
        take_over(root)
        note_submitted(root, _run_name(workflow) if slurm else None, digest_of_study(config))
    except (MedsegError, OSError) as error:
        raise stop(error) from None
    if os.environ.get(cluster.VARIABLE) and database_of(check_uri(config.tracking.uri)) is not None:
        say(
            "tracking: several machines cannot share a SQLite file, so curves are sent when all else is done; to see "
            "them while trainings run, give `tracking: {uri: http://…}`, an MLflow server that the nodes reach"
        )


def _submits_to_slurm(workflow: Any) -> bool:
    plugin = workflow.executor_plugin
    return bool(workflow.is_main_process and plugin is not None and plugin.name == "slurm")


def _run_name(workflow: Any) -> str:
    """The name that SLURM's jobs of this run have; Snakemake's executor draws it, and prints it as "SLURM run ID"."""
    return str(workflow.scheduler._executor.run_uuid)


def _keep_notes(workflow: Any) -> None:
    """Have Snakemake note of jobs that ended after their workflow was killed what it notes of others.

    It compares parameters with its notes: without them, a change of configuration or code would make nothing again.
    """
    notes = workflow.persistence
    for job in workflow.dag.jobs:
        if job.output and not workflow.dag.needrun(job) and not notes.has_metadata(job):
            workflow.async_run(notes.finished(job))


def require_possible(jobs: Iterable[Any]) -> None:
    """Raise ``MachineError`` if a job asks for what its partition does not have; each reason is named once.

    Args:
        jobs: Snakemake's, before their first attempt.
    """
    problems: dict[str, None] = {}
    for job in jobs:
        if not job.is_local:
            asked = job.resources
            what = cluster.Wanted(job.threads, int(asked.get("mem_mb") or 0), int(asked.get("gpu") or 0))
            problems |= dict.fromkeys(cluster.impossible(job.rule.name, asked.get("slurm_partition"), what))
    if problems:
        raise MachineError("\n".join(problems))


def memory_and_time(workflow: Any, rule: str, job: Job, attempt: int) -> tuple[int, int]:
    """Memory in MB and minutes that a job asks for: more with each attempt, as far as its partition has them.

    What the first attempt cannot have is said. Its time is what the partition allows, since every stage keeps what it
    has done and goes on with the next attempt; its memory is asked for as it is, and SLURM refuses it at once.

    Args:
        workflow: Snakemake's.
        rule: its name there.
        job: the job.
        attempt: counted from 1.
    """
    memory, minutes = job.memory_mb(), job.minutes()
    partition = _partition(workflow, rule) if _submits_to_slurm(workflow) else None
    if partition is None:
        return memory * attempt, minutes * attempt
    times = 1 + workflow.execution_settings.retries
    if job.is_known:
        for line in cluster.remarks(job.label, partition, memory, minutes, times):
            _say_once(line)
    longest = minutes * attempt if math.isinf(partition.minutes) else min(minutes * attempt, int(partition.minutes))
    return min(memory * attempt, max(memory, partition.memory_mb)), longest


def _partition(workflow: Any, rule: str) -> cluster.Partition | None:
    """The partition of a rule's jobs; None where that is not to be known before."""
    resources = workflow.get_rule(rule).resources
    if "slurm_partition" not in resources:
        return cluster.partition_of(None)
    name = cluster.named_in(resources["slurm_partition"].raw)
    return cluster.partition_of(name) if name else None


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


def require_container(config: Config, methods: Iterable[Any]) -> None:
    """End with exit code 2 if jobs are to run in containers (``--sdm apptainer``), and in none that is named.

    Args:
        config: the experiment.
        methods: Snakemake's, by which it deploys software.
    """
    if config.container is None and any(method.name == "APPTAINER" for method in methods):
        raise stop(
            ConfigError(
                "--sdm apptainer: no image to run jobs in; give `container: FILE.sif` in the configuration "
                "(docs/cluster.md says how it is built), or leave the option out"
            )
        )


def settle_device(config: Config, submits: bool) -> None:
    """Settle where networks run, for this process and the jobs that inherit its environment.

    Args:
        config: the experiment.
        submits: whether jobs run elsewhere: then nothing of this machine counts.
    """
    os.environ.pop(cluster.VARIABLE, None)
    if not submits:
        return
    try:
        os.environ[cluster.VARIABLE] = _device_of_nodes(config)
    except MedsegError as error:
        raise stop(error) from None


def _device_of_nodes(config: Config) -> str:
    if config.device != "auto":
        return config.device
    if not cluster.is_slurm():
        raise ConfigError(
            "device: auto asks the machine, and networks will run on others; say `device: cuda` (each training, "
            "prediction and plan then asks for a GPU) or `device: cpu`, also as `--config device=cpu`"
        )
    return "cuda" if cluster.has_gpus() else "cpu"


def wants_gpu(config: Config) -> int:
    """GPUs of a job that runs a network: 1 if configured, or if ``auto`` and there are any where jobs run; else 0."""
    auto = os.environ.get(cluster.VARIABLE) or ("cuda" if machine.gpus() else "cpu")
    return int((auto if config.device == "auto" else config.device) == "cuda")


def gpus_here(config: Config) -> int:
    """GPUs that jobs on this machine share.

    Raises:
        SystemExit: 2, if a training wants more than there are: its processes would wait for one another for ever.
    """
    found = len(machine.gpus())
    if wants_gpu(config) and 0 < found < config.processes:
        raise stop(
            ConfigError(
                f"processes: {config.processes} share a training, each on a GPU of its own, and this machine has "
                f"{found}; give `processes: {found}` or less"
            )
        )
    return max(1, found)


def planning_threads(config: Config, cores: int | None) -> int:
    """Processors of a job that plans: for a budget in minutes all of one machine; elsewhere those of a training.

    Args:
        config: the experiment.
        cores: of the one machine that runs all jobs; None: they run elsewhere.
    """
    if cores is None:
        return config.threads
    return cores if config.budget.minutes else 1


def training_gpus(config: Config) -> int:
    """GPUs of one training."""
    return wants_gpu(config) * config.processes


def reading_seconds(config: Config) -> int:
    """How long reading a batch may take, in whole seconds, as Snakemake's resources are."""
    return math.ceil(config.loader.timeout_s)


def reading_workers(config: Config) -> int:
    """Processes that read a training's batches ahead."""
    return jobs.reading_workers(config, bool(wants_gpu(config)))
