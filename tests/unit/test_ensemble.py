"""Several trainings predict together: the mean of their probabilities, one network at a time, and only if they fit."""

from __future__ import annotations

import contextlib
import gc
import itertools
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medseg.decoders import decoder_of
from medseg.errors import CheckpointError, ConfigError
from medseg.files import sha256_file
from medseg.formats.read import open_image, read_labels
from medseg.formats.source import Source
from medseg.image.geometry import Geometry
from medseg.image.labels import LabelTable
from medseg.ingest.voxel_sizes import VoxelSizes
from medseg.models.zoo import build_model
from medseg.objects.decoding import Decoding
from medseg.predict import ensemble, objects
from medseg.predict.ensemble import Ensemble, middle
from medseg.predict.files import How, predict_files
from medseg.predict.predictor import Predictor
from medseg.predict.probabilities import ProbabilityFile, read_probabilities
from medseg.predict.sinks import Frame, LabelMap, Slab, Take
from medseg.predict.terms import Terms, shared_terms
from medseg.predict.trainings import read_trainings
from medseg.reading import Reading
from medseg.train.checkpoint import Checkpoint, write_checkpoint
from tests.plans import tiny_plan

CLASSES = LabelTable.create({"ball": 1, "rod": 3})
REGIONS = LabelTable.create({"ball": 1, "rod": 3}, regions={"all": ["ball", "rod"], "core": ["rod"]})
CELLS = LabelTable.create({"cell": 1}, instances=True)
# A 2-D network on the slices of volumes.
SLICES = {"dims": 2, "spacing": (1.0, 1.0, 0.0), "unit": "mm", "oriented": True}
FIELDS = ("channels", "reading", "accepts", "decoding", "voxel_sizes")


def train(folder: Path, seed: int = 0, dims: int = 3, table: LabelTable = CLASSES, **changes: Any) -> Path:
    """A network that was never trained, as a model folder; ``changes`` are of the plan, or fields of the checkpoint."""
    fields = {name: changes.pop(name) for name in FIELDS if name in changes}
    known = {"classes": table.classes, "regions": table.members if table.regions else ()}
    plan = tiny_plan("unet", dims, **{**known, **changes})
    torch.manual_seed(seed)
    network = build_model(plan.network.name, plan.network)
    for weights in network.parameters():
        # So that networks have opinions of their own.
        if weights.ndim > 1:
            torch.nn.init.normal_(weights, 0.0, 0.4)
    checkpoint = Checkpoint("d", fields.pop("channels", ("MRI",)), table, plan, 0, seed, "f" * 64, {}, **fields)
    write_checkpoint(folder, checkpoint, network)
    return folder


def image(dims: int = 3) -> Source:
    """An image with a border of zeros, in 3-D with axes that are not those of a canonical image."""
    rng = np.random.Generator(np.random.PCG64(3))
    shape = (22, 19, 24)[:dims]
    values = rng.normal(1.0, 1.0, shape).astype(np.float32)
    values[:3] = 0
    if dims == 2:
        return Source.from_array(values[None], Geometry.from_spacing(shape, (1.0, 1.0)))
    affine = np.array([[0, 0, -1.5, 9], [0, 1, 0, 3], [1.3, 0, 0, 1], [0, 0, 0, 1]], float)
    return Source.from_array(values[None], Geometry.create(shape, affine))


