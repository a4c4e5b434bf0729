"""What a request may ask for: the name of its image, options of the prediction, and a body of bounded size."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from email.message import Message
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import parse_qs

from medseg.formats.table import FORMATS, suffix_of
from medseg.text import escaped, is_printable

# Formats of one file: what lies in several, or is a folder, cannot be sent as one body.
SUFFIXES = tuple(s for s, row in FORMATS.items() if s.startswith(".") and not row.companions and not row.members)
# Bytes of a body that are in memory at once.
CHUNK = 1 << 20
MAX_NAME = 255
# The size of a body in digits that a number may have.
MAX_DIGITS = 15
# Bytes of a body that nobody wants, or whose size nobody knows, which are read at most.
UNTOLD = 1 << 30


class RequestError(Exception):
    """A request that is not done.

    Attributes:
        status: of HTTP.
        lines: what is wrong, and what to do.
        headers: of the answer.
    """

    def __init__(self, status: int, *lines: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(status, *lines)
        self.status, self.lines, self.headers = status, lines, dict(headers or {})


class Gone(Exception):
    """The client has left."""


class Parameter(NamedTuple):
    """An option of a prediction as a part of an address.

    Attributes:
        field: of ``How``.
        read: its value; raises ``ValueError``.
        expected: what it says.
        many: whether it may be given several times.
    """

    field: str
    read: Callable[[str], Any]
    expected: str
    many: bool = False


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _size(text: str) -> float:
    if (value := _number(text)) <= 0:
        raise ValueError(text)
    return value


def _one_of(*words: str) -> Callable[[str], str]:
    return lambda text: words[words.index(text)]


# As the options of `medseg predict` are called.
PARAMETERS: Mapping[str, Parameter] = {
    "allow": Parameter("allow", str, "the name of a doubt, as in allow=shear", many=True),
    "spacing": Parameter("spacing", _size, "micrometres, once per axis, as in spacing=0.5&spacing=0.5", many=True),
    "axes": Parameter("axes", str, "planes of a TIFF file, as in axes=ZYX"),
    "channel": Parameter("channels", lambda t: int(t) if t.isdecimal() else t, "a number from 0, or a name", many=True),
    "series": Parameter("series", str, "the UID or number of a DICOM series"),
    "orientation": Parameter("orientation", _one_of("sform", "qform"), "sform or qform"),
    "fill": Parameter("fill", _number, "a number, as in fill=-1024"),
    "references": Parameter("references", lambda t: _one_of("yes", "no")(t) == "yes", "yes or no"),
}


def read_query(query: str) -> tuple[str, dict[str, object]]:
    """The name of the image and the options of ``How`` that a request's query says.

    Raises:
        RequestError: for what is no name of an image, and for unknown and impossible options.
    """
    try:
        given = parse_qs(query, keep_blank_values=True, errors="strict", max_num_fields=100)
    except ValueError:
        raise RequestError(400, "the query is not readable; expected ?name=scan.nii.gz, escaped as in URLs") from None
    name = read_name(given.pop("name", []))
    options: dict[str, object] = {}
    for word, values in given.items():
        if (row := PARAMETERS.get(word)) is None:
            raise RequestError(400, f"no option '{escaped(word)}'; there are name, {', '.join(PARAMETERS)}")
        if len(values) > 1 and not row.many:
            raise RequestError(400, f"{word}: given {len(values)} times, expected once")
        try:
            read = [row.read(value) for value in values]
        except ValueError:
            raise RequestError(400, f"{word}: expected {row.expected}") from None
        options[row.field] = tuple(read) if row.many else read[0]
    return name, options


def read_name(values: Sequence[str]) -> str:
    """The name of an image; only its suffix counts, which says the format."""
    if len(values) != 1 or not values[0]:
        raise RequestError(400, "no name of the image; put it behind the address: ?name=scan.nii.gz")
    (name,) = values
    if len(name.encode(errors="replace")) > MAX_NAME or not is_printable(name) or "/" in name or "\\" in name:
        raise RequestError(400, f"name: expected the name of a file without folders, {MAX_NAME} bytes at most")
    suffix = suffix_of(Path(name))
    if suffix in SUFFIXES:
        return name
    if suffix in FORMATS:
        cause = f"name: images of the format {suffix} lie in several files, and one is sent here"
        raise RequestError(415, f"{cause}; convert it to .nii.gz, .nrrd, .mha or .ome.tif")
    there = f"there are {', '.join(SUFFIXES)} (a DICOM series as .zip)"
    raise RequestError(415, f"name: no format has the suffix {escaped(suffix) or '(none)'}; {there}")


def announced(headers: Message) -> int:
    """How many bytes of a body may come, at most ``UNTOLD``; that is also said of a body that comes in chunks."""
    if headers.get("Transfer-Encoding"):
        return UNTOLD
    said = headers.get("Content-Length", "")
    return min(int(said), UNTOLD) if said.isascii() and said.isdecimal() and len(said) <= MAX_DIGITS else 0


def read_length(headers: Message, limit: int) -> int:
    """How many bytes a body has.

    Raises:
        RequestError: if it does not say so, is empty, has more than ``limit``, or is a form.
    """
    kind = headers.get("Content-Type", "")
    if kind.lower().startswith("multipart/"):
        raise RequestError(415, "a form was sent, expected the bytes of the file alone: curl --data-binary @FILE")
    said = headers.get("Content-Length", "")
    if not said or headers.get("Transfer-Encoding"):
        raise RequestError(411, "the request does not say its length; send the file itself: curl --data-binary @FILE")
    if not (said.isascii() and said.isdecimal()) or len(said) > MAX_DIGITS:
        raise RequestError(400, "Content-Length: expected a number of bytes")
    if (length := int(said)) == 0:
        raise RequestError(400, "an empty file was sent; send its bytes: curl --data-binary @FILE (with the @)")
    if length > limit:
        raise RequestError(
            413,
            f"the file has {length / 1e6:.1f} MB, at most {limit / 1e6:g} MB are taken; compress it (.nii.gz), crop "
            "it, or start the service with a larger --max-mb",
        )
    return length


def receive(stream: BinaryIO, length: int, target: Path) -> None:
    """Write the next ``length`` bytes of a stream to a file.

    Raises:
        Gone: if the stream ends before.
        RequestError: if nothing comes for too long.
    """
    left = length
    with open(target, "xb") as file:
        while left:
            try:
                data = stream.read1(min(left, CHUNK))  # type: ignore[attr-defined]
            except TimeoutError:
                raise RequestError(408, "no more of the file came; send it again") from None
            except ConnectionError:
                raise Gone from None
            if not data:
                raise Gone
            file.write(data)
            left -= len(data)
