"""Words in names of files and folders that say what they hold: images, label maps, parts of a data set."""

from __future__ import annotations

import re
from itertools import pairwise


def _vocabulary(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Who drew it is more than where it applies: beside a folder of manual annotations, `mask` is mostly the field of view.
DRAWN = _vocabulary("""
    manual manuals ho expert observer rater gt gts ground groundtruth groundtruths truth truths reference references
    annotation annotations annotated anno annos annot annots
""")
MASKS = _vocabulary("""
    mask masks label labels labelmap labelmaps lbl lbls seg segs segmentation segmentations segmented segmap segmaps
    target targets contour contours roi rois instances semantic
""")
# A folder or an end of a name that says that its files are images.
IMAGES = _vocabulary("""
    image images img imgs imaging raw original originals orig slide slides scan scans volume volumes photo photos
    picture pictures input inputs frame frames tissue data
""")
# Made from an image or a label map, and neither of them.
DERIVED = _vocabulary("flow flows outline outlines overlay overlays prob probs probability probabilities preview")
TRAINING = _vocabulary("train training trainset")
VALIDATION = _vocabulary("val valid validation dev")
TEST = _vocabulary("test testing tests testset")
PARTS = TRAINING | VALIDATION | TEST

_WORD = re.compile(r"[0-9]+(?:st|nd|rd|th)(?![a-z])|[0-9]+|[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
# Runs of letters and of digits, and each character that stands between them.
_TOKEN = re.compile(r"[^\W\d_]+|\d+|[\W_]")
_ORDINAL = {"1st": 1, "2nd": 2, "3rd": 3, "first": 1, "second": 2, "third": 3}


def words(name: str) -> list[str]:
    """The words of a name, in lower case: ``labelsTr`` is *labels* and *tr*, ``1stHO`` *1st* and *ho*."""
    return [word.lower() for word in _WORD.findall(name)]


def tokens(name: str) -> list[str]:
    """A name in pieces that together are the name again: runs of letters and of digits, single separators."""
    return _TOKEN.findall(name)


def rank(name: str) -> int:
    """How surely a name says that its files are label maps: 2 drawn by somebody, 1 masks or labels, 0 not at all."""
    found = set(words(name))
    return 2 if found & DRAWN else 1 if found & MASKS else 0


def is_image(name: str) -> bool:
    """Whether a name says that its files are images."""
    return rank(name) == 0 and bool(IMAGES & set(words(name)))


def is_derived(name: str) -> bool:
    """Whether a name says that its files were made from others (outlines, probabilities)."""
    return bool(DERIVED & set(words(name)))


def annotator(name: str) -> int:
    """Number of the annotator that a name has (``2nd_manual``, ``manual1``, ``expert3``); 0: none."""
    found = words(name)
    ordinals = [_ORDINAL[word] for word in found if word in _ORDINAL]
    numbers = [int(b) for a, b in pairwise(found) if a in DRAWN and b.isdigit() and len(b) < 3]
    return (ordinals or numbers or [0])[0]


def part_of(name: str) -> str:
    """Which part of a data set a folder is by its name: ``training``, ``validation``, ``test`` or nothing."""
    found = [word for word in words(name) if word in PARTS]
    if not found:
        return ""
    return "test" if found[0] in TEST else "training" if found[0] in TRAINING else "validation"
