"""What a folder of images and masks looks like: its layout, or two patterns that say which belong together.

Files are grouped by what their paths have in common (``train/images/{case}``), and of all pairs of groups of which one
is called like masks, the one that pairs most is taken. Nothing is opened but ``dataset.json``.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medseg.ingest.layouts.templates import Template, Unit, find_units, templates_of
from medseg.ingest.layouts.words import annotator, is_image, part_of, rank

# The way out where nothing can be seen.
PATTERNS = '`images: "imgs/{case}.tif"` and `masks: "gt/{case}_mask.tif"`'
# Folders named in a message.
SHOWN = 8


@dataclass(frozen=True, slots=True)
class Seen:
    """What a folder looks like.

    Attributes:
        images, masks: patterns; empty if there are none to be seen.
        count: cases that have both, among the files that were looked at.
        example: an image and its mask.
        remarks: what is there besides, and not used.
        why: if there are no patterns, what was seen instead.
    """

    images: str = ""
    masks: str = ""
    count: int = 0
    example: tuple[str, str] = ("", "")
    remarks: tuple[str, ...] = ()
    why: str = ""

    @property
    def sentence(self) -> str:
        """What was found, on one line."""
        image, mask = self.example
        return f'images: "{self.images}", masks: "{self.masks}"; e.g. {image} with {mask}'


def look_for_patterns(root: Path) -> Seen:
    """Look for two patterns that pair images and masks; what cannot be read counts as not there."""
    units = list(find_units(root))
    if not units:
        return Seen(why="no file of a known format")
    units, remarks = _without_test(units)
    templates = templates_of(units)
    pairs = _pairs(templates)
    if not pairs:
        return Seen(why=_what_is_there(units), remarks=tuple(remarks))
    return _choose(pairs, remarks)


def _without_test(units: list[Unit]) -> tuple[list[Unit], list[str]]:
    """Put a published test set aside, where there is something to train on."""
    test = [unit for unit in units if unit.part == "test"]
    rest = [unit for unit in units if unit.part != "test"]
    if not test or not any(unit.part == "training" for unit in rest):
        return units, []
    folder = next(iter(test)).folders
    upto = next(k for k, name in enumerate(folder, start=1) if part_of(name) == "test")
    return rest, [f"{'/'.join(folder[:upto])}/ is not used: a published test set"]


@dataclass(frozen=True, slots=True)
class Pair:
    """Images and masks that are called alike.

    Attributes:
        images, masks: their templates.
        keys: values of the placeholders that both have.
    """

    images: Template
    masks: Template
    keys: frozenset[tuple[str, ...]]

    def left_over(self) -> int:
        """Images and masks without a partner; a mask is no image, though its name may be of the images' kind."""
        masks = {unit for units in self.masks.units.values() for unit in units}
        images = {unit for key, units in self.images.units.items() if key not in self.keys for unit in units} - masks
        return len(images) + len(self.masks.units.keys() - self.keys)

    def order(self) -> tuple[object, ...]:
        """The best pair first: who drew the masks, how many fit and how many do not, then the plainest pattern."""
        named = is_image(self.images.text)
        plain = self.images.variables + self.masks.variables
        sizes = len(self.images.text) + len(self.masks.text)
        names = (self.images.text, self.masks.text)
        drawn_by = annotator(self.masks.text) or 1
        return -self.masks.rank, -len(self.keys), drawn_by, self.left_over(), not named, plain, sizes, names


def _pairs(templates: Sequence[Template]) -> list[Pair]:
    """All templates of images and masks that have the same placeholders and share values of these, the best first."""
    images = [template for template in templates if template.rank == 0]
    by_key: dict[tuple[tuple[str, ...], tuple[str, ...]], list[int]] = defaultdict(list)
    for place, template in enumerate(images):
        for key in template.units:
            by_key[_placeholders(template.text), key].append(place)
    pairs = []
    for masks in (template for template in templates if template.rank > 0):
        names = _placeholders(masks.text)
        shared: dict[int, set[tuple[str, ...]]] = defaultdict(set)
        for key in masks.units:
            for place in by_key.get((names, key), ()):
                shared[place].add(key)
        pairs += [Pair(images[place], masks, frozenset(keys)) for place, keys in shared.items()]
    most = max((len(pair.keys) for pair in pairs), default=0)
    return sorted((pair for pair in pairs if 2 * len(pair.keys) >= most), key=Pair.order)


def _placeholders(text: str) -> tuple[str, ...]:
    return tuple(re.findall(r"\{(\w+)\}", text))


def _rivals(template: Template, best: Template) -> bool:
    """Whether two templates are of other files altogether; those in a folder of slices are the folder's."""
    mine = {unit.path for units in best.units.values() for unit in units}
    theirs = [unit for units in template.units.values() for unit in units]
    return not any(unit.path in mine or "/".join(unit.folders) in mine for unit in theirs)


