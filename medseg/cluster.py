"""What a SLURM cluster has, and which jobs of a run it still has, as SLURM's own commands say.

The machine that submits is no measure for those that compute: neither its devices nor its memory are asked for here.
Free of torch, numpy and pandas, since every remote job parses the Snakefile again.
"""

from __future__ import annotations

import functools
import math
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from medseg.errors import MachineError
from medseg.progress import say

# Environment variable that jobs inherit which a cluster runs: the device that their networks are meant for.
VARIABLE = "MEDSEG_CLUSTER"
# Seconds that a command of SLURM may take, and between two looks at jobs that are waited for.
ANSWER_S = 60.0
POLL_S = 10.0
GPU_RESOURCE = re.compile(r"\bgpu(?::[^:(),]+)?(?::(\d+))?")


@dataclass(frozen=True, slots=True)
class Partition:
    """What the jobs of a partition can have.

    Attributes:
        name: of the partition.
        default: whether jobs go there that name none.
        minutes: longest time of a job; infinite where there is no limit.
        memory_mb, processors, gpus: of its largest node, each by itself.
    """

    name: str
    default: bool
    minutes: float
    memory_mb: int
    processors: int
    gpus: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a job asks for: processors, main memory in MB, GPUs."""

    processors: int
    memory_mb: int
    gpus: int


@dataclass(frozen=True, slots=True)
class BatchJob:
    """A job that SLURM has not ended yet.

    Attributes:
        number: of the job.
        state: as SLURM calls it: PENDING, RUNNING, COMPLETING, …
        about: rule and wildcards, as Snakemake's executor notes them.
        since: how long it runs, of how long it may.
        why: its node, or why it waits.
    """

    number: str
    state: str
    about: str
    since: str
    why: str


def is_slurm() -> bool:
    """Whether SLURM's commands are on this machine."""
    return shutil.which("sinfo") is not None


