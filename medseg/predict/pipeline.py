"""Inference as one pipe: source -> windows -> members -> blended slabs -> decoder -> sinks.

The logits of a large image never exist all at once: windows are blended slab by slab, and each slab is resampled to
the voxels of the image, decoded, given to the sinks and dropped. Nor does a large image itself: it is read and prepared
as windows need it (``medseg.predict.scale`` says which are large).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.decoders import decoder_of
from medseg.engine.placement import autocast
from medseg.errors import DataError, PredictionError
from medseg.formats.source import Source
from medseg.heads import HEADS
from medseg.image.labels import LabelTable
from medseg.image.resample import coarse_axis
from medseg.image.values import are_numbers
from medseg.late import resolve
from medseg.objects.decoding import Decoding
from medseg.patches.blending import Blocks
from medseg.patches.tiling import OVERLAP, predict_slabs, slab_axis
from medseg.plan.plan import Plan
from medseg.predict.blank import BlankOnce
from medseg.predict.members import Member, mean_of
from medseg.predict.native import native_slabs, prepared_row
from medseg.predict.scale import is_large, streamed_axis
from medseg.predict.sinks import Frame, Resumable, Sink, Slab
from medseg.predict.spread import Spread, Uncertainty
from medseg.preprocess.inverse import InverseRecord
from medseg.preprocess.prepare import own_spacing, prepare_image
from medseg.preprocess.rows import survey

# Logits on the voxels of the image, from a row on.
Maps = Callable[[int], Iterator[tuple[slice, Tensor]]]


@dataclass(frozen=True, slots=True)
class Pipeline:
    """Everything between an image and the sinks.

    Attributes:
        plan: how images are prepared, and the size and number of windows.
        table: label table; it names the decoder.
        members: networks whose outputs are averaged, at least one; all of this plan's grid and window.
        device, precision: where and in which arithmetic networks run.
        decoding: how objects are read off maps; None: the head's default.
        windows: at once in a network; None: as many as samples in a batch of the training.
        uncertain: whether slabs say how sure they are.
        overlap: share of a window that its neighbour covers too.
    """

    plan: Plan
    table: LabelTable
    members: Sequence[Member]
    device: str
    precision: str
    decoding: Decoding | None = None
    windows: int | None = None
    uncertain: bool = False
    overlap: float = OVERLAP

    def run(self, source: Source, name: str, sinks: Sequence[Sink]) -> None:
        """Predict one image into sinks, which are complete when this returns.

        Args:
            source: an image of the model's dimensions and channels.
            name: what it is called in error messages.
            sinks: where the prediction goes.

        Raises:
            DataError: if voxels are not finite.
            PredictionError: if the network's output is not finite.
        """
        frame, native = self.maps_from(source, name)
        decoder = decoder_of(self.table, self.plan.network.head)
        head = self.plan.network.head
        objects = resolve(HEADS[head].reader)(frame, self.plan, self.decoding) if head else None
        with contextlib.ExitStack() as opened:
            begin = 0 if objects else min(sink.done(frame) if isinstance(sink, Resumable) else 0 for sink in sinks)
            takers = [opened.enter_context(sink.open(frame)) for sink in sinks]
            opened.enter_context(torch.inference_mode())
            opened.enter_context(autocast(self.device, self.precision))
            for rows, maps in native(begin):
                logits, behind = maps[: self.plan.network.out_channels], maps[self.plan.network.out_channels :]
                unsure = Uncertainty.of(behind, self.table, head) if self.uncertain else None
                if objects is None:
                    labels = decoder.labels(logits, self.table).numpy()
                    slab = Slab(rows, logits, labels, uncertainty=unsure)
                else:
                    objects.take(rows, logits)
                    slab = Slab(rows, logits, None, uncertainty=unsure)
                for take in takers:
                    take(slab)
                # So that no slab is held while the next one is made.
                del maps, logits, behind, unsure, slab
            if objects is not None:
                found = objects.decoded()
                for take in takers:
                    take(Slab(slice(None), None, found.numbers, found.classes))

    def maps(self, source: Source, name: str) -> tuple[Frame, Iterator[tuple[slice, Tensor]]]:
        """The frame of a prediction, and logits (K, rows) on the voxels of the image, made as they are asked for.

        Rows follow one another along the axis of the frame; arguments and errors as for ``run``, which runs networks
        without gradients and in the arithmetic of the plan: the caller has to do so.
        """
        frame, native = self.maps_from(source, name)
        return frame, native(0)

    def maps_from(self, source: Source, name: str) -> tuple[Frame, Maps]:
        """As ``maps``, from any row of the frame on."""
        image, record = self._large(source, name) if self._is_large(source) else self._whole(source, name)
        coarse = coarse_axis(record.spacing, own_spacing(self.plan.grid.spacing, record.spacing))
        axis = image.axis

        def native(begin: int) -> Iterator[tuple[slice, Tensor]]:
            if begin == record.shape[axis]:
                return iter(())
            blended = self._blended(image, prepared_row(record, axis, coarse, begin), name)
            return native_slabs(blended, axis, record, coarse=coarse, begin=begin)

        return Frame(record, axis, self.table, self.plan.network, source.world), native

    def _is_large(self, source: Source) -> bool:
        return is_large(source, source.shape[0], self.plan)

    def _whole(self, source: Source, name: str) -> tuple[Blocks, InverseRecord]:
        """The prepared image, all of it at once."""
        prepared, record = prepare_image(_read_finite(source, name), source.geometry, self.plan.grid)
        axis = slab_axis(prepared.shape[1:], self.plan.window)
        return Blocks.of(torch.from_numpy(prepared).to(self.device), axis), record

    def _large(self, source: Source, name: str) -> tuple[Blocks, InverseRecord]:
        """The prepared image, row by row as windows need it."""
        surveyed = survey(source, self.plan.grid, name)
        record = surveyed.record
        rows = surveyed.along(streamed_axis(source, record.prepared_shape, self.plan))

        def made(first: int) -> Iterator[Tensor]:
            for block in rows.blocks(first):
                yield torch.from_numpy(np.ascontiguousarray(block)).to(self.device)

        return Blocks(rows.shape, rows.axis, made), record

    def _blended(self, image: Blocks, begin: int, name: str) -> Iterator[Tensor]:
        """The members' mean logits (K, slab) of a prepared image, blended over windows, slab by slab from a row on."""
        network = Spread(self.members, self.table, self.plan.network.head) if self.uncertain else mean_of(self.members)
        slabs = predict_slabs(
            BlankOnce(network),
            image,
            self.plan.window,
            axis=image.axis,
            batch=self.windows or self.plan.training.batch,
            slice_axis=self.plan.grid.slice_axis,
            begin=begin,
            overlap=self.overlap,
        )
        for slab in slabs:
            # NaN and Inf show in these, and nothing as large as the slab is made.
            if not all(torch.isfinite(end) for end in torch.aminmax(slab)):
                raise PredictionError(f"{name}: the network's output is not finite; the model or the image is damaged")
            yield slab


def _read_finite(source: Source, name: str) -> NDArray[Any]:
    """The whole image (C, S), since its box of non-zero voxels and its statistics are those of all of it."""
    image = source.image()
    if not (real := are_numbers(image)).all():
        raise DataError(f"{name}: {int((~real).sum())} voxels are NaN, Inf or beyond 32-bit floats; repair the file")
    return image
