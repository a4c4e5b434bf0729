"""The table of operations on a prediction, in the order in which they are applied.

A row's name is its key in the data set's ``postprocess`` section. The table is cheap to import: the workflow asks it
what a configuration needs each time it is parsed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from medseg.errors import ConfigError
from medseg.late import resolve

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from medseg.config import PostprocessConfig
    from medseg.image.labels import LabelTable

# What an operation may work on: a label map (S), the prediction's or that of the operation before it; probabilities on
# the voxels of the image (``medseg.predict.probabilities.Probabilities``); the image (a ``Source``), or its grid alone.
LABELS, PROBABILITIES, IMAGE, GRID = "labels", "probabilities", "image", "grid"
# One reader for each of them: nothing is read that no operation needs.
Readers = Mapping[str, Callable[[], Any]]


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation; functions are named ``"module:function"`` and imported when they are used.

    Attributes:
        function: takes what ``needs`` lists, in this order, then the option (the value of the configuration) and the
            table of labels; returns a label map (S) of file values.
        needs: what it works on.
        check: takes the option, the table and the option's key; raises ``ConfigError`` if they do not fit. None:
            anything fits.
        peak_bytes: takes a grid, and the numbers of image channels and of maps; returns the memory that a case takes,
            in bytes. None: no more than reading a label map.
    """

    function: str
    needs: tuple[str, ...] = (LABELS,)
    check: str | None = None
    peak_bytes: str | None = None


OPERATIONS: Mapping[str, Operation] = {
    "crf": Operation(
        "medseg.postprocess.refine:apply_crf",
        needs=(PROBABILITIES, IMAGE),
        check="medseg.postprocess.objects:refuse_objects",
        peak_bytes="medseg.postprocess.refine:peak_bytes",
    ),
    "threshold": Operation(
        "medseg.postprocess.thresholds:apply_threshold",
        needs=(PROBABILITIES, GRID),
        check="medseg.postprocess.thresholds:check_threshold",
    ),
    "fill_holes": Operation("medseg.postprocess.components:apply_fill_holes"),
    "largest_foreground": Operation(
        "medseg.postprocess.targets:apply_largest_foreground", check="medseg.postprocess.objects:refuse_objects"
    ),
    "largest_component": Operation(
        "medseg.postprocess.targets:apply_largest_component", check="medseg.postprocess.targets:check_names"
    ),
    "min_size": Operation("medseg.postprocess.components:apply_min_size"),
    "min_volume": Operation(
        "medseg.postprocess.targets:apply_min_volume",
        needs=(LABELS, GRID),
        check="medseg.postprocess.targets:check_names",
    ),
    "objects": Operation(
        "medseg.postprocess.objects:keep",
        needs=(LABELS, IMAGE),
        check="medseg.postprocess.objects:check_keep",
    ),
}

# Operations that a word of `choose` stands for, where it is not that of the operation alone.
CHOSEN: Mapping[str, tuple[str, ...]] = {"largest_component": ("largest_foreground", "largest_component")}


def wanted(steps: PostprocessConfig) -> dict[str, Operation]:
    """The operations that a configuration asks for, by name, in their order."""
    return {name: operation for name, operation in OPERATIONS.items() if getattr(steps, name)}


def possible(steps: PostprocessConfig) -> dict[str, Operation]:
    """The operations that a configuration asks for or lets be chosen, by name, in their order."""
    names = {name for choice in steps.choose for name in CHOSEN.get(choice, (choice,))} | wanted(steps).keys()
    return {name: operation for name, operation in OPERATIONS.items() if name in names}


def needs(steps: PostprocessConfig) -> frozenset[str]:
    """What the operations of a configuration may work on, all together."""
    return frozenset(need for operation in possible(steps).values() for need in operation.needs)


def wants_probabilities(steps: PostprocessConfig) -> bool:
    """Whether predictions must be kept with their probabilities for these operations, or those that may be chosen."""
    return PROBABILITIES in needs(steps)


def apply(readers: Readers, steps: PostprocessConfig, table: LabelTable) -> NDArray[Any]:
    """Apply the operations that a configuration asks for to one case.

    Args:
        readers: a function for each of ``labels``, ``probabilities``, ``image``, ``grid`` that an operation may need.
        steps: the operations and their options.
        table: label table of the data set.

    Returns:
        (S) file values, one per voxel: where regions are predicted, operations work on the painted map. Of object
        data, they are object numbers.
    """
    labels: NDArray[Any] | None = None
    for name, operation in wanted(steps).items():
        given = [labels if need == LABELS and labels is not None else readers[need]() for need in operation.needs]
        labels = resolve(operation.function)(*given, getattr(steps, name), table)
    return readers[LABELS]() if labels is None else labels


def check(steps: PostprocessConfig, table: LabelTable, dataset: str) -> None:
    """Raise ``ConfigError`` if an option does not fit the classes that predictions of the data set have."""
    where = f"datasets.{dataset}.postprocess"
    for name, operation in wanted(steps).items():
        if operation.check is not None:
            resolve(operation.check)(getattr(steps, name), table, f"{where}.{name}")
    if steps.choose and table.instances:
        raise ConfigError(
            f"{where}.choose: is for classes and regions; how objects are read off is chosen on training cases already "
            "(docs/objects.md); leave it out"
        )
    if "threshold" in steps.choose:
        resolve(OPERATIONS["threshold"].check or "")({}, table, f"{where}.choose")
