"""Code digests see code and nothing else; each stage's closure holds what it depends on and no more."""

from __future__ import annotations

import ast
import getpass
import json
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from medseg import provenance
from medseg.provenance import ROOT, Rows, closure_digest, environment, import_closure
from medseg.stages import rows_of_model, stage_digest, stage_modules

UNET = rows_of_model("unet", {}, "dice_ce")
DEEPLAB = rows_of_model("deeplabv3", {"encoder": "resnet18"}, "dice_focal")
FCN = rows_of_model("fcn8s", {"encoder": "vgg16"}, "dice")
MODELS = {"unet": UNET, "deeplab": DEEPLAB, "fcn": FCN}
# What a study runs: stages of a data set, stages of each of its models, and what follows.
JOBS: dict[str, tuple[str, Rows]] = {
    **{stage: (stage, {}) for stage in ("ingest", "fingerprint", "preprocess", "evaluate", "compare", "report")},
    **{f"postprocess {name}": ("postprocess", {"OPERATIONS": [name]}) for name in ("crf", "min_size")},
    **{
        f"{stage} {name}": (stage, rows)
        for stage in ("plan", "pace", "train", "predict")
        for name, rows in MODELS.items()
    },
}


@pytest.fixture
def edited(tmp_path: Path) -> Callable[[str, Callable[[str], str]], Path]:
    """``edited(module path, change)``: a copy of the package with one file changed."""
    copies = iter(range(100))

    def build(name: str = "__init__.py", change: Callable[[str], str] = str) -> Path:
        root = tmp_path / f"copy{next(copies)}" / "medseg"
        shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        path = root / name
        path.write_text(change(path.read_text()))
        return root

    return build


