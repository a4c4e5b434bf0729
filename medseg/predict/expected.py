"""The Dice that a prediction expects of itself: what would be right if its probabilities were those of being right.

With p the probabilities of a class and A the voxels that are given to it, 2 sum_A p / (sum p + |A|): the soft Dice of
probabilities and label map. Networks are too sure, so it is too high; ``medseg.predict.quality`` corrects it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from medseg.decoders import decoder_of
from medseg.predict.sinks import Frame, Slab, Take

# In the stamp of a prediction: these values.
EXPECTED = "expected"
# Decimals that are kept: the order in which a processor sums moves those behind.
DECIMALS = 6


@dataclass(slots=True)
class ExpectedDice:
    """A sink that keeps the expected Dice of each class or region.

    Attributes:
        values: after the block: name -> expected Dice; those that the prediction shows no voxel of are left out. Of
            object data there are none, nor of an image whose first rows an earlier, killed prediction has made.
    """

    values: dict[str, float] = field(default_factory=dict)

    def done(self, frame: Frame) -> int:
        """Rows along the axis of the frame that it does without: all, and then there is no estimate."""
        return frame.record.shape[frame.axis]

    @contextlib.contextmanager
    def open(self, frame: Frame) -> Iterator[Take]:
        """See ``Sink``."""
        table, head = frame.table, frame.network.head
        decoder = decoder_of(table, head)
        # Sums of probabilities, of those within the label map, and its voxels.
        sums = np.zeros((len(table.members), 3))
        begins: list[int] = []

        def take(slab: Slab) -> None:
            begins.append(slab.rows.start or 0)
            if table.instances or slab.logits is None or slab.labels is None:
                return
            soft = decoder.probabilities(slab.logits, table)
            labels = torch.from_numpy(slab.labels)
            for place, members in enumerate(table.members):
                mine = soft[place if table.regions else members[0]].double()
                inside = torch.isin(labels, torch.tensor(members, dtype=labels.dtype))
                sums[place] += (float(mine.sum()), float(mine[inside].sum()), int(inside.sum()))

        yield take
        self.values = {
            name: round(2 * within / (total + voxels), DECIMALS)
            for name, (total, within, voxels) in zip(table.target_names, sums.tolist(), strict=True)
            if voxels and not begins[0]
        }
