"""Memory of a processor between two steps of a training, or two windows of a prediction."""

from __future__ import annotations

import ctypes

# From glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
NEVER = 2**31 - 1


def keep_freed_memory() -> None:
    """Keep memory that tensors gave back, for the next ones, until the process ends.

    By itself glibc gives large blocks back to the kernel at once, which then has to clear every page of the next ones:
    a fifth of a step of a 2-D network, and half of the time of windows in 16 bits (docs/notebook.md). What a step or a
    window takes, the next one takes again, so that holding it makes the most that is held hardly larger. Other C
    libraries (macOS, musl) are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, NEVER)
