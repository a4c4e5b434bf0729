"""How much host memory preparing a case takes, and a gate that keeps the sum over workers within the budget."""

from __future__ import annotations

import contextlib
import math
import threading
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medseg.errors import DataError
from medseg.image.geometry import canonical_axes
from medseg.image.resample import resampled_shape
from medseg.ingest.manifest import Case
from medseg.ingest.voxel_sizes import VoxelSizes
from medseg.machine import host_memory
from medseg.plan.plan import Grid
from medseg.preprocess.prepare import own_spacing

# What the process holds before the first case: interpreter, libraries, compression buffers.
PROCESS_BYTES = 300_000_000
# Prepared voxels per voxel of an image above which its size is why it does not fit.
GROWN = 25


def host_budget(host_gb: float | None) -> int:
    """Bytes that preparing may take: ``budget.host_gb``, else half of what this process can have at most.

    That is the machine's memory or, below it, the limit of the control group (container, SLURM job).
    """
    if host_gb is not None:
        return int(host_gb * 1e9)
    return host_memory() // 2


def case_bytes(case: Case, grid: Grid, folder: Path, *, objects: bool = False) -> int:
    """Estimated peak of host memory while one case is prepared, in bytes; an upper bound, known before it is read.

    With V native voxels per channel (the crop to the non-zero box is not known yet), P prepared ones, C channels, M
    label files and b bytes per stored number, the largest of:

    - reading: files + 2 b C V (decoded bytes and their array); 26 C V unless a NIfTI header promises plain integers,
      since other numbers may go through double precision;
    - preparing: b C V + 4 C P (result) + a channel while it is scaled (20 V) or resampled (4 V + 8 max(V, P));
    - labels: 4 C P + files + 2 M V + 12 V (36 V unless plain integers) + 9 P (locations); of object data 36 P more, to
      number the objects anew;
    - writing: 4 C P + 2 C P (half precision) + P.
    """
    axes, flips = canonical_axes(case.geometry)
    turned = case.geometry.reoriented(axes, flips)
    native = math.prod(turned.shape)
    wanted = own_spacing(grid.spacing, turned.spacing)
    prepared = math.prod(resampled_shape(turned.shape, turned.spacing, wanted))
    channels = len(grid.normalization)
    stored = np.dtype(case.dtype).itemsize * channels * native
    images, labels = ([folder / name for name in names] for names in (case.images, case.labels))
    files = sum(_file_bytes(path) for path in (*images, *labels))
    result = 4 * channels * prepared
    per_label = 12 if all(_plain_integers(path) for path in labels) else 36
    return max(
        files + (2 * stored if all(_plain_integers(path) for path in images) else 26 * channels * native),
        stored + result + max(20 * native, 4 * native + 8 * max(native, prepared)),
        result + files + (2 * len(labels) + per_label) * native + (45 if objects else 9) * prepared,
        result + 2 * channels * prepared + prepared,
    )


def _plain_integers(path: Path) -> bool:
    """Whether a NIfTI header says that integers of up to 16 bits are stored as they are; all else: no."""
    if not path.name.lower().endswith((".nii", ".nii.gz")):
        return False
    import nibabel
    from nibabel.filebasedimages import ImageFileError

    try:
        stored: Any = nibabel.load(path)
    except (ImageFileError, OSError, EOFError, ValueError, zlib.error):
        # Its faults are reported when it is read.
        return False
    scaling = (float(stored.dataobj.slope), float(stored.dataobj.inter))
    dtype = stored.get_data_dtype()
    return scaling == (1.0, 0.0) and dtype.kind in "iu" and dtype.itemsize <= 2


def _file_bytes(path: Path) -> int:
    if path.is_dir():
        return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    # A missing file is reported when it is read.
    return path.stat().st_size if path.is_file() else 0


def growth(case: Case, grid: Grid) -> float:
    """How many prepared voxels a voxel of a case becomes."""
    axes, flips = canonical_axes(case.geometry)
    turned = case.geometry.reoriented(axes, flips)
    wanted = own_spacing(grid.spacing, turned.spacing)
    return math.prod(resampled_shape(turned.shape, turned.spacing, wanted)) / math.prod(turned.shape)


def require_fit(needs: Mapping[str, int], budget: int, cases: Sequence[Case] = (), grid: Grid | None = None) -> None:
    """Raise ``DataError`` naming every case that alone exceeds the budget, and why it is so large.

    Args:
        needs: case id -> bytes.
        budget: bytes for all work together.
        cases: those of ``needs``, and their neighbours in the data set.
        grid: that they are brought to.
    """
    free = budget - PROCESS_BYTES
    large = sorted((case for case, need in needs.items() if need > free), key=lambda case: -needs[case])
    if large:
        named = ", ".join(f"'{case}' {needs[case] / 1e9:.2f} GB" for case in large[:5])
        rest = f" and {len(large) - 5} more" if len(large) > 5 else ""
        wanted = math.ceil((needs[large[0]] + PROCESS_BYTES) / 1e8) / 10
        if grid is not None and (cause := _size_cause({case.id: case for case in cases}, large[0], grid)):
            raise DataError(f"{cause}; preparing {named}{rest} would take it")
        raise DataError(
            f"preparing {named}{rest} takes more than the {max(free, 0) / 1e9:.2f} GB that the host budget of "
            f"{budget / 1e9:.2f} GB leaves; set budget.host_gb to at least {wanted:.1f} on a machine that has them, "
            "choose a coarser plan.spacing, or crop the images"
        )


def _size_cause(cases: Mapping[str, Case], large: str, grid: Grid) -> str:
    """Why a case is too large, if that is its voxel size: what it is, and what to do; empty: the size is not why."""
    case = cases[large]
    times = growth(case, grid)
    if times < GROWN:
        return ""
    sizes = " x ".join(f"{s:.4g}" for s in case.geometry.spacing)
    target = " x ".join(f"{s:.4g}" for s in grid.spacing)
    middle = VoxelSizes.of(one.geometry for one in cases.values()).middle
    doubt = middle.doubt(case.geometry, "the median of the data set")
    because = f"; {doubt}" if doubt else ""
    return (
        f"case '{large}': voxels of {sizes} {case.geometry.unit} are resampled to {target} {grid.unit}, which makes "
        f"{times:.4g} of each{because}; correct its voxel size (see `voxel-size` in docs/faults.md) or leave it out, "
        f"`exclude: [{large}]`; if the size is right, choose a coarser plan.spacing"
    )


class MemoryGate:
    """Delays work so that the memory of all work in progress stays within the budget.

    Args:
        budget: bytes for all work together; a single need beyond it must be refused before (``require_fit``).
    """

    def __init__(self, budget: int) -> None:
        self._free = budget - PROCESS_BYTES
        self._change = threading.Condition()

    @contextlib.contextmanager
    def hold(self, need: int) -> Iterator[None]:
        """Wait until ``need`` bytes are free, and keep them during the block."""
        with self._change:
            self._change.wait_for(lambda: need <= self._free)
            self._free -= need
        try:
            yield
        finally:
            with self._change:
                self._free += need
                self._change.notify_all()
