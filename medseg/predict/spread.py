"""How sure a prediction is: entropy of the mean probabilities, and how much the members disagree.

Members are the checkpoints of a prediction, each with its mirror images. With p the mean of their probabilities, the
entropy H(p) is all of the uncertainty; the mean of their own entropies is what each of them is unsure of; the
difference, the mutual information of output and member, is what they disagree in (Houlsby et al. 2011; Gal et al.
2017). All in nats: 0 is sure, ln K is a draw of K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from medseg.image.labels import LabelTable
from medseg.predict.members import Member


def soft(logits: Tensor, table: LabelTable, head: str = "") -> Tensor:
    """Probabilities (N, P, S) from logits (N, K, S): of classes, of regions, or of a head's foreground."""
    if head:
        return logits[:, :1].sigmoid()
    return logits.sigmoid() if table.regions else logits.softmax(dim=1)


def entropy(probabilities: Tensor, table: LabelTable, head: str = "") -> Tensor:
    """Entropy (N, S) in nats of probabilities (N, P, S); of regions, which overlap, the sum of each one's."""
    terms = torch.special.entr(probabilities)
    if head or table.regions:
        terms = terms + torch.special.entr(1 - probabilities)
    total: Tensor = terms.sum(dim=1)
    return total


@dataclass(frozen=True, slots=True)
class Spread:
    """The members' mean, as ``mean_of`` gives it, and behind it maps of how sure they are; itself a ``Network``.

    Attributes:
        members: at least one.
        table, head: what their maps are.
    """

    members: Sequence[Member]
    table: LabelTable
    head: str = ""

    def __call__(self, x: Tensor) -> Tensor:
        """(N, K + P + 1, S): logits, mean probabilities, and the mean entropy of each output for itself."""
        logits, mean, own, count = [], None, None, 0
        for member in self.members:
            outputs, total = 0, None
            for output in member.outputs(x):
                total = output if total is None else total + output
                one = soft(output, self.table, self.head)
                alone = entropy(one, self.table, self.head)
                mean, own = (one, alone) if mean is None or own is None else (mean + one, own + alone)
                outputs += 1
            assert total is not None
            logits.append(total / float(outputs))
            count += outputs
        assert mean is not None
        assert own is not None
        # The arithmetic of ``mean_of``.
        together = logits[0]
        if len(logits) > 1:
            for one in logits[1:]:
                together = together + one
            together = together / float(len(logits))
        return torch.cat([together, mean / count, own[:, None] / count], dim=1)


class Uncertainty(NamedTuple):
    """What ``Spread`` says of a slab, on the voxels of the image.

    Attributes:
        probabilities: (P, slab) means over the members and their mirror images.
        entropy: (slab) of these means, in nats.
        disagreement: (slab) of it, what the members disagree in.
    """

    probabilities: Tensor
    entropy: Tensor
    disagreement: Tensor

    @classmethod
    def of(cls, maps: Tensor, table: LabelTable, head: str = "") -> Uncertainty:
        """From (P + 1, slab) maps behind the logits; interpolation may leave them a rounding below 0."""
        mean, own = maps[:-1], maps[-1]
        total = entropy(mean.clamp(0, 1)[None], table, head)[0].clamp_min(0)
        return cls(mean, total, (total - own).clamp_min(0))
