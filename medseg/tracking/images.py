"""Pictures as MLflow's image grid finds them: the same cases under the same names in all runs.

MLflow's own ``log_image`` gives every picture a random name, so that a replay would add it again. Here a name follows
from the case and the start of the run, and a picture that is sent again replaces the earlier one.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from pathlib import Path

from medseg.results.paths import Results
from medseg.tracking.names import metric_name
from medseg.tracking.spec import RunSpec

# Tag of runs that have such pictures, by which MLflow offers the grid.
LOGGED_IMAGES = {"mlflow.loggedImages": "True"}


def fixed_images(results: Path, spec: RunSpec, cases: Iterable[str], start_ms: int) -> dict[str, bytes]:
    """Name -> picture of a model's predictions of fixed cases, in full and compressed; those that the report has.

    Args:
        results: ``results/<experiment>``.
        spec: data set and model.
        cases: those of the run.
        start_ms: start of the run, unix ms.
    """
    report = Results(results).report
    found: dict[str, bytes] = {}
    for case in sorted(set(cases)):
        path = report.figure("fixed", spec.dataset, case, spec.model)
        if path.is_file():
            picture = path.read_bytes()
            name = f"images/{image_name(case, start_ms)}"
            found |= {f"{name}.png": picture, f"{name}+compressed.webp": _compressed(picture)}
    return found


def image_name(case: str, start_ms: int) -> str:
    """What MLflow reads of a picture's name: key, step, time, and a number that tells apart."""
    key = metric_name(case)
    return f"{key}+step+0+timestamp+{start_ms}+{uuid.uuid5(uuid.NAMESPACE_OID, key)}"


def _compressed(picture: bytes) -> bytes:
    """A PNG as WebP."""
    import imagecodecs
    import numpy as np

    pixels = imagecodecs.png_decode(picture)
    return bytes(imagecodecs.webp_encode(np.ascontiguousarray(pixels[..., :3])))