def ask(*command: str) -> str:
    """What a command of SLURM prints.

    Raises:
        MachineError: if it fails, or gives no answer.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_S, check=False)
    except subprocess.TimeoutExpired:
        raise MachineError(
            f"`{' '.join(command)}` gave no answer in {ANSWER_S:.0f} s; is SLURM's controller up?"
        ) from None
    except FileNotFoundError:
        raise MachineError(
            f"{command[0]}: no such command on this machine; give the same command where jobs are submitted from"
        ) from None
    if done.returncode:
        raise MachineError(f"`{' '.join(command)}` failed: {done.stderr.strip() or done.returncode}; is SLURM up?")
    return done.stdout


@functools.cache
def partitions() -> tuple[Partition, ...]:
    """The partitions of the cluster; raises ``MachineError`` where SLURM does not answer."""
    found: dict[str, Partition] = {}
    for line in ask("sinfo", "--noheader", "--Node", "--format=%P|%l|%m|%c|%G").splitlines():
        label, limit, memory, processors, resources = line.strip().split("|")
        name = label.removesuffix("*")
        one = found.get(name, Partition(name, label.endswith("*"), minutes_of(limit), 0, 0, 0))
        gpus = sum(int(count or 1) for count in GPU_RESOURCE.findall(resources))
        most = (max(one.memory_mb, _number(memory)), max(one.processors, _number(processors)), max(one.gpus, gpus))
        found[name] = Partition(name, one.default, one.minutes, *most)
    return tuple(found.values())


def _number(text: str) -> int:
    return int(re.match(r"\d*", text)[0] or 0)  # type: ignore[index]


def minutes_of(text: str) -> float:
    """Minutes of a time as SLURM prints it: ``30:00``, ``8:00:00``, ``2-00:00:00``; others (``infinite``): no limit."""
    days, _, clock = text.rpartition("-")
    parts = clock.split(":")
    if not all(part.isdigit() for part in (days or "0", *parts)):
        return math.inf
    hours, minutes, seconds = (*(0,) * (3 - len(parts)), *map(int, parts))
    return 1440 * int(days or 0) + 60 * hours + minutes + seconds / 60


def has_gpus() -> bool:
    """Whether any node of the cluster has a GPU."""
    return any(one.gpus for one in partitions())


def partition_of(name: str | None) -> Partition | None:
    """The partition of this name, or the one of jobs that name none; of several (``a,b``) the first that there is."""
    names = name.split(",") if name else [one.name for one in partitions() if one.default]
    return next((one for wanted in names for one in partitions() if one.name == wanted), None)


def impossible(rule: str, partition: str | None, wanted: Wanted) -> list[str]:
    """Why no node of its partition can ever run a job of a rule; empty if one can.

    Args:
        rule: its name.
        partition: its name; None: the default one.
        wanted: what the job asks for.
    """
    found = partition_of(partition)
    if found is None:
        which = f"no partition {partition!r}" if partition else "no partition is the default one"
        return [
            f"{rule}: {which}; SLURM has {', '.join(one.name for one in partitions())}; name one in the profile, e.g. "
            f"`set-resources: {rule}: slurm_partition={partitions()[0].name}`"
        ]
    problems = []
    if wanted.gpus > found.gpus:
        others = [one.name for one in partitions() if one.gpus >= wanted.gpus]
        where = f"partition {found.name} has {found.gpus or 'none'} on a node"
        fix = (
            f"`set-resources: {rule}: slurm_partition={others[0]}` in the profile, or `device: cpu`"
            if others
            else ("`device: cpu`, or fewer `processes`")
        )
        problems.append(f"{rule}: asks for {wanted.gpus} GPUs, and {where}; give {fix}")
    if wanted.processors > found.processors:
        problems.append(
            f"{rule}: asks for {wanted.processors} processors, and nodes of partition {found.name} have at most "
            f"{found.processors}; give `set-threads: {rule}={found.processors}` in the profile, or fewer `threads`"
        )
    if wanted.memory_mb > found.memory_mb:
        problems.append(
            f"{rule}: asks for {wanted.memory_mb:,} MB of memory, and nodes of partition {found.name} have at most "
            f"{found.memory_mb:,}; name another partition in the profile, or less memory, which may not do: "
            f"`set-resources: {rule}: mem_mb={found.memory_mb}`"
        )
    return problems


def remarks(label: str, partition: Partition, memory_mb: int, minutes: int, times: int) -> list[str]:
    """What is to be said of a job that may need more than its partition gives at once.

    Args:
        label: how the job is named.
        partition: where it runs.
        memory_mb, minutes: what it may need, at most.
        times: how often it is tried.
    """
    lines = []
    if minutes > partition.minutes:
        windows = math.ceil(minutes / partition.minutes)
        more = (
            f"; after {times} times it counts as failed, and the same command goes on: give `retries: {windows - 1}` "
            "in the profile"
        )
        lines.append(
            f"{label}: may take {minutes:,} minutes, and partition {partition.name} ends jobs after "
            f"{partition.minutes:,.0f}: what is cut off is tried again and goes on where it was"
            + (more if windows > times else "")
        )
    if memory_mb > partition.memory_mb:
        lines.append(
            f"{label}: may need {memory_mb:,} MB of memory, and nodes of partition {partition.name} have at most "
            f"{partition.memory_mb:,}, so that SLURM refuses it; name another partition in the profile "
            "(`set-resources: RULE: slurm_partition=NAME`), or less memory (`mem_mb=NUMBER`), which may not do"
        )
    return lines


def named_in(value: object) -> str | None:
    """The partition that a rule's resource ``slurm_partition`` names; None where it is computed for each job."""
    text = str(value).strip("'\" ")
    return text if re.fullmatch(r"[\w.,-]+", text) else None


def active(name: str) -> list[BatchJob]:
    """The user's jobs of this name that have not ended; raises ``MachineError`` where SLURM does not answer."""
    user = str(os.getuid())
    lines = ask(
        "squeue", "--noheader", f"--user={user}", f"--name={name}", "--format=%i|%T|%M of %l|%R|%k"
    ).splitlines()
    found = [line.split("|", 4) for line in lines if line.strip()]
    return [BatchJob(number, state, about, since, why) for number, state, since, why, about in found]


def wait_for(name: str, *, stop: bool, pause: Callable[[float], None] = time.sleep) -> int:
    """Wait until no job of this name is left; return how many there were.

    Args:
        name: of the jobs, which is that of the run that submitted them.
        stop: cancel them first: trainings then save their state, other stages keep their finished cases.
        pause: waits for so many seconds.

    Raises:
        MachineError: where SLURM does not answer at first.
    """
    jobs = first = active(name)
    if jobs and stop:
        say(f"{len(jobs)} jobs of an earlier run are of another configuration, code or data; cancelling them")
        ask("scancel", f"--user={os.getuid()}", f"--name={name}")
    shown: Sequence[tuple[str, str]] = []
    while jobs:
        now = [(job.number, job.state) for job in jobs]
        if now != shown and not stop:
            for job in jobs:
                say(f"SLURM job {job.number} of an earlier run, {job.about}: {job.state}, {job.since} {job.why}")
            say(
                "waiting for these, whose results this run takes over (`scancel NUMBER` ends one, and it is made again)"
            )
        shown = now
        pause(POLL_S)
        try:
            jobs = active(name)
        except MachineError as error:
            # It has answered before, and restarts now and then.
            say(f"{error}; asking again")
    return len(first)