def redocument(text: str) -> str:
    """The same program with other docstrings, comments and blank lines."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
            node.body[0] = ast.Expr(ast.Constant("other words"))
    return "# a new comment\n\n\n" + ast.unparse(tree) + "\n\n# the end\n"


def digests(root: Path) -> dict[str, str]:
    return {job: stage_digest(stage, rows, root) for job, (stage, rows) in JOBS.items()}


def test_prose_retrains_nothing(edited: Callable[..., Path]) -> None:
    base = digests(edited())
    assert base == digests(ROOT)
    for name in ("evaluate/score.py", "train/loop.py", "models/deeplab/v3plus.py", "errors.py", "metrics/overlap.py"):
        assert digests(edited(name, redocument)) == base, name


def add_a_line(text: str) -> str:
    return text + "\n_ADDED = 1\n"


def jobs(stages: str, *models: str) -> set[str]:
    return {f"{stage} {model}" for stage in stages.split() for model in models or MODELS}


WRITERS = {*jobs("predict"), "postprocess crf", "postprocess min_size"}
# A change -> the jobs that must run again. Compare and report follow what they read.
CHANGES: list[tuple[str, Callable[[str], str], set[str]]] = [
    ("formats/dicom/label.py", add_a_line, WRITERS),
    ("models/unet.py", add_a_line, jobs("plan pace train predict", "unet")),
    ("models/deeplab/v3.py", add_a_line, jobs("plan pace train predict", "deeplab")),
    ("models/encoders/resnet.py", add_a_line, jobs("plan pace train predict", "deeplab")),
    ("models/encoders/googlenet.py", add_a_line, set()),
    ("models/rcnn.py", add_a_line, set()),
    ("losses/pixelwise.py", add_a_line, jobs("plan pace train", "unet", "deeplab")),
    ("losses/lovasz.py", add_a_line, set()),
    ("metrics/surface.py", add_a_line, {"evaluate"}),
    ("metrics/overlap.py", add_a_line, {"evaluate"}),
    ("evaluate/score.py", add_a_line, {"evaluate"}),
    ("train/loop.py", add_a_line, jobs("train")),
    ("augment/spatial.py", add_a_line, jobs("pace train")),
    ("postprocess/components.py", add_a_line, {"postprocess min_size"}),
    ("postprocess/permutohedral.py", add_a_line, {"postprocess crf"}),
    # Stages that take the whole configuration.
    ("config/explain.py", add_a_line, {"ingest", "preprocess", "evaluate", *jobs("plan"), *WRITERS}),
    ("workflow.py", add_a_line, set()),
    ("cli/training.py", add_a_line, set()),
    (
        "networks.py",
        lambda text: text.replace(
            "NETWORKS: dict[str, Network] = {",
            'NETWORKS: dict[str, Network] = {\n    "new": Network("A paper", "medseg.models.rcnn:build"),',
        ),
        set(),
    ),
    (
        "networks.py",
        lambda text: text.replace(
            'default="planned", description="planned: the plan', 'default="planned", description="the plan'
        ),
        set(),
    ),
    (
        "networks.py",
        lambda text: text.replace('Upsampling = Field(default="transposed"', 'Upsampling = Field(default="linear"'),
        jobs("plan pace train predict", "unet"),
    ),
    (
        "losses/table.py",
        lambda text: text.replace('"ce": (', '"new": ("medseg.losses.overlap:DICE",),\n    "ce": ('),
        set(),
    ),
    ("config/dataset.py", lambda text: text.replace('description="', 'description="that is, '), set()),
]


@pytest.mark.parametrize(
    ("name", "change", "expected"), CHANGES, ids=lambda value: value if isinstance(value, str) else ""
)
def test_a_change_is_seen_by_what_can_execute_it_and_by_nothing_else(
    edited: Callable[..., Path], name: str, change: Callable[[str], str], expected: set[str]
) -> None:
    root = edited(name, change)
    assert (root / name).read_text() != (ROOT / name).read_text()
    base, now = digests(ROOT), digests(root)
    seen = {job for job in JOBS if base[job] != now[job]} - {"compare", "report"}
    assert seen == expected


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("CLIP_NORM = 12.0", "CLIP_NORM = 11.0"),
        lambda text: text.replace("momentum=0.99", "momentum=0.9"),
        lambda text: text.replace("not math.isfinite(loss)", "math.isfinite(loss)"),
    ],
)
def test_small_changes_are_seen(edited: Callable[..., Path], change: Callable[[str], str]) -> None:
    root = edited("engine/step.py", change)
    assert (root / "engine" / "step.py").read_text() != (ROOT / "engine" / "step.py").read_text()
    assert stage_digest("train", UNET, root) != stage_digest("train", UNET)


# stage -> modules and packages that its code must not reach, whatever rows it uses.
BEYOND = {
    "ingest": {"formats.write", "models", "losses.build", "engine", "train", "plan"},
    "preprocess": {"models.zoo", "engine", "train", "losses.build", "metrics"},
    "fingerprint": {"models", "engine", "train", "losses.build", "metrics", "config", "formats.write"},
    "plan": {"evaluate", "metrics.surface", "report", "tracking", "predict", "formats", "train", "preprocess"},
    "train": {
        "config",
        "formats",
        "ingest.layouts",
        "ingest.download",
        "metrics.table",
        "metrics.surface",
        "metrics.overlap",
    }
    | {"evaluate", "report", "tracking", "compare", "predict", "postprocess", "cli", "workflow"},
    "predict": {"train.loop", "evaluate", "losses.build", "augment.spatial", "metrics.table"},
    "postprocess": {"train", "models.zoo", "evaluate", "losses.build"},
    "evaluate": {"train", "models", "losses.build", "predict.predictor", "plan", "tracking"},
    "compare": {"train", "models", "formats", "predict.predictor"},
}


@pytest.mark.parametrize("stage", BEYOND)
def test_stages_reach_what_they_need_and_no_more(stage: str) -> None:
    forbidden = {f"medseg.{name}" for name in BEYOND[stage]}
    for rows in MODELS.values():
        modules = stage_modules(stage, rows)
        assert {m for m in modules for f in forbidden if m == f or m.startswith(f + ".")} == set()


@pytest.mark.parametrize("stage", ["train", "evaluate", "preprocess"])
def test_every_module_that_is_really_imported_is_in_the_closure(stage: str) -> None:
    script = (
        f"import sys, json, medseg.{stage}.run\nprint(json.dumps([m for m in sys.modules if m.startswith('medseg')]))"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT.parent)
    assert set(json.loads(out.stdout)) <= stage_modules(stage, UNET)


def test_imports_in_any_form_are_followed(tmp_path: Path) -> None:
    root = tmp_path / "medseg"
    files = {
        "__init__.py": "",
        "a/__init__.py": "from medseg import seed",
        "a/run.py": "import medseg.b.deep\ndef f():\n    from medseg.c import late as other",
        "b/__init__.py": "",
        "b/deep.py": "",
        "c/__init__.py": "",
        "c/late.py": "",
        "seed.py": "import os, numpy",
        "unused.py": "",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    names = {"", ".a", ".a.run", ".b", ".b.deep", ".c", ".c.late", ".seed"}
    assert import_closure("medseg.a.run", root) == {f"medseg{n}" for n in names}


def test_writers_are_reached_by_who_writes_alone() -> None:
    """The table names both; a line in the writer of DICOM segmentations prepares no case again."""
    writers = {"medseg.formats.dicom.label", "medseg.formats.tiff.label", "medseg.formats.write"}
    reading = import_closure("medseg.formats.read")
    assert "medseg.formats.dicom.read" in reading and not writers & reading
    for first in ("medseg.formats.write", "medseg.predict.run"):
        assert writers <= import_closure(first)
    only = import_closure("medseg.formats.write", rows={"FORMATS": [".nii"]})
    assert "medseg.formats.nifti" in only and "medseg.formats.dicom.label" not in only


NETWORKS = """
from dataclasses import dataclass

