"""The code that MLflow runs to load a model (models-from-code: a copy of it is stored beside the weights).

Weights and description are plain artifacts, so nothing is unpickled. Predictions are made by the installed
``medseg``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class SegmentationModel(PythonModel):  # type: ignore[misc]
    """Paths of images in, paths of label maps out.

    Label maps of object data hold object numbers; where objects have several classes, the class of each voxel lies
    beside, in ``NAME.classes.SUFFIX``.

    Files are read as the training read its own, and what is doubtful about them is refused unless the training, or the
    model configuration, allows it by name. That also has the folder of the label maps: ``mlflow.pyfunc.load_model(uri,
    model_config={"out": "predictions", "allow": ["shear"]})``; its other keys are ``layout``, ``series``, ``spacing``,
    ``orientation``, ``fill``, ``axes``, ``channels``, ``device``, ``threads``, ``mirror``, ``max_gb``,
    ``references``: see ``How``.
    """

    def load_context(self, context: Any) -> None:
        """Remember where the model folder is; weights are read when the first image comes."""
        from medseg.results.folders import ModelFolder

        description = ModelFolder(Path()).description.name
        self.folder = Path(context.artifacts[description]).parent
        self.how = dict(context.model_config or {})
        self.out = Path(self.how.pop("out", "predictions"))

    def predict(self, context: Any, model_input: list[str], params: dict[str, Any] | None = None) -> list[str]:
        """Predict every image file; the label maps come in the same order.

        Raises:
            ImagesFailed: if images could not be predicted, with all of them and why; the label maps of the others are
                written.
        """
        from medseg.predict.code import code_of
        from medseg.predict.files import options_of, predict_files

        how = options_of({**self.how, "code": code_of([self.folder])})
        return [str(path) for path in predict_files([Path(p) for p in model_input], self.folder, self.out, how)]


set_model(SegmentationModel())
