"""What the values of label maps are: classes, numbers of objects, or something else."""

from __future__ import annotations

import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from medseg.draft.lines import Draft, Line
from medseg.draft.survey import LabelFacts, Survey

# More values than that in one map are objects, or no labels at all.
MOST_CLASSES = 60
# Objects are mostly one part each. Fewer than so many values in a map may be classes as well.
ONE_PART, MANY, FEW = 0.8, 10, 4
# Standard deviation of the place of one value over maps, as a share of the map along the axis where it varies most:
# 0.29 if it may be anywhere. Organs keep their places.
ANYWHERE = 0.15
# A value that few maps show, with few voxels.
RARE_MAPS, RARE_VOXELS = 0.1, 0.001
NOT_ANNOTATED = 255
# The colour of a grey value: three times that.
GREY = 0x010101


@dataclass(frozen=True, slots=True)
class Values:
    """The values above 0 of all label maps that were read.

    Attributes:
        maps: number of these.
        shown: value -> maps that show it.
        voxels: value -> voxels of it.
        most, fewest: values in the map with the most and in that with the fewest.
        one_part: share of values that are one part, in maps with several; None if nobody counted.
        parts: most separate parts of one value in a map; 0 if nobody counted.
        sets: different sets of values.
        wander: median over values of how much their places vary over maps (see ``ANYWHERE``); 0 if nobody looked.
        gapless: whether each map has the values 1 to n.
    """

    maps: int
    shown: Counter[int]
    voxels: Counter[int]
    most: int
    fewest: int
    one_part: float | None
    parts: int
    sets: int
    wander: float
    gapless: bool

    @classmethod
    def of(cls, labels: Sequence[LabelFacts]) -> Values:
        """Count over label maps."""
        shown, voxels = Counter[int](), Counter[int]()
        for facts in labels:
            shown.update(facts.counts.keys())
            voxels.update(facts.counts)
        parts = [n for facts in labels if facts.parts and len(facts.counts) > 1 for n in facts.parts.values()]
        sizes = [len(facts.counts) for facts in labels]
        return cls(
            maps=len(labels),
            shown=shown,
            voxels=voxels,
            most=max(sizes, default=0),
            fewest=min(sizes, default=0),
            one_part=sum(n == 1 for n in parts) / len(parts) if parts else None,
            parts=max((n for facts in labels for n in (facts.parts or {}).values()), default=0),
            sets=len({tuple(facts.counts) for facts in labels}),
            wander=_wander(labels),
            gapless=all(max(facts.counts, default=0) == len(facts.counts) for facts in labels),
        )

    @property
    def whole(self) -> bool:
        """Whether most values are one part each, as objects are."""
        return self.one_part is not None and self.one_part >= ONE_PART

    @property
    def numbers_objects(self) -> bool:
        """Whether the values look like numbers of objects: one part each, and elsewhere in each map.

        Of a single map, nobody knows; many values are objects then.
        """
        if self.maps == 1 or not self.wander:
            return self.whole and self.most >= MANY
        return self.whole and self.wander >= ANYWHERE and self.most >= FEW


def _wander(labels: Sequence[LabelFacts]) -> float:
    """How much the places of values vary from map to map."""
    places: dict[int, list[tuple[float, ...]]] = defaultdict(list)
    for facts in labels:
        for value, place in facts.places.items():
            places[value].append(place)
    spread = [max(map(statistics.pstdev, zip(*found, strict=True))) for found in places.values() if len(found) > 2]
    return statistics.median(spread) if spread else 0.0


def put_labels(draft: Draft, survey: Survey) -> None:
    """Add what the values of the label maps mean, and what they may mean besides."""
    values = Values.of(survey.labels)
    if any(facts.colours for facts in survey.labels):
        _put_colours(draft, survey.labels)
    elif not values.shown:
        draft.put(Line("labels", {"foreground": 1}, "every label map that was read is empty, or none could be read"))
        draft.open.append("what the classes are: no label map that was read shows any")
    elif values.numbers_objects:
        often = f"{values.fewest} to {values.most}" if values.fewest < values.most else f"{values.most}"
        why = f"the values number objects, {often} in an image, mostly of one part each"
        draft.put(Line("labels", {"object": 1}, f"{why}; all are of one class, whose name you choose"))
        draft.put(Line("instances", True))
    elif values.most > MOST_CLASSES:
        _put_unclear(draft, values)
    else:
        _put_classes(draft, values, survey.labels)
    if len(survey.labels) < survey.labels_asked:
        draft.open.append(f"label values: {len(survey.labels)} of {survey.labels_asked} label maps were read for them")


