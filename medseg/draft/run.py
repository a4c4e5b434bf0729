"""`medseg new`: draft a configuration for a folder, put it to the test of ingest, write it."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from medseg.config import Config, DatasetConfig
from medseg.draft.decide import decide
from medseg.draft.lines import Draft, Line
from medseg.draft.survey import survey
from medseg.draft.text import draft_text
from medseg.errors import ConfigError, DataError, DatasetFaults
from medseg.files import SAFE_NAME, write_text
from medseg.ingest import run as ingest
from medseg.ingest.faults import FAULTS
from medseg.ingest.layouts.detect import PATTERNS
from medseg.ingest.look import ANY_CLASS, Look, look
from medseg.ingest.sources import Inventory, find_cases
from medseg.ingest.subjects import NOTICED, SEPARATORS
from medseg.places import check_places
from medseg.progress import say

# Whoever belongs together is found, then the number of folds that so many subjects allow.
ATTEMPTS = 4
# Reading with all checks takes so many times as long as reading alone.
CHECKING = 3.0
SAME_ORIGIN = "same-origin"
# Fault -> the key that settles it, once the user knows its value.
OFFERS = {
    "orientation": Line("orientation", "sform", "which of a header's two forms counts: sform or qform", off=True),
    "tiff-pages": Line("axes", "CYX", "what the pages are: CYX for channels, ZYX for slices", off=True),
    "label-without-image": Line("exclude", ["ID"], "ids of cases to leave out", off=True),
    "image-without-label": Line("exclude", ["ID"], "ids of cases to leave out", off=True),
}


def run(folder: Path, out: Path, workers: int, seconds: float, gpu: bool) -> list[str]:
    """Write a commented configuration for the images in ``folder``.

    Args:
        folder: the data set's.
        out: the file to write.
        workers: threads that read.
        seconds: for looking into files; if all checks would take longer, they are left to the user.
        gpu: whether trainings here have one.

    Returns:
        Lines that say what was written and what could not be decided.

    Raises:
        ConfigError: if the file exists, or the folder is none.
        DataError: if no layout can be seen; nothing is written.
        DatasetFaults: with the faults that the configuration does not settle; it is written before.
    """
    if out.exists():
        raise ConfigError(f"{out}: is there already; name another file with -o, or remove it")
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; name the one with the images and their label maps")
    seen = look(folder)
    if not seen.layout:
        raise DataError(
            f"{folder}: nothing was written, since it does not show what are images and what are label maps: "
            f"{seen.why}; write the two patterns into a configuration of your own, {PATTERNS} (docs/data.md)"
        )
    draft = _placed(folder)
    say(f"new {draft.name}: {seen.cases} cases, {', '.join(f'{key}: {value}' for key, value in seen.keys.items())}")
    inventory = _inventory(draft.name, folder, seen)
    found = survey(folder, inventory.candidates, workers, seconds / 2)
    decide(draft, seen, inventory.candidates, found, gpu)
    tested = CHECKING * found.seconds * found.cases <= seconds
    try:
        if tested:
            _test(draft, out, workers)
        else:
            why = f"reading all {found.cases} cases takes longer than {seconds:g} s"
            draft.open.append(f"whether the data pass the checks: {why}; `medseg ingest --check` looks")
            check_places(_config(draft))
    except DatasetFaults as error:
        _offer(draft, error)
        raise
    except ConfigError as error:
        draft.open.append(str(error))
        raise
    finally:
        write_text(out, draft_text(draft, out))
    checked = "passes all checks" if tested else "was not checked against all files"
    return [f"wrote {out}; it {checked}", *(f"to decide: {text}" for text in draft.open), f"next: medseg run {out}"]


def _placed(folder: Path) -> Draft:
    """A draft with names and places: paths stay relative where the user's is."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", folder.resolve().name).strip(SEPARATORS)[:64]
    name = name if SAFE_NAME.fullmatch(name) else "data"
    draft = Draft(name, str(folder.parent), folder.name or ".")
    if folder.name in ("", ".."):
        draft = Draft(name, str(folder), ".")
    try:
        check_places(Config.model_validate({**draft.settings(), "budget": {"steps": 1}}))
    except ConfigError:  # a name that results use themselves; anything else is said when the draft is whole
        draft.name = f"my-{name}"[:64]
    return draft


