"""Ids of cases, made from the names of files: safe in paths and command lines, whatever the files are called."""

from __future__ import annotations

import hashlib
import re
import unicodedata

from medseg.files import SAFE_NAME
from medseg.text import is_printable

# Longest id, and what of a longer name is kept before its digest.
LONGEST, KEPT = 64, 55
# Letters that Unicode does not take apart.
_LETTERS = str.maketrans(
    {"ß": "ss", "ø": "o", "Ø": "O", "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D"}
)


def case_id(name: str) -> str:
    """The id of a case by its name; an id's is itself.

    Letters lose what is above and below them, everything else that an id cannot have becomes ``_``. Where letters are
    lost (other scripts) or the name is too long, the id ends with a digest of the name, so that unlike names stay so.
    A name that cannot be printed, or is a path, stays as it is: it is a fault.
    """
    if SAFE_NAME.fullmatch(name) or not is_printable(name) or "/" in name:
        return name
    apart = unicodedata.normalize("NFKD", name.translate(_LETTERS))
    plain = "".join(c for c in apart if not unicodedata.combining(c))
    lost = any(c.isalnum() and not c.isascii() for c in plain)
    text = re.sub(r"[^A-Za-z0-9._-]+", "_", plain).lstrip("._-").rstrip("_")
    if text and len(text) <= LONGEST and not lost:
        return text
    digest = hashlib.sha256(unicodedata.normalize("NFC", name).encode()).hexdigest()[:8]
    return f"{text[:KEPT] or 'case'}-{digest}"
