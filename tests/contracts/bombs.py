"""Files that claim more than there is, or than fits, and a child process that reads them and tells what it took.

Run as a module it reads ``[[name, path], ...]`` from standard input and writes what became of each.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import resource
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

ADDRESSES = 512 << 20
LIMIT = 1 << 30
Files = dict[str, bytes]


def nifti_header(shape: tuple[int, ...], pair: bool = False) -> bytes:
    import nibabel

    big = max(shape) > 32767
    header = (nibabel.Nifti2Header if big else nibabel.Nifti1Header)()
    header.set_data_dtype(np.int16)
    header.set_data_shape(shape)
    header.set_sform(np.eye(4), 1)
    header["pixdim"][1:4] = 1.0
    header["vox_offset"] = 0 if pair else header.single_vox_offset
    mark = b"ni" if pair else b"n+"
    header["magic"] = mark + (b"2\0\r\n\x1a\n" if big else b"1\0")
    return bytes(header.binaryblock).ljust(len(header.binaryblock) if pair else header.single_vox_offset, b"\0")


def zeros(size: int, head: bytes = b"", window: int = 15) -> bytes:
    """A stream of ``head`` and ``size`` zeros without its end, 1000 to 1, made without packing them all.

    Behind a full flush a packed MiB of zeros knows nothing of what came before: it can stand there many times.
    """
    packer = zlib.compressobj(9, wbits=window)
    start = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    page = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return start + page * (size >> 20)


def gzip_zeros(head: bytes, size: int) -> bytes:
    return zeros(size, head, 31)


def png(width: int, height: int, packed: bytes) -> Files:
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)), (b"IDAT", packed), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b)) for n, b in chunks)
    return {"case.png": b"\x89PNG\r\n\x1a\n" + body}


def tiff(side: int, compression: int, body: bytes = bytes(100), name: str = "case.tif", text: bytes = b"") -> Files:
    """One strip that is said to hold ``side`` x ``side`` pixels."""
    entries = [(256, 4, 1, side), (257, 4, 1, side), (258, 3, 1, 8), (259, 3, 1, compression), (262, 3, 1, 1)]
    entries += [(270, 2, len(text), 0)] if text else []
    entries += [(273, 4, 1, 8), (277, 3, 1, 1), (278, 4, 1, side), (279, 4, 1, len(body))]
    at = 8 + len(body) + len(text)
    table = b"".join(struct.pack("<HHII", t, k, n, 8 + len(body) if t == 270 else v) for t, k, n, v in entries)
    return {
        name: struct.pack("<2sHI", b"II", 42, at) + body + text + struct.pack("<H", len(entries)) + table + bytes(4)
    }


def ome(side: int, planes: int) -> bytes:
    sizes = f'SizeX="{side}" SizeY="{side}" SizeZ="{planes}" SizeC="1" SizeT="1"'
    xml = f'<OME><Image><Pixels DimensionOrder="XYZCT" {sizes}/>'
    return f"{xml}</Image></OME>".encode()


def empty_bzip2() -> bytes:
    import bz2

    return bz2.compress(b"")


def nrrd(sizes: str, encoding: str, body: bytes, kind: str = "short", data_file: str = "") -> bytes:
    text = f"NRRD0004\ntype: {kind}\ndimension: 3\nsizes: {sizes}\nendian: little\nencoding: {encoding}\n"
    return (text + (f"data file: {data_file}\n" if data_file else "\n")).encode() + body


def meta(sizes: str, packed: bool, data_file: str, body: bytes = b"") -> bytes:
    text = f"ObjectType = Image\nNDims = 3\nBinaryData = True\nCompressedData = {packed}\nDimSize = {sizes}\n"
    return f"{text}ElementType = MET_SHORT\nElementDataFile = {data_file}\n".encode() + body


def tiff_lzw() -> Files:
    import imagecodecs

    return tiff(60_000, 5, bytes(imagecodecs.lzw_encode(bytes(1 << 16))))


def jpeg(rows: int, columns: int, mode: int = 0xC0, body: bytes = bytes(100)) -> Files:
    """A frame without tables: nothing can be decoded, and whatever is allocated for it was allocated too early."""
    frame = struct.pack(">HHBHHB3B", 0xFF00 | mode, 11, 8, rows, columns, 1, 1, 0x11, 0)
    scan = b"\xff\xda\x00\x08\x01\x01\x00\x00\x3f\x00"
    return {"case.jpg": b"\xff\xd8" + frame + scan + body + b"\xff\xd9"}


def bmp(rows: int, columns: int, bits: int = 8, name: str = "case.bmp") -> Files:
    head = struct.pack("<2sIII", b"BM", 0, 0, 14 + 40 + 1024)
    return {name: head + struct.pack("<IiiHHIIiiII", 40, columns, rows, 1, bits, 0, 0, 0, 0, 0, 0) + bytes(1024 + 5000)}


def gif(rows: int, columns: int, body: bytes = bytes(5000)) -> Files:
    blocks = b"".join(bytes([len(body[at : at + 255])]) + body[at : at + 255] for at in range(0, len(body), 255))
    size = struct.pack("<HH", columns, rows)
    head = b"GIF89a" + size + b"\x80\0\0" + b"\0\0\0\x09\x09\x09" + b"\x2c\0\0\0\0" + size + b"\0\x08"
    return {"case.gif": head + blocks + b"\0\x3b"}


def zarr(shape: list[int], chunks: list[int], version: int = 3, body: bytes = bytes(99), **array: Any) -> Files:
    """An image of impossible size with one chunk."""
    from tests.zarr_samples import zarr_files

    small = zarr_files(np.ones((2, 2, 2), np.uint8), "zyx", version=version)
    metadata = json.loads(small["0/.zarray" if version == 2 else "0/zarr.json"])
    metadata["shape"] = shape
    if version == 2:
        metadata["chunks"] = chunks
    else:
        metadata["chunk_grid"]["configuration"]["chunk_shape"] = chunks
    metadata |= array
    chunk = "0/0/0/0" if version == 2 else "0/c/0/0/0"
    files = {**small, ("0/.zarray" if version == 2 else "0/zarr.json"): json.dumps(metadata).encode(), chunk: body}
    return {f"case{'.zarr' if version == 2 else '.ome.zarr'}/{name}": data for name, data in files.items()}


HUGE = (100_000, 100_000, 100_000)
WIDE = "100000 100000 100000"
# 2 GiB of zeros, 16-bit, 1024 voxels a side: honest, and above the limit.
FULL = "1024 1024 1024"
CUBE = (1024, 1024, 1024)
BOMBS: dict[str, Callable[[], Files]] = {
    ".nii claims 100000^3": lambda: {"case.nii": nifti_header(HUGE) + bytes(5000)},
    ".nii claims 32767^3": lambda: {"case.nii": nifti_header((32767,) * 3) + bytes(5000)},
    ".nii.gz claims 100000^3": lambda: {"case.nii.gz": gzip.compress(nifti_header(HUGE) + bytes(5000))},
    ".nii.gz holds 2 GiB": lambda: {"case.nii.gz": gzip_zeros(nifti_header(CUBE), 2 << 30)},
    ".nii.gz holds 300 MiB, says 1 kB": lambda: {"case.nii.gz": gzip_zeros(nifti_header((8, 8, 8)), 300 << 20)},
    ".nii.gz breaks off": lambda: {"case.nii.gz": gzip_zeros(nifti_header((512, 512, 1500)), 8 << 20)[:8000]},
    ".hdr claims 100000^3": lambda: {"case.hdr": nifti_header(HUGE, pair=True), "case.img": bytes(5000)},
    ".nrrd claims 100000^3": lambda: {"case.nrrd": nrrd(WIDE, "gzip", gzip.compress(bytes(5000)))},
    ".nrrd claims 100000^3 raw": lambda: {"case.nrrd": nrrd(WIDE, "raw", bytes(5000))},
    ".nrrd claims 10^54": lambda: {"case.nrrd": nrrd(" ".join(["9" * 18] * 3), "gzip", gzip.compress(b""))},
    ".nrrd holds 2 GiB": lambda: {"case.nrrd": nrrd(FULL, "gzip", gzip_zeros(b"", 2 << 30))},
    ".nrrd claims 900 MiB in bzip2": lambda: {"case.nrrd": nrrd("900 1024 512", "bzip2", empty_bzip2())},
    ".seg.nrrd claims 100000^3": lambda: {"case.seg.nrrd": nrrd(WIDE, "gzip", gzip.compress(bytes(5000)))},
    ".nhdr claims 100000^3": lambda: {"case.nhdr": nrrd(WIDE, "raw", b"", data_file="case.raw"), "case.raw": bytes(99)},
    ".mha claims 100000^3": lambda: {"case.mha": meta(WIDE, True, "LOCAL", zlib.compress(bytes(5000)))},
    ".mha holds 2 GiB": lambda: {"case.mha": meta(FULL, True, "LOCAL", zeros(2 << 30))},
    ".mhd claims 100000^3": lambda: {"case.mhd": meta(WIDE, False, "case.raw"), "case.raw": bytes(5000)},
    ".png claims 60000^2": lambda: png(60_000, 60_000, zlib.compress(bytes(5000))),
    ".png claims 500000^2": lambda: png(500_000, 500_000, zlib.compress(bytes(5000))),
    ".png holds 3.6 GB": lambda: png(60_000, 60_000, zeros(60_000 * 60_001)),
    ".png claims 30000^2": lambda: png(30_000, 30_000, zeros(1 << 20) + bytes(1 << 20)),
    ".jpg claims 65500^2": lambda: jpeg(65_500, 65_500),
    ".jpg claims 65500^2 in 9 MB": lambda: jpeg(65_500, 65_500, body=bytes(9 << 20)),
    ".jpg claims 22000^2 in several scans": lambda: jpeg(22_000, 22_000, 0xC2, bytes(1 << 20)),
    ".jpeg claims 65500^2": lambda: {"case.jpeg": jpeg(65_500, 65_500)["case.jpg"]},
    ".bmp claims 60000^2": lambda: bmp(60_000, 60_000),
    ".bmp claims 2^31 rows": lambda: bmp(-(2**31), 60_000, 1),
    ".gif claims 65535^2": lambda: gif(65_535, 65_535),
    ".gif claims 65535^2 in 9 MB": lambda: gif(65_535, 65_535, bytes(9 << 20)),
    ".nii.gz holds 300 MiB in members": lambda: {
        "case.nii.gz": gzip.compress(nifti_header((8, 8, 8))) + gzip.compress(bytes(1 << 20)) * 300
    },
    ".zarr claims 100000^3": lambda: zarr([100_000] * 3, [64] * 3, 2),
    ".zarr claims 100000^3 in one chunk": lambda: zarr([100_000] * 3, [100_000] * 3, 2),
    ".ome.zarr claims 100000^3 in small chunks": lambda: zarr([100_000] * 3, [1, 1, 1]),
    ".ome.zarr holds 300 MiB in a small chunk": lambda: zarr([8] * 3, [8] * 3, body=gzip_zeros(b"", 300 << 20)),
    ".ome.zarr claims a chunk of 900 MiB": lambda: zarr(
        [900, 1024, 1024], [900, 1024, 1024], codecs=[{"name": "bytes"}, {"name": "zstd"}]
    ),
    **{
        f".tif claims {s}^2, compression {c}": (lambda s=s, c=c: tiff(s, c))
        for s in (60_000, 500_000)
        for c in (1, 5, 8)
    },
    ".tif claims 60000^2 in LZW": tiff_lzw,
    ".tif claims 500000^2 in Zstandard": lambda: tiff(500_000, 50000),
    ".tif claims 500000^2 in JPEG": lambda: tiff(500_000, 7),
    ".tiff holds 3.6 GB": lambda: {"case.tiff": next(iter(tiff(60_000, 8, zeros(60_000 * 60_000)).values()))},
    ".ome.tif claims 500000^2": lambda: tiff(500_000, 8, name="case.ome.tif", text=ome(500_000, 1)),
    ".ome.tiff claims 10^8 planes": lambda: tiff(10, 1, name="case.ome.tiff", text=ome(10, 10**8)),
}


def told(path: Path) -> dict[str, Any]:
    """Read one file: the error, and how much more memory the process has held than before (MiB)."""
    from medseg.formats.errors import FormatError
    from medseg.formats.read import read_image

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    size = sum(file.stat().st_size for file in path.parent.rglob("*"))
    try:
        read_image(path)
        error = "accepted"
    except FormatError as refusal:
        error = str(refusal)
    extra = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {"error": error, "extra_mib": round((extra * 1024 - size) / (1 << 20), 1)}


def main() -> None:
    import imagecodecs
    import nibabel
    import tifffile

    from medseg.formats.limits import file_limit
    from medseg.formats.read import read_labels
    from medseg.formats.write import write_labels
    from medseg.image.geometry import Geometry

    assert imagecodecs.version() and nibabel.__version__ and tifffile.__version__
    jobs = json.load(sys.stdin)
    warm = Path(jobs[0][1]).parent / "warm.tif"
    write_labels(warm, np.zeros((9, 9), np.uint8), Geometry.from_spacing((9, 9), (1, 1)))
    read_labels(warm)
    warm.unlink()
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + ADDRESSES, size + ADDRESSES))
    out = io.StringIO()
    with file_limit(LIMIT):
        json.dump({name: told(Path(path)) for name, path in jobs}, out)
    print(out.getvalue())


if __name__ == "__main__":
    main()
