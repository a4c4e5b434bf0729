"""The size that JPEG streams claim, found without decoding them (ITU-T T.81 annex B, JPEG-LS T.87, JPEG 2000 T.800)."""

from __future__ import annotations

import struct

# First and last marker of JPEG and JPEG-LS streams.
JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
# Start and size markers of a JPEG 2000 code stream.
JPEG_2000_START = b"\xff\x4f\xff\x51"


def claimed_size(code: bytes) -> tuple[int, int] | None:
    """(rows, columns) that a JPEG, JPEG-LS or JPEG 2000 stream claims; None if it is none of these."""
    if code[:4] == JPEG_2000_START:
        if len(code) < 24:
            return None
        right, bottom, left, top = struct.unpack_from(">IIII", code, 8)
        return bottom - top, right - left
    if code[:2] != JPEG_START:
        return None
    at = 2
    while at + 9 <= len(code) and code[at] == 0xFF:
        marker = code[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        # Start of frame: C0 to CF without the tables C4, C8 and CC; F7 is that of JPEG-LS.
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            rows, columns = struct.unpack_from(">HH", code, at + 5)
            return rows, columns
        at += 2 + max(2, struct.unpack_from(">H", code, at + 2)[0])
    return None
