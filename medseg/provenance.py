"""Where a result comes from: digests of code, versions of libraries, the machine.

The code digest of a stage covers what the stage can execute: its import closure, and of the tables whose rows name
their code late (``"medseg.models.unet:build"``) only the rows that are used. It is taken over syntax trees without
docstrings, comments and the descriptions of options: prose retrains nothing.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import platform
import re
import subprocess
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

PACKAGE = "medseg"
ROOT = Path(__file__).parent
LIBRARIES = ("numpy", "scipy", "torch", "monai", "nibabel", "scikit-image", "snakemake", "mlflow", "blosc2")
# Tables whose rows name their code late: module -> the dictionary in it, a literal with literal keys.
TABLES: Mapping[str, str] = {
    "medseg.networks": "NETWORKS",
    "medseg.models.encoders.table": "ENCODERS",
    "medseg.losses.table": "LOSSES",
    "medseg.heads": "HEADS",
    "medseg.objects.decode": "SPLITTERS",
    "medseg.metrics.table": "METRICS",
    "medseg.formats.table": "FORMATS",
    "medseg.postprocess.operations": "OPERATIONS",
}
LATE = re.compile(rf"({PACKAGE}(?:\.\w+)+):\w+")
# Column of a row -> the only module that calls the code named there: who does not import it does not reach that code.
CALLERS: Mapping[str, str] = {
    "write": "medseg.formats.write",
    "loss": "medseg.losses.build",
    "tune": "medseg.train.tuned",
    "reader": "medseg.predict.pipeline",
}

# Table -> the rows that are used; a table that is not named is used whole.
Rows = Mapping[str, Collection[str]]
_Rows = tuple[tuple[str, tuple[str, ...]], ...]


def closure_digest(modules: Sequence[str], rows: Rows | None = None, root: Path = ROOT) -> str:
    """Digest (16 hex digits) of modules and of all modules of the package that they import, directly or not."""
    return _closure_digest(tuple(modules), _frozen(rows), root)


def import_closure(module: str, root: Path = ROOT, rows: Rows | None = None) -> frozenset[str]:
    """Names of the package's modules that importing ``module``, and calling what it imports, can reach."""
    return _closure((module,), _frozen(rows), root)


def _frozen(rows: Rows | None) -> _Rows:
    unknown = set(rows or {}) - set(TABLES.values())
    if unknown:
        raise ValueError(f"no tables {sorted(unknown)}; there are {', '.join(TABLES.values())}")
    return tuple(sorted((table, tuple(sorted(names))) for table, names in (rows or {}).items()))


@functools.lru_cache(maxsize=256)
def _closure_digest(modules: tuple[str, ...], rows: _Rows, root: Path) -> str:
    digest = hashlib.sha256()
    for name in sorted(_closure(modules, rows, root)):
        digest.update(name.encode() + b"\0" + _facts(name, _rows_of(name, rows), root)[0].encode())
        for extra in sorted(_module_path(name, root).parent.glob("*.j2")):
            digest.update(extra.read_bytes())
    return digest.hexdigest()[:16]


@functools.lru_cache(maxsize=256)
def _closure(modules: tuple[str, ...], rows: _Rows, root: Path) -> frozenset[str]:
    seen: set[str] = set()
    waiting: dict[str, list[str]] = {caller: [] for caller in CALLERS.values()}
    todo = list(modules)
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            # Importing a.b.c runs a and a.b first.
            todo += [name.rsplit(".", 1)[0]] if "." in name else []
            for other, caller in _imports(name, _rows_of(name, rows), root):
                (todo if caller is None or caller in seen else waiting[caller]).append(other)
            todo += waiting.get(name, [])
    return frozenset(seen)


def _rows_of(module: str, rows: _Rows) -> tuple[str, ...] | None:
    """The rows that are used of the table in a module; None: all, or it has no table."""
    return dict(rows).get(TABLES.get(module, ""))


