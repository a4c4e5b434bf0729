"""What a model in MLflow answers: label maps of paths, and labels of arrays that come as JSON can carry them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medseg.errors import DataError

if TYPE_CHECKING:
    from medseg.predict.batch import How
    from medseg.predict.predictor import Predictor

# Fields of an image that is no file.
FIELDS = ("array", "dtype", "shape", "spacing", "affine", "unit", "allow")


class Answering:
    """A model folder that answers; the network is built for the first array and kept.

    Args:
        folder: model folder.
        out: folder of the label maps of files.
        how: options of ``medseg predict``.
    """

    def __init__(self, folder: Path, out: Path, how: How) -> None:
        self._folder, self._out, self._how = folder, out, how
        self._predictor: Predictor | None = None

    def answer(self, asked: Any) -> Any:
        """Label maps for what was asked: one for one, a list for several.

        Args:
            asked: a path or an image (see ``image_of``), a list or array of them, or a table whose first column has
                paths.

        Returns:
            The path of the label map of a path; for an image its label array, or what ``encoded`` makes of that.

        Raises:
            DataError: if nothing was asked, or an image does not fit.
            ImagesFailed: if files could not be predicted.
        """
        if hasattr(asked, "iloc"):
            asked = asked.iloc[:, 0]
        # A request's single path is an array without axes.
        asked = asked.tolist() if hasattr(asked, "tolist") else asked
        if isinstance(asked, Mapping):
            return self._of_image(asked)
        if isinstance(asked, str | Path):
            return self._of_paths([asked])[0]
        several = list(asked)
        if several and all(isinstance(one, Mapping) for one in several):
            return [self._of_image(one) for one in several]
        if not several or not all(isinstance(one, str | Path) for one in several):
            raise DataError(f"expected paths, or images with the fields {', '.join(FIELDS)}")
        return self._of_paths(several)

    def _of_paths(self, paths: list[Any]) -> list[str]:
        from medseg.predict import files

        return [str(path) for path in files.predict_files([Path(p) for p in paths], self._folder, self._out, self._how)]

    def _of_image(self, fields: Mapping[str, Any]) -> Any:
        from medseg.predict.array import predict_array
        from medseg.predict.predictor import Predictor
        from medseg.predict.terms import Terms

        # MLflow makes arrays of all values of a request, of text and numbers, too.
        given = {key: value.tolist() if hasattr(value, "tolist") else value for key, value in fields.items()}
        image, coded = image_of({**given, "array": fields.get("array")})
        how = self._how
        if self._predictor is None:
            self._predictor = Predictor(self._folder, *how.running)
        allow = (*how.allow, *(given.get("allow") or ()))
        terms = Terms.of(self._predictor.checkpoint, fill=how.fill, allow=allow)
        grid = {name: given.get(name) for name in ("spacing", "affine", "unit")}
        found = predict_array(image, self._predictor, terms, finish=how.finish, **grid)
        labels = encoded(found.values) if coded else found.values
        if found.classes is None or not self._predictor.checkpoint.labels.objects_have_classes:
            return labels
        values = self._predictor.checkpoint.labels.to_values(found.classes)
        return {"labels": labels, "classes": values.tolist()}


def image_of(fields: Mapping[str, Any]) -> tuple[NDArray[Any], bool]:
    """The array of a request, and whether it came in base64.

    Args:
        fields: ``array``: numbers in nested lists, or bytes in base64 (C order) with ``dtype`` (numpy's name of it, as
            ``<f4``) and ``shape``.

    Raises:
        DataError: for fields that are missing, unknown, or contradict one another.
    """
    if strange := sorted(set(fields) - set(FIELDS)):
        raise DataError(f"unknown fields {strange}; an image has {', '.join(FIELDS)}")
    array, shape = fields.get("array"), fields.get("shape")
    if isinstance(array, np.ndarray) and array.ndim == 0:
        array = array.item()
    try:
        dtype = None if fields.get("dtype") is None else np.dtype(str(fields["dtype"]))
        if not isinstance(array, str):
            if array is None:
                raise DataError("array: missing; expected nested lists of numbers, or base64 with `dtype` and `shape`")
            return np.asarray(array, dtype=dtype), False
        if dtype is None or dtype.kind not in "iufb" or shape is None:
            raise DataError("array: in base64; expected `dtype` of numbers, as '<f4', and `shape` beside it")
        data = base64.b64decode(array, validate=True)
        return np.frombuffer(data, dtype=dtype).reshape([int(n) for n in shape]).astype(dtype.newbyteorder("=")), True
    except (TypeError, ValueError, binascii.Error) as error:
        raise DataError(f"array: no array of numbers ({error}); expected one of `shape` and `dtype`") from None


def encoded(array: NDArray[Any]) -> dict[str, Any]:
    """An array as JSON carries it in few bytes: base64, dtype and shape."""
    little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"))
    return {"array": base64.b64encode(little.tobytes()).decode(), "dtype": little.dtype.str, "shape": list(array.shape)}
