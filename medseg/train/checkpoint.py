"""The model folder: safetensors weights and a JSON file that describes them completely. No pickle, ever."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from medseg.errors import CheckpointError, DataError, MedsegError
from medseg.files import read_json, sha256_bytes, write_bytes, write_json
from medseg.image.labels import LabelTable
from medseg.models.zoo import build_model
from medseg.plan.plan import Plan
from medseg.results.folders import ModelFolder
from medseg.train.lineage import TrainedOn

FORMAT = "medseg-model-1"
# Raised while reading a description that another program or a disk fault has changed.
NONSENSE = (KeyError, TypeError, ValueError, AttributeError, IndexError, RuntimeError)
ZIP_START = b"PK\x03\x04"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A trained model.

    Attributes:
        dataset: name, channels and label table of the data it was trained on.
        plan: how the network is built and images are prepared.
        fold, seed: which training.
        fingerprint: digest of plan, data and code of the training.
        provenance: versions and machine.
        trained_on: whose images its weights have seen, by way of other models as well; None: there is no record.
        allowed: what was wrong with the weights it started from and allowed by name, as text.
    """

    dataset: str
    channels: tuple[str, ...]
    labels: LabelTable
    plan: Plan
    fold: int
    seed: int
    fingerprint: str
    provenance: Mapping[str, Any]
    trained_on: TrainedOn | None = None
    allowed: tuple[str, ...] = ()


def write_checkpoint(folder: Path, checkpoint: Checkpoint, network: nn.Module) -> None:
    """Write ``model.safetensors`` and then ``model.json``, which holds its digest."""
    files, weights = ModelFolder(folder), pack_tensors(network_tensors(network))
    write_bytes(files.weights, weights)
    write_json(
        files.description,
        {
            "format": FORMAT,
            "dataset": {
                "name": checkpoint.dataset,
                "dims": checkpoint.plan.grid.dims,
                "channels": list(checkpoint.channels),
                "labels": checkpoint.labels.to_json(),
            },
            "fold": checkpoint.fold,
            "seed": checkpoint.seed,
            "plan": checkpoint.plan.to_json(),
            "parameters": sum(p.numel() for p in network.parameters()),
            "fingerprint": checkpoint.fingerprint,
            "weights_sha256": sha256_bytes(weights),
            "allowed": list(checkpoint.allowed),
            "provenance": dict(checkpoint.provenance),
            **({"trained_on": checkpoint.trained_on.to_json()} if checkpoint.trained_on else {}),
        },
    )


