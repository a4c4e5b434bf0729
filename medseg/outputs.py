"""Which files a job of the workflow made, so that one that is missing or changed later is made again.

Snakemake does not look at files between those that were asked for and those that a job reads: without these lists, a
study whose weights were deleted has "nothing to be done". A list has size, time and SHA-256 of each file. It is begun
before the first file is written and gets its final name after the last, so that its presence means complete, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from medseg import files
from medseg.errors import DataError
from medseg.explained import named
from medseg.fence import Run, allowed
from medseg.files import sha256_file, writer_lock
from medseg.owner import owner_tags
from medseg.records import read_record, write_record
from medseg.results.folders import RunFolder

OPEN = ".open"


@dataclass(frozen=True, slots=True)
class FileFacts:
    """What is known of a file that was made: size in bytes, time of its last change in ns, SHA-256 (hex)."""

    size: int
    mtime_ns: int
    sha256: str

    def fits(self, found: os.stat_result) -> bool:
        """Whether a file still looks like this, without reading it."""
        return (found.st_size, found.st_mtime_ns) == (self.size, self.mtime_ns)

    @classmethod
    def of(cls, path: Path) -> FileFacts:
        """Facts of a file, which is read."""
        found = os.stat(path)
        return cls(found.st_size, found.st_mtime_ns, sha256_file(path))


def list_of(root: Path, result: Path) -> Path:
    """The list of the files that were made with a result below ``root``."""
    return RunFolder(root).made / f"{os.path.relpath(result, root).replace('..', 'outside')}.json"


@contextlib.contextmanager
def writing(result: Path, folder: Path | None = None, *, whole: bool = False) -> Iterator[None]:
    """Hold the right to write a result during the block; in the workflow, keep the list of the files that are written.

    Args:
        result: the file that is written last.
        folder: what else is written lies in here; none: nothing else is written.
        whole: within the block, all that belongs there is written or kept, so that what an earlier job of this result
            made besides is removed.

    Raises:
        BusyError: if another process writes the same (see ``files.writer_lock``).
        SupersededError: in a job of an earlier run of the workflow.
    """
    lock = writer_lock(result.parent, f".{result.name}.lock") if folder is None else writer_lock(folder)
    with lock, listing(result, folder or result, whole=whole):
        yield


@contextlib.contextmanager
def listing(result: Path, place: Path, *, whole: bool = False) -> Iterator[None]:
    """Keep the list of what is written within the block; the lock is the caller's. By hand, nothing is listed.

    Args:
        result: the file that is written last.
        place: the folder in which files are listed, or the one file.
        whole: as for ``writing``.
    """
    run = Run.own()
    if run is None:
        yield
        return
    with allowed():
        made = _Made(run.root, result, place)
    files.listeners.append(made.note)
    _open.append(made)
    try:
        yield
    finally:
        files.listeners.remove(made.note)
        _open.remove(made)
    if whole:
        made.remove_others()
    made.close()


def note(path: Path) -> None:
    """List a file that is kept as an earlier run of its job wrote it."""
    for made in _open:
        made.note(path)


class _Made:
    """A list that grows: one line per file in ``….open``, which survives a kill; the last line of a file counts."""

    def __init__(self, root: Path, result: Path, place: Path) -> None:
        self._root, self._result, self._place = root, result, Path(os.path.abspath(place))
        self._list = list_of(root, result)
        self._growing = self._list.with_name(self._list.name + OPEN)
        self._lock = threading.Lock()
        self._cases: set[str] = set()
        self._growing.parent.mkdir(parents=True, exist_ok=True)
        self._known = read_open(self._growing)
        with contextlib.suppress(DataError):  # none yet, or damaged: files are listed as they are written or kept
            self._known |= read_list(self._list)
        # The list is complete or absent: from here on, it is neither.
        lines = [{"owner": owner_tags()}, *({"file": name, **asdict(facts)} for name, facts in self._known.items())]
        files.write_text(self._growing, "".join(json.dumps(line) + "\n" for line in lines))
        self._list.unlink(missing_ok=True)

    def note(self, path: Path) -> None:
        """List a file, if it lies in the place of this list."""
        path = Path(os.path.abspath(path))
        if path != self._place and self._place not in path.parents:
            return
        self._cases.add(self._case(path))
        name, known = os.path.relpath(path, self._root), self._known.get(os.path.relpath(path, self._root))
        if known is not None and known.fits(os.stat(path)):
            return
        facts = FileFacts.of(path)
        with self._lock:
            self._known[name] = facts
            with named(self._growing), open(self._growing, "a", encoding="utf-8") as file:
                file.write(json.dumps({"file": name, **asdict(facts)}) + "\n")

    def remove_others(self) -> None:
        """Remove the files of cases of which nothing was noted: they are of an earlier configuration."""
        for name in list(self._known):
            path = Path(os.path.abspath(self._root / name))
            if self._case(path) not in self._cases:
                path.unlink(missing_ok=True)
                del self._known[name]

    def _case(self, path: Path) -> str:
        """What the files of one case have in common: ``.case_1.json``, ``case_1.nii.gz`` and ``case_1/image.b2nd``."""
        return path.relative_to(self._place).parts[0].lstrip(".").split(".")[0] if path != self._place else ""

    def close(self) -> None:
        """Give the list its final name; files of earlier runs that are not there any more, or not the same, are not in
        it."""
        kept = {name: facts for name, facts in self._known.items() if _is_there(self._root / name, facts)}
        write_list(self._root, self._result, kept)
        self._growing.unlink(missing_ok=True)


_open: list[_Made] = []


def _is_there(path: Path, facts: FileFacts) -> bool:
    try:
        return facts.fits(os.stat(path))
    except FileNotFoundError:
        return False


def write_list(root: Path, result: Path, made: Mapping[str, FileFacts]) -> None:
    """Write the list of a result: the files, by path relative to ``root``."""
    write_record(list_of(root, result), {"files": {name: asdict(facts) for name, facts in sorted(made.items())}})


def read_list(path: Path) -> dict[str, FileFacts]:
    """The files of a list, by path relative to the results.

    Raises:
        DataError: if there is none, or it is damaged.
    """
    try:
        return {name: FileFacts(**facts) for name, facts in read_record(path, "medseg run CONFIG")["files"].items()}
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: not a list of files that a job made ({error!r}); delete it") from error


def read_open(path: Path) -> dict[str, FileFacts]:
    """The files of a list that was not finished; a torn line is left out, its file is listed anew when it is kept."""
    found = {}
    for line in _lines(path):
        if "file" in line:
            name = line.pop("file")
            with contextlib.suppress(TypeError):
                found[name] = FileFacts(**line)
    return found


def owners(root: Path) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Jobs that did not finish their lists: what they were writing, and the tags of their processes."""
    for path in sorted(RunFolder(root).made.rglob(f"*.json{OPEN}")):
        name = str(path.relative_to(RunFolder(root).made)).removesuffix(f".json{OPEN}")
        for line in _lines(path):
            owner = line.get("owner")
            # A line that a power cut damaged names nobody.
            if isinstance(owner, dict) and str(owner.get("medseg.pid")).isdigit():
                yield name, owner


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    for text in path.read_text(errors="replace").splitlines() if path.is_file() else []:
        with contextlib.suppress(ValueError, RecursionError):  # cut or damaged lines
            value = json.loads(text)
            if isinstance(value, dict):
                yield value


