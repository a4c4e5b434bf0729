"""What the values and colours of label files mean: `labels` and `background` of a data set."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from medseg import limits
from medseg.bounds import shortened
from medseg.config.section import Label

# A value of a label file, its colour, or several of either.
Value = Label | str
Values = Value | list[Value]

_COLOUR = re.compile(r"#[0-9A-Fa-f]{6}")
# Names that the value 0 may have: it is background, and a class of any other name would be lost without a word.
_NOTHING = re.compile(
    r"\b(background|bg|back|none|nothing|unlabell?ed|outside|exterior|void|clear|air|empty|rest|other|hintergrund)\b"
)
EXPECTED = 'expected its value in the label files, a list of values, or a colour such as "#ff0000"'


def is_colour(value: object) -> bool:
    """Whether a value is a colour, ``#rrggbb``."""
    return isinstance(value, str) and bool(_COLOUR.fullmatch(value))


def colour_number(colour: str) -> int:
    """``#rrggbb`` as one number, red in the highest byte."""
    return int(colour[1:], 16)


def listed(values: Values) -> list[Value]:
    """One value or several, as a list."""
    return values if isinstance(values, list) else [values]


def is_background(name: str) -> bool:
    """Whether a name says that it is no class."""
    return bool(_NOTHING.search(name.lower().replace("_", " ")))


def wrong_labels(labels: object) -> str:
    """What is wrong with `labels`, each class for itself; empty: nothing."""
    if not isinstance(labels, Mapping):
        return "expected class names with their values, e.g. {cell: 1}"
    for name, values in labels.items():
        if cause := _wrong_values(values):
            return f"{name}: {cause}"
    return ""


def wrong_background(background: object) -> str:
    """What is wrong with `background` by itself; empty: nothing."""
    if not isinstance(background, list):
        return "expected a list of values, e.g. [0, 4]"
    return _wrong_values(background)


def _wrong_values(values: object) -> str:
    if isinstance(values, list) and not values:
        return f"an empty list; {EXPECTED}"
    for value in values if isinstance(values, list) else [values]:
        if isinstance(value, int) and not isinstance(value, bool):
            if value > limits.MAX_LABEL:
                return f"{shortened(value)} is larger than {limits.MAX_LABEL}, the largest value of 32 bits"
        elif value is None:
            return f'no value (to YAML, an unquoted #ff0000 is a comment: write "#ff0000"); {EXPECTED}'
        elif isinstance(value, str) and re.fullmatch(r"[+-]?[0-9]+", value):
            return f"this is text to YAML: write it as {int(value)} (a whole number)"
        elif not is_colour(value):
            return f"{shortened(value)}; {EXPECTED}"
    return ""


def contradiction(
    labels: Mapping[str, Values], background: Sequence[Value] | None, ignore: int | None, *, instances: bool
) -> str:
    """What is wrong between the values of classes, background and voxels without annotation; empty: nothing.

    Args:
        labels, background, ignore: keys of the configuration; ``background`` None: 0.
        instances: whether the files hold object numbers.
    """
    several = [name for name, values in labels.items() if isinstance(values, list | str)]
    if instances and several:
        return f"labels: with `instances: true` a value numbers an object; give {several[0]} one number, e.g. 1"
    if instances and background is not None and 0 not in background:
        return "background: 0 is the background of object numbers; write, e.g., [0, 4]"
    if instances:
        return ""
    if len({is_colour(value) for value in _all(labels, background)}) > 1:
        return 'labels, background: either values or colours, not both; the value 7 of a grey mask is "#070707"'
    known = dict.fromkeys(map(_key, [0] if background is None else background), "background")
    if ignore is not None and known.setdefault(ignore, "ignore") != "ignore" and background is not None:
        return f"background: {ignore} is also the value of `ignore`; take it out of one"
    for name, values in labels.items():
        for value in map(_key, listed(values)):
            before = known.setdefault(value, name)
            if before in (name, "ignore") or (before == "background" and is_background(name)):
                continue  # that of `ignore` is reported with the label table
            if background is None and before == "background":
                shown, other = ("#000000", "#ffffff") if is_colour(listed(values)[0]) else (0, 255)
                return (
                    f"labels: {name} has the value {shown}, which is background, so nothing would be learnt of it; if "
                    f"it is this class in the files, say what is background there, e.g. `background: [{other!r}]`"
                )
            return f"labels: {name} and {before} have one value, {value}; give each its own"
    return ""


def _all(labels: Mapping[str, Values], background: Sequence[Value] | None) -> Iterable[Value]:
    yield from background or ()
    for values in labels.values():
        yield from listed(values)


def _key(value: Value) -> int:
    """A value or a colour as a number; within one data set all are of one kind."""
    return colour_number(value) if isinstance(value, str) else value


def class_values(
    labels: Mapping[str, Values], background: Sequence[Value] | None, ignore: int | None
) -> dict[str, int]:
    """Class name -> its one value in label tables, prepared maps and predictions.

    That is the smallest of its values in the files. Colours, and a class that is 0 in the files, get the smallest
    number above 0 that nothing else has.
    """
    numbers = [v for v in _all(labels, background) if isinstance(v, int)]
    taken = {*numbers, *([] if ignore is None else [ignore])}
    out = {}
    for name, values in labels.items():
        own = listed(values)
        fixed = [v for v in own if isinstance(v, int) and (v != 0 or _is_nothing(name, background))]
        if fixed:
            out[name] = min(fixed)
            continue
        free = next(n for n in range(1, len(taken) + len(labels) + 2) if n not in taken)
        taken.add(free)
        out[name] = free
    return out


def _is_nothing(name: str, background: Sequence[Value] | None) -> bool:
    """Whether a class with the value 0 is only a name for the background."""
    return is_background(name) and (background is None or 0 in background)


def file_values(
    labels: Mapping[str, Values], background: Sequence[Value] | None, ignore: int | None
) -> tuple[dict[int, int], bool]:
    """Value in the files -> value in label tables (0: background), and whether the former are colours."""
    colours = any(is_colour(value) for value in _all(labels, background))
    classes = class_values(labels, background, ignore)
    values = {_key(value): 0 for value in ([0] if background is None else background)}
    values |= {_key(value): classes[name] for name, own in labels.items() for value in listed(own)}
    if ignore is not None and not colours:
        values[ignore] = ignore
    return values, colours
