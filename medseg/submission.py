"""What jobs of the workflow ask for, and where they run: here, or on a cluster, of which this machine says nothing.

Free of torch, monai and mlflow, since every remote job parses the Snakefile again.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterable
from typing import Any

from medseg import cluster, jobs, machine
from medseg.config import Config
from medseg.ending import stop
from medseg.errors import ConfigError, MachineError, MedsegError
from medseg.files import digest_of
from medseg.jobs import Job
from medseg.progress import say
from medseg.slices import dataset_slice
from medseg.stages import STAGES, stage_digest

# Snakemake asks for the resources of a job several times.
_say_once = functools.cache(say)


def digest_of_study(config: Config) -> str:
    """Digest of all that results depend on: configuration, code, and files of the data sets."""
    code = {stage: stage_digest(stage) for stage in STAGES}
    data = {name: dataset_slice(config, name) for name in config.datasets}
    return digest_of({"config": config.model_dump(mode="json"), "code": code, "data": data})


def submits_to_slurm(workflow: Any) -> bool:
    """Whether this process has SLURM run its jobs."""
    plugin = workflow.executor_plugin
    return bool(workflow.is_main_process and plugin is not None and plugin.name == "slurm")


def require_shared_files(workflow: Any) -> None:
    """Raise ``ConfigError`` if an executor would run jobs where the study's folder is not.

    Snakemake carries the files to and fro that rules declare, and a study has others: see ``docs/cluster.md``.

    Args:
        workflow: Snakemake's, about to run.
    """
    shared = {one.name for one in workflow.storage_settings.shared_fs_usage}
    if not workflow.local_exec and "INPUT_OUTPUT" not in shared:
        raise ConfigError(
            f"executor {workflow.executor_plugin.name} shares no files with its jobs, and a study needs its folder: "
            "states of trainings, locks and the run's token are files that no rule declares; run it on one machine, or "
            "in one pod, that has the folder (`medseg run my.yaml` there), or on a cluster whose nodes share it"
        )


def run_name(workflow: Any) -> str:
    """The name that SLURM's jobs of this run have; Snakemake's executor draws it, and prints it as "SLURM run ID"."""
    return str(workflow.scheduler._executor.run_uuid)


def keep_notes(workflow: Any) -> None:
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
    partition = _partition(workflow, rule) if submits_to_slurm(workflow) else None
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
            "prediction and plan then asks for a GPU) or `device: cpu`, also as `--config device=cpu`; if they run "
            "here, leave out `--jobs`"
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
