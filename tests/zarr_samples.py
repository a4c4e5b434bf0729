"""OME-Zarr folders: a small writer of both versions, and folders that other libraries wrote."""

from __future__ import annotations

import base64
import gzip
import io
import itertools
import json
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medseg.formats.zarr.codecs import crc32c
from medseg.image.geometry import Geometry

Files = dict[str, bytes]


def zarr_files(
    voxels: np.ndarray,
    axes: str,
    *,
    version: int = 3,
    scale: Sequence[float] | None = None,
    unit: str = "micrometer",
    chunks: Sequence[int] | None = None,
    shards: Sequence[int] | None = None,
    packed: bool = True,
    attributes: Mapping[str, Any] | None = None,
    array: Mapping[str, Any] | None = None,
) -> Files:
    """The files of an image, names relative to its folder; ``attributes`` and ``array`` change the metadata."""
    size = tuple(chunks or [min(n, 4) for n in voxels.shape])
    described = [{"name": a, "type": {"c": "channel", "t": "time"}.get(a, "space")} for a in axes]
    for axis in described:
        axis.update({"unit": unit} if axis["type"] == "space" and unit else {})
    steps = [{"type": "scale", "scale": [1.0] * voxels.ndim if scale is None else [float(step) for step in scale]}]
    image = {"axes": described, "datasets": [{"path": "0", "coordinateTransformations": steps}]}
    ome = {"multiscales": [image | ({"version": "0.4"} if version == 2 else {})], **(attributes or {})}
    stored = _chunks(voxels, shards or size, "/", packed and not shards)
    if shards:
        stored = {name: _shard(data, voxels.dtype, shards, size, packed) for name, data in stored.items()}
    if version == 2:
        record = _version_2(voxels, size, packed) | (array or {})
        return {".zattrs": _json(ome), "0/.zarray": _json(record), **{f"0/{k}": d for k, d in stored.items()}}
    group = {"zarr_format": 3, "node_type": "group", "attributes": {"ome": {"version": "0.5", **ome}}}
    record = _version_3(voxels, size, shards, packed) | (array or {})
    return {"zarr.json": _json(group), "0/zarr.json": _json(record), **{f"0/c/{k}": d for k, d in stored.items()}}


def _json(record: object) -> bytes:
    return json.dumps(record).encode()


def _version_2(voxels: np.ndarray, chunks: Sequence[int], packed: bool) -> dict[str, Any]:
    return {
        "zarr_format": 2,
        "shape": list(voxels.shape),
        "chunks": list(chunks),
        "dtype": voxels.dtype.str,
        "compressor": {"id": "gzip", "level": 1} if packed else None,
        "filters": None,
        "fill_value": 0,
        "order": "C",
        "dimension_separator": "/",
    }


def _version_3(voxels: np.ndarray, chunks: Sequence[int], shards: Sequence[int] | None, packed: bool) -> dict[str, Any]:
    codecs: list[dict[str, Any]] = [{"name": "bytes", "configuration": {"endian": "little"}}]
    codecs += [{"name": "gzip", "configuration": {"level": 1}}] if packed else []
    if shards:
        index = [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}]
        inside = {"chunk_shape": list(chunks), "codecs": codecs, "index_codecs": index, "index_location": "end"}
        codecs = [{"name": "sharding_indexed", "configuration": inside}]
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(voxels.shape),
        "data_type": voxels.dtype.name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(shards or chunks)}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": codecs,
    }


