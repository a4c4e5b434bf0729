"""The directories of a TIFF file (Adobe, revision 6.0; BigTIFF), walked before any library trusts what they claim."""

from __future__ import annotations

import struct
from pathlib import Path

from medseg.formats.content import Data
from medseg.formats.errors import FormatError

# Bytes per value of each TIFF field type.
_WIDTHS = {
    **dict.fromkeys((1, 2, 6, 7), 1),
    **dict.fromkeys((3, 8), 2),
    **dict.fromkeys((4, 9, 11, 13), 4),
    **dict.fromkeys((5, 10, 12, 16, 17, 18), 8),
}
MAX_PAGES = 1 << 16
MAX_ENTRIES = 4096


def count_pages(path: Path, data: Data) -> int:
    """The number of pages; every directory, and everything its entries point to, is inside the file.

    Raises:
        FormatError: for a file that was cut, a chain of pages without end, or entries that reach beyond the file.
    """
    head = data[:16]
    order = "<" if head[:2] == b"II" else ">"
    at = 0
    seen: set[int] = set()
    try:
        big = struct.unpack_from(order + "H", head, 2)[0] == 43
        if big and struct.unpack_from(order + "HH", head, 4) != (8, 0):
            raise FormatError(path, "damaged TIFF: impossible header")
        (at,) = struct.unpack_from(order + ("Q" if big else "I"), head, 8 if big else 4)
        while at:
            if at in seen or len(seen) >= MAX_PAGES:
                raise FormatError(path, f"damaged TIFF: the chain of pages does not end (byte {at})")
            seen.add(at)
            at = _next_page(path, data, at, order, big)
    except (struct.error, OverflowError):
        raise FormatError(path, f"truncated TIFF: no directory at byte {at} of {len(data)}") from None
    if not seen:
        raise FormatError(path, "damaged TIFF: no pages")
    return len(seen)


def _next_page(path: Path, data: Data, at: int, order: str, big: bool) -> int:
    """Where the next directory is (0: nowhere), the one at byte ``at`` checked."""
    offset_form, count_form, width, inline = ("Q", "Q", 20, 8) if big else ("I", "H", 12, 4)
    first = at + struct.calcsize(count_form)
    (count,) = struct.unpack(order + count_form, data[at:first])
    if not 1 <= count <= MAX_ENTRIES or first + count * width > len(data):
        raise FormatError(path, f"truncated or damaged TIFF: {count} entries in the directory at byte {at}")
    entries = data[first : first + count * width + inline]
    for entry in range(0, count * width, width):
        kind, number = struct.unpack_from(order + "xxH" + offset_form, entries, entry)
        size = _WIDTHS.get(kind, 1) * number
        (place,) = struct.unpack_from(order + offset_form, entries, entry + width - inline)
        if size > inline and place + size > len(data):
            raise FormatError(path, f"truncated or damaged TIFF: an entry reaches to byte {place + size}")
    (following,) = struct.unpack_from(order + offset_form, entries, count * width)
    return int(following)
