"""The table of decoders: which maps a network gives for a table of labels, and how they become a label map.

Maps become labels only here: validation during training, prediction and post-processing use this table. Importing it
does not import torch, so that a configuration can be checked against it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from medseg.image.labels import LabelTable

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, slots=True)
class Decoder:
    """One way to read labels off the maps of a network. Maps are (K, S), whole or a slab of them.

    Attributes:
        maps: names of the K maps for a table of labels, in the order of the network's output channels.
        probabilities: logits (K, S) -> probabilities (K, S).
        labels: logits (K, S) and the table -> channel indices (S, uint8), as in prepared label maps. Each voxel is
            decoded by itself, so that slabs give what the whole would.
    """

    maps: Callable[[LabelTable], tuple[str, ...]]
    probabilities: Callable[[Tensor], Tensor]
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


# Classes exclude one another: the largest logit wins. Regions overlap: each is where its sigmoid is above 1/2.
DECODERS: Mapping[str, Decoder] = {
    "classes": Decoder(
        maps=lambda table: ("background", *table.class_names),
        probabilities=lambda logits: logits.softmax(dim=0),
        labels=lambda logits, table: largest(logits),
    ),
    "regions": Decoder(
        maps=lambda table: tuple(name for name, _ in table.regions),
        probabilities=lambda logits: logits.sigmoid(),
        labels=lambda logits, table: paint((logit > 0 for logit in logits), table),
    ),
}


def decoder_of(table: LabelTable) -> Decoder:
    """The decoder of a table of labels: regions if it has any, else classes."""
    return DECODERS["regions" if table.regions else "classes"]
