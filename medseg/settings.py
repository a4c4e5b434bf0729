"""Files of settings: strict YAML or JSON to plain mappings, and how several become one."""

from __future__ import annotations

import json
from collections.abc import Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from medseg.errors import ConfigError

# YAML is read a thousand times slower than JSON, in which the workflow writes the checked configuration with everything
# that was left out: some thirty times as long.
MAX_JSON_BYTES, MAX_YAML_BYTES = 1 << 26, 1 << 20
# Sections within sections; the deepest key of a configuration has seven.
MAX_DEPTH = 20


class _StrictLoader(yaml.SafeLoader):
    """YAML without aliases (bombs) and without duplicate keys (silent last-wins)."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.constructor.ConstructorError(
                None, None, "aliases (*name) are not allowed; write the value out", event.start_mark
            )
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = _first_twice(key for key in keys if isinstance(key, Hashable))
        if twice is not None:
            raise yaml.constructor.ConstructorError(None, None, f"duplicate key {twice!r}", node.start_mark)
        return super().construct_mapping(node, deep)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A mapping of JSON without duplicate keys (silent last-wins)."""
    if (twice := _first_twice(key for key, _ in pairs)) is not None:
        raise ValueError(f"duplicate key {twice!r}")
    return dict(pairs)


def _first_twice(keys: Iterable[Any]) -> str | None:
    """The first key that was there before, as text."""
    seen: set[Any] = set()
    for key in keys:
        if key in seen:
            return str(key)
        seen.add(key)
    return None


def is_shallow(value: Any, depth: int = MAX_DEPTH) -> bool:
    """Whether lists and mappings within one another are no more than ``depth``; found without recursion."""
    level = [value]
    for _ in range(depth + 1):
        inner = [v for v in level if isinstance(v, list | dict)]
        if not inner:
            return True
        level = [v for held in inner for v in (held.values() if isinstance(held, dict) else held)]
    return False


def read_settings(path: Path) -> dict[str, Any]:
    """Read one configuration file (YAML or JSON) as a mapping.

    Raises:
        ConfigError: if it is missing, too large, not YAML, has aliases or duplicate keys, or is no mapping.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: no such configuration file")
    most = MAX_JSON_BYTES if path.suffix == ".json" else MAX_YAML_BYTES
    if path.stat().st_size > most:
        raise ConfigError(f"{path}: {path.stat().st_size} bytes; a configuration of this kind is at most {most}")
    try:
        text = path.read_text(encoding="utf-8")
        # JSON is not quite YAML: its 1e-05 is a number, YAML 1.1's is text.
        value = (
            json.loads(text, object_pairs_hook=_unique)
            if path.suffix == ".json"
            else yaml.load(text, Loader=_StrictLoader)
        )
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply; at most {MAX_DEPTH} levels") from None
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: expected keys and values, found {type(value).__name__}")
    if not is_shallow(value):
        raise ConfigError(f"{path}: nested too deeply; at most {MAX_DEPTH} levels")
    return value


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Deep-merge two mappings; values of ``over`` win, mappings are merged key by key."""
    out = dict(base)
    for key, value in over.items():
        old = out.get(key)
        out[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return out
