"""Channels of cases: which are taken, and what they are called."""

from __future__ import annotations

import dataclasses

from medseg.config import DatasetConfig
from medseg.ingest.faults import fault
from medseg.ingest.layouts.found import Candidate
from medseg.ingest.sources import Inventory
from medseg.reading import Reading

# Names of the channels that pictures are brought to.
COLOUR_NAMES = {"grey": ("grey",), "rgb": ("red", "green", "blue")}


def configured_names(section: DatasetConfig) -> tuple[str, ...] | None:
    """The names that the configuration gives to the channels, if it gives any."""
    channels = section.channels
    if isinstance(channels, str):
        return COLOUR_NAMES[channels]
    return tuple(channels) if channels else None


def reading_of(candidate: Candidate, section: DatasetConfig) -> Reading:
    """How the images of a case are read before anything is known of them; NaN and Inf stay, to be counted.

    Channels are chosen within a file only where all of them are in one file.
    """
    reading = dataclasses.replace(section.reading.sized(candidate.spacing), fill=None)
    if len(candidate.images) > 1 or candidate.chosen:
        return dataclasses.replace(reading, channels=(), names=())
    return reading


def choose_files(inventory: Inventory, section: DatasetConfig) -> Inventory:
    """The inventory with the files that `channels` chooses, where there is a file per channel.

    A channel is one of the layout's by its number, from 0, or by its name there.
    """
    wanted = section.reading.channels
    if not wanted:
        return inventory
    candidates, faults = [], list(inventory.faults)
    known = inventory.channels or ()
    for case in inventory.candidates:
        count = len(case.images)
        places = [known.index(w) if isinstance(w, str) and w in known else w for w in wanted]
        absent = [p for p in places if isinstance(p, str) or p >= count]
        if count > 1 and absent:
            named = f": {', '.join(known)}" if known else ""
            cause = f"no channel {absent[0]!r}: there are {count} files{named}"
            fix = "correct `channels`: {NAME: NUMBER or the data set's own name}, numbers begin with 0"
            faults.append(fault("channels", case.id, case.images[0], cause, fix))
            # As many as are wanted, so that their number is no second fault.
            case = dataclasses.replace(case, images=case.images[: len(wanted)], chosen=True)
        elif count > 1:
            images = tuple(case.images[p] for p in places if isinstance(p, int))
            case = dataclasses.replace(case, images=images, chosen=True)
        candidates.append(case)
    return dataclasses.replace(inventory, candidates=tuple(candidates), faults=tuple(faults))
