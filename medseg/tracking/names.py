"""Names and texts that MLflow accepts, and that hold no path of this machine."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from medseg.compare.quantity import MEAN, quantity

# Scores of whole cases of the validation folds; ``val/…`` are the curves of the training loop.
PREFIX = "cv"
# Of the cases of a test set, once it was opened.
TEST_PREFIX = "test"
ABSOLUTE_PATH = re.compile(r"""(?:^|[\s"'=:,(\[])(?:~|file:/*)?(?:/[^/\s"',)\]]+){2,}|(?:^|\W)[A-Za-z]:\\""")
HIDDEN = "(path hidden)"
LONGEST_SEGMENT = 64
# MLflow cuts parameters at 6000 characters and tags at 8000, and says nothing.
LONGEST_TEXT = 5000


def score_name(metric: str, label: str, prefix: str = PREFIX) -> str:
    """Name of a row of the comparison: ``cv/dice_subject/mean``, ``cv/dice_subject/<class>``, ``cv/miou_subject``.

    A mean over classes that the field gives another name than the metric has that name, and no class after it.
    """
    column = column_name(metric)
    return f"{prefix}/{column}" if label == MEAN and column != metric else f"{prefix}/{metric}/{label}"


def column_name(metric: str) -> str:
    """What a mean over classes is called in the leaderboard: ``iou_subject`` is ``miou_subject``."""
    name, _, kind = metric.rpartition("_")
    return f"{quantity(name).column}_{kind}"


def beside_mean(metric: str, what: str, prefix: str = PREFIX) -> str:
    """Name of a number beside a mean over classes: ``cv/dice_subject_low``, ``cv/hd95_subject_median``.

    No class stands in it, so a class may have any name.
    """
    return f"{prefix}/{column_name(metric)}_{what}"


def tolerance_tag(metric: str, label: str) -> str:
    """Name of the tag with the tolerance of a metric for a class: ``medseg.tolerance.nsd.liver``."""
    return metric_name(f"medseg.tolerance.{metric}.{label}")


def safe_text(value: object) -> str:
    """The text of a parameter or tag, as it is stored and as it is compared with what is stored.

    A path of this machine is hidden, since stores are shared; a long text ends in a digest of the whole.
    """
    text = str(value)
    return HIDDEN if ABSOLUTE_PATH.search(text) else shortened(text, LONGEST_TEXT)


def shortened(text: str, longest: int) -> str:
    """A text of so many characters at most; one that is cut ends in a digest of the whole."""
    if len(text) <= longest:
        return text
    end = f"… (SHA-256 of all: {hashlib.sha256(text.encode()).hexdigest()[:16]})"
    return text[: longest - len(end)] + end


def metric_name(name: str) -> str:
    """A name that MLflow accepts on every platform: in ``val/dice/<label>``, odd characters are replaced.

    A digest of four digits keeps names apart that would otherwise fall together.
    """
    return "/".join(_segment(part) for part in name.split("/"))


def _segment(part: str) -> str:
    clean = re.sub(r"[^A-Za-z0-9_.\- ]", "_", part).strip()
    if clean == part and clean.strip(".") and len(clean) <= LONGEST_SEGMENT:
        return part
    return f"{clean.strip('.')[: LONGEST_SEGMENT - 5]}-{hashlib.sha256(part.encode()).hexdigest()[:4]}"


def display_tags(names: Iterable[str]) -> dict[str, str]:
    """Tags that hold the real name of every part of metrics' names that had to change, as of classes: one for each."""
    parts = {part for name in names for part in name.split("/")}
    return {f"medseg.name.{_segment(part)}": part for part in sorted(parts) if _segment(part) != part}
