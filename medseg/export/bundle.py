"""A MONAI bundle: it runs with MONAI, scipy and nibabel, without medseg.

What comes before and after the network is done by ``scripts/``, copies of ``reader`` and ``transforms``: MONAI's own
transforms would crop, resample and place windows otherwise. The network is TorchScript, which MONAI Label and MONAI
Deploy take without a class to build it from; of a state dictionary, MONAI would need medseg's classes and a pickle of
Python's.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medseg import __version__
from medseg.export.card_text import card_text
from medseg.export.chain import chain_of
from medseg.export.graph import INPUT, traced
from medseg.export.handover import Handover
from medseg.export.onnx_folder import CHAIN, SOURCE
from medseg.files import write_json, write_text

SCHEMA = "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
NETWORK, OUTPUT = "models/model.ts", "pred"
RUN = """
## In this bundle

In its folder (`pip install monai scipy nibabel fire`), this predicts the NIfTI files of a folder:
`python -m monai.bundle run --config_file configs/inference.json --dataset_dir IMAGES --output_dir LABELS`.
 `models/model.ts` is TorchScript: its archive holds
a pickle, which `torch.jit.load` reads by an interpreter of its own that builds tensors and nothing else.
"""


def write(model: Handover, folder: Path) -> None:
    """Write the bundle; see ``graph.traced`` for errors."""
    for name in ("configs", "models", "docs", "scripts"):
        (folder / name).mkdir()
    metadata, inference = _metadata(model), _inference()
    write_json(folder / "configs" / "metadata.json", metadata)
    write_json(folder / "configs" / "inference.json", inference)
    # MONAI Deploy reads the configuration in the archive of the network.
    extra = {"metadata.json": json.dumps(metadata), "inference.json": json.dumps(inference)}
    save: Any = torch.jit.save
    save(traced(model), str(folder / NETWORK), _extra_files=extra)
    write_json(folder / "scripts" / CHAIN, chain_of(model, f"../{NETWORK}"))
    shutil.copyfile(SOURCE, folder / "scripts" / SOURCE.name)
    # There it finds its reader beside it.
    transforms = SOURCE.with_name("transforms.py").read_text(encoding="utf-8")
    write_text(
        folder / "scripts" / "transforms.py", transforms.replace("from medseg.export import", "from scripts import")
    )
    write_text(folder / "scripts" / "__init__.py", '"""What comes before and after the network."""\n')
    write_text(folder / "docs" / "README.md", card_text(model.card) + RUN)
    write_text(folder / "LICENSE", f"Weights: {model.card['licence']}\n")


def _inference() -> dict[str, Any]:
    """``inference.json``; names of MONAI Label (``preprocessing``, ``inferer``, ``postprocessing``) and Deploy."""
    load = [
        {"_target_": "LoadImaged", "keys": INPUT},
        {"_target_": "EnsureChannelFirstd", "keys": INPUT},
        {"_target_": "scripts.transforms.Prepared", "keys": INPUT},
    ]
    save = {
        "_target_": "SaveImaged",
        "keys": OUTPUT,
        "output_dir": "@output_dir",
        "output_postfix": "",
        "output_dtype": "$np.int32",
        "resample": False,
        "separate_folder": False,
    }
    predict = f"@inferer(inputs=one['{INPUT}'][None].to(@device), network=@network)[0]"
    return {
        "imports": ["$import glob", "$import numpy as np", "$import torch"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/images'",
        "output_dir": "$@bundle_root + '/labels'",
        "datalist": f"$[{{'{INPUT}': file}} for file in sorted(glob.glob(@dataset_dir + '/*.nii*'))]",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": f"$torch.jit.load(@bundle_root + '/{NETWORK}')",
        "network": "$@network_def.to(@device)",
        "preprocessing": {"_target_": "Compose", "transforms": load},
        "dataset": {"_target_": "Dataset", "data": "@datalist", "transform": "@preprocessing"},
        "inferer": {"_target_": "scripts.transforms.WindowInferer"},
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [{"_target_": "scripts.transforms.Decoded", "keys": OUTPUT, "image": INPUT}, save],
        },
        "run": [f"$[@postprocessing({{**one, '{OUTPUT}': {predict}}}) for one in @dataset]"],
    }


def _metadata(model: Handover) -> dict[str, Any]:
    """``metadata.json``."""
    import monai
    import nibabel
    import scipy

    made = model.checkpoint
    plan = made.plan
    window = list(plan.network.patch)
    tensor = {"type": "image", "dtype": "float32", "is_patch_data": True, "spatial_shape": window}
    maps = chain_of(model, NETWORK)["network"]["maps"]
    names = ("background", *made.labels.class_names)
    task = f"Segmentation of {', '.join(made.labels.target_names)}"
    facts: dict[str, Any] = _inert(
        {
            "schema": SCHEMA,
            "version": "1.0.0",
            "changelog": {"1.0.0": f"exported by medseg {__version__}"},
            "monai_version": monai.__version__,
            "pytorch_version": torch.__version__.split("+")[0],
            "numpy_version": np.__version__,
            "optional_packages_version": {"nibabel": nibabel.__version__, "scipy": scipy.__version__},
            "required_packages_version": {"nibabel": nibabel.__version__, "scipy": scipy.__version__},
            "name": model.name,
            "task": task,
            "description": f"{task}, by {plan.network.name}, trained on {made.dataset}; see docs/README.md",
            "authors": ", ".join(model.authors) or model.card["authors"],
            "copyright": f"Licence of the weights: {model.card['licence']}",
            "intended_use": model.card["intended_use"],
            "label_values": dict(zip(names, [0, *made.labels.values], strict=True)),
            "network_data_format": {
                "inputs": {
                    INPUT: {
                        **tensor,
                        "format": "magnitude",
                        "modality": "n/a",
                        "num_channels": plan.network.in_channels,
                        "value_range": [],
                        "channel_def": dict(enumerate(made.channels)),
                    }
                },
                "outputs": {
                    OUTPUT: {
                        **tensor,
                        "format": "classes" if made.labels.regions else "labels",
                        "num_channels": len(maps),
                        "value_range": [],
                        "channel_def": dict(enumerate(maps)),
                    }
                },
            },
        }
    )
    return facts


def _inert(value: Any) -> Any:
    """The value without signs by which MONAI's configuration takes text for code or references."""
    if isinstance(value, str):
        return re.sub(r"[$@%#]", "_", value)
    if isinstance(value, dict):
        return {str(key): _inert(inner) for key, inner in value.items()}
    return [_inert(inner) for inner in value] if isinstance(value, list) else value
