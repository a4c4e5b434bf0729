"""Write docs/metrics.md from the table of metrics: python docs/write_metrics.py

What the table says is taken from it, and the values of the edge cases are computed by it. A test compares the page with
what this script would write.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medseg.files import write_bytes
from medseg.metrics.pair import Pair, value_of
from medseg.metrics.row import Metric
from medseg.metrics.table import METRICS

PAGE = Path(__file__).with_name("metrics.md")
BENCHMARK = PAGE.parents[1] / "benchmarks" / "results" / "metrics.json"
OBJECT_BENCHMARK = BENCHMARK.with_name("objects.json")
NEEDS = {"tolerance": "a tolerance", "objects": "a number for each object"}
SPACING, TOLERANCE = (2.5, 0.8, 0.8), 1.0
WORST = {"diagonal": "the grid's diagonal", "bits": "log2(1 + voxels)"}
SCOPES = {"always": "always", "default": "unless `names` says otherwise", "named": "only if `names` has it"}

HEAD = """# Metrics

This page is written by `docs/write_metrics.py` from the table in `medseg/metrics/table.py`; who counts, and what is
averaged and compared, stands in `docs/evaluation.md`.

```yaml
datasets:
  livers:
    metrics:
      tolerance: {liver: 2.0, tumour: 1.0}    # NSD, in the data's unit (mm, um, else pixels); no default
      names: [hd95, nsd, assd_faces]          # beside dice and iou; left out: all but those "only if named"
  cells:
    instances: true                           # label files number objects: these are scored one by one
    metrics:
      names: [ap50, map, aji_plus, merge_rate, split_rate, are, vi_split, vi_merge]   # beside dice, iou and pq
```

A changed `metrics` section evaluates again and trains nothing again. `medseg ingest` refuses a tolerance of
what is no class, and warns of one that is less than 1.5 times the in-plane spacing, since NSD then measures how the
border falls on the voxels. What a
score was computed by stands in its row: the definition's id, and the tolerance after an `@`
(`nsd/share-within-tau/erosion-face-v1@2 mm`). Rows of another definition are never averaged with these.
"""

RULES = """
## Rules

- **The reference decides who counts.** Where it lacks the class there is no value, whatever was predicted; what was
  invented stands in `fp` and `volume_pred`.
- **A missed class and a failed case have the worst value**: 0, or for distances the diagonal of the box of the
  reference's grid. No distance within a grid is larger, so that no prediction is worse than none. One missed case
  moves a mean of distances far; the median stands beside it.
- **Voxels that nobody annotated** (`ignore`) belong to neither mask, so that both have a boundary there.
- **Spacing** is that of the image's own grid, per axis. Where the axes are not at right angles (the fault `shear`,
  allowed by name), distances are those of a grid with right angles and the same sides.
