"""The lines that the ingest stage prints at its end: what a data set holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from medseg.ingest.label_source import sources_in_words
from medseg.ingest.manifest import Case, Manifest
from medseg.ingest.splits import Fold

# Most remarks of readers that are printed; all are in the manifest.
REMARKS_SHOWN = 8
# Excluded ids that are printed; all are in dataset.json.
EXCLUDED_SHOWN = 12


def summary(
    manifest: Manifest,
    folds: Sequence[Fold],
    test: Sequence[Case] = (),
    allowed_in_test: Sequence[str] = (),
    objects: Sequence[str] = (),
) -> list[str]:
    """Cases, unit of independence, sizes, classes, folds, test set, what was left out or allowed: one line each.

    ``objects``: lines about objects (``medseg.ingest.objects``), which come behind the classes.
    """
    cases = manifest.cases
    subjects = len({c.subject for c in cases})
    channels = ", ".join(manifest.channels)
    parts = ", ".join(f"{len(fold['train'])} + {len(fold['val'])}" for fold in folds)
    sizes, spacings = _ranges([c.geometry.shape for c in cases]), _ranges([c.geometry.spacing for c in cases])
    lines = [
        f"{len(cases)} cases of {subjects} subjects, {manifest.dims}-D, channels: {channels}",
        f"unit of independence: {manifest.independence}",
        f"voxels {sizes}, spacing {spacings} {cases[0].geometry.unit}",
        *_classes(manifest),
        *objects,
        f"{len(folds)} folds of training + validation cases: {parts}" if folds else "no folds: trained on all cases",
    ]
    if sources := sources_in_words(case.source for case in (*cases, *test)):
        lines.append(f"references: {sources}")
    if test:
        of = len({c.subject for c in test})
        lines.append(f"test set, in no fold and no plan: {len(test)} cases of {of} subjects; `medseg test` opens it")
    if manifest.excluded:
        more = f" and {len(manifest.excluded) - EXCLUDED_SHOWN} more" if len(manifest.excluded) > EXCLUDED_SHOWN else ""
        names = ", ".join(manifest.excluded[:EXCLUDED_SHOWN])
        lines.append(f"excluded by name ({len(manifest.excluded)}): {names}{more}")
    empty = {c.id for c in cases if c.has_reference and not _foreground(manifest, c.label_counts)}
    if empty:
        counts = ", ".join(str(len(empty & set(fold["val"]))) for fold in folds)
        each = f"; per validation fold: {counts}" if folds else ""
        lines.append(f"{len(empty)} cases show no class{each}")
    remarks = Counter(remark for c in cases for remark in c.remarks)
    lines += [f"{n} cases: {remark}" for remark, n in sorted(remarks.items())[:REMARKS_SHOWN]]
    allowed = (*manifest.allowed, *allowed_in_test)
    codes = Counter(line.partition(" · ")[0] for line in allowed)
    if codes:
        lines.append("allowed by name: " + ", ".join(f"{n} x {code}" for code, n in sorted(codes.items())))
        lines += [f"  {line}" for line in allowed]
    return lines


def _ranges(rows: Sequence[Sequence[float]]) -> str:
    """Least to greatest value per axis: ``34-48 x 40-55 x 36``."""
    return " x ".join(
        f"{min(axis):.4g}" if min(axis) == max(axis) else f"{min(axis):.4g}-{max(axis):.4g}"
        for axis in zip(*rows, strict=True)
    )


def _foreground(manifest: Manifest, counts: Mapping[int, int]) -> dict[int, int]:
    return {v: n for v, n in counts.items() if v not in (0, manifest.labels.ignore)}


def _classes(manifest: Manifest) -> list[str]:
    """Per class its share of all annotated voxels, and in how many cases it is."""
    counted = [dict(c.label_counts) for c in manifest.cases if c.has_reference]
    table = manifest.labels
    total = sum(n for counts in counted for v, n in counts.items() if v != table.ignore)
    lines = []
    for name, value in table.names:
        voxels = sum(counts.get(value, 0) for counts in counted)
        cases = sum(value in counts for counts in counted)
        share = voxels / total if total else 0.0
        what = "all objects" if table.instances and len(table.names) == 1 else str(value)
        lines.append(f"class {name} ({what}): {share:.3%} of voxels, {cases} of {len(counted)} cases")
    return lines
