"""Memory layout of images and weights: channels innermost or outermost."""

from __future__ import annotations

import torch


def memory_format(dims: int, channels_last: bool = True) -> torch.memory_format:
    """Channels innermost, for 2-D or 3-D, or outermost."""
    if not channels_last:
        return torch.contiguous_format
    return torch.channels_last if dims == 2 else torch.channels_last_3d
