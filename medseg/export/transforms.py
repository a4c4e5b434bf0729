"""MONAI's transforms and inferer around ``reader``; copied into bundles, where they need nothing of medseg.

They read ``chain.json``, which lies beside them. The image is prepared as a whole, the network sees windows of it, and
the label map comes back on the voxels and with the affine of the image as it was loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.transforms import MapTransform

from medseg.export import reader

CHAIN = reader.read_chain(Path(__file__).with_name("chain.json")) if __name__.startswith("scripts") else {}
RECORD = "prepared"


class Prepared(MapTransform):  # type: ignore[misc]
    """Prepares the image (C, S) under each key, loaded with its affine; what was done stands in ``KEY_prepared``."""

    def __call__(self, data: Any) -> dict[str, Any]:
        """The data with prepared images; they keep the meta data of the image as it was loaded."""
        found = dict(data)
        for key in self.key_iterator(found):
            image = found[key]
            prepared = reader.prepare(image.cpu().numpy(), np.asarray(image.affine), CHAIN)
            found[key] = MetaTensor(torch.from_numpy(prepared.image), meta=dict(image.meta))
            found[f"{key}_{RECORD}"] = prepared
        return found


class WindowInferer(Inferer):  # type: ignore[misc]
    """Blends the network's logits over the windows of the chain: (N, C, S) to (N, K, S)."""

    def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Logits of images that ``Prepared`` made."""

        def run(window: reader.Array) -> reader.Array:
            with torch.no_grad():
                found: reader.Array = network(torch.from_numpy(window).to(inputs.device)).float().cpu().numpy()
            return found

        # Meta data would follow every window.
        images = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        return torch.from_numpy(np.stack([reader.blend(image.cpu().numpy(), CHAIN, run) for image in images]))


class Decoded(MapTransform):  # type: ignore[misc]
    """Makes a label map (1, S) of the logits (K, S) under each key, on the voxels of the image ``image`` as loaded."""

    def __init__(self, keys: Any, image: str = "image") -> None:
        super().__init__(keys)
        self.image = image

    def __call__(self, data: Any) -> dict[str, Any]:
        """The data with label maps; they have the meta data of the image."""
        found = dict(data)
        for key in self.key_iterator(found):
            logits = torch.as_tensor(found[key]).cpu().numpy()
            labels = reader.restore(logits, found[f"{self.image}_{RECORD}"], CHAIN)
            found[key] = MetaTensor(torch.from_numpy(labels[None]), meta=dict(found[self.image].meta))
        return found
