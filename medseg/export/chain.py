"""``chain.json``: everything between an image and its label map but the network, in numbers and words.

It is written for readers that do without medseg; ``medseg/export/reader.py`` is one, which is copied beside it.
"""

from __future__ import annotations

from typing import Any

from medseg.decoders import decoder_of
from medseg.export.handover import Handover
from medseg.heads import FLOW_SCALE, HEADS
from medseg.image.intensity import LARGEST
from medseg.image.resample import ANISOTROPY, ROUNDING
from medseg.plan.plan import Grid
from medseg.postprocess.settled import read_settled

FORMAT = "medseg-chain-1"
# Defaults of ``medseg.patches.tiling``, which predictions use.
OVERLAP, SIGMA, LEAST = 0.5, 0.125, 1e-3
# Row of ``NORMALIZATIONS`` -> its formula for one channel x of the cropped image, and the statistics that it takes.
FORMULAS: dict[str, tuple[str, tuple[str, ...]]] = {
    "zscore": ("(x - mean(x)) / max(std(x), 1e-8)", ()),
    "zscore_nonzero": (
        "inside = x != 0, holes filled; (x - mean(x[inside])) / max(std(x[inside]), 1e-8) inside, x outside",
        (),
    ),
    "ct": ("(min(max(x, p00_5), p99_5) - mean) / max(std, 1e-8)", ("p00_5", "p99_5", "mean", "std")),
    "percentile": (
        "low, high = percentiles 1 and 99.8 of x, or its minimum and maximum where high <= low; "
        f"(x - low) / max(high - low, (max(x) - min(x)) / {LARGEST:g}), a divisor of 0 counting as 1",
        (),
    ),
    "rescale": ("(x - min(x)) / max(max(x) - min(x), 1e-8)", ()),
    "rgb": ("x of floating point and at most 1: x; else x / 255 where max(x) <= 255, else x / 65535", ()),
    "none": ("x", ()),
}


def chain_of(model: Handover, network_file: str) -> dict[str, Any]:
    """The chain of a model as plain JSON values; ``network_file`` is the network's file beside it."""
    made, plan = model.checkpoint, model.checkpoint.plan
    grid, network = plan.grid, plan.network
    return {
        "format": FORMAT,
        "model": {"name": model.name, "weights_sha256": model.card["model"]["weights_sha256"]},
        "input": {
            "dims": grid.dims,
            "channels": list(made.channels),
            "unit": grid.unit,
            "type": "float32",
        },
        "orientation": {"to": "RAS+" if grid.dims == 3 else None},
        "crop": {"to": "the box of voxels that are not 0 in some channel; the whole image where all are 0"},
        "normalization": [_normalization(grid, channel) for channel in range(network.in_channels)],
        "resampling": {
            "spacing": list(grid.spacing),
            "order": 3,
            "coarse_order": 0,
            "anisotropy": ANISOTROPY,
            "rounding": ROUNDING,
        },
        "windows": {
            "shape": list(plan.window),
            "slice_axis": grid.slice_axis,
            "overlap": OVERLAP,
            "sigma": SIGMA,
            "least": LEAST,
            "mirror": model.mirror,
            "vector": HEADS[network.head].vector if network.head else 0,
        },
        "network": {
            "file": network_file,
            "input": "image",
            "output": "logits",
            "shape": [1, network.in_channels, *network.patch],
            "maps": list(decoder_of(made.labels, network.head).maps(made.labels, network.dims)),
        },
        "back": {"order": 1, "outside": 0},
        "decoder": _decoder(model),
        "postprocess": _postprocess(model),
    }


def _normalization(grid: Grid, channel: int) -> dict[str, Any]:
    name = grid.normalization[channel]
    formula, needs = FORMULAS[name]
    return {"name": name, "formula": formula, **{key: grid.statistics[channel][key] for key in needs}}


def _postprocess(model: Handover) -> dict[str, Any] | None:
    """The operations that ``medseg predict`` applies to label maps of the model; readers elsewhere do not."""
    settled = read_settled(model.folder)
    if settled is None or not settled.steps.applies:
        return None
    note = "applied by medseg alone; labels without it are those of `medseg predict --raw`"
    return {"note": note, "steps": settled.steps.model_dump(mode="json", exclude_defaults=True)}


def _decoder(model: Handover) -> dict[str, Any]:
    """How maps of logits on the voxels of the image become a label map."""
    labels, head = model.checkpoint.labels, model.checkpoint.plan.network.head
    values = {"values": [0, *labels.values], "names": ["background", *labels.class_names]}
    if head:
        tuned = model.checkpoint.decoding
        return {
            "kind": "objects",
            "rule": _object_rule(head),
            "head": head,
            "settings": None if tuned is None else tuned.to_json(),
            **values,
        }
    if labels.regions:
        rule = "0; for each map in its order: where it is above 0, values[painted]"
        return {"kind": "regions", "rule": rule, "painted": list(labels.painted), **values}
    return {"kind": "classes", "rule": "values[index of the largest map], the first of equal ones", **values}


def _object_rule(head: str) -> str:
    row = HEADS[head]
    flows = f", the flow's components divided by {FLOW_SCALE:g}" if row.vector else ""
    return (
        f"head '{head}': {row.about} ({row.paper or 'connected components'}). Maps are logits: sigmoids of the first "
        f"{row.sigmoids}{flows}; where objects have several classes, the last maps are a softmax. Objects are read off "
        "the maps of the whole image; only medseg does that (`medseg predict`)."
    )