- **Outside the image is background**: an organ that the field of view cuts has a boundary there, in both masks.
- A distance that equals the tolerance is within it, also where a file rounded the spacing: distances count that exceed
  the tolerance by up to a millionth of it (a NIfTI file's 0.8 is 0.800000011920929).

## Two definitions of a boundary

`erosion-face-v1`: the voxels of a mask that have a face neighbour outside it; distances are between their centres.
This is what most tools compute, up to the differences below. Voxels at edges and corners count once, however much
surface they have, and near the size of a voxel NSD jumps.

`faces-v1`: the faces between voxels of the mask and others. The distance from each point of one surface to the
nearest point of the other one is integrated over the area of the faces (the length, in 2-D), so that the voxels'
size and shape matter no more than the body's surface demands: two cubes of side 20, one moved by 2, have an NSD of
0.6650 at a tolerance of 1 by their closed form, by `nsd_faces` with voxels of 1 and of 0.5, and of @voxels@ and
@halves@ by boundary voxels. Boxes of any spacing are exact to 1e-9. On other bodies the integral along one axis is
exact and along the other one by Gauss's rule with 8 nodes on each smooth piece: of rough balls, ASSD changed by
less than 2e-5 of itself and NSD by less than 1e-4 when the voxels were halved, which changes nothing about the
bodies. The nearest faces are found for certain within 5 times the smallest side of a voxel, and beyond that among the
96 faces whose centres are nearest. `assd_faces` and `nsd_faces` take @ratio@ times as long as ASSD and NSD by voxels
(`benchmarks/metrics.py`), and are therefore computed only where they are named. Worst of what was
measured: a ball against 1 % of all voxels at random, where few faces have another one near them; it takes 100 times as
long as ASSD and NSD by voxels at 150^3 (10 s), and 47 times as long at 300^3 (120 s, 300,000 boundary voxels, 216 MB).
"""

OBJECTS = """
## Objects

Where labels number objects (`instances: true`, or a layout with a mask per object), reference and prediction are
matched object by object, class by class.

- **A match** is one to one. Of all assignments of pairs with an IoU of at least the threshold, the one with the most
  pairs counts, and of these the one with the largest sum of IoU. Above 0.5 no object has a choice. PQ, SQ and RQ
  count an IoU above 0.5, AP and F1 one of 0.5, too. An IoU of 11/20 reaches 0.55 exactly.
- **AP** is TP / (TP + FP + FN), as StarDist, Cellpose and the Data Science Bowl call it. COCO's AP, an area under a
  curve of ranked detections, is something else.
- **One case**: a reference without objects gives no value, whatever was predicted; such cases are counted
  (`n_lacking`, `n_spurious`), and the ranking score counts those that were left empty. A prediction without objects has
  the worst value, of all metrics. SQ without a match is 0.
- **A data set**: `..._subject` and `..._case` are means over cases, in which an image of three cells weighs as much as
  one of three hundred. `..._pooled` is taken of matches, intersections and unions summed over all cases: StarDist's
  way, in which every cell weighs the same. Score tables have these quantities as rows: `n_objects_ref`,
  `n_objects_pred`, `matched_50` to `matched_95`, `pq_tp`, `pq_iou`, `aji_intersection`, `aji_union`,
  `aji_plus_intersection`, `aji_plus_union`, `n_merged`, `n_split`.
- **Merged and split**: a predicted object holds a reference object if it has more than half of its voxels (the test
  of the Cell Tracking Challenge, Matula 2015). Reference objects are merged if one predicted object holds two of them
  or more; a reference object is split if it holds two predicted ones or more, by the same test the other way round. The
  rates are shares of the reference's objects; a case without a prediction counts 1: nothing found is not the best.
- **The error of the count** is a share of the larger number, since a difference has no worst value; the signed
  difference is `n_objects_pred` less `n_objects_ref`.
- **Where nobody annotated** (`ignore`): a predicted object with more than half of its voxels there is left out, others
  are cropped.
- **Numbers are names**: no score depends on how a file numbers its objects; ties are settled by where objects lie.

Overlaps are counted in a sparse table, and an assignment is computed only among objects that have a choice: @speed@
(`benchmarks/objects.py`).
"""

PEERS = """
## Where others differ

Measured: MONAI 1.6.1 and surface-distance 0.1 (with numpy 2) on the masks of the edge cases; MetricsReloaded cb38dfc,
panoptica 2.1.7 and seg-metrics 1.2.8 by their functions, called one by one. Elsewhere values agree: MONAI's
HD, HD95, ASSD (`symmetric=True`) and NSD do to 5 digits.

"""
DIFFERENCES = (
    ("both masks empty", "none", "MONAI: NaN; MetricsReloaded: Dice 1, HD95 0, NSD 1; panoptica: Dice 0"),
    (
        "prediction empty",
        "the worst",
        "MONAI: HD and ASSD infinite, HD95 NaN, which its mean drops; surface-distance: AttributeError; seg-metrics: "
        "HD95 0",
    ),
    (
        "reference empty",
        "none",
        "MONAI: Dice NaN, HD infinite, HD95 NaN, NSD 0; MetricsReloaded: Dice 0, NSD 0; seg-metrics: HD95 0",
    ),
    ("mean of HD95 over a missed and a perfect case", "half the diagonal", "MONAI: 0"),
    ("HD95 of two sides", "larger of the two directed percentiles", "panoptica, seg-metrics: of both sides together"),
    (
        "weights in ASSD and NSD",
        "boundary voxels; area with `faces-v1`",
        "surface-distance, and MONAI's NSD with `use_subvoxels`: area of surface elements between voxel centres",
    ),
    ("ASSD", "sum of both sides / number of both", "panoptica: mean of the two directed means, here MASD"),
    ("NSD", "share of both sides together", "panoptica: mean of the two sides' shares"),
    (
        "AP, F1, AJI of an image without reference objects",
        "none",
        "StarDist: 0, also where none was predicted, and mean of images over all of them; Cellpose: 0 / 0",
    ),
    (
        "matches below a threshold of 0.5",
        "largest sum of IoU over matched pairs",
        "StarDist, Cellpose: over all pairs, so those below the threshold have a say; TP are the same",
    ),
    ("AJI", "Kumar's", "Cellpose's `aggregated_jaccard_index`: overlap of matched objects / union of both foregrounds"),
    ("ARE, VI", "background of the reference left out", "scikit-image: only with `ignore_labels=(0,)`"),
)


def page() -> str:
    """The page as text."""
    rows = [_row(name, metric) for name, metric in METRICS.items()]
    table = _table(
        ("name", "title", "definition", "what", "unit", "better", "range", "worst", "pooled", "computed"), rows
    )
    sources = _table(
        ("name", "paper", "family of tests", "checked against"),
        [(f"`{name}`", metric.paper, metric.family, metric.oracle) for name, metric in METRICS.items()],
    )
    cubes = {share: _cube_nsd(share) for share in (1, 2)}
    rules = RULES.replace("@voxels@", f"{cubes[1]:.4f}").replace("@halves@", f"{cubes[2]:.4f}")
    rules = rules.replace("@ratio@", _ratios())
    objects = OBJECTS.replace("@speed@", _object_speed())
    parts = [HEAD, "\n## The table\n\n", table, "\n", sources, rules, objects, "\n## Edge cases\n\n"]
    parts += [_edge_cases(), "\n", _object_cases(), PEERS, _table(("question", "here", "elsewhere"), DIFFERENCES)]
    return "".join(parts)


def _row(name: str, metric: Metric) -> Sequence[str]:
    high = "∞" if math.isinf(metric.high) else f"{metric.high:g}"
    computed = SCOPES[metric.scope]
    computed += "".join(f", where there is {what}" for need, what in NEEDS.items() if need in metric.needs)
    return (
        f"`{name}`",
        metric.title,
        f"`{metric.definition}`",
        metric.formula,
        "that of the grid" if metric.unit == "length" else metric.unit,
        metric.better,
        f"{metric.low:g} to {high}",
        WORST[metric.worst] if isinstance(metric.worst, str) else f"{metric.worst:g}",
        "of sums over cases" if metric.pooled else "",
        computed,
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _cube_nsd(parts: int) -> float:
    """NSD by boundary voxels of two cubes of side 20, one moved by 2, at a tolerance of 1, with voxels of 1 / parts."""
    one, two = np.zeros((2, *(24 * parts,) * 3), bool)
    end = 21 * parts
    one[parts:end, parts:end, parts:end] = True
    two[3 * parts : end + 2 * parts, parts:end, parts:end] = True
    return value_of(METRICS["nsd"], Pair(one, two, (1 / parts,) * 3, tolerance=1.0))


def edge_cases() -> dict[str, tuple[NDArray[np.bool_], NDArray[np.bool_]]]:
    """Name -> reference and prediction, 12 voxels along each axis."""
    none, full = np.zeros((12,) * 3, bool), np.ones((12,) * 3, bool)
    some, dot, other, short, long = (none.copy() for _ in range(5))
    some[3:7, 3:7, 3:7] = True
    dot[3, 3, 3], other[3, 3, 6] = True, True
    short[0:4, 3:7, 3:7], long[0:5, 3:7, 3:7] = True, True
    return {
        "both empty": (none, none),
        "prediction empty": (some, none),
        "reference empty": (none, some),
        "equal": (some, some),
        "equal, the whole image": (full, full),
        "the whole image against a part": (full, some),
        "one voxel, and one 3 voxels further in plane": (dot, other),
        "cut by the field of view, one slice too long": (short, long),
        "two dimensions, one row too long": (short[:, 4], long[:, 4]),
    }


def object_cases() -> dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Name -> object numbers of reference and prediction, 12 x 12 pixels."""
    none, full = np.zeros((12, 12), int), np.ones((12, 12), int)
    two, one, first, halves, moved, many = (none.copy() for _ in range(6))
    two[1:11, 1:6], two[1:11, 6:11] = 1, 2
    one[1:11, 1:11] = 1
    first[1:11, 1:6] = 1
    halves[1:6, 1:6], halves[6:11, 1:6] = 1, 2
    moved[3:12, 1:6], moved[3:12, 6:11] = 1, 2
    many[1:11, 1:6], many[1:11, 6:8], many[1:11, 9:11] = 1, 2, 3
    return {
        "both empty": (none, none),
        "prediction empty": (two, none),
        "reference empty": (none, two),
        "equal": (two, two),
        "equal, the whole image": (full, full),
        "equal, numbered otherwise": (two, np.array([0, 9, 4])[two]),
        "two objects as one": (two, one),
        "one object as two": (first, halves),
        "one of two found": (two, first),
        "one found, one invented": (first, two),
        "one found, one in two pieces": (two, many),
        "both moved by 2 pixels": (two, moved),
    }


def _ratios() -> str:
    """How many times as long the faces take in the measured cases."""
    measured = json.loads(BENCHMARK.read_text())
    return " to ".join(
        f"{ratio:g}" for ratio in sorted(measured[case]["faces_over_voxels"] for case in ("small", "ct"))
    )


def _object_speed() -> str:
    """What was measured of matching objects."""
    measured = json.loads(OBJECT_BENCHMARK.read_text())
    many, peer = measured["2d_10000"], measured["2d_1000"]
    return (
        f"{many['objects']:,} objects with all default metrics in {many['seconds']:.2f} s of processor time, "
        f"{peer['objects']:,} in {peer['seconds'] * 1000:.0f} ms, where MONAI's `PanopticQualityMetric` takes "
        f"{peer['monai_seconds']:.0f} s"
    )


def _edge_cases() -> str:
    rows = []
    for name, masks in edge_cases().items():
        spacing = SPACING[3 - masks[0].ndim :]
        pair = Pair(*masks, spacing, tolerance=TOLERANCE)
        found = [value_of(metric, pair) for metric in _without_objects().values()]
        rows.append((name, *map(_text, found)))
    sides = " x ".join(f"{side:g}" for side in SPACING)
    text = f"Masks on a grid of 12 x 12 x 12 voxels of {sides} mm; tolerance {TOLERANCE:g} mm.\n\n"
    return text + _table(("reference and prediction", *(f"`{name}`" for name in _without_objects())), rows)


def _object_cases() -> str:
    metrics = {name: metric for name, metric in METRICS.items() if "objects" in metric.needs}
    rows = []
    for name, maps in object_cases().items():
        pair = Pair(*maps, (1.0, 1.0), numbers=maps)
        rows.append((name, *(_text(value_of(metric, pair)) for metric in metrics.values())))
    text = "Objects on a grid of 12 x 12 pixels.\n\n"
    return text + _table(("reference and prediction", *(f"`{name}`" for name in metrics)), rows)


def _without_objects() -> dict[str, Metric]:
    return {name: metric for name, metric in METRICS.items() if "objects" not in metric.needs}


def _text(value: float) -> str:
    return "none" if math.isnan(value) else f"{value:.4g}"


if __name__ == "__main__":
    write_bytes(PAGE, page().encode())
