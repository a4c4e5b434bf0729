"""Several trainings predict one image: the mean of their probabilities on its voxels, one after the other.

In memory is one network, besides the sum: folds, seeds and whole other networks, grids and windows cost no more than
one of them. Small networks stay loaded between images.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.decoders import decoder_of
from medseg.engine.placement import autocast
from medseg.formats.source import Source
from medseg.objects.decoding import Decoding
from medseg.plan.plan import Plan
from medseg.predict.objects import IN_MEMORY, room
from medseg.predict.pipeline import Maps, Pipeline
from medseg.predict.predictor import Predicting, Predictor
from medseg.predict.sinks import Frame, LabelMap, Sink
from medseg.predict.trainings import Training
from medseg.results.folders import ModelFolder

# What probability 1 is in a sum: whole numbers have one sum in whichever order they are added, and equal members give
# the probabilities of one. The sum of 255 fits into 32 bits.
ONE = 2**23
# Bytes of weights that may stay loaded from one image to the next; where a model is larger, one is loaded at a time.
HELD = 256 * 2**20
# Probabilities that are decoded at once, all maps together.
SLAB_VALUES = 2**22


def predicting(
    trainings: Sequence[Training],
    device: str | None = None,
    threads: int | None = None,
    mirror: bool | None = None,
    runtime: str | None = None,
    overlap: float | None = None,
) -> Predicting:
    """What predicts with trainings, alone or together; options as for ``Predictor``."""
    if len(trainings) == 1:
        return Predictor(trainings[0].folder, device, threads, mirror, runtime, overlap)
    return Ensemble(trainings, device, threads, mirror, runtime, overlap)


def bytes_beside(trainings: Sequence[Training]) -> int:
    """Most bytes of memory that predicting together takes beyond the member that takes most; 0 for one training."""
    if len(trainings) == 1:
        return 0
    weights = [ModelFolder(one.folder).weights.stat().st_size for one in trainings]
    # Small networks stay; sums are in memory up to a size, in a file above it.
    return IN_MEMORY + (sum(weights) if sum(weights) <= HELD else 0)


class Ensemble:
    """Trainings that predict together; see the top of this file.

    Args:
        trainings: that fit each other (``require_alike``).
        device, threads, mirror, runtime, overlap: of each, as for ``Predictor``.
    """

    def __init__(
        self,
        trainings: Sequence[Training],
        device: str | None = None,
        threads: int | None = None,
        mirror: bool | None = None,
        runtime: str | None = None,
        overlap: float | None = None,
    ) -> None:
        self._trainings, self._options = tuple(trainings), (device, threads, mirror, runtime, overlap)
        self._bytes = sum(ModelFolder(one.folder).weights.stat().st_size for one in trainings)
        self._loaded: dict[int, Predictor] = {}
        self._spares = False
        self.device = ""
        # Whether sinks are given how sure a prediction is.
        self.uncertain = False

    def predict(self, source: Source, name: str, sinks: Sequence[Sink]) -> None:
        """Predict one image into sinks; arguments and errors as for ``Predictor.predict``."""
        total = Total(self.uncertain)
        for index in range(len(self._trainings)):
            self._add(index, total, source, name)
        total.decode(source, name, sinks)

    def _add(self, index: int, total: Total, source: Source, name: str) -> None:
        # When this returns, nobody holds the network but those that stay loaded.
        pipeline, image = self._predictor(index).pipeline(source, name)
        with torch.inference_mode(), autocast(pipeline.device, pipeline.precision):
            total.add(pipeline.plan, pipeline.decoding, *pipeline.maps(image, name))

    def spare_memory(self) -> bool:
        """Take one window at a time from now on; False if that changes nothing, or the memory is not that of a GPU."""
        before, self._spares = self._spares, True
        spared = [one.spare_memory() for one in self._loaded.values()]
        return not before and any(spared)

    def label_map(self, source: Source, name: str) -> NDArray[Any]:
        """(S) values of the label table, on the image's grid; arguments and errors as for ``predict``."""
        kept = LabelMap()
        self.predict(source, name, [kept])
        return kept.values

    def _predictor(self, index: int) -> Predictor:
        """A training with its network, loaded."""
        if index not in self._loaded:
            if self._bytes > HELD:
                self._loaded.clear()
            self._loaded[index] = Predictor(self._trainings[index].folder, *self._options)
            if self._spares:
                self._loaded[index].spare_memory()
        self._loaded[index].uncertain = self.uncertain
        self.device = self._loaded[index].device
        return self._loaded[index]


