"""What says which class each object of object data has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeGuard

from medseg.files import SAFE_NAME

# Folders of the pairs layout; that of class maps is a third one.
FOLDERS = ("images", "masks")


def is_table(name: object) -> TypeGuard[str]:
    """Whether a value names a table; others are an expression or a list (``subject``) or a folder (``classes``)."""
    return isinstance(name, str) and name.endswith((".csv", ".tsv"))


def wrong_classes(names: Sequence[str], classes: str | None) -> str:
    """What is wrong with ``classes`` for object data whose classes have these names; empty: nothing."""
    if len(names) > 1 and classes is None:
        return (
            f"classes: missing; with `instances: true` and {len(names)} labels ({', '.join(names)}) it must be known "
            "which class each object has: `classes: FILE.csv` (columns case,object,class), or, in the layouts "
            "pairs and patterns, `classes: FOLDER` with class maps, beside images and masks; or leave one name in "
            "`labels`"
        )
    if len(names) == 1 and classes is not None:
        return f"classes: all objects are of the one class {names[0]}; take `classes` out, or name more in `labels`"
    if classes is not None and not is_table(classes) and (classes in FOLDERS or not SAFE_NAME.fullmatch(classes)):
        return (
            f"classes: '{classes}' is neither FILE.csv or FILE.tsv nor the name of a folder of its own beside images "
            "and masks; write, e.g., `classes: classes`"
        )
    return ""
