"""The code that MLflow runs to load a model (models-from-code: a copy of it is stored beside the weights).

Weights and description are plain artifacts, so nothing is unpickled. Predictions are made by the installed
``medseg``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc import PythonModel
from pandas import DataFrame


class SegmentationModel(PythonModel):  # type: ignore[misc]
    """Paths of images in, paths of label maps out; or arrays in, arrays of labels out.

    An array comes as a mapping: ``{"array": …, "spacing": [1, 1, 1]}``, or with ``affine``; ``unit`` and ``allow`` may
    stand beside it. As JSON the numbers are nested lists, or base64 with ``dtype`` and ``shape``; then the answer has
    that form, too (``medseg.tracking.answers``). ``mlflow models serve`` takes ``{"inputs": …}`` of one or a list.

    Label maps of object data hold object numbers; where objects have several classes, the class of each voxel lies
    beside a file, in ``NAME.classes.SUFFIX``, and the class of each number beside an array.

    Files are read as the training read its own, and what is doubtful about them is refused unless the training, or the
    model configuration, allows it by name. That also has the folder of the label maps: ``mlflow.pyfunc.load_model(uri,
    model_config={"out": "predictions", "allow": ["shear"]})``; its other keys are ``layout``, ``series``, ``spacing``,
    ``orientation``, ``fill``, ``axes``, ``channels``, ``device``, ``threads``, ``mirror``, ``runtime``, ``overlap``,
    ``max_gb``, ``references``, ``uncertainty``: see ``How``; and ``raw``: the network's own label maps, without the
    model's post-processing.
    """

    def load_context(self, context: Any) -> None:
        """Remember where the model folder is; weights are read when the first image comes."""
        from medseg.postprocess.of_model import steps_of_model
        from medseg.predict.batch import options_of
        from medseg.predict.code import code_of
        from medseg.results.folders import ModelFolder
        from medseg.tracking.answers import Answering

        folder = Path(context.artifacts[ModelFolder(Path()).description.name]).parent
        how = dict(context.model_config or {})
        out, raw = Path(how.pop("out", "predictions")), bool(how.pop("raw", None))
        finish = None if raw else steps_of_model(folder)
        self.answering = Answering(folder, out, options_of({**how, "code": code_of([folder]), "finish": finish}))

    # The hint is one that MLflow makes no schema of: with a schema it would refuse either paths or arrays, and without
    # a hint it warns at every start.
    def predict(self, context: Any, model_input: DataFrame, params: dict[str, Any] | None = None) -> Any:
        """Predict one image or several, see ``Answering.answer``.

        Raises:
            ImagesFailed: if images could not be predicted, with all of them and why; the label maps of the others are
                written.
        """
        return self.answering.answer(model_input)


set_model(SegmentationModel())
