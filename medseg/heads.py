"""The table of heads for object data: what a network learns of each voxel, so that single objects can be read off it.

Free of torch and numpy. ``medseg.objects`` makes the targets of a head and decodes its maps; ``docs/objects.md``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

# What a network does that knows classes and no objects: touching ones come out as one.
SEMANTIC = "classes"
# Networks learn unit vectors times this (Stringer et al. 2021, Cellpose).
FLOW_SCALE = 5.0


@dataclass(frozen=True, slots=True)
class Head:
    """A row of the table.

    Attributes:
        about: what it is, in one line.
        paper: where it comes from.
        maps: names of its maps in this many dimensions, in the order of the network's output channels. Where objects
            have several classes, one map for each class follows them.
        sigmoids: how many of the first maps are sigmoids; the first one is the foreground.
        loss: ``module:name`` of what makes its loss; empty: that of classes.
        tune: ``module:name`` of what chooses the settings of decoding after training; empty: there are none.
        reader: ``module:name`` of what keeps the maps of an image and reads the objects off them.
        vector: the map that is the first component of a vector along the axes, which a mirror image turns round; 0:
            there is none.
    """

    about: str
    paper: str
    maps: Callable[[int], tuple[str, ...]]
    sigmoids: int
    loss: str
    tune: str
    reader: str
    vector: int = 0

    def channels(self, dims: int, classes: int) -> int:
        """Output channels of a network for label maps of ``classes`` classes, background included."""
        own = len(self.maps(dims))
        return own + (classes - 1 if classes > 2 else 0) if own else classes


HEADS: Mapping[str, Head] = {
    "boundary": Head(
        about="foreground and boundary; watershed from seeds where the foreground is no boundary",
        paper="Caicedo et al. 2019, doi 10.1038/s41592-019-0612-7; Topcoder's entry",
        maps=lambda dims: ("foreground", "boundary"),
        sigmoids=2,
        loss="medseg.losses.objects:boundary",
        tune="medseg.train.tuning:tune",
        reader="medseg.predict.objects:ObjectMaps",
    ),
    "flows": Head(
        about="foreground and a field that flows to the centre of each object",
        paper="Stringer et al. 2021, doi 10.1038/s41592-020-01018-x (Cellpose)",
        maps=lambda dims: ("foreground", *(f"flow along axis {axis}" for axis in range(dims))),
        sigmoids=1,
        loss="medseg.losses.objects:flows",
        tune="medseg.train.tuning:tune",
        reader="medseg.predict.objects:ObjectMaps",
        vector=1,
    ),
    "distance": Head(
        about="foreground and distance to the border of the object, as a share of its largest",
        paper="Bai & Urtasun 2017, arXiv 1611.08303; Naylor et al. 2019, doi 10.1109/TMI.2018.2865709",
        maps=lambda dims: ("foreground", "distance"),
        sigmoids=2,
        loss="medseg.losses.objects:distance",
        tune="medseg.train.tuning:tune",
        reader="medseg.predict.objects:ObjectMaps",
    ),
    "classes": Head(
        about="the foreground alone; what is connected is an object",
        paper="",
        maps=lambda dims: (),
        sigmoids=0,
        loss="",
        tune="",
        reader="medseg.predict.objects:ObjectMaps",
    ),
}
