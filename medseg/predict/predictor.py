"""A loaded model that maps an image to a label map on its own grid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medseg.augment.tables import mirrors
from medseg.engine.step import autocast, pick_device, place, set_exact
from medseg.errors import DataError, PlanError, PredictionError
from medseg.image.geometry import Geometry
from medseg.image.resample import coarse_axis
from medseg.patches.tiling import predict_slabs, slab_axis
from medseg.plan.plan import Plan
from medseg.predict.mirrored import mirrored
from medseg.predict.native import native_labels
from medseg.predict.probabilities import Box, Keep, write_probabilities
from medseg.preprocess.prepare import own_spacing, prepare_image, restore_labels
from medseg.train.checkpoint import read_checkpoint


class Predictor:
    """Everything needed to predict: network, plan, label table.

    Args:
        folder: model folder.
        device: ``auto``, ``cpu`` or ``cuda``; none: the one the plan was made for, if it is here.
        threads: CPU threads; none: the plan's, which repeats a study's predictions bit for bit.
        mirror: whether outputs are averaged over all mirror images; none: where the training mirrored.
    """

    def __init__(
        self, folder: Path, device: str | None = None, threads: int | None = None, mirror: bool | None = None
    ) -> None:
        self.checkpoint, network = read_checkpoint(folder)
        self.plan = self.checkpoint.plan
        try:
            self.device = pick_device(device or ("cpu" if self.plan.machine.device == "cpu" else "auto"))
        except RuntimeError as error:
            raise PlanError(str(error)) from None
        # A GPU's fast precision may be slow or absent elsewhere; full precision always works.
        self.precision = self.plan.machine.precision if self.device == self.plan.machine.device else "fp32"
        set_exact(threads or self.plan.machine.threads, self.precision)
        placed = place(network, self.device, self.plan.network.dims, self.plan.machine.channels_last)
        self.network: Callable[[Tensor], Tensor] = mirrored(placed) if is_mirrored(self.plan, mirror) else placed

    def predict(
        self, image: NDArray[Any], geometry: Geometry, name: str, probabilities: Path | None = None
    ) -> NDArray[Any]:
        """Segment one image.

        Args:
            image: (C, S) as read; geometry: its grid; name: for error messages.
            probabilities: file to write the probabilities to, see ``read_probabilities``; none: they are not kept.

        Returns:
            (S) label values of the model's label table, on the image's grid.

        Raises:
            DataError: if dimensions or channels are not the model's, or voxels are not finite.
            PredictionError: if the network's output is not finite.
        """
        plan = self.plan
        if geometry.dims != plan.grid.dims or image.shape[0] != plan.network.in_channels:
            raise DataError(
                f"{name}: {geometry.dims}-D with {image.shape[0]} channels; the model expects {plan.grid.dims}-D with "
                f"{plan.network.in_channels} ({', '.join(self.checkpoint.channels)})"
            )
        if geometry.unit != plan.grid.unit:
            raise DataError(
                f"{name}: its voxel size is in {geometry.unit}, the model was trained on sizes in {plan.grid.unit}; "
                "give the size of its pixels in micrometres (--spacing), or leave it out for a model trained without"
            )
        if not np.isfinite(image).all():
            raise DataError(f"{name}: {int((~np.isfinite(image)).sum())} voxels are NaN or Inf; repair the file")
        prepared, record = prepare_image(image, geometry, plan.grid)
        tensor = torch.from_numpy(prepared).to(self.device)
        spacing = geometry.reoriented(record.axes, record.flips).spacing
        coarse = coarse_axis(spacing, own_spacing(plan.grid.spacing, spacing))
        labels = self.checkpoint.labels
        axis = slab_axis(tensor.shape[1:], plan.window)
        slabs = predict_slabs(
            self.network, tensor, plan.window, axis=axis, batch=plan.training.batch, slice_axis=plan.grid.slice_axis
        )
        finite = (_finite(slab, name) for slab in slabs)

        def read(keep: Keep | None = None) -> NDArray[np.uint8]:
            return native_labels(finite, axis, record, coarse=coarse, painted=labels.painted, keep=keep)

        with torch.inference_mode(), autocast(self.device, self.precision):
            if probabilities is None:
                channels = read()
            else:
                box = Box(record.axes, record.flips, record.start, record.shape)
                channels = write_probabilities(probabilities, labels.channels, box, axis, read)
        return labels.to_values(restore_labels(channels, record))


def is_mirrored(plan: Plan, wish: bool | None) -> bool:
    """Whether predictions are averaged over mirror images: as wished; without a wish, where the training mirrored."""
    return mirrors(plan.training.augment, plan.grid.oriented, plan.training.augmentation) if wish is None else wish


def _finite(logits: Tensor, name: str) -> Tensor:
    if not torch.isfinite(logits).all():
        raise PredictionError(f"{name}: the network's output is not finite; the model or the image is damaged")
    return logits
