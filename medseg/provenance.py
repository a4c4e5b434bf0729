"""Where a result comes from: digests of code, versions of libraries, the machine.

The code digest of a stage covers its import closure, so a change upstream re-runs what depends on it and nothing else.
It is taken over syntax trees without docstrings and comments: prose retrains nothing.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import platform
import subprocess
from pathlib import Path
from typing import Any

PACKAGE = "medseg"
ROOT = Path(__file__).parent
LIBRARIES = ("numpy", "scipy", "torch", "monai", "nibabel", "scikit-image", "snakemake", "mlflow", "blosc2")


def code_digest(stage: str, root: Path = ROOT) -> str:
    """Digest (16 hex digits) of the code that ``medseg.<stage>.run`` can reach through imports of this package."""
    return closure_digest(f"{PACKAGE}.{stage}.run", root)


@functools.lru_cache(maxsize=64)
def closure_digest(module: str, root: Path = ROOT) -> str:
    """Digest (16 hex digits) of a module and all modules of the package that it imports, directly or not."""
    digest = hashlib.sha256()
    for name in sorted(import_closure(module, root)):
        digest.update(name.encode() + b"\0" + _module_digest(name, root).encode())
        for extra in sorted(_module_path(name, root).parent.glob("*.j2")):
            digest.update(extra.read_bytes())
    return digest.hexdigest()[:16]


def import_closure(module: str, root: Path = ROOT) -> frozenset[str]:
    """Names of the package's modules that importing ``module``, and calling what it imports, can reach."""
    seen: set[str] = set()
    todo = [module]
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            # Importing a.b.c runs a and a.b first.
            todo += [name.rsplit(".", 1)[0]] if "." in name else []
            todo += _imports(name, root)
    return frozenset(seen)


def _module_path(name: str, root: Path) -> Path:
    path = root.joinpath(*name.split(".")[1:])
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@functools.lru_cache(maxsize=1024)
def _tree(name: str, root: Path) -> ast.Module:
    return ast.parse(_module_path(name, root).read_bytes())


@functools.lru_cache(maxsize=1024)
def _imports(name: str, root: Path) -> tuple[str, ...]:
    """Modules of the package that appear in import statements anywhere in a module."""
    found: list[str] = []
    for node in ast.walk(_tree(name, root)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            # `from a.b import c`: c is a module or a name in a.b.
            found += [node.module, *[f"{node.module}.{alias.name}" for alias in node.names]]
    ours = [f for f in found if f == PACKAGE or f.startswith(f"{PACKAGE}.")]
    return tuple(f for f in ours if _module_path(f, root).is_file())


@functools.lru_cache(maxsize=1024)
def _module_digest(name: str, root: Path) -> str:
    tree = _tree(name, root)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:] or [ast.Pass()]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


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
    """Commit of the checkout the package lies in, ``-dirty`` if changed; ``unknown`` outside one."""
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
