"""A loaded model that predicts images on their own grids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import torch
from numpy.typing import NDArray
from torch import nn

from medseg.augment.tables import mirrors
from medseg.engine.placement import place, set_exact
from medseg.errors import ConfigError, DataError
from medseg.formats.source import Source
from medseg.formats.table import stem_of, suffix_of
from medseg.heads import HEADS
from medseg.image.geometry import Geometry, measured_alike
from medseg.machine import pick_device
from medseg.patches.tiling import OVERLAP
from medseg.plan.plan import Plan
from medseg.predict.input import NUMBERED
from medseg.predict.members import Member, Network
from medseg.predict.pipeline import Pipeline
from medseg.predict.sinks import LabelMap, Sink
from medseg.train.checkpoint import Checkpoint, read_checkpoint

# What computes networks on a processor; the first one does in a study.
TORCH, OPENVINO = RUNTIMES = ("torch", "openvino")


class Predicting(Protocol):
    """What predicts images: one training (``Predictor``), or several (``Ensemble``).

    Attributes:
        uncertain: whether sinks are given how sure a prediction is.
    """

    uncertain: bool

    @property
    def device(self) -> str:
        """Where networks run."""
        ...

    def predict(self, source: Source, name: str, sinks: Sequence[Sink]) -> None:
        """Predict one image into sinks."""
        ...

    def spare_memory(self) -> bool:
        """Take one window at a time from now on; False if that changes nothing."""
        ...


class Predictor:
    """A model folder, loaded: one member, its plan and label table.

    Args:
        folder: model folder.
        device: ``auto``, ``cpu`` or ``cuda``; none: the one the plan was made for, if it is here.
        threads: CPU threads; none: the plan's, which repeats a study's predictions bit for bit.
        mirror: whether outputs are averaged over all mirror images; none: where the training mirrored.
        runtime: what computes networks on a processor, a key of ``RUNTIMES``; none: torch, as in the study.
        overlap: share of a window that its neighbour covers too; none: half, as in the study.
    """

    def __init__(
        self,
        folder: Path,
        device: str | None = None,
        threads: int | None = None,
        mirror: bool | None = None,
        runtime: str | None = None,
        overlap: float | None = None,
    ) -> None:
        self.checkpoint, network = read_checkpoint(folder)
        self.plan = self.checkpoint.plan
        machine = self.plan.machine
        self.device = pick_device(device or ("cpu" if machine.device == "cpu" else "auto"))
        # A GPU's fast precision may be slow or absent elsewhere; full precision always works.
        self.precision = machine.precision if self.device == machine.device else "fp32"
        self._threads = threads or machine.threads
        self._overlap = OVERLAP if overlap is None else overlap
        compiled = self._compiled(network, runtime or TORCH)
        placed = compiled or place(network, self.device, self.plan.network.dims, machine.channels_last)
        head = self.plan.network.head
        vector = HEADS[head].vector if head else 0
        self._windows: int | None = None
        # Whether sinks are given how sure a prediction is.
        self.uncertain = False
        self.members: Sequence[Member] = (Member(placed, is_mirrored(self.plan, mirror), vector),)

    def _compiled(self, network: nn.Module, runtime: str) -> Network | None:
        """The network as ``runtime`` computes it; None: as torch does.

        Raises:
            ConfigError: if the runtime is unknown, is for another device, or is not installed.
            MachineError: if it cannot compile this network.
        """
        if runtime not in RUNTIMES:
            raise ConfigError(f"--runtime {runtime}: unknown; there are {', '.join(RUNTIMES)}")
        if runtime == TORCH:
            return None
        if self.device != "cpu":
            raise ConfigError(
                f"--runtime {runtime}: compiles for processors, and the device is {self.device}; leave it out, or give "
                "--device cpu"
            )
        from medseg.engine.openvino import compile_network, has_bf16

        spec = self.plan.network
        precision = "bf16" if self.precision == "bf16" and has_bf16() else "fp32"
        return compile_network(network, spec.in_channels, spec.patch, precision=precision, threads=self._threads)

    def predict(self, source: Source, name: str, sinks: Sequence[Sink]) -> None:
        """Predict one image into sinks.

        Args:
            source: the image.
            name: what it is called in error messages.
            sinks: where the prediction goes.

        Raises:
            DataError: if dimensions, channels or unit are not the model's, or voxels are not finite.
            PredictionError: if the network's output is not finite.
        """
        pipeline, source = self.pipeline(source, name)
        pipeline.run(source, name, sinks)

    def pipeline(self, source: Source, name: str) -> tuple[Pipeline, Source]:
        """The pipe that an image takes, to be used at once, and the image in the model's unit; see ``predict``."""
        geometry, unit = source.geometry, self.plan.grid.unit
        require_fit(geometry, source.shape[0], name, self.checkpoint, world=source.affine is not None)
        if geometry.unit != unit:
            source = replace(source, affine=geometry.in_unit(unit).affine, unit=unit)
        # Here and not where the network is loaded: others, with other settings, may run in between.
        set_exact(self._threads, self.precision)
        found = self.checkpoint
        how = self.device, self.precision, found.decoding, self._windows, self.uncertain, self._overlap
        return Pipeline(self.plan, found.labels, self.members, *how), source

    def spare_memory(self) -> bool:
        """Take one window at a time from now on; False if that changes nothing, or the memory is not that of a GPU."""
        if self.device == "cpu" or (self._windows or self.plan.training.batch) == 1:
            return False
        self._windows = 1
        if self.device.startswith("cuda"):
            # What is reserved and free now may lie in blocks of other sizes.
            torch.cuda.empty_cache()
        return True

    def label_map(self, source: Source, name: str) -> NDArray[Any]:
        """(S) values of the model's label table, on the image's grid; arguments and errors as for ``predict``."""
        kept = LabelMap()
        self.predict(source, name, [kept])
        return kept.values