def predicted(predictor: Any, source: Source, tmp_path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Label map, and probabilities (K, box that was kept)."""
    labels, path = LabelMap(), tmp_path / "soft.b2nd"
    predictor.predict(source, "image", [labels, ProbabilityFile(path)])
    return labels.values, read_probabilities(path, sha256_file(path)).values.astype(np.float64)


@pytest.mark.parametrize("in_memory", [True, False])
@pytest.mark.parametrize("table", [CLASSES, REGIONS])
def test_the_mean_is_that_of_probabilities_in_any_order(
    table: LabelTable, in_memory: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other grids and windows, mirror images, slices beside volumes; the sum in memory or in a file."""
    if not in_memory:
        monkeypatch.setattr(objects, "IN_MEMORY", 0)
        monkeypatch.setattr(ensemble, "SLAB_VALUES", 1)
        monkeypatch.setattr(ensemble, "HELD", 0)
    settings: list[dict[str, Any]] = [{"spacing": (2.0, 1.0, 1.5)}, {"augment": "nnunet"}, SLICES]
    folders = [train(tmp_path / str(k), k, table=table, **how) for k, how in enumerate(settings)]
    alone = [predicted(Predictor(folder), image(), tmp_path) for folder in folders]
    expected = np.mean([soft for _, soft in alone], axis=0)
    trainings = read_trainings(folders)
    found = [predicted(Ensemble(order), image(), tmp_path) for order in itertools.permutations(trainings)]
    for labels, soft in found:
        # Files of probabilities have 16 bits.
        np.testing.assert_allclose(soft, expected, atol=1e-3)
        np.testing.assert_array_equal(labels, found[0][0])
        np.testing.assert_array_equal(soft, found[0][1])
    assert all((labels != found[0][0]).any() for labels, _ in alone), "members that agree show nothing"


@pytest.mark.parametrize("table", [CLASSES, REGIONS])
def test_equal_members_give_the_label_map_of_one(table: LabelTable, tmp_path: Path) -> None:
    folders = [train(tmp_path / str(k), table=table, lr=0.1 * (k + 1)) for k in range(3)]
    trainings = read_trainings(folders)
    assert len(trainings) == 3
    found, expected = (
        predicted(Ensemble(trainings), image(), tmp_path),
        predicted(Predictor(folders[0]), image(), tmp_path),
    )
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_allclose(found[1], expected[1], atol=5e-4)
    assert len(np.unique(found[0])) == 3


@pytest.mark.parametrize(
    ("table", "head", "maps"),
    [(CLASSES, "", 3), (REGIONS, "", 2), (CELLS, "boundary", 2), (CELLS, "flows", 3), (CELLS, "classes", 2)],
)
def test_logits_of_probabilities_have_them(table: LabelTable, head: str, maps: int) -> None:
    decoder = decoder_of(table, head)
    logits = torch.randn(maps, 9, 11, generator=torch.Generator().manual_seed(0)) * 4
    soft = decoder.probabilities(logits, table)
    again = decoder.logits(soft, table)
    torch.testing.assert_close(decoder.probabilities(again, table), soft, atol=1e-6, rtol=0)
    torch.testing.assert_close(decoder.labels(again, table), decoder.labels(logits, table))
    certain = decoder.logits(torch.eye(maps), table)
    torch.testing.assert_close(decoder.probabilities(certain, table), torch.eye(maps))


def test_one_network_at_a_time_where_they_are_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[int] = []
    networks: list[weakref.ref[Any]] = []
    plain = Predictor.__init__

    def counted(self: Predictor, *args: Any) -> None:
        gc.collect()
        alive.append(sum(one() is not None for one in networks))
        plain(self, *args)
        networks.append(weakref.ref(self.members[0].network))

    monkeypatch.setattr(Predictor, "__init__", counted)
    trainings = read_trainings([train(tmp_path / str(k), k) for k in range(3)])
    for held, expected in ((0, [0, 0, 0, 0, 0, 0]), (ensemble.HELD, [0, 1, 2])):
        monkeypatch.setattr(ensemble, "HELD", held)
        alive.clear()
        networks.clear()
        together = Ensemble(trainings)
        for _ in range(2):
            together.label_map(image(), "image")
        del together
        assert alive == expected


@pytest.mark.parametrize("head", ["boundary", "flows"])
def test_maps_of_objects_are_averaged(head: str, tmp_path: Path) -> None:
    def cells(name: str, seed: int, least: float) -> Path:
        decoding = Decoding(foreground=0.4 + 0.1 * seed, min_size=least)
        return train(tmp_path / name, seed, 2, CELLS, head=head, decoding=decoding, spacing=(1.0, 1.0))

    trainings = read_trainings([cells(str(k), k, 4.0 * (k + 1)) for k in range(3)])
    first = Ensemble(trainings).label_map(image(2), "image")
    np.testing.assert_array_equal(first, Ensemble(trainings[::-1]).label_map(image(2), "image"))
    copies = read_trainings(
        [train(tmp_path / f"c{k}", 1, 2, CELLS, head=head, decoding=Decoding(), lr=0.1 * (k + 1)) for k in range(2)]
    )
    np.testing.assert_array_equal(
        Ensemble(copies).label_map(image(2), "image"), Predictor(copies[0].folder).label_map(image(2), "image")
    )


def test_decoding_settings_are_the_median_of_the_members() -> None:
    settings = [Decoding(0.4, 0.3, 10.0, 1.0), Decoding(0.6, 0.7, 30.0, 5.0), Decoding(0.5, 0.6, 80.0, 2.0)]
    assert middle(settings) == Decoding(0.5, 0.6, 30.0, 2.0)
    assert middle(settings[:1]) == settings[0]
    assert middle(settings[:2]) == Decoding(0.5, 0.5, 20.0, 3.0)


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            {"table": LabelTable.create({"ball": 1, "rod": 2})},
            r"label table: .*'rod': 2.* has .*'rod': 3.*`labels` are",
        ),
        ({"table": LabelTable.create({"ball": 1, "rod": 3}, ignore=9)}, "label table: .*'ignore': 9"),
        ({"table": REGIONS}, "label table: .*'regions'"),
        ({"channels": ("CT",)}, r"channels: \['CT'\]; .* has \['MRI'\].*same channels in the same order"),
        ({"unit": "um"}, "unit of voxel sizes: um; .* has mm"),
        ({"dims": 2}, "dimensions of its images: 2-D; .* has 3-D; .*predict with each alone"),
    ],
)
def test_models_that_do_not_fit_each_other_are_refused(other: dict[str, Any], message: str, tmp_path: Path) -> None:
    folders = [train(tmp_path / "one"), train(tmp_path / "two", **other)]
    with pytest.raises(CheckpointError, match=f"two: {message}"):
        read_trainings(folders)