@dataclass(frozen=True, slots=True)
class Damage:
    """What is wrong with a result.

    Attributes:
        why: for people: which file, and what happened to it.
        unfinished: its job began and did not end, which is nobody's fault.
    """

    why: str
    unfinished: bool = False


def damaged(
    root: Path, results: Iterable[Path], *, verify: bool = False, say: Callable[[str], None] = lambda line: None
) -> dict[Path, Damage]:
    """Results that were not finished, or of which a listed file is missing or changed, and which of these it is.

    Those without a list are not among them.

    Files are not read where size and time are those of the list.

    Args:
        root: ``results/{experiment}``.
        results: those to look at.
        verify: read every file.
        say: told of what takes time.
    """
    found: dict[Path, Damage] = {}
    reading = False
    for result in results:
        path = list_of(root, result)
        if not path.is_file():
            if path.with_name(path.name + OPEN).is_file():
                found[result] = Damage(f"{os.path.relpath(result)} was not finished", unfinished=True)
            continue
        try:
            made = read_list(path)
        except DataError:
            found[result] = Damage(f"{path}: damaged")
            continue
        fresh = dict(made)
        for name, facts in made.items():
            why, fresh[name] = _look(root / name, facts, verify)
            if fresh[name] is not facts and not reading:
                reading = True
                say("reading files that were made earlier")
            if why:
                found.setdefault(result, Damage(f"{os.path.relpath(root / name)} {why}"))
        if result not in found and fresh != made:
            write_list(root, result, fresh)
    return found


def _look(path: Path, facts: FileFacts, verify: bool) -> tuple[str, FileFacts]:
    """What is wrong with a file (nothing: empty), and its facts as they are now."""
    try:
        if not verify and facts.fits(os.stat(path)):
            return "", facts
        now = FileFacts.of(path)
    except OSError as error:
        return f"cannot be read ({error.strerror})" if path.exists() else "is missing", facts
    return ("" if now.sha256 == facts.sha256 else "was changed"), now