def require_fit(
    geometry: Geometry,
    channels: int,
    name: str,
    checkpoint: Checkpoint,
    files: Sequence[Path] = (),
    *,
    world: bool = True,
) -> None:
    """Raise ``DataError`` unless an image has the dimensions, channels and unit of the training's images.

    Args:
        geometry, channels: of the image.
        name: what it is called in error messages.
        checkpoint: of the model.
        files: that it was read from; of a file that holds one of several channels, those beside it are named.
        world: whether it says where it lies in a world.
    """
    grid, expected = checkpoint.plan.grid, checkpoint.plan.network.in_channels
    if geometry.dims != grid.dims or channels != expected:
        raise DataError(
            f"{name}: {geometry.dims}-D with {channels} channels; the model expects {grid.dims}-D with "
            f"{expected} ({', '.join(checkpoint.channels)}){_beside(files, channels, expected)}"
        )
    if grid.oriented and geometry.unit != grid.unit and not world:
        raise DataError(
            f"{name}: a volume with no directions in the world (axes Z, Y, X), the model was trained on volumes that "
            "have them; export the image as NIfTI, NRRD or DICOM, with its orientation"
        )
    if not measured_alike(geometry, Geometry.from_spacing(geometry.shape, geometry.spacing, grid.unit)):
        raise DataError(
            f"{name}: its voxel size is in {geometry.unit}, the model was trained on sizes in {grid.unit}; "
            f"{_unit_fix(geometry.unit)}"
        )


def _unit_fix(found: str) -> str:
    """What to do about an image in a unit that is not the model's."""
    if found == "px":
        return "give the size of its pixels in micrometres (--spacing)"
    return "leave --spacing out, or store the image without a size (in ImageJ: Set Scale, Click to Remove Scale)"


def _beside(files: Sequence[Path], channels: int, expected: int) -> str:
    """What to do about a file of one channel where the model has several."""
    if len(files) != 1 or channels >= expected:
        return ""
    number = NUMBERED.fullmatch(stem_of(files[0]))
    example = f"{number['case']}_{expected - 1:04d}{suffix_of(files[0])}" if number else "scan_0000, scan_0001, …"
    return (
        f"; name the files of all channels, as in {example}, or their folder, or a table with a column image_… for each"
    )


def is_mirrored(plan: Plan, wish: bool | None) -> bool:
    """Whether predictions are averaged over mirror images: as wished; without a wish, where the training mirrored."""
    return mirrors(plan.training.augment, plan.grid.oriented, plan.training.augmentation) if wish is None else wish