def test_heads_that_differ_are_refused(tmp_path: Path) -> None:
    folders = [train(tmp_path / head, 0, 2, CELLS, head=head, decoding=Decoding()) for head in ("boundary", "flows")]
    with pytest.raises(CheckpointError, match=r"flows: head: flows in 2-D; .*boundary has boundary in 2-D.*same head"):
        read_trainings(folders)


def test_a_training_named_twice_or_copied_counts_once(tmp_path: Path) -> None:
    one, copy, other = (train(tmp_path / name, seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert [training.folder for training in read_trainings([one, other, copy, one])] == [one, other]


def test_images_are_read_in_one_way_and_taken_where_every_training_takes_them() -> None:
    millimetres, coarse = VoxelSizes("mm", (1.0,), (1.0,), (1.0,)), VoxelSizes("mm", (2.0,), (3.0,), (4.0,))
    one = Terms(Reading(orientation="sform"), frozenset({"shear", "gantry-tilt"}), (millimetres,))
    two = Terms(Reading(orientation="sform"), frozenset({"shear"}), (coarse,))
    both = shared_terms({"one": one, "two": two})
    assert both.allow == {"shear"} and both.sizes == (millimetres, coarse)
    assert shared_terms({"one": one}) == one
    with pytest.raises(ConfigError, match=r"two: .* read with orientation qform, one with sform; .*--orientation"):
        shared_terms({"one": one, "two": Terms(Reading(orientation="qform"), frozenset())})


# Files and the command line


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    from medseg.formats.write import write_labels

    source = image()
    write_labels(tmp_path / "scan.nii.gz", (source.image()[0] * 50 + 500).astype(np.uint16), source.geometry)
    return tmp_path / "scan.nii.gz"


def test_files_are_predicted_by_several_and_kept(
    scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [train(tmp_path / f"model{k}", k) for k in range(3)]
    out = tmp_path / "out"
    (written,) = predict_files([scan], folders, out)
    expected = Ensemble(read_trainings(folders)).label_map(open_image(scan), "scan")
    np.testing.assert_array_equal(read_labels(written)[0], expected)
    capsys.readouterr()
    predict_files([scan], folders[::-1], out)
    assert "kept 1 of 1" in capsys.readouterr().err
    for fewer, how in ((folders[:2], How()), (folders, How(mirror=True))):
        predict_files([scan], fewer, out, how)
        assert "kept" not in capsys.readouterr().err


def test_the_command_takes_several_models_and_folders_of_them(scan: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from medseg.cli.commands import app

    runs = tmp_path / "train" / "unet"
    folders = [train(runs / f"fold{fold}-seed{seed}", fold + 2 * seed) for fold in (0, 1) for seed in (0, 1)]
    train(runs / ".state" / "fold0-seed0", 9)

    def taken(*models: str) -> list[str]:
        words = [word for model in models for word in ("--model", model)]
        out = tmp_path / "out" / "-".join(Path(model).name.replace("*", "x") for model in models)
        done = CliRunner().invoke(app, ["predict", str(scan), *words, "-o", str(out)])
        assert done.exit_code == 0, done.output
        (line,) = [line for line in done.stderr.splitlines() if "the mean of" in line]
        assert Path(done.stdout.strip()).is_file()
        return [Path(name).name for name in line.split(": ", 2)[2].split(", ")]

    names = [folder.name for folder in folders]
    assert sorted(taken(str(runs))) == sorted(names)
    assert taken(str(runs / "fold*-seed1")) == ["fold0-seed1", "fold1-seed1"]
    assert taken(str(folders[3]), str(folders[0])) == [names[3], names[0]]


class Unsure:
    """A sink that keeps how sure a prediction is, on the box of the image that was kept."""

    @contextlib.contextmanager
    def open(self, frame: Frame) -> Iterator[Take]:
        self.entropy, self.disagreement = (np.zeros(frame.record.shape, np.float32) for _ in range(2))

        def take(slab: Slab) -> None:
            if slab.uncertainty is not None:
                where = (*(slice(None),) * frame.axis, slab.rows)
                self.entropy[where] = slab.uncertainty.entropy.numpy()
                self.disagreement[where] = slab.uncertainty.disagreement.numpy()

        yield take


def one_window() -> Source:
    """An image of one window on the grid of the models: no mean of logits stands before that of probabilities."""
    values = np.random.Generator(np.random.PCG64(4)).normal(1.0, 1.0, (1, 16, 16, 16)).astype(np.float32)
    return Source.from_array(values, Geometry.from_spacing((16, 16, 16), (1.0, 1.0, 1.0), "mm"))


def unsure(predictor: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Label map, entropy and disagreement."""
    labels, maps = LabelMap(), Unsure()
    predictor.uncertain = True
    predictor.predict(one_window(), "image", [labels, maps])
    return labels.values, maps.entropy, maps.disagreement


def entropy(probabilities: np.ndarray, table: LabelTable) -> np.ndarray:
    """(S) in nats of (K, S)."""
    parts = [probabilities, 1 - probabilities] if table.regions else [probabilities]
    terms = [-p * np.log(np.where(p > 0, p, 1)) for p in parts]
    return np.asarray(sum(term.sum(axis=0) for term in terms))


@pytest.mark.parametrize("table", [CLASSES, REGIONS])
def test_what_models_disagree_in_is_the_entropy_of_the_mean_less_the_mean_of_theirs(
    table: LabelTable, tmp_path: Path
) -> None:
    folders = [train(tmp_path / str(n), n, table=table) for n in range(2)]
    alone = [predicted(Predictor(folder), one_window(), tmp_path)[1] for folder in folders]
    mean = np.mean(alone, axis=0)
    labels, total, between = unsure(Ensemble(read_trainings(folders)))
    plain, _ = predicted(Ensemble(read_trainings(folders)), one_window(), tmp_path)
    np.testing.assert_array_equal(labels, plain)
    np.testing.assert_allclose(total, entropy(mean, table), atol=5e-3)
    expected = entropy(mean, table) - np.mean([entropy(one, table) for one in alone], axis=0)
    np.testing.assert_allclose(between, expected, atol=5e-3)
    assert between.max() > 0.05
    # Whoever is asked together with himself agrees with himself.
    train(tmp_path / "same", 0, table=table, batch=3)
    _, single, nothing = unsure(Predictor(folders[0]))
    _, both, agreed = unsure(Ensemble(read_trainings([folders[0], tmp_path / "same"])))
    np.testing.assert_allclose(both, single, atol=1e-4)
    assert agreed.max() < 1e-4 and nothing.max() < 1e-4


def test_several_models_always_have_a_map_of_disagreement(study: Any, tmp_path: Path) -> None:
    case = next(study.folder("flat").glob("images/*"))
    other = Path(shutil.copytree(study.model("flat"), tmp_path / "other"))
    named = [study.model("flat"), other]
    # A copy counts once, and then there is one member.
    predict_files([case], named, tmp_path / "a", How(mirror=False, uncertainty=True))
    assert not list((tmp_path / "a").glob("*.disagreement.tif"))
    folders = [train(tmp_path / str(n), n, dims=2) for n in range(2)]
    predict_files([case], folders, tmp_path / "b", How(mirror=False, uncertainty=True))
    assert len(list((tmp_path / "b").glob("*.disagreement.tif"))) == 1
