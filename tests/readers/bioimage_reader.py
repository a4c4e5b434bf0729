"""Tests a package by bioimageio.core, and predicts images by its network; run by a Python that has bioimageio.core.

``python bioimage_reader.py PACKAGE.zip FOLDER``: of each ``NAME.npz`` (image, affine) in the folder, it makes
``NAME.npy``.
"""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import bioimageio.core
import numpy as np
from bioimageio.core.common import MemberId
from bioimageio.core.sample import Sample
from bioimageio.core.tensor import Tensor

package, folder = sys.argv[1:3]
summary = bioimageio.core.test_description(package, devices=["cpu"])
assert summary.status == "passed", summary.display()
with zipfile.ZipFile(package) as archive:
    archive.extractall(Path(folder) / "package")
sys.path.insert(0, str(Path(folder) / "package"))
import reader

description = bioimageio.core.load_model_description(package)
pipeline = bioimageio.core.create_prediction_pipeline(description, devices=["cpu"])
dims = [axis.id for axis in description.inputs[0].axes]


def network(window: np.ndarray) -> np.ndarray:
    sample = Sample(members={MemberId("image"): Tensor(window, dims)}, stat={}, id="window")
    made = pipeline.predict_sample_without_blocking(sample, skip_preprocessing=True, skip_postprocessing=True)
    return np.asarray(made.members[MemberId("logits")].data)


chain = reader.read_chain(Path(folder) / "package" / "chain.json")
for path in sorted(Path(folder).glob("*.npz")):
    with np.load(path) as case:
        np.save(path.with_suffix(".npy"), reader.predict(case["image"], case["affine"], chain, network))
