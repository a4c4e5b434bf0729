"""The project keeps its own rules: layers, names, generated files, quick start-up."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import medseg

ROOT = Path(__file__).resolve().parents[1]
STAGES = ("ingest", "plan", "preprocess", "train", "predict", "postprocess", "evaluate", "compare", "report")
CONDA_NAMES = {"pytorch": "torch", "python-blosc2": "blosc2", "python-isal": "isal"}


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, text=True, capture_output=True, cwd=ROOT).stdout


@pytest.mark.parametrize("stage", STAGES)
def test_one_word_four_places(stage: str) -> None:
    assert (ROOT / "medseg" / stage / "run.py").is_file()
    assert (ROOT / "workflow/rules" / f"{stage}.smk").is_file()
    rule = (ROOT / "workflow/rules" / f"{stage}.smk").read_text()
    assert f"medseg {stage} " in rule
    assert (
        stage
        in subprocess.run([sys.executable, "-m", "medseg", "--help"], check=True, text=True, capture_output=True).stdout
    )


def test_environment_equals_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ours = {r.name: r.specifier for r in map(Requirement, project["dependencies"])}
    packages = [d for d in yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"] if d != "pip"]
    conda = {CONDA_NAMES.get(r.name, r.name): r.specifier for r in map(Requirement, packages)}
    assert conda.pop("python") == Requirement(f"python{project['requires-python']}").specifier
    assert conda == ours


def test_constraints_pin_every_dependency_within_its_range() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "constraints.txt").read_text().split()
    pins = {r.name.lower().replace("_", "-"): next(iter(r.specifier)).version for r in map(Requirement, lines)}
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    for requirement in map(Requirement, wanted):
        # An extra that takes in others names the project itself.
        assert requirement.name == project["name"] or requirement.specifier.contains(pins[requirement.name.lower()]), (
            requirement
        )


def test_schema_is_current() -> None:
    from medseg.config import config_schema

    shipped = json.loads((ROOT / "workflow/schemas/config.schema.json").read_text())
    assert shipped == config_schema(), "run `make schema`"


def test_network_names_are_the_zoo() -> None:
    from typing import get_args

    from medseg.config import Loss, Network
    from medseg.losses.table import LOSSES
    from medseg.networks import NETWORKS

    assert set(get_args(Network)) == set(NETWORKS)
    assert set(get_args(Loss)) == set(LOSSES)


@pytest.mark.parametrize("name", sorted(p.name for p in (ROOT / "config").glob("*.yaml")))
def test_shipped_configs_are_valid(name: str) -> None:
    from medseg.config import load_config

    load_config([ROOT / "config" / name])


def test_heavy_packages_stay_out_of_the_command_line_and_the_snakefile() -> None:
    heavy = "{'torch', 'monai', 'mlflow', 'matplotlib', 'skimage', 'sklearn'}"
    for module in ("medseg.cli", "medseg.workflow", "medseg.tracking", "medseg.provenance"):
        assert python(f"import sys, {module}; print({heavy} & set(sys.modules))").strip() == "set()", module


@pytest.mark.parametrize("stage", ["ingest", "postprocess", "evaluate", "compare"])
def test_cheap_stages_do_without_torch(stage: str) -> None:
    code = f"import sys, medseg.{stage}.run; print({{'torch', 'monai', 'mlflow'}} & set(sys.modules))"
    assert python(code).strip() == "set()"


@pytest.mark.parametrize("stage", ["train", "predict"])
def test_networks_of_our_own_and_losses_do_without_monai(stage: str) -> None:
    """It takes longer to import than all else that a short job does; where its networks are built, it is imported."""
    code = f"""
import importlib, pkgutil, sys
import medseg.{stage}.run, medseg.losses, medseg.models
for package in (medseg.losses, medseg.models):
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
from medseg.engine.placement import set_exact
from medseg.models.zoo import build_outline
from tests.plans import tiny_plan
set_exact(1, "fp32")
for dims in (2, 3):
    build_outline("unet", tiny_plan("unet", dims).network)
print({{"monai", "mlflow", "matplotlib", "skimage", "sklearn", "sympy", "torch._dynamo"}} & set(sys.modules))
"""
    assert python(code).strip() == "set()"


def test_imports_point_upstream_only() -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "lint-imports"], text=True, capture_output=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stdout


def test_no_local_paths_in_the_project() -> None:
    listed = subprocess.run(["git", "ls-files"], text=True, capture_output=True, cwd=ROOT, check=False).stdout.split()
    for name in listed:
        path = ROOT / name
        if path.suffix in {".py", ".smk", ".md", ".yaml", ".yml", ".toml", ".json", ".txt"} and path.is_file():
            text = path.read_text()
            assert not any(f"/{place}/" in text for place in ("home", "root")), name


def test_every_network_has_its_words_and_its_drawing() -> None:
    from medseg.networks import NETWORKS

    page = (ROOT / "docs/models.md").read_text()
    for name in NETWORKS:
        assert f"`{name}`" in page or f"models/{name}.svg" in page, name
        # Regions and boxes are no row of feature maps.
        assert name in {"rcnn", "mask_rcnn", "sds"} or (ROOT / f"docs/models/{name}.svg").is_file(), name
    assert all((ROOT / "docs" / link).is_file() for link in re.findall(r"\]\((models/[^)]+)\)", page))


def modules() -> dict[str, Path]:
    """Name of each module of the package -> its file."""
    found = {}
    for path in (ROOT / "medseg").rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def test_package_and_workflow_are_of_one_version() -> None:
    """Where the workflow comes alone, from a tag, it asks for the package of its version."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    (workflow,) = re.findall(r'^VERSION = "(.*)"$', (ROOT / "workflow/rules/common.smk").read_text(), re.MULTILINE)
    assert medseg.__version__ == project == workflow


def test_files_and_functions_are_short() -> None:
    for path in modules().values():
        text = path.read_text()
        assert text.count("\n") <= 300, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno - node.lineno < 60, (path, node.name)


def test_no_module_imports_itself_by_a_way_round() -> None:
    # Imports within functions and for type checkers count.
    files = modules()
    imports: dict[str, set[str]] = {}
    for name, path in files.items():
        found: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                found |= (inner & set(files)) or {node.module}
        imports[name] = (found & set(files)) - {name}
    while leaves := {name for name, found in imports.items() if not found & set(imports)}:
        for name in leaves:
            del imports[name]
    assert not imports, {name: found & set(imports) for name, found in imports.items()}


def test_whoever_catches_everything_raises_or_records_it() -> None:
    for path in modules().values():
        for node in ast.walk(ast.parse(path.read_text())):
            caught = node.type if isinstance(node, ast.ExceptHandler) else ast.Constant(None)
            if isinstance(node, ast.ExceptHandler) and (
                caught is None or {"Exception", "BaseException"} & names_in(caught)
            ):
                used = {n.id for n in ast.walk(ast.Module(node.body, [])) if isinstance(n, ast.Name)}
                raised = any(isinstance(n, ast.Raise) for n in ast.walk(ast.Module(node.body, [])))
                assert raised or node.name in used, (path, node.lineno)


def names_in(node: ast.AST) -> set[str]:
    return {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