def _inventory(name: str, folder: Path, seen: Look) -> Inventory:
    """The cases of the folder; one class stands for those that nobody has named yet."""
    named = {} if seen.classes else {"labels": {ANY_CLASS: 1}}
    section = DatasetConfig.model_validate({"path": ".", "layout": seen.layout, **seen.keys, **named})
    return find_cases(name, folder, section)


def _config(draft: Draft) -> Config:
    return Config.model_validate(draft.settings())


def _test(draft: Draft, out: Path, workers: int) -> None:
    """Check all files by the draft, which is changed where a fault says how."""
    for _ in range(ATTEMPTS):
        config = _config(draft)
        check_places(config)
        try:
            ingest.check(config, draft.name, workers)
            return
        except DatasetFaults as error:
            if not _join_subjects(draft, error, config, out, workers):
                raise
        except ConfigError as error:
            if not _fewer_folds(draft, error, out):
                raise
    ingest.check(_config(draft), draft.name, workers)


def _join_subjects(draft: Draft, error: DatasetFaults, config: Config, out: Path, workers: int) -> bool:
    """Give cases that ingest noticed to have one origin one subject; False if that is not what is wrong."""
    noticed = [fault for fault in error.faults if fault.code == SAME_ORIGIN]
    declared = next((line.value for line in draft.dataset if line.key == "subject" and not line.off), None)
    if not noticed or declared == NOTICED:
        return False
    groups = "1 group of cases looks" if len(noticed) == 1 else f"{len(noticed)} groups of cases look"
    why = f"{groups} as if they had one origin, e.g. {noticed[0].cause}"
    if declared is None:
        draft.put(Line("subject", NOTICED, f"{why}; what is noticed to belong together is one subject"))
    else:
        file = out.with_name(f"{out.stem}-subjects.csv")
        ingest.propose_subjects(config, draft.name, file, workers)
        draft.put(Line("subject", str(file), f"{why}; the table joins them and those that {declared!r} finds"))
    draft.open.append(f"who belongs together is what was noticed ({why}); a table of yours is better (docs/data.md)")
    return True


def _fewer_folds(draft: Draft, error: ConfigError, out: Path) -> bool:
    """Take as many folds as there are subjects; False if that is not what is wrong; ``ConfigError`` if there is one."""
    there = re.search(r"folds need \d+ subjects, there are (\d+)", str(error))
    if there is None:
        return False
    if int(there[1]) < 2:
        raise ConfigError(
            f"{draft.name}: all cases are of one subject, and validation needs another one; add cases, or correct "
            f"`subject` in {out}, or write `folds: all` there, which trains without validation"
        )
    why = f"training and validation: the first of {there[1]} folds, as many as there are subjects"
    draft.put_study(Line("folds", {"count": int(there[1]), "run": [0]}, why))
    return True


def _offer(draft: Draft, error: DatasetFaults) -> None:
    """Name what is left, and offer the line that allows what may be allowed."""
    counts = Counter(fault.code for fault in error.faults)
    first = {fault.code: fault for fault in reversed(error.faults)}
    for code, count in counts.items():
        draft.open.append(f"{count} faults of kind {code}, the first: {first[code].cause}")
    for line in (OFFERS[code] for code in counts if code in OFFERS):
        draft.put(line)
    flags = [code for code in counts if FAULTS[code].allowed]
    if flags:
        told = "; ".join(f"{code}: {FAULTS[code].allowed}" for code in flags)
        draft.put(Line("allow", flags, f"if what was found is as it should be ({told})", off=True))
