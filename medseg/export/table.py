"""The table of exports: what can be written of a trained model, for whom, and what each form can hold.

Importing it imports no torch: the command line prints it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

# What a model can be, besides classes of volumes and pictures, which every form holds unless it says otherwise.
REGIONS, OBJECTS, SLICES, PICTURES, PROPOSALS = (
    "regions",
    "maps of objects",
    "slices of volumes",
    "pictures",
    "region proposals",
)
_GRAPH = "what the network computes depends on what it finds in the image, which a fixed graph cannot say"
_DECODED = "objects are read off maps by code of medseg, which this form has no room for"
_FULL = "`--to folder` and `--to pyfunc` hold every model"


@dataclass(frozen=True, slots=True)
class Export:
    """A row of the table.

    Attributes:
        about: what is written, in one line.
        write: ``module:function`` of a ``Handover`` and an empty folder, which it fills.
        reader: the program that reads it back in the tests, with equal labels.
        cannot: kinds of models that it cannot hold, each with the reason and what to do instead.
        needs: modules beyond those of medseg that writing needs; ``pip install 'medseg[export]'`` brings them.
        pickle: the pickle that the format forces; empty: there is none.
    """

    about: str
    write: str
    reader: str
    cannot: Mapping[str, str] = field(default_factory=dict)
    needs: tuple[str, ...] = ()
    pickle: str = ""


EXPORTS: Mapping[str, Export] = {
    "folder": Export(
        about="model.json, model.safetensors and a model card; medseg predicts with it",
        write="medseg.export.folder:write",
        reader="medseg predict",
    ),
    "onnx": Export(
        about="the network as ONNX, chain.json that says all before and after it, and a reader without torch",
        write="medseg.export.onnx_folder:write",
        reader="onnxruntime, numpy, scipy",
        cannot={PROPOSALS: f"{_GRAPH}; {_FULL}"},
        needs=("onnx", "onnxruntime", "onnxscript"),
    ),
    "pyfunc": Export(
        about="an MLflow model: paths or arrays in, label maps out; `mlflow models serve` serves it",
        write="medseg.export.pyfunc:write",
        reader="mlflow models serve, HTTP",
    ),
    "bioimageio": Export(
        about="a package of the BioImage Model Zoo (spec 0.5) with test tensors, the network as ONNX",
        write="medseg.export.bioimage:write",
        reader="bioimageio.core",
        cannot={PROPOSALS: f"{_GRAPH}; {_FULL}"},
        needs=("onnx", "onnxruntime", "onnxscript"),
    ),
    "monai": Export(
        about="a MONAI bundle for monai.bundle, MONAI Label and Deploy; it runs without medseg",
        write="medseg.export.bundle:write",
        reader="monai.bundle",
        cannot={
            PROPOSALS: f"{_GRAPH}; {_FULL}",
            OBJECTS: f"{_DECODED}; `--to onnx` gives the maps, {_FULL}",
            PICTURES: "MONAI reads pictures with their axes exchanged; `--to onnx` and `--to bioimageio` hold them",
        },
        pickle="models/model.ts is TorchScript, whose archive holds a pickle that torch.jit.load reads by itself",
    ),
}
