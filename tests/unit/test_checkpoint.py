"""Model folders: whatever is wrong with one is a CheckpointError that says so, and nothing in it is ever run."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from medseg.errors import CheckpointError
from medseg.image.labels import LabelTable
from medseg.models.zoo import build_model
from medseg.records import read_record, write_record
from medseg.train.checkpoint import (
    Checkpoint,
    network_tensors,
    pack_tensors,
    read_checkpoint,
    read_description,
    unpack_tensors,
    write_checkpoint,
)

LABELS = LabelTable.create({"ball": 1, "rod": 3})


def write(folder: Path, plan: Any) -> Path:
    torch.manual_seed(0)
    checkpoint = Checkpoint("d", ("MRI",), LABELS, plan, 1, 2, "abc", {"medseg": "0", "git": "unknown"})
    write_checkpoint(folder, checkpoint, build_model(plan.network.name, plan.network))
    return folder


@pytest.fixture
def model(tmp_path: Path, tiny_plan: Any) -> Path:
    return write(tmp_path / "model", tiny_plan())


def edit(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Write the description anew, with its digest, so that only its content can give it away."""
    path = folder / "model.json"
    facts = read_record(path, "")
    write_record(path, change(facts) or facts)


def seal(folder: Path) -> None:
    """Record the digest of the weights that are there, so that only their content can give them away."""
    sha256 = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    edit(folder, lambda facts: facts.update(weights_sha256=sha256))


class Canary:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_folder_says_what_is_needed_to_use_it(model: Path, tiny_plan: Any) -> None:
    facts = json.loads((model / "model.json").read_text())
    weights = (model / "model.safetensors").read_bytes()
    assert facts["format"] == "medseg-model-1"
    assert facts["weights_sha256"] == hashlib.sha256(weights).hexdigest()
    assert facts["plan"] == json.loads(json.dumps(tiny_plan().to_json()))
    assert facts["dataset"]["labels"]["names"] == {"ball": 1, "rod": 3}
    assert (facts["fold"], facts["seed"], facts["fingerprint"]) == (1, 2, "abc")
    # Anybody's safetensors reader gets all weights, each once.
    tensors = load_file(model / "model.safetensors")
    assert sum(t.numel() for t in tensors.values()) == facts["parameters"]
    description, sha256 = read_description(model)
    assert (description.plan, sha256) == (tiny_plan(), facts["weights_sha256"])


def test_equal_models_give_equal_bytes(tmp_path: Path, tiny_plan: Any) -> None:
    one, two = (write(tmp_path / name, tiny_plan("deeplabv3plus", 3)) for name in "ab")
    for name in ("model.safetensors", "model.json"):
        assert (one / name).read_bytes() == (two / name).read_bytes()


def test_every_length_of_header_reads_back(tmp_path: Path) -> None:
    """The first byte of a safetensors file is its header's length: 0x80 and others must not be taken for a pickle."""
    firsts = set()
    for length in range(1, 300):
        data = pack_tensors({"w" * length: torch.zeros(1)})
        firsts.add(data[0])
        path = tmp_path / "model.safetensors"
        path.write_bytes(data)
        (tensor,) = unpack_tensors(path, hashlib.sha256(data).hexdigest()).values()
        assert tensor.tolist() == [0.0]
    assert 0x80 in firsts


# Files that are no model folder

DISGUISES = ["model.pt", "model.ckpt", "zip", "as weights", "as sealed weights", "old protocol", "old sealed"]


@pytest.mark.parametrize("disguise", DISGUISES)
def test_pickles_are_refused_and_never_run(model: Path, tmp_path: Path, disguise: str) -> None:
    canary = tmp_path / "canary"
    given = model
    if disguise in ("model.pt", "zip"):
        given = tmp_path / "model.pt"
        torch.save({"w": Canary(canary)}, given)
        assert zipfile.is_zipfile(given)
    elif disguise == "model.ckpt":
        given = tmp_path / "model.ckpt"
        given.write_bytes(pickle.dumps(Canary(canary)))
    else:
        protocol = 0 if disguise.startswith("old") else 5
        (model / "model.safetensors").write_bytes(pickle.dumps(Canary(canary), protocol=protocol))
        if "sealed" in disguise:
            seal(model)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(given)
    assert not canary.exists()
    assert "expected" in str(caught.value) or "damaged" in str(caught.value) or "not safetensors" in str(caught.value)
    if not disguise.startswith("old"):
        assert "found a pickle (" in str(caught.value)


@pytest.mark.parametrize(
    ("spoil", "found"),
    [
        (lambda m: shutil.rmtree(m), "no such folder"),
        (lambda m: (m / "model.json").unlink(), r"model\.safetensors.*expected model\.json"),
        (lambda m: (m / "model.safetensors").unlink(), r"model\.safetensors: cannot be read"),
        (lambda m: (m / "model.json").write_text("{"), r"model\.json.*no readable JSON"),
        (
            lambda m: (m / "model.json").write_text("[1]"),
            "has no digest; written by an earlier version.*run `medseg train` again",
        ),
        (lambda m: (m / "model.json").write_text((m / "model.json").read_text().replace("3", "4")), "digest differs"),
        (lambda m: edit(m, lambda f: f.update(format="medseg-model-9")), "'medseg-model-9'; expected 'medseg-model-1'"),
        (lambda m: edit(m, lambda f: f["plan"].update(depth=3)), "depth"),
    ],
)
def test_missing_and_foreign_files_are_named(model: Path, spoil: Callable[[Path], Any], found: str) -> None:
    spoil(model)
    with pytest.raises(CheckpointError, match=found):
        read_checkpoint(model)