def _choose(pairs: Sequence[Pair], remarks: list[str]) -> Seen:
    """The best pair, with all channels and classes that go with it; or why it cannot be decided."""
    best = pairs[0]
    if 2 * len(best.keys) < len(best.masks.units):
        lonely = f"only {len(best.keys)} of {len(best.masks.units)} files {_suffixed([best.masks], best.keys)} have an"
        return Seen(why=f"{lonely} image {_suffixed([best.images], best.keys)}", remarks=tuple(remarks))
    others = [p.images for p in pairs if p.masks == best.masks and _rivals(p.images, best.images)]
    drawn = [p.masks for p in pairs if p.images == best.images and _rivals(p.masks, best.masks)]
    channels = [best.images, *(t for t in others if t.units.keys() >= best.keys and _joins(t, best.images))]
    classes = [best.masks, *(t for t in drawn if t.rank == best.masks.rank and _joins(t, best.masks))]
    channels = [best.images] if is_image(_name(best.images)) else channels
    images = _suffixed(channels, best.keys, "channel")
    masks = _suffixed(classes, best.keys, "class")
    others, drawn = [t for t in others if t not in channels], [t for t in drawn if t not in classes]
    equal = [t for t in others if t.units.keys() >= best.keys and is_image(t.text) >= is_image(best.images.text)]
    drawer = annotator(best.masks.text)
    equal += [t for t in drawn if t.rank == best.masks.rank and annotator(t.text) == drawer]
    if equal:
        one, what = (images, "images") if equal[0].rank == 0 else (masks, "masks")
        texts = " and ".join(f'"{text}"' for text in (one, _suffixed(equal[:1], best.keys)))
        return Seen(why=f"{texts} may both be the {what}: say which", remarks=tuple(remarks))
    unused = dict.fromkeys(_suffixed([t], best.keys) for t in (*others, *drawn))
    remarks += [f"{text} is not used" for text in list(unused)[:SHOWN]]
    key = min(best.keys)
    first, mask = (min((t for t in group if key in t.units), key=_name) for group in (channels, classes))
    example = (first.units[key][0].path, mask.units[key][0].path)
    return Seen(images, masks, len(best.keys), example, tuple(remarks))


def _name(template: Template) -> str:
    """The last name of a template, without the case's."""
    return template.text.rpartition("/")[2].replace("{case}", "")


def _joins(one: Template, best: Template) -> bool:
    """Whether two templates differ only in words of their last names that are none for masks: channels or classes."""
    folders = one.text.rpartition("/")[0], best.text.rpartition("/")[0]
    words = _name(one), _name(best)
    alike = [text.replace(word, "\0") for text, word in zip((one.text, best.text), words, strict=True) if word]
    if folders[0] != folders[1] or not all(words) or len(set(alike)) != 1:
        return False
    _, middles, _ = _parted(words)
    said = all(middle and not rank(middle) and not annotator(middle) for middle in middles)
    # Numbers number objects.
    return said and (one.rank == 0 or any(c.isalpha() for middle in middles for c in middle))


def _parted(names: Sequence[str]) -> tuple[str, list[str], str]:
    """What names begin with alike, up to a separator, what is between, and what they end with alike."""
    start = _alike(names)
    rests = [name[len(start) :] for name in names]
    end = _alike([rest[::-1] for rest in rests])[::-1]
    return start, [rest[: len(rest) - len(end)] for rest in rests], end


def _alike(names: Sequence[str]) -> str:
    """The beginning that all names share and that ends with a separator."""
    first, last = min(names), max(names)
    common = first[: next((k for k, c in enumerate(first) if last[k : k + 1] != c), len(first))]
    while common and common[-1].isalnum():
        common = common[:-1]
    return common


def _suffixed(templates: Sequence[Template], keys: Iterable[tuple[str, ...]], name: str = "") -> str:
    """A pattern with its suffix, if all files have one; of several templates, with the placeholder ``name``."""
    keys = list(keys)
    suffixes = {unit.suffix for t in templates for key in keys for unit in t.units.get(key, [])}
    if len(suffixes) != 1:
        suffixes = {".*"} if len({suffix.lower() for suffix in suffixes}) != 1 else {min(suffixes).lower()}
    text = templates[0].text
    if len(templates) > 1:
        start, words, end = _parted(sorted(_name(template) for template in templates))
        folder, _, last = text.rpartition("/")
        # Any class will do where its name is all that the file's name says.
        choices = f":{'|'.join(words)}" if "{case}" in last or name == "channel" else ""
        text = f"{folder}/{last.replace(_name(templates[0]), f'{start}{{{name}{choices}}}{end}')}"
    parts = {unit.folders[k] for t in templates for u in t.units.values() for unit in u for k in _split_places(t.text)}
    if parts:
        text = text.replace("{split}", f"{{split:{'|'.join(sorted(parts))}}}")
    return (text + next(iter(suffixes))).removeprefix("/")


def _split_places(text: str) -> list[int]:
    """Which folders of a pattern are the parts of a data set."""
    return [k for k, name in enumerate(text.split("/")) if name == "{split}"]


def _what_is_there(units: Sequence[Unit]) -> str:
    """Folders with the number of their files, by suffix."""
    counts = Counter(("/".join(unit.folders) or ".", unit.suffix.lower() or "folders") for unit in units)
    shown = [f"{folder}/ ({count} {suffix})" for (folder, suffix), count in sorted(counts.items())[:SHOWN]]
    more = f" and {len(counts) - SHOWN} more folders" if len(counts) > SHOWN else ""
    return f"there is {', '.join(shown)}{more}, but no word such as masks, labels, gt or _seg tells what is what"
