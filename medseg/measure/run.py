"""The measure command: images and masks, from here or from elsewhere, to the files that were asked for."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

from medseg.measure.pairing import find_pairs
from medseg.measure.scenes import Reading
from medseg.measure.writer import ObjectWriter
from medseg.progress import Progress


def run(images: Path, masks: Path, out: Path, kinds: Collection[str], reading: Reading) -> list[Path]:
    """Measure the objects of images.

    Args:
        images, masks: files or folders, see ``find_pairs``.
        out: folder, made if absent.
        kinds: rows of ``OBJECT_FILES`` to write; with tables, ``summary.csv``, a row per image, comes last.
        reading: how they are read.

    Returns:
        The files written.

    Raises:
        DataError: if images and masks do not fit together, or a file would replace one of them.
    """
    pairs = find_pairs(images, masks)
    reading = replace(reading, several=len(pairs) > 1)
    inputs = {path.resolve() for pair in pairs for path in (pair.image, pair.mask)}
    writer = ObjectWriter(out, frozenset(kinds))
    writer.check([pair.name for pair in pairs], inputs)
    bar = Progress("measure", len(pairs))
    for done, pair in enumerate(pairs, start=1):
        writer.write(pair.name, reading.read(pair))
        bar.update(done, str(pair.image))
    return writer.finish()
