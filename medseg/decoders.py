"""The table of decoders: which maps a network gives for a table of labels, and how they become a label map.

Maps become labels only here: validation during training, prediction and post-processing use this table. Importing it
does not import torch, so that a configuration can be checked against it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medseg.heads import FLOW_SCALE, HEADS, SEMANTIC, Head
from medseg.image.labels import LabelTable

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Decoder:
    """One way to read labels off the maps of a network. Maps are (K, S), whole or a slab of them.

    Attributes:
        maps: names of the K maps for a table of labels and a number of dimensions, in the order of the network's
            output channels.
        probabilities: logits (K, S) and the table -> probabilities (K, S); components of a flow, which are none, in
            -1..1.
        logits: probabilities (K, S) and the table -> logits that have them, infinite where they are 0 or 1.
        labels: logits (K, S) and the table -> channel indices (S, uint8), as in prepared label maps. Each voxel is
            decoded by itself, so that slabs give what the whole would.
    """

    maps: Callable[[LabelTable, int], tuple[str, ...]]
    probabilities: Callable[[Tensor, LabelTable], Tensor]
    logits: Callable[[Tensor, LabelTable], Tensor]
    labels: Callable[[Tensor, LabelTable], Tensor]


def largest(maps: Tensor) -> Tensor:
    """Index (S, uint8) of the largest of maps (K, S); the first of equal ones."""
    return maps.argmax(dim=0).byte()


def paint(regions: Iterable[Tensor], table: LabelTable) -> Tensor:
    """Channel indices (S, uint8) of regions painted in their order, later over earlier, on background (as in nnU-Net).

    Args:
        regions: where each region of the table is (S, bool); they are taken one at a time.
        table: says which class each region paints.
    """
    labels: Tensor | None = None
    for region, channel in zip(regions, table.painted, strict=True):
        if labels is None:
            labels = region.byte().zero_()
        labels[region] = channel
    if labels is None:
        raise ValueError("no regions to paint; without regions, classes are decoded by `largest`")
    return labels


def _object_labels(logits: Tensor, table: LabelTable) -> Tensor:
    """The class of each voxel of the foreground, the first map; maps of several classes come last."""
    inside = (logits[0] > 0).byte()
    if len(table.names) == 1:
        return inside
    return inside * (1 + logits[len(logits) - len(table.names) :].argmax(dim=0)).byte()


def _object_probabilities(sigmoids: int) -> Callable[[Tensor, LabelTable], Tensor]:
    """Sigmoids, flows in units of their length, and a softmax over classes if there are several."""

    def probabilities(logits: Tensor, table: LabelTable) -> Tensor:
        import torch

        classes = len(table.names) if len(table.names) > 1 else 0
        flows = logits[sigmoids : len(logits) - classes] / FLOW_SCALE
        parts = [logits[:sigmoids].sigmoid(), flows.clamp(-1, 1), logits[len(logits) - classes :].softmax(dim=0)]
        return torch.cat(parts)

    return probabilities


def _object_logits(sigmoids: int) -> Callable[[Tensor, LabelTable], Tensor]:
    """The inverse of ``_object_probabilities``."""

    def logits(maps: Tensor, table: LabelTable) -> Tensor:
        import torch

        classes = len(maps) - (len(table.names) if len(table.names) > 1 else 0)
        return torch.cat([maps[:sigmoids].logit(), maps[sigmoids:classes] * FLOW_SCALE, maps[classes:].log()])

    return logits


def _of_head(head: Head) -> Decoder:
    return Decoder(
        maps=lambda table, dims: (*head.maps(dims), *(table.class_names if len(table.names) > 1 else ())),
        probabilities=_object_probabilities(head.sigmoids),
        logits=_object_logits(head.sigmoids),
        labels=_object_labels,
    )


# Classes exclude one another: the largest logit wins. Regions overlap: each is where its sigmoid is above 1/2. Of heads
# for objects, this is the foreground; ``medseg.objects`` finds the objects in the maps of the whole image.
DECODERS: Mapping[str, Decoder] = {
    "classes": Decoder(
        maps=lambda table, dims: ("background", *table.class_names),
        probabilities=lambda logits, table: logits.softmax(dim=0),
        logits=lambda maps, table: maps.log(),
        labels=lambda logits, table: largest(logits),
    ),
    "regions": Decoder(
        maps=lambda table, dims: tuple(name for name, _ in table.regions),
        probabilities=lambda logits, table: logits.sigmoid(),
        logits=lambda maps, table: maps.logit(),
        labels=lambda logits, table: paint((logit > 0 for logit in logits), table),
    ),
    **{name: _of_head(head) for name, head in HEADS.items() if name != SEMANTIC},
}


def decoder_of(table: LabelTable, head: str = "") -> Decoder:
    """The decoder of a table of labels: that of the network's head, else regions if there are any, else classes."""
    return DECODERS[head or ("regions" if table.regions else "classes")]
