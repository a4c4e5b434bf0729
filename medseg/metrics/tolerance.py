"""Which distances are within a tolerance."""

from __future__ import annotations

# A distance that exceeds the tolerance by no more than this share of it is within it. Spacings are read from files that
# hold numbers of 32 bits (a NIfTI file's 0.8 is 0.800000011920929), and a distance of two such voxels is to be within a
# tolerance of 1.6; other causes (last bits of a square root) are smaller.
TIE = 1e-6


def widened(tolerance: float) -> float:
    """The largest distance that is within a tolerance."""
    return tolerance * (1 + TIE)
