"""The model folder: safetensors weights and a JSON file that describes them completely. No pickle, ever."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from medseg.bounds import OutOfBounds, shortened
from medseg.errors import CheckpointError, MedsegError
from medseg.files import sha256_bytes, write_bytes
from medseg.image.labels import LabelTable
from medseg.ingest.voxel_sizes import VoxelSizes
from medseg.models.zoo import build_model, build_outline
from medseg.objects.decoding import Decoding
from medseg.plan.plan import Plan
from medseg.reading import AS_STORED, Reading
from medseg.records import write_record
from medseg.results.folders import ModelFolder
from medseg.results.key import Fold
from medseg.train.header import read_header
from medseg.train.lineage import TrainedOn
from medseg.trained import FORMAT, read_facts

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
        decoding: how objects are read off the network's maps, tuned on training cases; None: it has no such head.
        inputs: the parts of the fingerprint by name, each a digest (``train.identity.digests_of``).
        provenance: versions and machine.
        trained_on: whose images its weights have seen, by way of other models as well; None: there is no record.
        allowed: what was wrong with the weights it started from and allowed by name, as text.
        reading: how the files of the data set were read where they left something open.
        accepts: codes of faults of the data set that were allowed by name.
        voxel_sizes: of the cases that it was trained on; None: there is no record.
    """

    dataset: str
    channels: tuple[str, ...]
    labels: LabelTable
    plan: Plan
    fold: Fold
    seed: int
    fingerprint: str
    provenance: Mapping[str, Any]
    trained_on: TrainedOn | None = None
    allowed: tuple[str, ...] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)
    decoding: Decoding | None = None
    reading: Reading = AS_STORED
    accepts: tuple[str, ...] = ()
    voxel_sizes: VoxelSizes | None = None


def write_checkpoint(folder: Path, checkpoint: Checkpoint, network: nn.Module) -> None:
    """Write ``model.safetensors`` and then ``model.json``, which holds its digest."""
    files, weights = ModelFolder(folder), pack_tensors(network_tensors(network))
    write_bytes(files.weights, weights)
    write_record(
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
            "inputs": dict(checkpoint.inputs),
            "weights_sha256": sha256_bytes(weights),
            "allowed": list(checkpoint.allowed),
            "reading": checkpoint.reading.to_json(),
            "accepts": list(checkpoint.accepts),
            "provenance": dict(checkpoint.provenance),
            **({"voxel_sizes": checkpoint.voxel_sizes.to_json()} if checkpoint.voxel_sizes else {}),
            **({"trained_on": checkpoint.trained_on.to_json()} if checkpoint.trained_on else {}),
            **({"decoding": checkpoint.decoding.to_json()} if checkpoint.decoding else {}),
        },
    )


