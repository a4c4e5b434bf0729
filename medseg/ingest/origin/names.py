"""Names that differ by a side only: ``Image_01L`` and ``Image_01R``, ``eye-OD-3`` and ``eye-OS-3``."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence

# Words for two sides of one body, in small letters.
SIDES: tuple[tuple[str, str], ...] = (("left", "right"), ("l", "r"), ("lt", "rt"), ("lh", "rh"), ("os", "od"))
# Words of a name: letters as in `left`, `LEFT`, `Left`, or digits. `ImageLeft` and `01L` have two.
WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def side_pairs(names: Sequence[str]) -> list[tuple[str, str, str, str]]:
    """Pairs of names that differ in one word only, which is a side: (first, second, side, side), sorted.

    A side is a word of its own, in any case, at any place. One letter is no side where other letters are in the
    same place: ``scan_l`` and ``scan_r`` beside ``scan_a`` are numbered, not sided.
    """
    partner = {side: (pair, pair[1 - i]) for pair in SIDES for i, side in enumerate(pair)}
    places: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in sorted(set(names)):
        for word in WORD.finditer(name):
            text = word.group().lower()
            if text in partner or len(text) == 1:
                places[name[: word.start()], name[word.end() :]][text].append(name)
    found = []
    for words in places.values():
        others = [w for w in words if len(w) == 1 and w.isalpha() and w not in ("l", "r")]
        for one, other in SIDES:
            if len(one) == 1 and others:
                continue
            found += [(min(a, b), max(a, b), one, other) for a in words.get(one, []) for b in words.get(other, [])]
    return sorted(found)
