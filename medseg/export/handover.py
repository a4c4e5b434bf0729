"""What every export is made of: the model, how it is called, what is known of it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from medseg.export.table import OBJECTS, PICTURES, PROPOSALS, REGIONS, SLICES
from medseg.networks import NETWORKS
from medseg.predict.predictor import is_mirrored
from medseg.train.checkpoint import Checkpoint, read_checkpoint


@dataclass(frozen=True)
class Handover:
    """A model that is handed on.

    Attributes:
        folder: the model folder, as it may leave the house (``medseg.export.portable``).
        checkpoint: what its ``model.json`` says.
        name: what the export is called.
        card: the facts of its model card (``medseg.export.card``).
        licence: SPDX identifier; empty: not stated.
        authors: names; empty: not stated.
    """

    folder: Path
    checkpoint: Checkpoint
    name: str
    card: Mapping[str, Any]
    licence: str = ""
    authors: tuple[str, ...] = ()

    @functools.cached_property
    def network(self) -> nn.Module:
        """The network, in evaluation mode, in the main memory."""
        return read_checkpoint(self.folder)[1]

    @property
    def mirror(self) -> bool:
        """Whether predictions are averaged over mirror images, as ``medseg predict`` does unless told otherwise."""
        return is_mirrored(self.checkpoint.plan, None)


def kinds_of(checkpoint: Checkpoint) -> tuple[str, ...]:
    """What a model is, in the words of ``Export.cannot``."""
    plan = checkpoint.plan
    network = plan.network
    found = {
        PROPOSALS: bool(NETWORKS[network.name].objective),
        REGIONS: bool(network.regions),
        OBJECTS: bool(network.head),
        SLICES: plan.grid.slice_axis is not None,
        PICTURES: plan.grid.dims == 2,
    }
    return tuple(kind for kind, is_so in found.items() if is_so)