def _module_path(name: str, root: Path) -> Path:
    path = root.joinpath(*name.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _facts(name: str, rows: tuple[str, ...] | None, root: Path) -> tuple[str, tuple[tuple[str, str | None], ...]]:
    """Digest of a module's syntax tree without prose, and what it names (see ``_named``).

    Of its table, only ``rows`` and the definitions they refer to count.
    """
    return _facts_of(_module_path(name, root).read_bytes(), name if rows is not None else "", rows)


@functools.lru_cache(maxsize=1024)
def _facts_of(
    source: bytes, module: str, rows: tuple[str, ...] | None
) -> tuple[str, tuple[tuple[str, str | None], ...]]:
    # No tree is kept: each collection of garbage would visit all of their nodes, for most of the time that this takes.
    tree = _parsed(source) if rows is None else _with_rows(_parsed(source), module, rows)
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest(), _named(tree)


def _parsed(source: bytes) -> ast.Module:
    tree = ast.parse(source)
    _remove_prose(tree)
    return tree


def _remove_prose(tree: ast.Module) -> None:
    """Remove docstrings, the descriptions of options, and imports for type checkers (in place)."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if node.body and _is_text(node.body[0]):
                node.body = node.body[1:] or [ast.Pass()]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Field":
            node.keywords = [k for k in node.keywords if k.arg != "description"]
        elif isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            node.body = [ast.Pass()]


def _is_text(statement: ast.stmt) -> bool:
    value = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(value, ast.Constant) and isinstance(value.value, str)


def _with_rows(tree: ast.Module, module: str, rows: tuple[str, ...]) -> ast.Module:
    """A table's module without its other rows, and without the classes and values that only they use.

    The tree that is given is changed.

    Raises:
        ValueError: if the table is no literal dictionary, or lacks a row.
    """
    table = TABLES[module]
    literal = next(
        (s.value for s in tree.body if table in _defined(s) and isinstance(s, ast.Assign | ast.AnnAssign)), None
    )
    if not isinstance(literal, ast.Dict):
        raise ValueError(f"{module}.{table} is no literal dictionary; a code digest cannot tell its rows apart")
    found = {
        key.value: (key, row)
        for key, row in zip(literal.keys, literal.values, strict=True)
        if isinstance(key, ast.Constant)
    }
    missing = sorted(set(rows) - set(found))
    if missing:
        raise ValueError(f"{module}.{table} has no rows {', '.join(missing)}")
    literal.keys, literal.values = [found[r][0] for r in rows], [found[r][1] for r in rows]
    todo = [s for s in tree.body if table in _defined(s) or not _defined(s) or isinstance(s, ast.FunctionDef)]
    kept: list[ast.stmt] = []
    while todo:
        statement = todo.pop()
        if statement not in kept:
            kept.append(statement)
            used = {node.id for node in ast.walk(statement) if isinstance(node, ast.Name)}
            todo += [s for s in tree.body if used & _defined(s)]
    return ast.Module([s for s in tree.body if s in kept], [])


def _defined(statement: ast.stmt) -> set[str]:
    """Names that a statement of a module defines; none for imports and others that always count."""
    if isinstance(statement, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        return {statement.name}
    if isinstance(statement, ast.Assign):
        return {target.id for target in statement.targets if isinstance(target, ast.Name)}
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        return {statement.target.id}
    return set()


@functools.lru_cache(maxsize=1024)
def _imports(name: str, rows: tuple[str, ...] | None, root: Path) -> tuple[tuple[str, str | None], ...]:
    """Modules of the package that a module imports anywhere or names late, each with its only caller, or None."""
    ours = [(f, c) for f, c in _facts(name, rows, root)[1] if f == PACKAGE or f.startswith(f"{PACKAGE}.")]
    return tuple((f, caller) for f, caller in ours if _module_path(f, root).is_file())


def _named(tree: ast.Module) -> tuple[tuple[str, str | None], ...]:
    """What a module imports, or may import (of ``from a.b import c``, c is a module or a name in a.b), or names late.

    Each with the only module that calls it (see ``CALLERS``), or None.
    """
    found: list[tuple[str, str | None]] = []
    nodes = list(ast.walk(tree))
    callers = {k.value: CALLERS.get(k.arg or "") for k in nodes if isinstance(k, ast.keyword)}
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found += [(name, None) for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and (late := LATE.fullmatch(node.value)):
            found.append((late[1], callers.get(node)))
    return tuple(found)


def environment() -> dict[str, Any]:
    """Versions and machine facts for reports and checkpoints; no user, host or path."""
    versions = {}
    for library in LIBRARIES:
        try:
            versions[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            versions[library] = "absent"
    return {
        "medseg": importlib.metadata.version(PACKAGE),
        "git": git_commit(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        **versions,
    }


def git_commit() -> str:
    """Commit of the checkout the package lies in, ``-dirty`` if changed; ``unknown`` outside one.

    An installed package may lie in an environment within somebody else's repository, whose commit says nothing of it.
    """
    if not (ROOT.parent / ".git").exists():
        return "unknown"
    try:
        out = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return out.stdout.strip()


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or "unknown"
