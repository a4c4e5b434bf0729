"""A package of the BioImage Model Zoo: a zip of ``rdf.yaml`` (model spec 0.5), the network as ONNX, and test tensors.

``bioimageio test`` of ``bioimageio.core`` runs the network on the test input, by the preprocessing that the description
names, and compares with what medseg's own network gave.
"""

from __future__ import annotations

import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from medseg.export.bioimage_axes import channel_axis, normalised_by, raw_window, space_axes, steps_of
from medseg.export.card_text import card_text
from medseg.export.chain import chain_of
from medseg.export.cover import cover_png
from medseg.export.graph import INPUT, OUTPUT, write_onnx
from medseg.export.handover import Handover
from medseg.export.onnx_folder import CHAIN, NETWORK, SOURCE
from medseg.files import sha256_file, write_json, write_text
from medseg.networks import NETWORKS

# Consumers of any 0.5 read this; nothing newer is used.
VERSION = "0.5.3"
RDF = "rdf.yaml"
# All files of a package have this date: equal models give equal packages.
DATE = (1980, 1, 1, 0, 0, 0)
DOI, ARXIV = re.compile(r"doi (10\.\S+?)(?=[,;)]|$)"), re.compile(r"arXiv (\d{4}\.\d{4,5})")
ABOUT = """
## In this package

`model.onnx` takes one window of a prepared image and gives logits. {steps} `chain.json` says everything else (turning,
cropping, resampling, windows, how logits become labels); `reader.py` does it with numpy, scipy and onnxruntime.
Tools that feed whole images give other labels where an image needs more than one window or another voxel size.
"""


def write(model: Handover, folder: Path) -> None:
    """Write the package; see ``write_onnx`` for errors."""
    made = folder / "package"
    made.mkdir()
    write_onnx(model, made / NETWORK)
    write_json(made / CHAIN, chain_of(model, NETWORK))
    shutil.copyfile(SOURCE, made / SOURCE.name)
    window = raw_window(model)
    with torch.inference_mode():
        logits = model.network(torch.from_numpy(normalised_by(model, window))[None]).numpy()
    _write_array(made / "test_input.npy", window[None])
    _write_array(made / "test_output.npy", logits)
    (made / "cover.png").write_bytes(cover_png(window, logits[0]))
    write_text(made / "README.md", card_text(model.card) + ABOUT.format(steps=_words(model)))
    write_text(made / RDF, yaml.safe_dump(_description(model, made), sort_keys=False, allow_unicode=True))
    _zip(made, folder / f"{model.name}.zip")
    shutil.rmtree(made)


def _description(model: Handover, made: Path) -> dict[str, Any]:
    """What ``rdf.yaml`` says."""
    import onnx

    checkpoint = model.checkpoint
    opset = onnx.load(str(made / NETWORK), load_external_data=False).opset_import[0].version
    maps = list(chain_of(model, NETWORK)["network"]["maps"])
    space = space_axes(model)
    found: dict[str, Any] = {
        "type": "model",
        "format_version": VERSION,
        "name": model.name.replace(".", "_"),
        "version": "1.0.0",
        "description": f"Segments {', '.join(checkpoint.labels.target_names)} ({checkpoint.dataset}), by "
        f"{checkpoint.plan.network.name}"[:500],
        "documentation": "README.md",
        "covers": ["cover.png"],
        "attachments": [{"source": name} for name in (CHAIN, SOURCE.name)],
        "cite": [_citation(NETWORKS[checkpoint.plan.network.name].paper)],
        "tags": ["segmentation", "medseg", checkpoint.plan.network.name, f"{checkpoint.plan.network.dims}d"],
        "inputs": [
            {
                "id": INPUT,
                "description": "One window of a prepared image",
                "axes": [{"type": "batch", "size": 1}, channel_axis(checkpoint.channels), *space],
                "data": {"type": "float32"},
                "test_tensor": {"source": "test_input.npy"},
                "preprocessing": steps_of(model),
            }
        ],
        "outputs": [
            {
                "id": OUTPUT,
                "description": "Logits",
                "axes": [{"type": "batch", "size": 1}, channel_axis(maps), *space],
                "data": {"type": "float32"},
                "test_tensor": {"source": "test_output.npy"},
            }
        ],
        "weights": {
            "onnx": {"source": NETWORK, "sha256": sha256_file(made / NETWORK), "opset_version": opset},
        },
    }
    if model.authors:
        found["authors"] = [{"name": name} for name in model.authors]
    if model.licence:
        found["license"] = model.licence
    return found


def _citation(paper: str) -> dict[str, str]:
    """The network's paper; what has neither DOI nor arXiv number is cited with MONAI's, whose code it is."""
    if found := DOI.search(paper):
        return {"text": paper, "doi": found[1]}
    if found := ARXIV.search(paper):
        return {"text": paper, "doi": f"10.48550/arXiv.{found[1]}"}
    return {"text": paper, "doi": "10.48550/arXiv.2211.02701"}


def _words(model: Handover) -> str:
    if any(step["id"] != "ensure_dtype" for step in steps_of(model)):
        return "Its intensities are scaled by the preprocessing of the description, on the whole image that is given."
    return "Its intensities have to be scaled before, as `chain.json` says: the format has no such preprocessing."


def _write_array(path: Path, array: NDArray[np.float32]) -> None:
    np.save(path, array, allow_pickle=False)


def _zip(made: Path, path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(made.iterdir()):
            archive.writestr(zipfile.ZipInfo(file.name, DATE), file.read_bytes(), zipfile.ZIP_DEFLATED)
