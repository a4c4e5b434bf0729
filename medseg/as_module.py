"""The workflow as a module of another Snakefile (``module medseg: …``), as the Snakemake workflow catalogue deploys it.

Then the configuration comes from that Snakefile, which may rename our rules, and Snakemake calls its handlers alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from medseg.config import Config
from medseg.ending import stop
from medseg.errors import ConfigError, MedsegError
from medseg.settings import merge
from medseg.workflow import VERIFY, checked_study, typed_overrides


def handed_config(given: Mapping[str, Any], overrides: Mapping[str, Any]) -> Config:
    """The configuration of a workflow that another Snakefile has as a module; a bad one ends the process
    with exit code 2.

    Args:
        given: what that Snakefile hands on; if it is all that it has, overrides of the command line are in it.
        overrides: of the command line, whose nested numbers Snakemake leaves as text.
    """
    try:
        value = {key: inner for key, inner in given.items() if key != VERIFY}
        inside = merge(given, overrides) == given
        return checked_study([], merge(value, typed_overrides(overrides)) if inside else value)
    except (MedsegError, OSError) as error:
        raise stop(error) from None


def require_plain_paths(modify: Callable[[str], str]) -> None:
    """End with exit code 2 if a Snakefile puts the paths of its module elsewhere: our commands would not know of it."""
    if modify("results") != "results":
        raise stop(ConfigError("module: no `prefix` and no `replace_prefix`; `results: FOLDER` in the configuration"))


def own_names(modify: Callable[[str], str]) -> Callable[[str], str]:
    """A function that gives a rule's name as it is here, where another Snakefile renames them (``use rule ... as``).

    Args:
        modify: our name of a rule -> that Snakefile's.
    """
    before, _, after = modify("*").partition("*")
    return lambda name: name.removeprefix(before).removesuffix(after)


def hand_on(workflow: Any, *handlers: Callable[..., None]) -> None:
    """Have Snakemake call the handlers of a module, after those of the main Snakefile: by itself it does not.

    A handler that the main Snakefile defines later replaces both; it calls ours, as ``medseg.onstart()``.

    Args:
        workflow: Snakemake's.
        handlers: onstart, onsuccess, onerror.
    """
    for name, ours in zip(("_onstart", "_onsuccess", "_onerror"), handlers, strict=True):
        setattr(workflow, name, _both(getattr(workflow, name), ours))


def _both(theirs: Callable[[Any], None], ours: Callable[..., None]) -> Callable[[Any], None]:
    def call(log: Any) -> None:
        theirs(log)
        ours(log=log)

    return call
