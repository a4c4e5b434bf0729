"""Deterministic damage: (specimen, number) -> damaged files. Bytes, structures and text headers."""

from __future__ import annotations

import gzip
import io
import random
import re
import struct
import zipfile
import zlib
from collections.abc import Callable

Rng = random.Random
WORDS = [b"-1", b"0", b"1", b"1e308", b"-1e-320", b"nan", b"inf", b"99999999999999999999", b"2147483648", b"65536", b""]
WORDS += [b"100000", b"3.5", b"none", b"()", b"../../etc/passwd", b"\xff\xfe", b"%d", b"LIST", b"True", b"\0"]
EXTREMES = [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1]


def flip(rng: Rng, data: bytearray) -> None:
    """Up to eight bytes become others, more of them near the start, where headers are."""
    for _ in range(rng.randint(1, 8)):
        end = len(data) if rng.random() < 0.5 else min(len(data), 400)
        data[rng.randrange(end)] ^= 1 << rng.randrange(8) if rng.random() < 0.5 else rng.randint(1, 255)


def cut(rng: Rng, data: bytearray) -> None:
    del data[rng.randrange(len(data)) :]


def drop(rng: Rng, data: bytearray) -> None:
    at = rng.randrange(len(data))
    del data[at : at + rng.choice([1, 2, 4, 16, 100])]


def insert(rng: Rng, data: bytearray) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.randbytes(rng.choice([1, 2, 4, 16, 100]))


def zero_page(rng: Rng, data: bytearray) -> None:
    size = rng.choice([4, 16, 512])
    at = rng.randrange(len(data))
    data[at : at + size] = bytes(len(data[at : at + size]))


def extreme(rng: Rng, data: bytearray) -> None:
    """A number of 1 to 8 bytes, either byte order, becomes an extreme one."""
    width = rng.choice([1, 2, 4, 8])
    at = rng.randrange(min(len(data), 600) if rng.random() < 0.8 else len(data))
    value = rng.choice(EXTREMES) & (2 ** (8 * width) - 1)
    data[at : at + width] = value.to_bytes(width, rng.choice(["little", "big"]))[: max(0, len(data) - at)]


def repeat(rng: Rng, data: bytearray) -> None:
    at = rng.randrange(len(data))
    size = rng.choice([8, 64, 1024])
    data[at:at] = data[at : at + size] * rng.choice([1, 1, 3])


def text(rng: Rng, data: bytearray) -> None:
    """A number or word of the text header (or of the XML inside) becomes another."""
    words = list(re.finditer(rb"[A-Za-z0-9_.+-]{1,40}", bytes(data[:3000])))
    if words:
        word = rng.choice(words)
        data[word.start() : word.end()] = rng.choice([*WORDS, bytes(rng.choice(words).group())])


def line(rng: Rng, data: bytearray) -> None:
    """Lines of the text header change places, double or vanish."""
    lines = bytes(data).split(b"\n")
    at, other = rng.randrange(min(len(lines), 20)), rng.randrange(min(len(lines), 20))
    action = rng.randrange(3)
    if action == 0:
        lines[at], lines[other] = lines[other], lines[at]
    elif action == 1:
        lines.insert(at, lines[other])
    else:
        del lines[at]
    data[:] = b"\n".join(lines)


DAMAGE: list[Callable[[Rng, bytearray], None]] = [flip, cut, drop, insert, zero_page, extreme, extreme, repeat]
TEXT_DAMAGE = [*DAMAGE, text, text, text, line, line]


