"""Shared by all tests: one thread per process, repeatable hypothesis runs, and the smallest data that still train."""

from __future__ import annotations

import os
import signal
import sys

# Before numpy and torch are imported: results are compared bit for bit, and tests run beside each other.
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

# Examples of every property: in the tests of every day (`make test`), and in all (`make test-all`).
for _name, _examples in (("every day", 20), ("all", 40)):
    settings.register_profile(_name, deadline=None, max_examples=_examples, derandomize=True, database=None)
settings.load_profile("all")

# Files that take longest, in the order in which they begin: no processor waits for one of them at the end.
# (pytest-xdist would begin with the files that have most tests, and is told not to.)
# The first one makes the finished study, which the other files of its folder want.
LONG = (
    *("tests/workflow/test_kill.py", "tests/contracts/test_models.py", "tests/unit/test_tracking_law.py"),
    *("tests/workflow/", "tests/unit/test_group.py"),
    *("tests/golden/", "tests/contracts/", "tests/unit/test_memory.py", "tests/unit/test_report.py"),
    *("tests/faults/test_tracking_faults.py", "tests/faults/test_failing_disk.py", "tests/faults/test_flips.py"),
)


def pytest_configure(config: pytest.Config) -> None:
    # A script's background process ignores Ctrl-C, and so would all that tests start and interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if _is_every_day(config):
        settings.load_profile("every day")


def _is_every_day(config: pytest.Config) -> bool:
    return bool(config.option.markexpr == "not exhaustive")


@pytest.fixture(scope="session")
def every_day(pytestconfig: pytest.Config) -> bool:
    """Whether these are the tests of `make test`, which draw fewer samples than those of `make test-all`."""
    return _is_every_day(pytestconfig)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(
        key=lambda item: next((rank for rank, name in enumerate(LONG) if item.nodeid.startswith(name)), len(LONG))
    )