class Total:
    """The probabilities of one image, summed over the trainings that predict it.

    Args:
        uncertain: whether slabs say how sure they are: each training counts once, with its mirror images.
    """

    def __init__(self, uncertain: bool = False) -> None:
        self._plan: Plan
        self._frame: Frame
        self._sums: NDArray[np.int32]
        # Of what ``Spread`` gives behind the logits; empty unless it is asked for.
        self._behind: NDArray[np.int64] = np.zeros((0, 0), np.int64)
        self._uncertain = uncertain
        self._count = 0
        self._decodings: list[Decoding] = []

    def add(self, plan: Plan, decoding: Decoding | None, frame: Frame, slabs: Iterator[tuple[slice, Tensor]]) -> None:
        """Add what one training gives.

        Args:
            plan: of the training.
            decoding: how it reads objects off its maps, sizes in voxels of its grid.
            frame: of its prediction.
            slabs: rows along the frame's axis of the box of the image that was kept, and logits (K, slab) there, behind
                them those of ``Spread`` if uncertainty is asked for.
        """
        record = frame.record
        if not self._count:
            # On the voxels of the image, whatever the grids of the members; rows along the first axis.
            on_image = replace(record, prepared_shape=record.shape)
            self._plan, self._frame = plan, frame._replace(record=on_image, axis=0)
            self._sums = room((frame.network.out_channels, *record.shape), np.int32)
        if record.box != self._frame.record.box:
            raise ValueError(f"members keep different parts of one image: {record.box}, {self._frame.record.box}")
        self._count += 1
        if decoding is not None:
            finer = math.prod(record.shape) / math.prod(record.prepared_shape)
            self._decodings.append(_in_voxels(decoding, finer))
        decoder = decoder_of(frame.table, frame.network.head)
        maps = frame.network.out_channels
        for rows, found in slabs:
            where = (*(slice(None),) * (frame.axis + 1), rows)
            self._take(where, decoder.probabilities(found[:maps].float(), frame.table))
            if self._uncertain:
                if not self._behind.size:
                    self._behind = room((len(found) - maps, *record.shape), np.int64)
                self._behind[where] += (found[maps:].double() * ONE).round().long().cpu().numpy()

    def _take(self, where: tuple[slice, ...], probabilities: Tensor) -> None:
        """Every member's probabilities (K, slab) on the voxels of the image pass by here.

        Args:
            where: their part of (K, box of the image that was kept).
            probabilities: in 0..1; components of flows in -1..1.
        """
        self._sums[where] += (probabilities * ONE).round().int().cpu().numpy()

    def decode(self, source: Source, name: str, sinks: Sequence[Sink]) -> None:
        """Decode the mean into sinks; arguments as for ``Predictor.predict``."""
        decoding = middle(self._decodings) if self._decodings else None
        maps = self._frame, self._mean_logits
        how = "cpu", "fp32", decoding, None, self._uncertain
        Mean(self._plan, self._frame.table, (), *how, ready=maps).run(source, name, sinks)

    def _mean_logits(self, begin: int) -> Iterator[tuple[slice, Tensor]]:
        """Rows along the first axis from ``begin`` on, and logits (K, slab) whose probabilities are the mean.

        Behind them are means of what ``Spread`` gives, if uncertainty is asked for.
        """
        table, length = self._frame.table, self._sums.shape[1]
        decoder = decoder_of(table, self._frame.network.head)
        step = max(1, SLAB_VALUES * length // self._sums.size)
        for start in range(begin, length, step):
            rows = slice(start, min(start + step, length))
            mean = self._sums[:, rows].astype(np.float64) / (ONE * self._count)
            logits = decoder.logits(torch.from_numpy(mean).float(), table)
            if self._uncertain:
                behind = self._behind[:, rows].astype(np.float64) / (ONE * self._count)
                logits = torch.cat([logits, torch.from_numpy(behind).float()])
            yield rows, logits


@dataclass(frozen=True, slots=True)
class Mean(Pipeline):
    """A pipe whose maps have been made.

    Attributes:
        ready: they, as ``maps_from`` returns them.
    """

    ready: tuple[Frame, Maps] | None = None

    def maps_from(self, source: Source, name: str) -> tuple[Frame, Maps]:
        """See ``Pipeline``."""
        if self.ready is None:
            raise ValueError("no maps were made")
        return self.ready


def _in_voxels(decoding: Decoding, finer: float) -> Decoding:
    """Settings with sizes in voxels of the image, of which ``finer`` are one of the prepared grid."""
    return replace(decoding, min_size=decoding.min_size * finer, max_hole=decoding.max_hole * finer)


def middle(settings: Sequence[Decoding]) -> Decoding:
    """The median of each setting over members: each tuned its own, and none of them on the mean of all."""
    values: list[Mapping[str, float]] = [one.to_json() for one in settings]
    return Decoding(**{name: statistics.median(value[name] for value in values) for name in values[0]})