def damaged(rng: Rng, data: bytes, actions: list[Callable[[Rng, bytearray], None]]) -> bytes:
    """One to three kinds of damage."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 3])):
        if out:
            rng.choice(actions)(rng, out)
    return bytes(out)


def inside_gzip(rng: Rng, data: bytes) -> bytes:
    """Damage that carries a right checksum; sometimes in several members."""
    out = damaged(rng, gzip.decompress(data), DAMAGE)
    at = rng.randrange(len(out) + 1) if rng.random() < 0.3 else len(out)
    return gzip.compress(out[:at], 1) + (gzip.compress(out[at:], 1) if at < len(out) else b"")


def inside_zip(rng: Rng, data: bytes) -> bytes:
    """Damage to one member, or to its name, packed again."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(info.filename, archive.read(info)) for info in archive.infolist()]
    k = rng.randrange(len(members))
    name, content = members[k]
    if rng.random() < 0.1:
        name = rng.choice(["../a.dcm", "/a.dcm", "a/", "b\\c", " ", "a\nb", "\u202e", "x" * 300, "DICOMDIR"])
    members[k] = (name, damaged(rng, content, DAMAGE))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
        for member in members:
            archive.writestr(zipfile.ZipInfo(member[0]), member[1])
    return out.getvalue()


def inside_png(rng: Rng, data: bytes) -> bytes:
    """One chunk is damaged, doubled or dropped; all checksums are right again. Sometimes inside the packed pixels."""
    chunks, at = [], 8
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    k = rng.randrange(len(chunks))
    kind, body = chunks[k]
    action = rng.randrange(5)
    if action == 0 and kind == b"IDAT":
        body = zlib.compress(damaged(rng, zlib.decompress(body), DAMAGE))
    elif action == 1:
        chunks.insert(rng.randrange(len(chunks) + 1), (rng.choice([kind, b"tRNS", b"PLTE", b"eXIf", b"iCCP"]), body))
    elif action == 2 and len(chunks) > 1:
        del chunks[k]
        k = 0
        kind, body = chunks[0]
    elif body:
        body = damaged(rng, body, DAMAGE)
    chunks[k] = (kind, body)
    return data[:8] + b"".join(
        struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b)) for n, b in chunks
    )


def inside_tiff(rng: Rng, data: bytes) -> bytes:
    """Fields of a directory entry (tag, type, count, value) become those of another, or extreme."""
    out = bytearray(data)
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")
    width, head, form = (20, 8, "Q") if big else (12, 2, "I")
    (at,) = struct.unpack_from(order + form, data, 8 if big else 4)
    directories = []
    while 0 < at < len(data) - head and at not in directories and len(directories) < 8:
        directories.append(at)
        (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, at)
        (at,) = struct.unpack_from(order + form, data, at + head + count * width)
    at = rng.choice(directories)
    (count,) = struct.unpack_from(order + ("Q" if big else "H"), data, at)
    for _ in range(rng.randint(1, 3)):
        entry = at + head + rng.randrange(count) * width
        inline = 8 if big else 4
        place, field = rng.choice([(0, "H"), (2, "H"), (4, form), (width - inline, form), (width - inline, "H")])
        (old,) = struct.unpack_from(order + field, data, entry + place)
        limit = 2 ** (8 * struct.calcsize(field)) - 1
        new = rng.choice([old + 1, old - 1, old * 2, old // 2, old * 1000, rng.randrange(limit + 1), *EXTREMES]) & limit
        struct.pack_into(order + field, out, entry + place, new)
    return bytes(out)


def mutated(rng: Rng, suffix: str, files: dict[str, bytes]) -> dict[str, bytes]:
    """The files of one specimen, one of them damaged."""
    name = rng.choice([*files, next(iter(files))])
    data = files[name]
    if data[:8] == b"\x89PNG\r\n\x1a\n" and rng.random() < 0.7:
        return files | {name: inside_png(rng, data)}
    if data[:2] == b"\x1f\x8b" and rng.random() < 0.7:
        return files | {name: inside_gzip(rng, data)}
    if data[:2] == b"PK" and rng.random() < 0.7:
        return files | {name: inside_zip(rng, data)}
    if data[:2] in (b"II", b"MM") and rng.random() < 0.5:
        return files | {name: inside_tiff(rng, data)}
    textual = name.endswith((".json", ".zattrs", ".zarray")) or suffix in (
        ".nrrd",
        ".seg.nrrd",
        ".nhdr",
        ".mha",
        ".mhd",
        ".ome.tif",
        ".tif",
    )
    return files | {name: damaged(rng, data, TEXT_DAMAGE if textual else DAMAGE)}