def _chunks(voxels: np.ndarray, size: Sequence[int], separator: str, packed: bool) -> Files:
    """Chunks by their places; those of zeros are not stored."""
    files = {}
    grid = [range(-(-n // k)) for n, k in zip(voxels.shape, size, strict=True)]
    for place in itertools.product(*grid):
        part = voxels[tuple(slice(k * n, (k + 1) * n) for k, n in zip(place, size, strict=True))]
        chunk = np.zeros(size, voxels.dtype)
        chunk[tuple(slice(0, n) for n in part.shape)] = part
        if chunk.any():
            data = chunk.astype(chunk.dtype.newbyteorder("<")).tobytes()
            files[separator.join(map(str, place))] = gzip.compress(data, 1, mtime=0) if packed else data
    return files


def _shard(data: bytes, dtype: np.dtype[Any], shard: Sequence[int], size: Sequence[int], packed: bool) -> bytes:
    whole = np.frombuffer(data, dtype).reshape(shard)
    parts = _chunks(whole, size, "/", packed)
    body, entries = b"", []
    for place in itertools.product(*[range(n // k) for n, k in zip(shard, size, strict=True)]):
        part = parts.get("/".join(map(str, place)))
        entries.append((2**64 - 1, 2**64 - 1) if part is None else (len(body), len(part)))
        body += part or b""
    index = b"".join(struct.pack("<QQ", *entry) for entry in entries)
    return body + index + struct.pack("<I", crc32c(index))


def write_files(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Files below a folder, which is made."""
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def write_zarr(path: Path, labels: np.ndarray, geometry: Geometry) -> None:
    """A label map as an image, for the contract of formats: version 2 for .zarr, 3 for .ome.zarr."""
    axes = "zyx"[-geometry.dims :]
    unit = "micrometer" if geometry.unit == "um" else ""
    version = 3 if path.name.endswith(".ome.zarr") else 2
    write_files(path, zarr_files(labels, axes, version=version, scale=geometry.spacing, unit=unit))


# Folders that zarr 3.1.6 wrote, the first two by ome-zarr 0.18, as zip archives: 2 x 3 x 5 x 6 numbers 0, 1, 2, ... of
# uint16 (c, z, y, x) in nanometres with two names of channels; the third has the first channel alone, in shards.
BY_LIBRARIES = {
    "v04": (
        "UEsDBBQAAAAIAPsZgV1jfL6BGAAAABYAAAAHAAAALnpncm91cKvmUlBQqkosKopPyy/KTSxRslIw4qoFAFBLAwQUAAAACAD7GYFd80RR5R"
        "gBAADLAwAABwAAAC56YXR0cnO9kzFvwyAQhXf/CutmK6VRs3SrVLnqlqFb5eFKroolDBaQKmnk/14gJjaOZXWoyoJ4D753nPE5y3NQDWkF"
        "j/nZLdyS71FKEsYp70HJeye4Aj9IOAuen7avUAwGV0Jpb5RhQO90xQLjpdzOIhgrS8auiDBXWQ+D5iBsbTgKGmqMdNihRUN2XP042+1o0e"
        "59iGGj7JCu9K6WaOlNozSfSjdoayVT1BQXjtpTSwHpi0qowb7IU4of9ytW3IhrxticvpmX1xsnT9QqWXfZnBPVKiJBYhOucXe9AuCRFloZ"
        "D/C0k7Ed/UuCIbJY5nzPc0yLPG0rHGRtvSVRuudrSf8+5PQfIcc/Cbn5Ql+kjXuS4R9ZPVx2+l1V1v0AUEsDBBQAAAAIAPsZgV1Dv6ajBA"
        "AAAAIAAAAKAAAAczAvLnphdHRyc6uuBQBQSwMEFAAAAAgA+xmBXRKATXqeAAAADwEAAAoAAABzMC8uemFycmF5fY7BCsIwDIbve4qSs6BW"
        "9CDefAyRUdaMFbt2pO3Ajb27bQo7esmf/Hx/krURAsKgJoS7eOVBCHlguVS5Vrnl+i4tdENyn7DT5/+0jl9eDY8kgZ3eWNvOyqZin9jypJ"
        "EK9NyRiFRuuGRt3WNGdMF41wacFKnoOXCsgc6PE2EIbK78AhhdgCVEDfUpsDijLUfzuHFuUURt72lUMfuy2X5QSwMEFAAAAAgA+xmBXYFW"
        "XsiFAAAAgAAAAAoAAABzMC8wLzAvMC8wAYAAf/8otS/9ILS9AwBCyxwSEJCvGwAMAAwA5GWVVVZZDZYCY8J86bIly5UqU6I8abIkyZEiQ4"
        "L86LEjx40aM2K8aLEixYkSI0J86LAhw4UKEyI8aLAgwYECAwL89e3l3dXNxb21raWdlY2FfXVtZV1VTUU9NS0lHRUNBf307OTc1MwcAFBL"
        "AwQUAAAACAD7GYFdTwb0x5IAAACXAAAACgAAAHMwLzEvMC8wLzDT2Kr/V2FLKQuDU7eSBsPV3YzZoYwMMLDB8SX/Uvsp/wJ+Hf7zHw6+B6"
        "Wf6uH8vPT0NJ3wVT6dn5acnKTi3sXD+Wnx8T4Z86wzHR8XHe0SUffq4fi48HAbj7iWT8eHBQebWNi5eDg+XN8+vTzcXPz7tW3TysLMxL5d"
        "3Tq1NNRU9OuVLVNKQkxEvlzePLk4WJgBAFBLAQIUAxQAAAAIAPsZgV1jfL6BGAAAABYAAAAHAAAAAAAAAAAAAACkgQAAAAAuemdyb3VwUE"
        "sBAhQDFAAAAAgA+xmBXfNEUeUYAQAAywMAAAcAAAAAAAAAAAAAAKSBPQAAAC56YXR0cnNQSwECFAMUAAAACAD7GYFdQ7+mowQAAAACAAAA"
        "CgAAAAAAAAAAAAAApIF6AQAAczAvLnphdHRyc1BLAQIUAxQAAAAIAPsZgV0SgE16ngAAAA8BAAAKAAAAAAAAAAAAAACkgaYBAABzMC8uem"
        "FycmF5UEsBAhQDFAAAAAgA+xmBXYFWXsiFAAAAgAAAAAoAAAAAAAAAAAAAAKSBbAIAAHMwLzAvMC8wLzBQSwECFAMUAAAACAD7GYFdTwb0"
        "x5IAAACXAAAACgAAAAAAAAAAAAAApIEZAwAAczAvMS8wLzAvMFBLBQYAAAAABgAGAEoBAADTAwAAAAA="
    ),
    "v05": (
        "UEsDBBQAAAAIAPsZgV3i3914QQEAAPgEAAAJAAAAemFyci5qc29uxVPLaoQwFN37FXLXMk2nuOmuUCzdzaK7IsMdTTtCTCSJZR74701ilf"
        "gqUgqTVXLOveecvK5BGAJqLYtDramCx/BqEIOJkvaLdimFBxgoOyLnlNme9x4NvQpXxfBAmSmB56fdK0RDMhNMSEsmboDHNtEKzZdktyhJ"
        "SJIQMpDs52kwMoEvKlUhuGvcxL0olDXThcqQ0eE+/USQo0ZF9fgkxrlNZYX6aD0UGeV2yYXMC46avknk6kPIErXJNJWdk3YS+lxRJ28DTx"
        "xcSUvNKdpxvyHRLLElhCxx8TK1jQ01w6QTrAl+q/DZ1LcCju6hwt1gu4AnuuI6uuZsehvdUf68chjGidbpXpZ1VYXZ9Iqg5oW2NEduvpym"
        "8m/G51sZn/7dOJh7Ex3aInblAsIFpdy3P8doPjiMi5zuuxCfUtQVBM03UEsDBBQAAAAIAPsZgV3cgCCvLwEAANsCAAAMAAAAczAvemFyci"
        "5qc29ujVLbboMwDH3vVyA/I21dVR72K1OFXGJo1BCqXKpBxb/PSUpYd9HGQ3yI43OOndw2RQH2hBeC1+KNf4ripYxhl8I+hYrXQ4Ag0GHt"
        "xlgAXmq3rSAmmpPX57ozUnDmFqtAYx/PGeq8QgOJDJpBt7LzBp0cdD6dOR79hG9bZrhb4X6F1R0dYpx5nT+ZOtNYk24GIXX33ZygFr1yf5"
        "qzdEHeHUwoeoIvSq1Uqr6i8oHzOYkPghqbG8lEi/BxdGShzM3/Iswp0kJi2AMlnVME99ScTJQ/80/WiX/RK7qSWmznq6DmbH3P2y0qS4+K"
        "+Tmgc0YefWiEKdMohOxJW1apg5N1ANAsM54WMC7gHTLlhMbU7WB6dFwa7xs0jzK/Os5jKgTL14EdpwxqG2rIRL3DZv4AUEsDBBQAAAAIAP"
        "sZgV2BVl7IhQAAAIAAAAAMAAAAczAvYy8wLzAvMC8wAYAAf/8otS/9ILS9AwBCyxwSEJCvGwAMAAwA5GWVVVZZDZYCY8J86bIly5UqU6I8"
        "abIkyZEiQ4L86LEjx40aM2K8aLEixYkSI0J86LAhw4UKEyI8aLAgwYECAwL89e3l3dXNxb21raWdlY2FfXVtZV1VTUU9NS0lHRUNBf307O"
        "Tc1MwcAFBLAwQUAAAACAD7GYFdTwb0x5IAAACXAAAADAAAAHMwL2MvMS8wLzAvMNPYqv9XYUspC4NTt5IGw9XdjNmhjAwwsMHxJf9S+yn/"
        "An4d/vMfDr4HpZ/q4fy89PQ0nfBVPp2flpycpOLexcP5afHxPhnzrDMdHxcd7RJR9+rh+LjwcBuPuJZPx4cFB5tY2Ll4OD5c3z69PNxc/P"
        "u1bdPKwszEvl3dOrU01FT065UtU0pCTES+XN48uThYmAEAUEsBAhQDFAAAAAgA+xmBXeLf3XhBAQAA+AQAAAkAAAAAAAAAAAAAAKSBAAAA"
        "AHphcnIuanNvblBLAQIUAxQAAAAIAPsZgV3cgCCvLwEAANsCAAAMAAAAAAAAAAAAAACkgWgBAABzMC96YXJyLmpzb25QSwECFAMUAAAACA"
        "D7GYFdgVZeyIUAAACAAAAADAAAAAAAAAAAAAAApIHBAgAAczAvYy8wLzAvMC8wUEsBAhQDFAAAAAgA+xmBXU8G9MeSAAAAlwAAAAwAAAAA"
        "AAAAAAAAAKSBcAMAAHMwL2MvMS8wLzAvMFBLBQYAAAAABAAEAOUAAAAsBAAAAAA="
    ),
    "shards": (
        "UEsDBBQAAAAIAPsZgV3wcLRJ6wAAAIwDAAAJAAAAemFyci5qc29uxVJNC8IwDL3vV4ych4jixd/hTUTiVrXg2pFmMpX9d7tMh1uneBDsLe"
        "+95DUftyiOAZlJ70pWDpbxzSMes7nqAh+eFTltjYdgOllA8sTz8sTapXiS3PUDjrtEEWE1YIcKURkUS7h21TuKL4VQrsBUhXRpNDd0rlPy"
        "/2ZF0JPUyXfOl785V793fok2r9mQIaNT/MVGCuSjbDy0T62lTBtktSI0bm8pR/YHElYdq9xvsLmewEEkLTVWsXmzyTQZJfyFviNmixFiE2"
        "B19EnRm200RFukiWT7cEWibTsg38pcMGMztX0O4EC2LCCq71BLAwQUAAAACAD7GYFdtEBj51wBAACOBAAACwAAADAvemFyci5qc29u1ZTN"
        "bsMgDIDvfYrI50hb262HvcoUIRecFJWSip+qaZV3H5AGJdu6bsdxAIN/+OwEXxdFAXaHR4K34j1simJdpuV1WDZhrqIIAh0y1yVL8FK75Q"
        "aSgu+83rPGSBE01+QFGg/JzlDjFRoYggFvdS0bb9DJVmfrHGMOEseqzOLLRLxJVVr7MPcTkj11jDRvhdTNVyJBNXrlHhJZOmI4bU10eoJP"
        "N9VSKXZC5WPM5+HyVhC3mT4HGi8OyZmIxKQWdCYBZU7+DsMPdSmKZTnZrGabLFflJNIcbxjXiTxB3XaOLJRz5X3KmwFpITFqQEnnFMHMoJ"
        "/s+vIxw8U68WcERSdS4xeZu+6I760/BGWNytJ9tm+rl74Z+2815IavVxx+mZ1q+cgVOUa3Pv/6Qx9A54zc+phdSGB4Dhc0htWtOaALh6mD"
        "gA7Fyv0i6LEb2oUNbwqboDKobfQhk0paLfoPUEsDBBQAAAAIAPsZgV071RdwbQAAAAwBAAAJAAAAMC9jLzAvMC8w09iq/1eBw5EBCBgZ2B"
        "jYGTRgAnIM8gwqDKoIAR4GXgYhBmGEgBaDNoMBgyFCgImBmYGDgRMhoMCgyKDGoI4Q4GPgZxBhEEUI6DDoMhgxGDPAgCCUdkHjK6Hx09D4"
        "6HQoGt8YjV+Oxv9gLXEEAFBLAwQUAAAACAD7GYFdET+yuEQAAADIAAAACQAAADAvYy8wLzAvMdPYqv9XgcORgYGFgZWBi4GbQQMmoMSgzK"
        "DBoIkQEGAQZBBjEEcI6DHoM5gwmDLAgCCU/o8GlAjICxKQNyYgr3u4pwAAUEsDBBQAAAAIAPsZgV1pPQx0NgAAAMgAAAAJAAAAMC9jLzAv"
        "MS8w09iq/1eBw5GBQYJBkgEENGACZgzmqAJSDNKoAhYMlgzIQBBKK6Hx/xMAgmjqjUnUv/LjQ08AUEsDBBQAAAAIAPsZgV27nitQJgAAAK"
        "YAAAAJAAAAMC9jLzAvMS8x09iq/1eBw5GBQYZBlgEENGACVgzWDMhAEEr/JxEIUqj/vmRYJgBQSwMEFAAAAAgA+xmBXXUjZ9xDAAAAyAAA"
        "AAkAAAAwL2MvMS8wLzDT2Kr/V4HDkYHBhsGWwYnBmUEDJuDB4Mngx+CPELBjsGdwYXBFCHgxeDMEMAQywIAglFZC46PTxmj8/xSCY7euWA"
        "MAUEsDBBQAAAAIAPsZgV0vLl2zLgAAAKYAAAAJAAAAMC9jLzEvMC8x09iq/1eBw5GBwYHBkcGNwZ1BAybgw+DLEMQQzAADglD6PxoQJCBP"
        "Kcg4pbUFAFBLAwQUAAAACAD7GYFdVz8C2CMAAACmAAAACQAAADAvYy8xLzEvMNPYqv9XgcORgSGEIZQBBDRgAmEM4QzIQBAH/Z/GwGpykg"
        "kAUEsDBBQAAAAIAPsZgV0vD55vGgAAAJUAAAAJAAAAMC9jLzEvMS8x09iq/1eBw5GBIYIhkgEZCELp/3QGmto7jQFQSwECFAMUAAAACAD7"
        "GYFd8HC0SesAAACMAwAACQAAAAAAAAAAAAAApIEAAAAAemFyci5qc29uUEsBAhQDFAAAAAgA+xmBXbRAY+dcAQAAjgQAAAsAAAAAAAAAAA"
        "AAAKSBEgEAADAvemFyci5qc29uUEsBAhQDFAAAAAgA+xmBXTvVF3BtAAAADAEAAAkAAAAAAAAAAAAAAKSBlwIAADAvYy8wLzAvMFBLAQIU"
        "AxQAAAAIAPsZgV0RP7K4RAAAAMgAAAAJAAAAAAAAAAAAAACkgSsDAAAwL2MvMC8wLzFQSwECFAMUAAAACAD7GYFdaT0MdDYAAADIAAAACQ"
        "AAAAAAAAAAAAAApIGWAwAAMC9jLzAvMS8wUEsBAhQDFAAAAAgA+xmBXbueK1AmAAAApgAAAAkAAAAAAAAAAAAAAKSB8wMAADAvYy8wLzEv"
        "MVBLAQIUAxQAAAAIAPsZgV11I2fcQwAAAMgAAAAJAAAAAAAAAAAAAACkgUAEAAAwL2MvMS8wLzBQSwECFAMUAAAACAD7GYFdLy5dsy4AAA"
        "CmAAAACQAAAAAAAAAAAAAApIGqBAAAMC9jLzEvMC8xUEsBAhQDFAAAAAgA+xmBXVc/AtgjAAAApgAAAAkAAAAAAAAAAAAAAKSB/wQAADAv"
        "Yy8xLzEvMFBLAQIUAxQAAAAIAPsZgV0vD55vGgAAAJUAAAAJAAAAAAAAAAAAAACkgUkFAAAwL2MvMS8xLzFQSwUGAAAAAAoACgAoAgAAig"
        "UAAAAA"
    ),
}


def by_library(folder: Path, name: str) -> Path:
    """One of ``BY_LIBRARIES``, unpacked into a folder."""
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(BY_LIBRARIES[name]))) as archive:
        archive.extractall(folder)
    return folder
