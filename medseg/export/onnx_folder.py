"""The network as ONNX, what comes before and after it as ``chain.json``, and a reader that needs no torch."""

from __future__ import annotations

import shutil
from pathlib import Path

from medseg.export.chain import chain_of
from medseg.export.graph import write_onnx
from medseg.export.handover import Handover
from medseg.files import write_json, write_text

NETWORK, CHAIN, READER = "model.onnx", "chain.json", "reader.py"
# Copied beside what is exported; it imports nothing of medseg.
SOURCE = Path(__file__).with_name(READER)
README = """# {name}

`model.onnx` is the network alone, for one window at a time: `image` (1, channels, window) float32 to `logits`
(1, maps, window). `chain.json` says everything else, from the image as stored to its label map. `reader.py` does it, with numpy, scipy and
onnxruntime: `python reader.py IMAGE.nii.gz LABELS.nii.gz` (one channel; with nibabel), or `predict` of it in Python.

Fields of `chain.json`, in the order in which they are used:

| field | meaning |
|---|---|
| `input` | axes and channels of an image, the unit of its voxel sizes; intensities are real numbers (what a header scales is scaled) |
| `orientation.to` | a volume is transposed and flipped so that its axes run closest to right, anterior, superior; null: axes stay |
| `crop.to` | then the box that is kept, the same for all channels |
| `normalization` | then the formula for each channel of the box, in single precision; `mean` and `std` of x are of all voxels of the box, `std` without Bessel's correction; other names stand beside the formula |
| `resampling.spacing` | then voxels of this size, in `input.unit`, per axis of the turned image; 0: each image's own. New voxels per axis: max(1, round(n s / t)), over the same extent: voxel i of n new ones over m old ones has its centre at (i + 1/2) m / n - 1/2 |
| `resampling.order` | by splines of this order, the outermost voxel repeated beyond the border (`scipy.ndimage.zoom(mode="nearest", grid_mode=True)`) |
| `resampling.anisotropy`, `.rounding`, `.coarse_order` | of a volume, the one axis whose voxels are more than `anisotropy` times (1 + `rounding`) longer than the shortest, before or else after resampling, is resampled by nearest neighbour: old voxel floor((i + 1/2) m / n). Longer than (1 - `rounding`) times the longest counts as longest; if two are, there is no such axis |
| `windows.shape` | the image is padded with zeros on both sides to this, the smaller half before; windows of this shape are evenly spaced, the last one at the end: ceil((n - w) / floor(w (1 - `overlap`))) + 1 of them, each start rounded |
| `windows.slice_axis` | the network sees slices across this axis; null: whole windows |
| `windows.sigma`, `.least` | outputs are averaged with Gaussian weights, deviation `sigma` times the window per axis, 1 in the middle, not below `least` |
| `windows.mirror`, `.vector` | whether each window's output is the mean over all mirror images, mirrored back; from map `vector` on (0: none), a map per axis is a vector's component, which changes its sign where its axis is mirrored |
| `network` | file, names of input and output, shape of the input, what each map is; maps are logits |
| `back` | logits go linearly to the voxels of the box (nearest neighbour along the axis above); outside of the box the label is `outside` |
| `decoder` | `rule` says how maps become labels, `values` are those of the label map |
"""


def write(model: Handover, folder: Path) -> None:
    """Write the folder; see ``write_onnx`` for errors."""
    write_onnx(model, folder / NETWORK)
    write_json(folder / CHAIN, chain_of(model, NETWORK))
    shutil.copyfile(SOURCE, folder / READER)
    write_text(folder / "README.md", README.format(name=model.name))