SHARED = 3

class Options:
    size: int = SHARED

class UNetOptions(Options):
    norm: str = Field(default="group", description="what it is")

class FCNOptions(Options):
    norm: str = "batch"

@dataclass
class Network:
    builder: str
    options: type = Options

NETWORKS: dict[str, Network] = {
    "unet": Network("medseg.models.unet:build", UNetOptions),
    "fcn": Network("medseg.models.fcn:build", FCNOptions),
}

def options_of(name):
    return NETWORKS[name].options
"""


@pytest.fixture
def tables(tmp_path: Path) -> Callable[[str, str, str], Path]:
    """``tables(file, old, new)``: a small package whose networks are built late, with a change in one file."""
    copies = iter(range(100))

    def build(name: str = "", old: str = "", new: str = "") -> Path:
        root = tmp_path / f"copy{next(copies)}" / "medseg"
        files = {
            "__init__.py": "",
            "networks.py": NETWORKS,
            "train/__init__.py": "",
            "train/run.py": "from medseg.networks import NETWORKS, options_of",
            "models/__init__.py": "",
            "models/unet.py": "from medseg.models import blocks\nA = 1",
            "models/fcn.py": "A = 1",
            "models/blocks.py": "A = 1",
        }
        for file, text in files.items():
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_text(text)
        if name:
            assert old in files[name]
            (root / name).write_text(files[name].replace(old, new))
        return root

    return build


TRAIN = ["medseg.train.run"]
# A change -> the networks whose trainings must run again.
ROW_CHANGES = [
    ("models/unet.py", "A = 1", "A = 2", {"unet"}),
    ("models/blocks.py", "A = 1", "A = 2", {"unet"}),
    ("models/fcn.py", "A = 1", "A = 2", {"fcn"}),
    ("networks.py", 'norm: str = "batch"', 'norm: str = "group"', {"fcn"}),
    ("networks.py", "SHARED = 3", "SHARED = 4", {"unet", "fcn"}),
    ("networks.py", "NETWORKS[name].options", "NETWORKS[name].options or None", {"unet", "fcn"}),
    ("networks.py", "what it is", "what it really is", set()),
    (
        "networks.py",
        '    "fcn": Network(',
        '    "new": Network("medseg.models.blocks:build"),\n    "fcn": Network(',
        set(),
    ),
    ("networks.py", "class FCNOptions", "class NewOptions(Options):\n    size: int = 9\n\nclass FCNOptions", set()),
]


@pytest.mark.parametrize(("name", "old", "new", "changed"), ROW_CHANGES)
def test_a_row_of_a_table_changes_those_that_use_it(
    tables: Callable[..., Path], name: str, old: str, new: str, changed: set[str]
) -> None:
    before, after = tables(), tables(name, old, new)
    seen = {
        network
        for network in ("unet", "fcn")
        if closure_digest(TRAIN, {"NETWORKS": [network]}, before)
        != closure_digest(TRAIN, {"NETWORKS": [network]}, after)
    }
    assert seen == changed


def test_without_rows_the_whole_table_counts(tables: Callable[..., Path]) -> None:
    assert import_closure("medseg.train.run", tables()) >= {"medseg.models.unet", "medseg.models.fcn"}
    one = import_closure("medseg.train.run", tables(), {"NETWORKS": ["fcn"]})
    assert "medseg.models.fcn" in one
    assert not {"medseg.models.unet", "medseg.models.blocks"} & one


def test_unknown_rows_and_tables_are_errors(tables: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="no rows deeplab"):
        closure_digest(TRAIN, {"NETWORKS": ["deeplab"]}, tables())
    with pytest.raises(ValueError, match="no tables \\['NETS'\\]"):
        closure_digest(TRAIN, {"NETS": ["unet"]}, tables())
    with pytest.raises(ValueError, match="no literal dictionary"):
        closure_digest(
            TRAIN,
            {"NETWORKS": ["unet"]},
            tables("networks.py", "NETWORKS: dict[str, Network] = {", "NETWORKS = dict() or {"),
        )


def test_the_package_has_no_relative_imports() -> None:
    """The digest does not follow them."""
    for path in ROOT.rglob("*.py"):
        nodes = [n for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.ImportFrom)]
        assert not [n.lineno for n in nodes if n.level], path


def test_templates_are_code(edited: Callable[..., Path]) -> None:
    root = edited("report/report.html.j2", lambda text: text + " ")
    assert {job for job in JOBS if digests(root)[job] != digests(ROOT)[job]} == {"report"}


def test_digests_are_short_stable_hex() -> None:
    one = closure_digest(["medseg.train.run"])
    provenance._closure_digest.cache_clear()
    provenance._closure.cache_clear()
    provenance._facts_of.cache_clear()
    provenance._imports.cache_clear()
    assert closure_digest(["medseg.train.run"]) == one
    assert len(one) == 16
    int(one, 16)


def test_environment_names_versions_and_no_person_machine_or_path() -> None:
    facts = environment()
    assert {"medseg", "git", "python", "torch", "monai", "numpy", "platform"} <= set(facts)
    assert facts["numpy"] != "absent"
    text = json.dumps(facts)
    for private in (str(Path.home()), str(ROOT), socket.gethostname(), f'"{getpass.getuser()}'):
        assert private not in text


def test_a_package_outside_a_checkout_has_no_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    assert provenance.git_commit() == "unknown"
    # An environment within somebody else's repository.
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    who = ("-c", "user.name=x", "-c", "user.email=x@example.org")
    subprocess.run(["git", *who, "-C", tmp_path, "commit", "-q", "--allow-empty", "-m", "theirs"], check=True)
    monkeypatch.setattr(provenance, "ROOT", tmp_path / "env" / "medseg")
    assert provenance.git_commit() == "unknown"


def test_without_git_no_commit_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert provenance.git_commit() == "unknown"


def test_parsing_the_workflow_stays_light() -> None:
    heavy = ("torch", "monai", "mlflow", "pandas")
    script = f"import sys, medseg.workflow, medseg.cli; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