# Seconds after which a test hangs.
PATIENCE_S = 600


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    """A test that hangs fails, with the line where it does, and the others are run.

    What is deaf to that is ended by pytest (faulthandler_timeout), which costs its process.
    """

    def late(*_: object) -> None:
        pytest.fail(f"{item.nodeid}: not done after {PATIENCE_S} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(PATIENCE_S)
    try:
        return (yield)
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


@pytest.fixture(autouse=True)
def environment() -> Iterator[None]:
    """Each test begins as a command given by hand, and leaves no run's token to the next.

    A process that holds a token waits for a lock, where one without it is refused.
    """
    os.environ.pop("MEDSEG_RUN", None)
    before = dict(os.environ)
    yield
    # Only what differs: threads of a server that a test left may read the environment meanwhile.
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update({name: value for name, value in before.items() if os.environ.get(name) != value})


@pytest.fixture(autouse=True)
def databases() -> Iterator[None]:
    """MLflow keeps every database open that it was ever shown; a process of tests shows it hundreds."""
    yield
    if (stores := sys.modules.get("mlflow.store.tracking.sqlalchemy_store")) is not None:
        engines = stores.SqlAlchemyStore._engine_map
        for engine in list(engines.values()):
            engine.dispose()
        engines.clear()


# Oblique, anisotropic, with two axes against the world's.
OBLIQUE = np.array(
    [[-1.18, 0.19, 0.11, 33.0], [0.17, 1.17, -0.31, -40.5], [-0.08, -0.2, -2.3, 7.25], [0.0, 0.0, 0.0, 1.0]]
)
CLASSES = {"ball": 1, "rod": 3}


@pytest.fixture(scope="session")
def oblique() -> np.ndarray:
    return OBLIQUE.copy()


@pytest.fixture(scope="session")
def tiny_plan() -> Callable[..., Any]:
    """``tiny_plan(network, dims, **changes)``: a plan that trains a step in milliseconds."""
    from tests.plans import tiny_plan as build

    return build


def scene(shape: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An image (S) float32 and its label channels (S) uint8: a ball (1) and a rod along the first axis (2)."""
    rng = np.random.Generator(np.random.PCG64(seed))
    unit = [(np.arange(n) - (n - 1) / 2) / n for n in shape]
    place = np.meshgrid(*unit, indexing="ij")
    centre = rng.uniform(-0.12, 0.02, len(shape))
    ball = sum((p - c) ** 2 for p, c in zip(place, centre, strict=True)) < 0.24**2
    rod = sum((p - 0.33) ** 2 for p in place[1:]) < 0.1**2
    labels = np.where(rod, 2, np.where(ball, 1, 0)).astype(np.uint8)
    image = np.array([0.0, 1.0, 2.0])[labels] + 0.3 * rng.standard_normal(shape)
    return image.astype(np.float32), labels


@pytest.fixture(scope="session")
def draw_scene() -> Callable[[tuple[int, ...], int], tuple[np.ndarray, np.ndarray]]:
    return scene


@pytest.fixture(scope="session")
def tiny_cases(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[Any]]:
    """``tiny_cases(dims, count, spoil=None)``: prepared cases on disk; ``spoil(index, image)`` may damage an image."""
    from medseg.image.geometry import Geometry
    from medseg.preprocess.inverse import InverseRecord
    from medseg.preprocess.store import PreparedCase, write_case

    def build(dims: int, count: int = 3, spoil: Callable[[int, np.ndarray], None] | None = None) -> list[PreparedCase]:
        folder = tmp_path_factory.mktemp("prepared")
        cases = []
        for index in range(count):
            # One case is smaller than the patch along an axis, one larger.
            shape = (40, 28) if dims == 2 else (20, 14, 18)
            image, labels = scene(shape, 10 + index)
            if spoil:
                spoil(index, image)
            native = Geometry.from_spacing(shape, (1.0,) * dims)
            record = InverseRecord(native, tuple(range(dims)), (False,) * dims, (0,) * dims, shape, shape)
            rows = [np.column_stack([np.full((labels == k).sum(), k), np.argwhere(labels == k)]) for k in (1, 2)]
            name = f"case{index}"
            write_case(
                folder / f"{name}.case", "key", image[None], labels, np.concatenate(rows).astype(np.int32), record
            )
            cases.append(PreparedCase.open(folder / f"{name}.case"))
        return cases

    return build


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A ``tests.file_server.Server``; give it ``replies``."""
    from tests.file_server import serving

    monkeypatch.setenv("no_proxy", "*")
    with serving() as made:
        yield made


@dataclass(frozen=True)
class Study:
    """A tiny experiment on disk, run up to its predictions: data sets ``flat`` (2-D PNG) and ``solid`` (3-D NIfTI)."""

    config: Any
    root: Path

    def folder(self, dataset: str) -> Path:
        return Path(self.config.data_root) / self.config.datasets[dataset].path

    def manifest(self, dataset: str) -> Path:
        return self.root / dataset / "ingest" / "manifest.tsv"

    def splits(self, dataset: str) -> Path:
        return self.root / dataset / "ingest" / "splits.json"

    def fingerprint(self, dataset: str) -> Path:
        return self.root / dataset / "plan" / "fingerprint.json"

    def plan(self, dataset: str) -> Path:
        return self.root / dataset / "plan" / "unet.json"

    def index(self, dataset: str) -> Path:
        return self.root / dataset / "preprocess" / "default" / "index.json"

    def model(self, dataset: str) -> Path:
        return self.root / dataset / "train" / "unet" / "fold0-seed0"

    def predictions(self, dataset: str) -> Path:
        return self.root / dataset / "predict" / "unet" / "fold0-seed0" / "predictions.json"


def _write_flat(folder: Path) -> None:
    from medseg.formats.write import write_labels
    from medseg.image.geometry import Geometry

    table = np.array([0, *CLASSES.values()], dtype=np.uint8)
    for index in range(4):
        shape = (44 + 4 * index, 36)
        image, labels = scene(shape, index)
        grid = Geometry.from_spacing(shape, (1.0, 1.0))
        write_labels(folder / "images" / f"f{index}.png", np.clip(image * 60 + 40, 1, 255).astype(np.uint8), grid)
        write_labels(folder / "masks" / f"f{index}.png", table[labels], grid)


def _write_solid(folder: Path) -> None:
    from medseg.files import write_json
    from medseg.formats.write import write_labels
    from medseg.image.geometry import Geometry

    table = np.array([0, *CLASSES.values()], dtype=np.uint8)
    names = [f"s{index}" for index in range(4)]
    for index, name in enumerate(names):
        shape = (22, 18 + index, 12)
        image, labels = scene(shape, index)
        grid = Geometry.create(shape, OBLIQUE)
        write_labels(folder / "imagesTr" / f"{name}.nii.gz", (image * 100).astype(np.int16), grid)
        write_labels(folder / "labelsTr" / f"{name}.nii.gz", table[labels], grid)
    training = [{"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in names]
    labels_of = {"0": "background", **{str(v): k for k, v in CLASSES.items()}}
    write_json(folder / "dataset.json", {"modality": {"0": "MRI"}, "labels": labels_of, "training": training})


@pytest.fixture(scope="session")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Study]:
    """Ingest, plan, preprocess, train and predict both data sets, once."""
    from medseg.config import load_config
    from medseg.ingest import run as ingest
    from medseg.plan.survey import run_fingerprint
    from medseg.predict import run as predict
    from medseg.preprocess import run as preprocess
    from medseg.train import run as train
    from tests.plans import run_plan

    root = tmp_path_factory.mktemp("study")
    _write_flat(root / "data" / "flat")
    _write_solid(root / "data" / "solid")
    config = load_config(
        [],
        {
            "experiment": "tiny",
            "data_root": str(root / "data"),
            "datasets": {
                "flat": {"layout": "pairs", "path": "flat", "labels": CLASSES},
                # OBLIQUE is a little sheared, so that what must hold for any affine is tried on one.
                "solid": {"layout": "decathlon", "path": "solid", "allow": ["shear"]},
            },
            "models": {"unet": {"network": "unet", "plan": {"widths": [8, 16, 16], "batch": 2, "precision": "fp32"}}},
            "folds": {"count": 2, "run": [0]},
            "budget": {"steps": 4},
            "threads": 1,
            "device": "cpu",
        },
    )
    made = Study(config, root)
    for name in config.datasets:
        # The widths above are for three stages, which these patches have.
        strides = {"flat": [[1, 1], [2, 2], [2, 2]], "solid": [[1, 1, 1], [2, 2, 1], [2, 2, 2]]}[name]
        fixed = config.models["unet"].plan.model_copy(update={"strides": strides})
        models = {"unet": config.models["unet"].model_copy(update={"plan": fixed})}
        here = config.model_copy(update={"models": models})
        ingest.run(here, name, made.manifest(name).parent)
        run_fingerprint(here, made.manifest(name), made.fingerprint(name), 1)
        run_plan(here, "unet", made.fingerprint(name), made.plan(name))
        preprocess.run(here, "unet", made.manifest(name), made.fingerprint(name), made.index(name).parent, "code", 1)
        inputs = train.Inputs(made.manifest(name), made.plan(name), made.index(name), made.splits(name), 0, 0)
        train.run(inputs, root / ".state" / name, made.model(name), "code")
        predict.run(here, made.manifest(name), made.splits(name), 0, made.model(name), made.predictions(name).parent)
    yield made


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tracking store made once; making one takes longer than all that most tests do with it."""
    from medseg.tracking import init_store

    folder = tmp_path_factory.mktemp("store")
    init_store(f"sqlite:///{folder}/mlflow.db", "template", folder / "store.json")
    return folder / "mlflow.db"