@pytest.mark.parametrize(
    "key", ["format", "dataset", "plan", "fold", "seed", "fingerprint", "inputs", "provenance", "weights_sha256"]
)
def test_every_missing_key_of_the_description_is_an_error(model: Path, key: str) -> None:
    edit(model, lambda facts: facts.pop(key) and None)
    with pytest.raises(CheckpointError, match=r"model\.json"):
        read_checkpoint(model)


NONSENSE: list[tuple[tuple[str, ...], Any]] = [
    (("dataset",), None),
    (("dataset", "labels"), {"names": [], "instances": False}),
    (("dataset", "labels"), {"names": {"a": "one"}, "instances": False}),
    (("dataset", "labels"), {"names": {"a": -1}, "instances": False}),
    (("dataset", "channels"), 3),
    (("plan",), []),
    (("plan",), "unet"),
    (("plan", "network"), "unet"),
    (("plan", "network", "name"), "nonet"),
    (("plan", "network", "name"), 5),
    (("plan", "network", "widths"), "wide"),
    (("plan", "network", "widths"), [8, 16]),
    (("plan", "network", "strides"), 3),
    (("plan", "network", "dims"), 5),
    (("plan", "network", "classes"), None),
    (("weights_sha256",), None),
]


@pytest.mark.parametrize(("place", "value"), NONSENSE, ids=[f"{'.'.join(p)}={v}" for p, v in NONSENSE])
def test_nonsense_in_the_description_is_an_error_not_a_traceback(
    model: Path, place: tuple[str, ...], value: Any
) -> None:
    def change(facts: dict[str, Any]) -> None:
        section = facts
        for part in place[:-1]:
            section = section[part]
        section[place[-1]] = value

    edit(model, change)
    with pytest.raises(CheckpointError, match=r"model\.(json|safetensors)"):
        read_checkpoint(model)


@pytest.mark.parametrize("sealed", [False, True])
@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "longer", "text"])
def test_damaged_weights_are_an_error(model: Path, damage: str, sealed: bool) -> None:
    path = model / "model.safetensors"
    data = bytearray(path.read_bytes())
    match damage:
        case "cut":
            del data[-7:]
        case "flip":
            # Into the header, where it matters even if the digest agrees.
            data[10 if sealed else len(data) // 2] ^= 0x10
        case "empty":
            data.clear()
        case "longer":
            data += b"1234"
        case "text":
            data[:] = b"not found\n" * 9
    path.write_bytes(bytes(data))
    if sealed:
        seal(model)
    with pytest.raises(CheckpointError, match=r"model\.safetensors: (damaged|not safetensors|weights of another)"):
        read_checkpoint(model)


OTHERS: dict[str, dict[str, Any]] = {
    "other network": {"network": "deeplabv3plus"},
    "wider": {"widths": (8, 16, 20)},
    "more classes": {"classes": 4},
    "more channels": {"in_channels": 2},
    "deeper": {"widths": (8, 16, 16, 16), "strides": ((1, 1),) + ((2, 2),) * 3, "kernels": ((3, 3),) * 4},
    "volumes": {"dims": 3},
}


@pytest.mark.parametrize("other", OTHERS)
def test_weights_of_another_architecture_are_told_found_and_expected(
    model: Path, tmp_path: Path, tiny_plan: Any, other: str
) -> None:
    changes = dict(OTHERS[other])
    foreign = tiny_plan(changes.pop("network", "unet"), changes.pop("dims", 2), **changes)
    shutil.copy(write(tmp_path / "other", foreign) / "model.safetensors", model / "model.safetensors")
    seal(model)
    with pytest.raises(CheckpointError) as caught:
        read_checkpoint(model)
    text = str(caught.value)
    assert "another architecture than 'unet'" in text
    mine = network_tensors(build_model("unet", tiny_plan().network))
    theirs = load_file(model / "model.safetensors")
    missing, extra = mine.keys() - theirs.keys(), theirs.keys() - mine.keys()
    assert f"{len(missing)} tensors missing" in text
    assert f"{len(extra)} unexpected" in text
    shapes = [n for n in mine.keys() & theirs.keys() if mine[n].shape != theirs[n].shape]
    assert f"{len(shapes)} of another shape" in text
    named = re.findall(r"[\w.]+\.weight \[[\d, ]+\] instead of \[[\d, ]+\]", text)
    assert bool(named) == bool(shapes)


@pytest.mark.parametrize("change", ["missing", "unexpected"])
def test_one_tensor_too_few_or_too_many_is_named(model: Path, change: str) -> None:
    tensors = load_file(model / "model.safetensors")
    name = sorted(tensors)[0] if change == "missing" else "stranger"
    if change == "missing":
        del tensors[name]
    else:
        tensors[name] = torch.zeros(2)
    (model / "model.safetensors").write_bytes(pack_tensors(tensors))
    seal(model)
    with pytest.raises(CheckpointError, match=rf"1 (tensors )?{change} \['{re.escape(name)}'\]"):
        read_checkpoint(model)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(model: Path, value: float) -> None:
    tensors = load_file(model / "model.safetensors")
    name = sorted(tensors)[0]
    tensors[name].view(-1)[0] = value
    (model / "model.safetensors").write_bytes(pack_tensors(tensors))
    seal(model)
    with pytest.raises(CheckpointError, match=f"not finite.*{re.escape(name)}"):
        read_checkpoint(model)


def test_shared_blocks_are_stored_once_and_restored_everywhere(tiny_plan: Any) -> None:
    net = build_model("unet", tiny_plan().network)
    tensors = network_tensors(net)
    assert sum(t.numel() for t in tensors.values()) == sum(p.numel() for p in net.parameters())
    assert len(net.state_dict()) >= len(tensors)
    assert pack_tensors(tensors) == pack_tensors(dict(reversed(tensors.items())))
