"""Trained weights of encoders: from a file to tensors that fit; no code is ever loaded with them."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from medseg.errors import CheckpointError
from medseg.models.encoders.encoder import Encoder
from medseg.networks import WEIGHT_SUFFIXES

# What classifiers have beyond their convolutions: heads, and GoogLeNet's auxiliary ones.
HEADS = ("fc.", "classifier.", "aux1.", "aux2.")
# Counts batches for an average that is not taken here; older files lack it.
COUNTER = "num_batches_tracked"
# Raised by torch where a file is damaged or holds more than tensors.
NONSENSE = (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError, EOFError, pickle.PickleError)
# Names that an error lists; the rest is counted.
NAMED = 8


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What was done with the tensors of a file.

    Attributes:
        file: the file.
        loaded: names that were copied.
        left_out: names of the classifier's head, which were not.
        adapted: name -> what was done so that it fits.
    """

    file: Path
    loaded: tuple[str, ...]
    left_out: tuple[str, ...]
    adapted: Mapping[str, str]

    def summary(self) -> str:
        """One line for the log."""
        parts = [f"encoder starts from {self.file}, {len(self.loaded)} tensors"]
        if self.left_out:
            parts.append(f"left out: {_some(self.left_out)}")
        kinds: dict[str, list[str]] = {}
        for name, change in self.adapted.items():
            kinds.setdefault(change, []).append(name)
        parts += [f"{change}: {_some(names)}" for change, names in kinds.items()]
        return "; ".join(parts)


def load_encoder(encoder: Encoder, weights: Path) -> LoadReport:
    """Copy a classifier's weights, under torchvision's names, into an encoder (in place; all of them or none).

    The first convolution may have been made for another number of channels: its weights are summed over the file's m
    channels and divided by the encoder's n, so that n equal channels give the responses that m equal ones gave (a grey
    image as RGB: for n = 1 the plain sum). Two-dimensional kernels become three-dimensional by repetition along the
    first axis, divided by its length, so that a volume that is constant along it gives the responses of its slices
    (Carreira & Zisserman 2017, section 2.4).

    Args:
        encoder: of ``ENCODERS``.
        weights: ``.safetensors``, or ``.pth`` with nothing but tensors in it.

    Raises:
        CheckpointError: for a file that cannot be read, or tensors that are unknown, missing, misshapen or not finite;
            it names them and the option that would fit. The encoder is then unchanged.
    """
    tensors = read_tensors(weights)
    target = encoder.state_dict()
    left_out = tuple(name for name in tensors if name.startswith(HEADS) and name not in target)
    first = _first_convolution(encoder)
    fitting: dict[str, Tensor] = {}
    adapted: dict[str, str] = {}
    unfit: list[str] = []
    for name in target.keys() & tensors.keys():
        fitting[name], changes = _fit(tensors[name], target[name], first=name == first)
        if changes:
            adapted[name] = ", ".join(changes)
        if fitting[name].shape != target[name].shape:
            unfit.append(f"{name} {tuple(tensors[name].shape)} for {tuple(target[name].shape)}")
        elif not torch.isfinite(fitting[name]).all():
            unfit.append(f"{name} with values that are not finite")
    unknown = [name for name in tensors if name not in target and name not in left_out]
    missing = [name for name in target if name not in tensors and not name.endswith(COUNTER)]
    if unknown or missing or unfit:
        raise CheckpointError(_complaint(weights, unknown, missing, sorted(unfit)))
    encoder.load_state_dict({**target, **fitting})
    order = [name for name in target if name in fitting]
    return LoadReport(weights, tuple(order), left_out, {name: adapted[name] for name in order if name in adapted})


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, on the CPU.

    Raises:
        CheckpointError: if there is no such file, it is of another kind, damaged, or holds more than named tensors.
    """
    if path.suffix not in WEIGHT_SUFFIXES:
        raise CheckpointError(f"{path}: weights must be a file of {' or '.join(WEIGHT_SUFFIXES)}")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file; check options.weights")
    try:
        if path.suffix == ".safetensors":
            found: Any = load_file(path)
        else:
            found = torch.load(path, map_location="cpu", weights_only=True)
    except (SafetensorError, OSError, *NONSENSE) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{path}: cannot be read as tensors ({reason}); it is damaged, or holds more than tensors, "
            "which is refused: save its state_dict as .safetensors"
        ) from None
    if not isinstance(found, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in found.items()):
        raise CheckpointError(f"{path}: holds something else than named tensors; save the network's state_dict alone")
    return found


def _first_convolution(encoder: nn.Module) -> str:
    """Name of the weights that see the image."""
    return next(f"{n}.weight" for n, m in encoder.named_modules() if isinstance(m, nn.Conv2d | nn.Conv3d))


def _fit(given: Tensor, wanted: Tensor, *, first: bool) -> tuple[Tensor, list[str]]:
    """``given`` as ``wanted`` needs it, as far as the rules go, and what they changed."""
    changes = []
    if first and given.ndim >= 4 and given.shape[1] != wanted.shape[1]:
        theirs, ours = given.shape[1], wanted.shape[1]
        shape = (given.shape[0], ours, *given.shape[2:])
        given = (given.sum(dim=1, keepdim=True) / ours).expand(shape)
        changes.append(f"{theirs} to {ours} channels")
    if given.ndim == 4 and wanted.ndim == 5:
        depth = wanted.shape[2]
        given = given[:, :, None].expand(-1, -1, depth, -1, -1) / depth
        changes.append("2-D to 3-D")
    return given.to(wanted.dtype), changes


def _some(names: list[str] | tuple[str, ...]) -> str:
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _complaint(weights: Path, unknown: list[str], missing: list[str], unfit: list[str]) -> str:
    """What does not fit, and which option would."""
    parts = [f"{what}: {_some(n)}" for what, n in (("unknown", unknown), ("missing", missing), ("unfit", unfit)) if n]
    fix = "the encoder must be the one that the file is of"
    if any(".running_" in name for name in unknown):
        fix = "the file has batch norm; set norm: frozen_batch (or batch)"
    elif missing:
        fix = f"if it is the normalisation that is missing, set norm: none; else {fix}"
    elif unfit and not (unknown or missing):
        fix = "encoder and width must be those of the file (width: 64 for the papers' networks)"
    return f"{weights}: does not fit the encoder; {'; '.join(parts)}; {fix}"
