"""The header of a safetensors file: names, types and shapes of its tensors, read before any of them is."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medseg.bounds import several, shortened, whole
from medseg.errors import CheckpointError
from medseg.limits import MAX_HEADER_BYTES

# Names of the format (https://github.com/huggingface/safetensors), of the types that networks have.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_SHAPE = several(whole(0, 2**40), 0, 8)
_OFFSETS = several(whole(0, 2**50), 2, 2)
_LENGTH = 8


def read_header(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name, without content (on torch's device ``meta``); only its header is read.

    Raises:
        CheckpointError: if it is no safetensors file, or its size is not what its header says.
    """
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(_LENGTH), "little")
            if not 2 <= length <= min(size - _LENGTH, MAX_HEADER_BYTES):
                raise ValueError(f"a header of {length:,} bytes in a file of {size:,}; at most {MAX_HEADER_BYTES:,}")
            header = json.loads(file.read(length))
        return _tensors(header, size - _LENGTH - length)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or os.strerror(error.errno or 0)})") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not safetensors, or damaged ({error})") from None


def _tensors(header: Any, size: int) -> dict[str, Tensor]:
    """Tensors of these names, types and shapes, which must fill ``size`` bytes without gaps; else ``ValueError``."""
    if not isinstance(header, Mapping):
        raise ValueError(f"the header is {shortened(header)}")
    tensors, places = {}, []
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        if not isinstance(entry, Mapping) or entry.keys() != {"dtype", "shape", "data_offsets"}:
            raise ValueError(f"tensor {shortened(name)} is described by {shortened(entry)}")
        dtype = DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
        if dtype is None:
            raise ValueError(f"tensor {shortened(name)} has the type {shortened(entry['dtype'])}")
        shape = _SHAPE.read(f"shape of {shortened(name)}", entry["shape"])
        begin, end = _OFFSETS.read(f"place of {shortened(name)}", entry["data_offsets"])
        if end - begin != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"tensor {shortened(name)} has {end - begin:,} bytes, which are not its shape's")
        places.append((begin, end))
        tensors[name] = torch.empty(shape, dtype=dtype, device="meta")
    ends = [0, *(end for _, end in sorted(places))]
    if [begin for begin, _ in sorted(places)] != ends[:-1] or ends[-1] != size:
        raise ValueError(f"tensors that fill {ends[-1]:,} of {size:,} bytes, or overlap")
    return tensors
