"""What a label map is given beside values and grid: the fields by which its image's file says where voxels are.

Two programs can put the voxels of one file in two places: where a header lacks an orientation, contradicts itself or is
rounded, each follows rules of its own. A label map whose header has these very fields is where its image is in all of
them. Nothing else of an input's header goes into an output.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class World:
    """The fields of a file's header that say where its voxels are, as they were written.

    Attributes:
        kind: of the header: ``NIfTI``, ``NRRD``, ``MetaImage``, ``TIFF`` or ``DICOM``.
        fields: numbers and codes by name; never free text.
        identity: of DICOM, the UIDs by which a label map refers to its series: they say of whom it is.
    """

    kind: str
    fields: Mapping[str, Any]
    identity: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def anonymous(self) -> World:
        """The same without an identity."""
        return replace(self, identity={})


@dataclass(frozen=True, slots=True)
class About:
    """What is known of a label map beside its values and its grid.

    Attributes:
        world: that of the image whose grid it has; None: unknown.
        names: class name by value.
    """

    world: World | None = None
    names: Mapping[int, str] = field(default_factory=dict)

    @classmethod
    def of_classes(cls, world: World | None, names: Iterable[tuple[str, int]]) -> About:
        """Of a map of classes, whose names come with their values."""
        return cls(world, {value: name for name, value in names})

    def fields(self, kind: str) -> Mapping[str, Any]:
        """The fields of a world of this kind; empty if it is another's, or unknown."""
        return self.world.fields if self.world is not None and self.world.kind == kind else {}


NOTHING = About()
