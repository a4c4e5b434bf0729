"""Every case of a data set is read and checked, then all of them together: all faults, in one pass."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

from medseg.config import DatasetConfig
from medseg.errors import Fault
from medseg.ingest.channels import choose_files, configured_names
from medseg.ingest.checked import Checked
from medseg.ingest.checks import check_case
from medseg.ingest.cohort import cohort_faults, name_channels
from medseg.ingest.cohort_sizes import bring_to_one_unit
from medseg.ingest.held_out import one_side
from medseg.ingest.objects import object_faults
from medseg.ingest.origin.proposal import join_noticed
from medseg.ingest.read_before import Kept, ReadBefore
from medseg.ingest.sources import Candidate, Inventory
from medseg.ingest.subjects import NOTICED
from medseg.machine import processors
from medseg.progress import Progress


def check_cases(
    dataset: str, inventory: Inventory, section: DatasetConfig, workers: int, kept: Kept | None = None
) -> tuple[list[Checked], tuple[str, ...], list[Fault]]:
    """Read and check every candidate of an inventory, in parallel.

    Args:
        dataset: name, for the progress bar.
        inventory: what to check.
        section: the data set's configuration.
        workers: threads, at most as many as processors (decompression and hashing release Python's lock).
        kept: where it is kept what reading each case gave; None: all are read.

    Returns:
        The cases in the inventory's order, the channel names, and all faults, the inventory's own included.
    """
    inventory = choose_files(inventory, section)
    checked = read_cases(dataset, inventory, section, workers, kept)
    sides: list[Fault] = []
    if joined := section.subject == NOTICED:
        join_noticed(checked)
        sides = [f for f in one_side(one.candidate for one in checked) if f not in inventory.faults]
    # What is in the test set alone names nothing.
    known = [one for one in checked if one.channels is not None and not one.candidate.test]
    names = name_channels(known or checked, configured_names(section) or inventory.channels)
    faults = [*inventory.faults, *sides, *(f for one in checked for f in one.faults)]
    faults += cohort_faults(checked, names, joined)
    faults += object_faults(checked, inventory.labels)
    bring_to_one_unit(checked)
    return checked, names, faults


def read_cases(
    dataset: str, inventory: Inventory, section: DatasetConfig, workers: int, kept: Kept | None = None
) -> list[Checked]:
    """Read every candidate of an inventory and check it for itself, in parallel; arguments as for ``check_cases``."""
    progress = Progress(f"ingest {dataset}", len(inventory.candidates))
    checked: list[Checked] = []
    before = nullcontext() if kept is None else ReadBefore(kept.file, inventory, section, kept.code)
    with before as store, ThreadPoolExecutor(max(1, min(workers, processors()))) as pool:
        for key, done in pool.map(lambda c: _read_case(inventory, c, section, store), inventory.candidates):
            if store is not None:
                store.put(key, done)
            checked.append(done)
            progress.update(len(checked))
    return checked


def _read_case(
    inventory: Inventory, candidate: Candidate, section: DatasetConfig, store: ReadBefore | None
) -> tuple[str, Checked]:
    """What reading a case gives, and the key by which it is kept; empty if it is there or cannot be kept."""
    key = "" if store is None else store.key_of(candidate)
    if store is not None and key and (known := store.get(key, candidate)) is not None:
        return "", known
    return key, check_case(inventory.root, candidate, inventory.labels, section)
