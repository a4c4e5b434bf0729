"""TIFF (Adobe, revision 6.0; BigTIFF): pictures and volumes, plain, of ImageJ, of tifffile, and OME-TIFF.

The directories are walked here first, so that everything they claim is inside the file; tifffile decodes the pixels.
"""

from __future__ import annotations

import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medseg.formats.alpha import without_alpha
from medseg.formats.content import Content, Data, FileBytes
from medseg.formats.errors import FormatError
from medseg.formats.foreign import tiff_maker
from medseg.formats.source import Source, Voxels
from medseg.formats.tiff.axes import PageLayout, page_layout
from medseg.formats.tiff.checks import JPEG, check_pages, check_pieces, white_is_zero
from medseg.formats.tiff.directory import count_pages
from medseg.formats.tiff.facts import PageFacts
from medseg.formats.tiff.ome import is_ome
from medseg.formats.tiff.planes import PageVoxels, decoding
from medseg.formats.world import World

_INVERTED = "one bit per pixel, white is zero: bits inverted, so that 0 is black and 1 is white, as programs show it"


# ResolutionUnit: none, inch, centimetre, and those that some programs add, millimetre and micrometre.
UNITS = (1, 2, 3, 4, 5)


class _Stream(io.RawIOBase):
    """The bytes of a file as a stream, for a library that reads one."""

    def __init__(self, data: FileBytes) -> None:
        self._data: Data = data
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: len(self._data)}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        piece = self._data[self._at : self._at + len(buffer)]
        buffer[: len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def close(self) -> None:
        """Forget the bytes: the library's pages refer to each other and to this stream, and would keep a file open."""
        self._data = b""
        super().close()


def open_tiff(path: Path, content: Content) -> Source:
    """Open a TIFF; see ``medseg.formats.read.open_image`` for the contract and docs/formats.md for the rules."""
    return _open(path, content.main, content.axes, must_be_ome=False)


def open_ome_tiff(path: Path, content: Content) -> Source:
    """Open a TIFF that must have OME-XML."""
    return _open(path, content.main, content.axes, must_be_ome=True)


def _open(path: Path, data: Data, axes: str, *, must_be_ome: bool) -> Source:
    import tifffile

    count = count_pages(path, data)
    # What the library would log is either in our error or of no interest to the user.
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    stream = io.BufferedReader(_Stream(data)) if isinstance(data, FileBytes) else io.BytesIO(data)
    with decoding(path), stream, tifffile.TiffFile(stream, _multifile=False) as file:
        if must_be_ome and not is_ome(str(file.pages[0].description)):
            raise FormatError(path, "a TIFF without OME-XML", "rename it to .tif")
        return _source(path, data, list(file.pages), count, axes)


def _source(path: Path, data: Data, pages: list[Any], count: int, axes: str) -> Source:
    """The image of all pages, which are checked before the first one is decoded."""
    if len(pages) != count:
        raise FormatError(path, f"damaged TIFF: {len(pages)} of {count} pages can be read")
    first = pages[0]
    try:
        check_pages(path, pages)
    except FormatError as error:
        maker = tiff_maker(str(first.description), first.tags)
        if maker is None:
            raise
        raise FormatError(path, f"{maker[0]}, which is not read ({error.cause})", maker[1]) from None
    shape = (int(first.imagelength), int(first.imagewidth))
    facts = PageFacts(path, count, shape, int(first.samplesperpixel), _resolution(first))
    layout = page_layout(facts, str(first.description), axes)
    for page in pages:
        check_pieces(path, page, data)
    voxels, dropped = _voxels(path, data, pages, layout)
    return Source(
        path,
        voxels,
        stated=layout.sizes,
        channel_names=layout.names if len(layout.names) == voxels.shape[0] else (),
        palette=_colours(path, first) if int(first.photometric) == 3 else None,
        lossy=int(first.compression) == JPEG,
        notes=layout.notes,
        remarks=layout.remarks + dropped + ((_INVERTED,) if white_is_zero(first) else ()),
        world=_world(first),
    )


def _voxels(path: Path, data: Data, pages: list[Any], layout: PageLayout) -> tuple[Voxels, tuple[str, ...]]:
    """The voxels, and the remark that an alpha channel was dropped; decoded here if the file is in memory already."""
    voxels = PageVoxels(path, data, pages, layout)
    alphas = [kind for kind in pages[0].extrasamples if int(kind) in (1, 2) and layout.alpha]
    if not alphas and isinstance(data, FileBytes):
        return voxels, ()
    if alphas and layout.channels > 1:
        raise FormatError(path, "an alpha sample beside several channels", "store plain channels")
    if alphas and len(pages[0].extrasamples) != 1:
        cause = f"{len(pages[0].extrasamples)} extra samples, some of them alpha"
        raise FormatError(path, cause, "store plain channels")
    whole = voxels[(slice(None),) * len(voxels.shape)]
    return without_alpha(path, whole) if alphas else (whole, ())


def _colours(path: Path, page: Any) -> NDArray[np.uint8]:
    """The colour table (N, 3) of a page, whose entries have 16 bits; some writers fill the lower 8 alone."""
    table = page.colormap
    if table is None or table.ndim != 2 or len(table) != 3 or not table.shape[1]:
        raise FormatError(path, "damaged: an indexed picture without a colour table")
    return np.ascontiguousarray((table if int(table.max()) < 256 else table >> 8).T.astype(np.uint8))


def _world(page: Any) -> World:
    """The resolution tags, which some programs take for a pixel size whatever the description says."""
    pairs = {name: page.tags.valueof(tag) for name, tag in (("XResolution", 282), ("YResolution", 283))}
    if _resolution(page) is None:
        return World("TIFF", {})
    unit = page.tags.valueof(296)
    # Without a unit, or with one that does not exist, nothing is taken from the tags.
    return World("TIFF", {**pairs, "ResolutionUnit": unit if unit in UNITS else 1})


def _resolution(page: Any) -> tuple[float, float] | None:
    """Pixels per unit along columns and rows."""
    pairs = [page.tags.valueof(tag) for tag in (282, 283)]
    if not all(isinstance(pair, tuple) and len(pair) == 2 and pair[0] > 0 and pair[1] > 0 for pair in pairs):
        return None
    return pairs[0][0] / pairs[0][1], pairs[1][0] / pairs[1][1]