def read_checkpoint(folder: Path) -> tuple[Checkpoint, nn.Module]:
    """Load a model folder: the description is checked first, then the digest, then every tensor's name and shape.

    Raises:
        CheckpointError: with what was found and what was expected; no code from the files is ever run.
    """
    checkpoint, sha256 = read_description(folder)
    path = ModelFolder(folder).weights
    tensors = unpack_tensors(path, sha256)
    try:
        network = build_model(checkpoint.plan.network.name, checkpoint.plan.network)
    except (*NONSENSE, MedsegError) as error:
        raise CheckpointError(
            f"{ModelFolder(folder).description}: describes a network that cannot be built ({error}); "
            "expected one of the zoo's"
        ) from None
    load_tensors(network, tensors, path, checkpoint.plan.network.name)
    return checkpoint, network.eval()


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a model folder by name, digest checked; the network itself is not built."""
    _, sha256 = read_description(folder)
    return unpack_tensors(ModelFolder(folder).weights, sha256)


def read_description(folder: Path) -> tuple[Checkpoint, str]:
    """``model.json`` as a ``Checkpoint``, and the digest of its weights; torch is not needed for more than types."""
    if folder.is_file():
        kind = describe_file(folder)
        raise CheckpointError(
            f"{folder}: found {kind}; expected a folder with model.json and model.safetensors, as `medseg train` writes"
        )
    path = ModelFolder(folder).description
    if not path.is_file():
        others = sorted(p.name for p in folder.iterdir())[:5] if folder.is_dir() else "nothing (no such folder)"
        raise CheckpointError(f"{folder}: found {others}; expected model.json and model.safetensors")
    try:
        facts = read_json(path)
    except DataError as error:
        raise CheckpointError(str(error)) from None
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        found = facts.get("format") if isinstance(facts, dict) else type(facts).__name__
        raise CheckpointError(f"{path}: format {found!r}; expected {FORMAT!r}")
    try:
        checkpoint = Checkpoint(
            dataset=facts["dataset"]["name"],
            channels=tuple(facts["dataset"]["channels"]),
            labels=LabelTable.from_json(facts["dataset"]["labels"]),
            plan=Plan.from_json(facts["plan"]),
            fold=facts["fold"],
            seed=facts["seed"],
            fingerprint=facts["fingerprint"],
            provenance=facts["provenance"],
            # Models of earlier versions have neither.
            trained_on=TrainedOn.from_json(facts["trained_on"]) if "trained_on" in facts else None,
            allowed=tuple(facts.get("allowed", ())),
        )
        weights_sha256 = str(facts["weights_sha256"])
    except (*NONSENSE, MedsegError) as error:
        raise CheckpointError(f"{path}: damaged or of another version ({error!r})") from None
    return checkpoint, weights_sha256


def describe_file(path: Path) -> str:
    """What a file is, by its first bytes; never opened with anything that could run code."""
    with open(path, "rb") as file:
        start = file.read(9)
    if is_pickle(start):
        return "a pickle (torch.save, .pt, .pth, .ckpt), which can run code when loaded and is never opened"
    return f"a file that starts with {start!r}"


def is_pickle(start: bytes) -> bool:
    """Whether the first nine bytes of a file are those of a pickle or of torch's zip around one.

    A pickle's first byte, 0x80, may also open a safetensors file (the length of its header, whose ninth byte is ``{``).
    """
    return start.startswith(ZIP_START) or (start[:1] == b"\x80" and start[8:9] != b"{")


def network_tensors(network: nn.Module) -> dict[str, Tensor]:
    """All parameters and saved buffers by name, each once: MONAI's ``DynUNet`` registers its blocks under two names."""
    kept: dict[str, Tensor] = dict(network.named_parameters(remove_duplicate=True))
    saved = network.state_dict(keep_vars=True)
    kept |= {name: t for name, t in network.named_buffers(remove_duplicate=True) if name in saved}
    return {name: t.detach().cpu().contiguous() for name, t in kept.items()}


def load_tensors(network: nn.Module, tensors: Mapping[str, Tensor], path: Path, name: str) -> None:
    """Put tensors saved by ``network_tensors`` into a network; raise ``CheckpointError`` unless they are its own."""
    check_tensors(tensors, network_tensors(network), path, name)
    network.load_state_dict(tensors, strict=False)


def pack_tensors(tensors: Mapping[str, Tensor]) -> bytes:
    """Tensors as safetensors bytes; equal tensors give equal bytes (no metadata, whose order is not fixed)."""
    data: bytes = save(dict(tensors))
    return data


def unpack_tensors(path: Path, sha256: str) -> dict[str, Tensor]:
    """Read a safetensors file whose digest is known; raise ``CheckpointError`` if it is not that file."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    if is_pickle(data[:9]):
        raise CheckpointError(f"{path}: found {describe_file(path)}; expected safetensors")
    if sha256_bytes(data) != sha256:
        raise CheckpointError(f"{path}: damaged (SHA-256 differs from the one recorded beside it)")
    try:
        tensors: dict[str, Tensor] = load(data)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not safetensors ({error})") from None
    return tensors


def check_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path, network: str) -> None:
    """Raise ``CheckpointError`` naming the differences unless names and shapes agree."""
    missing = sorted(expected.keys() - found.keys())
    extra = sorted(found.keys() - expected.keys())
    shapes = [
        f"{n} {list(found[n].shape)} instead of {list(expected[n].shape)}"
        for n in sorted(expected.keys() & found.keys())
        if found[n].shape != expected[n].shape
    ]
    if missing or extra or shapes:
        raise CheckpointError(
            f"{path}: weights of another architecture than '{network}': "
            f"{len(missing)} tensors missing {missing[:2]}, {len(extra)} unexpected {extra[:2]}, "
            f"{len(shapes)} of another shape {shapes[:2]}"
        )
    bad = sorted(n for n, t in found.items() if t.is_floating_point() and not torch.isfinite(t).all())
    if bad:
        raise CheckpointError(f"{path}: weights that are not finite: {bad[:3]}")