def _put_colours(draft: Draft, labels: Sequence[LabelFacts]) -> None:
    """Masks in colour: black is background, or else the colour that comes most often."""
    counts = Counter[int]()
    for facts in labels:
        # In a mask in grey among them, a value is a grey.
        counts.update(facts.counts if facts.colours else {value * GREY: n for value, n in facts.counts.items()})
    black = sum(facts.zeros for facts in labels)
    if len(counts) > MOST_CLASSES:
        draft.put(Line("labels", {"foreground": 1}, f"{len(counts)} colours in the label maps are no masks"))
        draft.open.append(f"what the label maps are: they show {len(counts)} colours, as pictures do, not masks")
        return
    ordered = [colour for colour, _ in counts.most_common()]
    background = 0 if black else ordered.pop(0)
    names = {f"class_{k}": f"#{colour:06x}" for k, colour in enumerate(ordered, start=1)}
    names = {"foreground": next(iter(names.values()))} if len(names) == 1 else names
    total = counts.total() + black
    shown = ", ".join(f"#{colour:06x}: {100 * counts[colour] / total:.3g}% of pixels" for colour in ordered)
    draft.put(Line("labels", names, f"name -> colour, names are yours to choose; {shown}"))
    draft.put(Line("background", [f"#{background:06x}"]))
    if not black:
        draft.open.append(f"whether #{background:06x}, the colour that comes most often, is background: none is black")


def _put_unclear(draft: Draft, values: Values) -> None:
    """More values than classes, and no objects: mostly a picture that was scaled or compressed."""
    value = values.voxels.most_common(1)[0][0]
    why = f"{values.most} values in one label map, and few are one part: no classes and no object numbers"
    draft.put(Line("labels", {"foreground": value}, why))
    draft.open.append(f"what the label values mean ({why}); labels must not be scaled or compressed with loss")


def _put_classes(draft: Draft, values: Values, labels: Sequence[LabelFacts]) -> None:
    known = sorted(values.shown)
    total = values.voxels.total()
    shown = ", ".join(
        f"{value}: {100 * values.voxels[value] / total:.3g}% of labelled voxels, in {values.shown[value]} of "
        f"{values.maps} label maps"
        for value in known
    )
    if names := _segments(labels):
        draft.put(Line("labels", names, f"name -> value, as the files list their segments; {shown}"))
    else:
        names = {"foreground": known[0]} if len(known) == 1 else {f"class_{value}": value for value in known}
        draft.put(Line("labels", names, f"name -> value, names are yours to choose; {shown}"))
    if not any(facts.zeros for facts in labels):
        often = values.voxels.most_common(1)[0][0]
        draft.put(Line("background", [often], "if this value is background, take it out of `labels`", off=True))
        draft.open.append(f"which value is background: no label map shows 0; {often} comes most often (`background`)")
    rare = [v for v in known if values.voxels[v] < RARE_VOXELS * total and values.shown[v] <= RARE_MAPS * values.maps]
    if rare:
        draft.open.append(
            f"whether {_listed(rare)} is a class: few voxels in few label maps; correct those if it is none"
        )
    if NOT_ANNOTATED in known and len(known) > 1 and known[-2] < NOT_ANNOTATED // 2:
        draft.put(
            Line("ignore", NOT_ANNOTATED, "if 255 marks what nobody annotated, take it out of `labels`", off=True)
        )
        draft.open.append("whether value 255 is a class or marks what nobody annotated (`ignore: 255`)")
    if len(known) > 1 and values.whole and values.gapless and (values.sets > 1 or values.most >= MANY):
        draft.put(Line("instances", True, "if the values number objects, with one class in `labels`", off=True))
        draft.open.append("whether the values are classes, as written, or number objects (`instances: true`)")
    elif len(known) == 1 and values.parts > 2:
        why = f"whether the up to {values.parts} separate parts of value {known[0]} in a label map are single objects"
        draft.open.append(f"{why}: to tell those apart, number them in the files and write `instances: true`")


def _segments(labels: Sequence[LabelFacts]) -> dict[str, int]:
    """Name -> value, where all files list their segments; these are read by name, whatever their numbers.

    Nothing, if a file lists none. A name has the value that it has most often, unless another one has that, too.
    """
    values: dict[str, Counter[int]] = defaultdict(Counter)
    for facts in labels:
        for value, name in facts.names.items():
            values[name][value] += 1
    if not values or not all(facts.names for facts in labels):
        return {}
    usual = {name: counted.most_common(1)[0][0] for name, counted in values.items()}
    if len(set(usual.values())) < len(usual):
        return {name: number for number, name in enumerate(sorted(usual), start=1)}
    return dict(sorted(usual.items(), key=lambda one: one[1]))


def _listed(values: Sequence[int]) -> str:
    return f"value {', '.join(map(str, values))}"
