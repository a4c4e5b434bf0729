"""Error messages for configurations, one line per problem: where, what was found, what to write instead."""

from __future__ import annotations

import difflib
import itertools
import json
from collections.abc import Collection, Sequence
from typing import Any, get_args, get_origin

from medseg.bounds import shortened
from medseg.config.section import Section
from medseg.networks import NETWORKS
from medseg.text import escaped

# Names in one message.
SHOWN = 30


def explain_option(network: str, detail: Any) -> str:
    """One line for a pydantic error in an option of a network."""
    name = escaped(".".join(str(part) for part in detail["loc"]))
    valid = list(NETWORKS[network].options.model_fields)
    if detail["type"] != "extra_forbidden":
        return f"{name}: {detail['msg']}"
    near = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"its options: {', '.join(valid) or 'none'}"
    return f"{network} has no option '{name}', {hint}"


def explain_error(detail: Any, root: type[Section]) -> str:
    """One line for a pydantic error: where, what was found, what to write instead.

    Args:
        detail: an element of ``ValidationError.errors()``.
        root: the section that was validated.
    """
    where = escaped(".".join(str(part) for part in detail["loc"] if part != "[key]"))
    found = detail["input"]
    if detail["type"] == "extra_forbidden":
        valid = _keys_at(detail["loc"][:-1], root)
        near = difflib.get_close_matches(str(detail["loc"][-1]), valid, n=2, cutoff=0.5)
        names = " or ".join(f"'{name}'" for name in near)
        hint = f"did you mean {names}?" if near else f"valid keys: {', '.join(valid)}"
        return f"unknown key '{where}'; {hint}"
    if detail["type"] == "missing":
        return f"missing key '{where}'"
    hint = ""
    if isinstance(found, str) and detail["type"] in {"float_type", "int_type"}:
        try:
            number, text = float(found), escaped(found)
            if detail["type"] == "int_type":
                hint = f"; this is text to YAML: write it as {number:.0f} (a whole number)"
            else:
                hint = f"; YAML reads {text} as text: write it as {number!r} (with a decimal point)"
                if "e" in repr(number):
                    hint = f"; YAML reads {text} as text: write it as {_decimal(number)} (with a decimal point)"
        except ValueError:
            hint = ""
    return f"'{where}': {detail['msg'].removeprefix('Value error, ')}, found {_shown(found)}{hint}"


def _shown(found: Any) -> str:
    """What was found, in some eighty characters; as JSON where it is a single text or number."""
    if found is None or isinstance(found, str | float | bool):
        return json.dumps(found if not isinstance(found, str) else found[:80], ensure_ascii=False)[:80]
    return shortened(found)


def listed(names: Collection[str]) -> str:
    """Names as a list for messages; there can be thousands."""
    more = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(itertools.islice(names, SHOWN)) + more


def _decimal(number: float) -> str:
    """A number with an exponent, as YAML 1.1 reads it: with a decimal point and a signed exponent."""
    digits, exponent = f"{number:e}".split("e")
    digits = digits.rstrip("0")
    return f"{digits}{'0' if digits.endswith('.') else ''}e{exponent}"


def _keys_at(location: Sequence[Any], root: type[Section]) -> list[str]:
    """The valid keys of the section at ``location`` below ``root``."""
    section: Any = root
    for part in location:
        annotation = section.get(part) if isinstance(section, dict) else section.model_fields[str(part)].annotation
        if get_origin(annotation) is dict:
            # The next part is a name that the user chose; every name leads to the same kind of section.
            section = dict.fromkeys(location, get_args(annotation)[1])
        else:
            inner = (annotation, *get_args(annotation))
            section = next(a for a in inner if isinstance(a, type) and issubclass(a, Section))
    return list(section.model_fields)