def read_checkpoint(folder: Path) -> tuple[Checkpoint, nn.Module]:
    """Load a model folder.

    The description is checked first, then name, type and shape of every tensor, and the digest; the network is built
    last, when it is known that it has just these tensors, which are all there.

    Raises:
        CheckpointError: with what was found and what was expected; no code from the files is ever run.
    """
    checkpoint, tensors = _read_folder(folder)
    spec = checkpoint.plan.network
    network = build_model(spec.name, spec)
    load_tensors(network, tensors, ModelFolder(folder).weights, spec.name)
    return checkpoint, network.eval()


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a model folder by name, checked as ``read_checkpoint`` does; the network itself is not built."""
    return _read_folder(folder)[1]


def _read_folder(folder: Path) -> tuple[Checkpoint, dict[str, Tensor]]:
    """The description and the tensors of a model folder, which are those of the network that it describes."""
    checkpoint, sha256 = read_description(folder)
    spec, path = checkpoint.plan.network, ModelFolder(folder).weights
    try:
        outline = build_outline(spec.name, spec)
    except (*NONSENSE, MedsegError) as error:
        raise CheckpointError(
            f"{ModelFolder(folder).description}: describes a network that cannot be built ({error}); "
            "expected one of the zoo's"
        ) from None
    _refuse_pickle(path)
    check_outline(read_header(path), saved_tensors(outline), path, spec.name)
    return checkpoint, unpack_tensors(path, sha256)


def read_description(folder: Path) -> tuple[Checkpoint, str]:
    """``model.json`` as a ``Checkpoint``, and the digest of its weights; torch is not needed for more than types."""
    if folder.is_file():
        kind = describe_file(folder)
        raise CheckpointError(
            f"{folder}: found {kind}; expected a folder with model.json and model.safetensors, as `medseg train` writes"
        )
    path, facts = ModelFolder(folder).description, read_facts(folder)
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
            trained_on=TrainedOn.from_json(facts["trained_on"]) if "trained_on" in facts else None,
            allowed=tuple(facts.get("allowed", ())),
            inputs=dict(facts["inputs"]),
            decoding=Decoding.from_json(facts["decoding"]) if "decoding" in facts else None,
            # Models of earlier versions say nothing of these.
            reading=Reading.from_json(facts.get("reading", {})),
            accepts=tuple(facts.get("accepts", ())),
            voxel_sizes=VoxelSizes.from_json(facts["voxel_sizes"]) if "voxel_sizes" in facts else None,
        )
        weights_sha256 = str(facts["weights_sha256"])
        _require_agreement(checkpoint)
    except MedsegError as error:
        raise CheckpointError(f"{path}: {error}") from None
    except NONSENSE as error:
        raise CheckpointError(f"{path}: damaged or of another version ({shortened(error)})") from None
    return checkpoint, weights_sha256


def _require_agreement(checkpoint: Checkpoint) -> None:
    """Raise ``OutOfBounds`` unless data and plan have the same channels and classes."""
    network, labels = checkpoint.plan.network, checkpoint.labels
    for what, found, expected in (
        ("dataset.channels", len(checkpoint.channels), network.in_channels),
        ("dataset.labels", labels.classes, network.classes),
        ("dataset.labels.regions", labels.members if labels.regions else (), network.regions),
    ):
        if found != expected:
            raise OutOfBounds(f"{what}: found {shortened(found)}; the plan's network has {shortened(expected)}")
    sizes, dims = checkpoint.voxel_sizes, checkpoint.plan.grid.dims
    if sizes is not None and any(len(numbers) != dims for numbers in (sizes.low, sizes.median, sizes.high)):
        raise OutOfBounds(f"voxel_sizes: found {shortened(sizes.median)}; expected {dims} numbers, one per axis")
    if network.learns_objects != (checkpoint.decoding is not None) or bool(network.head) != labels.instances:
        raise OutOfBounds(
            f"decoding: {'is there' if checkpoint.decoding else 'is missing'}, and the plan's network has "
            f"{f'the head {network.head}' if network.head else 'no head for objects'}, for labels "
            f"{'of objects' if labels.instances else 'without objects'}"
        )


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


def saved_tensors(network: nn.Module) -> dict[str, Tensor]:
    """All parameters and saved buffers by name, each once: MONAI's ``DynUNet`` registers its blocks under two names."""
    kept: dict[str, Tensor] = dict(network.named_parameters(remove_duplicate=True))
    saved = network.state_dict(keep_vars=True)
    kept |= {name: t for name, t in network.named_buffers(remove_duplicate=True) if name in saved}
    return kept


def _refuse_pickle(path: Path) -> None:
    try:
        with open(path, "rb") as file:
            start = file.read(9)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    if is_pickle(start):
        raise CheckpointError(f"{path}: found {describe_file(path)}; expected safetensors")


def network_tensors(network: nn.Module) -> dict[str, Tensor]:
    """What is saved of a network: copies of its ``saved_tensors`` in main memory."""
    return {name: t.detach().cpu().contiguous() for name, t in saved_tensors(network).items()}


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
    _refuse_pickle(path)
    read_header(path)
    data = path.read_bytes()
    if sha256_bytes(data) != sha256:
        raise CheckpointError(f"{path}: damaged (SHA-256 differs from the one recorded beside it)")
    try:
        tensors: dict[str, Tensor] = load(data)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not safetensors ({error})") from None
    return tensors


def check_tensors(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path, network: str) -> None:
    """Raise ``CheckpointError`` unless ``check_outline`` agrees and all numbers are finite."""
    check_outline(found, expected, path, network)
    bad = sorted(n for n, t in found.items() if t.is_floating_point() and not torch.isfinite(t).all())
    if bad:
        raise CheckpointError(f"{path}: weights that are not finite: {bad[:3]}")


def check_outline(found: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path, network: str) -> None:
    """Raise ``CheckpointError`` naming the differences unless names, shapes and types agree."""
    missing = sorted(expected.keys() - found.keys())
    extra = sorted(found.keys() - expected.keys())
    both = sorted(expected.keys() & found.keys())
    shapes = [
        f"{n} {list(found[n].shape)} instead of {list(expected[n].shape)}"
        for n in both
        if found[n].shape != expected[n].shape
    ]
    types = [
        f"{n} {_type(found[n])} instead of {_type(expected[n])}" for n in both if found[n].dtype != expected[n].dtype
    ]
    if missing or extra or shapes or types:
        raise CheckpointError(
            f"{path}: weights of another architecture than '{network}': "
            f"{len(missing)} tensors missing {shortened(missing[:2])}, {len(extra)} unexpected {shortened(extra[:2])}, "
            f"{len(shapes)} of another shape {shapes[:2]}, {len(types)} of another type {types[:2]}"
        )


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
