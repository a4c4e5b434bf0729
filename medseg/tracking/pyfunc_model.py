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

    The label maps are written into the folder ``out`` of the model configuration:
    ``mlflow.pyfunc.load_model(uri, model_config={"out": "predictions"})``.
    """

    def load_context(self, context: Any) -> None:
        """Remember where the model folder is; weights are read when the first image comes."""
        from medseg.results.folders import ModelFolder

        description = ModelFolder(Path()).description.name
        self.folder = Path(context.artifacts[description]).parent
        self.out = Path((context.model_config or {}).get("out", "predictions"))

    def predict(self, context: Any, model_input: list[str], params: dict[str, Any] | None = None) -> list[str]:
        """Predict every image file; the label maps come in the same order."""
        from medseg.predict.run import predict_files

        return [str(path) for path in predict_files([Path(p) for p in model_input], self.folder, self.out)]


set_model(SegmentationModel())
