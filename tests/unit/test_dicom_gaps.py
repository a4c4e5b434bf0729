"""Slices at uneven distances: the message names the pair whose distance is not the usual one."""

from __future__ import annotations

from pathlib import Path

import pytest

from medseg.formats.dicom.stack import Plane, stack_planes
from medseg.formats.errors import FormatError


def planes(*places: float) -> list[Plane]:
    across = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
    return [
        Plane(name=f"s{k}", orientation=across, position=(0.0, 0.0, at), spacing=(1.0, 1.0), thickness=2.0)
        for k, at in enumerate(places)
    ]


@pytest.mark.parametrize(
    ("places", "words"),
    [
        ((0, 5, 10, 20, 25), "gap of 10.00 mm between s2 at 10.00 mm and s3 at 20.00 mm; usual distance 5.00 mm, 1"),
        ((0, 5, 10, 12, 17, 22), "gap of 2.00 mm between s2 at 10.00 mm and s3 at 12.00 mm; usual distance 5.00 mm"),
        ((0, 5.01, 10, 15, 15.9, 20.9), "gap of 0.90 mm between s3 at 15.00 mm and s4 at 15.90 mm; usual"),
        ((0, 5, 10, 13, 20, 25), "gap of 7.00 mm between s3 at 13.00 mm and s4 at 20.00 mm; usual distance 5.00 mm"),
        ((0, 5, 15), "gap of 10.00 mm between s1 at 5.00 mm and s2 at 15.00 mm; usual distance 7.50 mm"),
        ((0, 5, 10, 15, 18), "gap of 3.00 mm between s3 at 15.00 mm and s4 at 18.00 mm"),
    ],
)  # fmt: skip
def test_the_pair_with_the_odd_distance_is_named(places: tuple[float, ...], words: str) -> None:
    with pytest.raises(FormatError) as caught:
        stack_planes(Path("series"), planes(*places), 8, 8)
    assert caught.value.code == "slice-gap"
    assert words in caught.value.cause
