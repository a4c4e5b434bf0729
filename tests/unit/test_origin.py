"""Cases of one origin: what was put in is found, and nothing is found among independent images."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import zoom

from medseg.config import Config
from medseg.errors import ConfigError, DatasetFaults
from medseg.formats.write import write_labels
from medseg.image.geometry import Geometry
from medseg.ingest.origin.components import connected
from medseg.ingest.origin.groups import find_groups, propose
from medseg.ingest.origin.lattice import IntensityLattice, find_lattice, same_lattice
from medseg.ingest.origin.links import Link, find_links
from medseg.ingest.origin.names import side_pairs
from medseg.ingest.origin.sketch import take_sketch
from medseg.ingest.origin.thumbnails import area_weights
from medseg.ingest.run import check, propose_subjects, run
from tests.choices import few
from tests.configurations import config as configured
from tests.origin_sets import PICTURES, SOLID, VOLUMES, bytes_of, cells, independent, links, scan, sketch, smooth

Pairs = set[tuple[str, str]]


def pairs(found: list[Link]) -> Pairs:
    return {(link.one, link.other) for link in found}


# Independent images: nothing


@pytest.mark.parametrize("kind", few(PICTURES, lambda kind: kind in list(PICTURES)[:3]))
def test_no_false_alarm_on_independent_pictures(kind: str) -> None:
    assert find_links(dict(independent(kind, PICTURES[kind], 150, 0))) == []


@pytest.mark.parametrize("kind", few(VOLUMES, lambda kind: kind in list(VOLUMES)[:1]))
def test_no_false_alarm_on_independent_volumes(kind: str) -> None:
    assert find_links(dict(independent(kind, VOLUMES[kind], 60, 0))) == []


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("kind", [k for k in PICTURES if k != "shaded"])
def test_no_false_alarm_in_small_sets(kind: str, count: int) -> None:
    for seed in range(4):
        assert find_links(dict(independent(kind, PICTURES[kind], count, 100 + seed))) == []


# Intensity lattices


def rescaled(values: np.ndarray, step: float, offset: float) -> np.ndarray:
    return (values * step + offset).astype(np.float32)


@given(
    step=st.floats(1e-4, 1e4),
    phase=st.floats(0, 0.999),
    first=st.integers(0, 300),
    seed=st.integers(0, 99),
    double=st.booleans(),
)
def test_a_lattice_is_found_with_its_step_and_phase(
    step: float, phase: float, first: int, seed: int, double: bool
) -> None:
    counts = first + np.random.default_rng(seed).integers(0, 400, (14, 15, 16))
    values = ((counts + phase) * step).astype(np.float64 if double else np.float32)
    found = find_lattice(values)
    if found is None:  # a step that is a convention is no evidence
        inverse = np.array([1, 2]) / step
        digits = step / 10.0 ** (np.floor(np.log10(step)) - 2)
        near = np.abs(inverse - np.round(inverse)) < 2e-6 * inverse
        span = np.ptp(values) / 10.0 ** (np.floor(np.log10(np.ptp(values))) - 2)
        assert near.any() or min(abs(x - round(x)) / x for x in (digits, span)) < 2e-6 or _power(step, values)
        return
    assert found.step == pytest.approx(step, rel=1e-6)
    gap = abs(found.phase - phase)
    assert min(gap, 1 - gap) < 0.02


def _power(step: float, values: np.ndarray) -> bool:
    powers = [np.log2(step), np.log2(np.ptp(values) + 1)]
    return any(abs(p - round(p)) < 2e-6 * max(1, p) for p in powers)


@pytest.mark.parametrize(
    "values",
    [
        np.arange(4000).reshape(40, 10, 10),
        np.arange(4000, dtype=np.float32).reshape(40, 10, 10),
        np.arange(4000, dtype=np.float32).reshape(40, 10, 10) / 255,
        np.arange(4000, dtype=np.float32).reshape(40, 10, 10) * 0.125,
        np.arange(4000, dtype=np.float32).reshape(40, 10, 10) * 0.01,
        np.random.default_rng(0).standard_normal((40, 10, 10)).astype(np.float32),
        np.full((40, 10, 10), np.nan, dtype=np.float32),
        np.zeros((40, 10, 10), dtype=np.float32),
    ],
    ids=["integers", "integers as float", "parts of 255", "power of two", "decimal", "continuous", "NaN", "constant"],
)
def test_what_anybody_could_have_is_no_lattice(values: np.ndarray) -> None:
    assert find_lattice(values) is None


@pytest.mark.parametrize("offset", [0.0, -317.77])
def test_halves_of_one_scan_share_their_lattice(offset: float) -> None:
    images, expected = {}, set()
    for number in range(20):
        rng = np.random.default_rng(number)
        values = np.concatenate([scan(rng), scan(rng)])
        step = rng.uniform(3, 9)
        whole = rescaled(values, step, offset)
        images[f"a{number:02d}"], images[f"b{number:02d}"] = whole[: SOLID[0]], whole[SOLID[0] :]
        expected.add((f"a{number:02d}", f"b{number:02d}"))
    found = [link for link in links(images) if link.kind == "equal intensity steps"]
    assert pairs(found) == expected


def test_a_lattice_of_the_whole_set_is_a_convention() -> None:
    lattices = [IntensityLattice(0.0123457, 0.2)] * 10
    assert same_lattice(lattices) == []
    assert same_lattice([*lattices[:2], *(IntensityLattice(0.01 * 1.1**k, 0.2) for k in range(8))]) == [(0, 1)]


def test_lattices_out_of_phase_are_not_equal() -> None:
    assert same_lattice([IntensityLattice(0.0123457, 0.2), IntensityLattice(0.0123457, 0.7)]) == []
    assert same_lattice([IntensityLattice(0.0123457, 0.995), IntensityLattice(0.0123457, 0.005), None]) == [(0, 1)]


# Facing borders


def tiles(large: np.ndarray, side: int, name: str) -> dict[str, np.ndarray]:
    steps = [range(0, n - side + 1, side) for n in large.shape]
    return {f"{name}{r // side}x{c // side}": large[r : r + side, c : c + side] for r in steps[0] for c in steps[1]}


@pytest.mark.parametrize("noise", [0.5, 4.0])
def test_tiles_of_one_field_are_neighbours(noise: float) -> None:
    images: dict[str, np.ndarray] = {}
    for number, name in enumerate("fgh"):
        rng = np.random.default_rng(number)
        large = 120 + 45 * smooth(rng, (480, 480), 3.0) + noise * rng.standard_normal((480, 480))
        images |= tiles(bytes_of(large), 160, name)
    found = links(images)
    expected = {
        tuple(sorted((f"{n}{r}x{c}", f"{n}{r + dr}x{c + dc}")))
        for n in "fgh"
        for r in range(3)
        for c in range(3)
        for dr, dc in ((0, 1), (1, 0))
        if r + dr < 3 and c + dc < 3
    }
    assert {link.kind for link in found} == {"facing borders"}
    assert pairs(found) <= expected
    assert len(pairs(found)) >= 0.7 * len(expected)
    groups = connected((link.one, link.other) for link in found)
    assert len(groups) == 3
    assert min(len(group) for group in groups) >= 8


def test_tiles_in_colour_and_of_two_sizes_are_neighbours() -> None:
    rng = np.random.default_rng(0)
    large = np.stack([bytes_of(120 + 45 * smooth(rng, (128, 240), 3.0)) for _ in range(3)])
    other = np.stack([bytes_of(120 + 45 * smooth(rng, (128, 128), 3.0)) for _ in range(3)])
    images = {"a": large[:, :, :128], "b": large[:, :, 128:], "c": other}
    sketches = {
        name: take_sketch(image, Geometry.from_spacing(image.shape[1:], (1.0, 1.0))) for name, image in images.items()
    }
    assert pairs(find_links(dict(sketches))) == {("a", "b")}


def test_blocks_of_one_volume_are_neighbours() -> None:
    images: dict[str, np.ndarray] = {}
    for number, name in enumerate("fgh"):
        large = bytes_of(120 + 45 * smooth(np.random.default_rng(number), (64, 48, 48), 2.0))
        images |= {f"{name}1x": large[:32], f"{name}2x": large[32:]}
    assert pairs(links(images)) == {(f"{n}1x", f"{n}2x") for n in "fgh"}


# Near-copies


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    return imagecodecs.jpeg_decode(imagecodecs.jpeg_encode(image, quality))


CHANGES: dict[str, Any] = {
    "other grey values": lambda i: (0.37 * i + 11).astype(np.uint8),
    "gamma": lambda i: (255 * (i / 255) ** 0.7).astype(np.uint8),
    "16 bits": lambda i: i.astype(np.uint16) * 200 + 77,
    "jpeg 75": lambda i: jpeg(i, 75),
    "jpeg 30": lambda i: jpeg(i, 30),
    "smaller": lambda i: zoom(i, 0.6, order=1),
    "larger": lambda i: zoom(i, 1.3, order=1),
    "rolled": lambda i: np.roll(i, (9, -7), (0, 1)),
    "cut at one side": lambda i: np.ascontiguousarray(i[8:, 12:]),
    "cut all around": lambda i: np.ascontiguousarray(i[4:-4, 4:-4]),
    "mirrored": lambda i: np.ascontiguousarray(i[:, ::-1]),
    "turned": lambda i: np.ascontiguousarray(np.rot90(i)),
    "noisy": lambda i: bytes_of(i + 8 * np.random.default_rng(1).standard_normal(i.shape)),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", ["cells", "texture", "masked", "body"])
def test_a_near_copy_is_found_among_others(kind: str, change: str) -> None:
    if (kind, change) in (("masked", "turned"), ("body", "turned"), ("body", "cut at one side")):
        pytest.skip("what all images have in common neither turns nor moves with one of them")
    rest = dict(independent(kind, PICTURES[kind], 25, 7))
    original = PICTURES[kind](np.random.default_rng([7, list(PICTURES).index(kind), 3]), 3)
    found = find_links({**rest, "zz": sketch(CHANGES[change](original))})
    assert (f"{kind}00003", "zz") in pairs(found)
    assert pairs(found) == {(f"{kind}00003", "zz")}


VOLUME_CHANGES: dict[str, Any] = {
    "other grey values": lambda v: (0.37 * v + 11).astype(np.float32),
    "finer grid": lambda v: zoom(v.astype(np.float32), 1.3, order=1),
    "shifted": lambda v: np.roll(v, (1, -1, 1), (0, 1, 2)),
    "mirrored": lambda v: np.ascontiguousarray(v[::-1]),
    "noisy": lambda v: v + (15 * np.random.default_rng(1).standard_normal(v.shape)).astype(v.dtype),
}


@pytest.mark.parametrize("change", VOLUME_CHANGES)
def test_a_near_copy_of_a_volume_is_found_among_others(change: str) -> None:
    rest = dict(independent("ct", VOLUMES["ct"], 25, 7))
    kinds = [*PICTURES, *VOLUMES]
    original = VOLUMES["ct"](np.random.default_rng([7, kinds.index("ct"), 3]), 3)
    found = find_links({**rest, "zz": sketch(VOLUME_CHANGES[change](original))})
    assert pairs(found) == {("ct00003", "zz")}


def test_a_volume_stored_along_other_axes_is_a_near_copy() -> None:
    """What is resaved in another orientation lies on another grid, in the same place of the world."""
    rest = dict(independent("ct", VOLUMES["ct"], 12, 7))
    kinds = [*PICTURES, *VOLUMES]
    original = VOLUMES["ct"](np.random.default_rng([7, kinds.index("ct"), 3]), 3)
    grid = Geometry.from_spacing(original.shape, (1.0, 1.0, 1.0), "mm").reoriented((1, 2, 0), (True, True, False))
    turned = np.flip(original.transpose(1, 2, 0), (0, 1)) * 2
    found = find_links({**rest, "zz": take_sketch(turned[None], grid)})
    assert pairs(found) == {("ct00003", "zz")}
    assert "mirrored" not in found[0].evidence


# Names


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Image_01L", "Image_01R"),
        ("left_knee", "right_knee"),
        ("p3-LEFT", "p3-RIGHT"),
        ("p3_Left_t1", "p3_Right_t1"),
        ("eye.OD.3", "eye.OS.3"),
        ("12os", "12od"),
        ("lh.a7", "rh.a7"),
        ("kneeLeft07", "kneeRight07"),
        ("sub-02_hemi-L", "sub-02_hemi-R"),
    ],
)
def test_names_that_differ_by_a_side(one: str, other: str) -> None:
    found = side_pairs([one, other, "else"])
    assert [(a, b) for a, b, _, _ in found] == [(min(one, other), max(one, other))]


@pytest.mark.parametrize(
    "names",
    [
        ["Image_01L", "Image_02R"],
        ["scan_k", "scan_l", "scan_r", "scan_s"],
        ["leftover", "rightover"],
        ["lamp", "ramp"],
        ["a_left", "a_left2"],
        ["left_right", "right_left"],
        ["x7l2f", "x7q2f"],
        ["level1", "revel1"],
    ],
    ids=str,
)
def test_other_names_are_no_sides(names: list[str]) -> None:
    assert side_pairs(names) == []


# Groups and proposals


def test_groups_are_what_pairs_connect_across_subjects() -> None:
    subjects = {"a": "1", "b": "1", "c": "c", "d": "d", "e": "e", "f": "f"}
    found = [Link("a", "b", "names", "x"), Link("b", "c", "names", "y"), Link("d", "e", "near-copies", "z")]
    first, second = find_groups(found, subjects)
    assert (first.members, first.subjects, first.links) == (("a", "b", "c"), 2, (found[1],))
    assert second.describe() == "d and e: z, counted as 2 subjects"
    assert "group of 3 by pairs of names 1: a, b, c" in first.describe()
    assert find_groups(found[:1], subjects) == []


@given(
    st.dictionaries(st.integers(0, 30).map(str), st.integers(0, 20).map(str), min_size=1),
    st.lists(st.tuples(st.integers(0, 30).map(str), st.integers(0, 30).map(str))),
)
def test_proposed_subjects_are_the_join_of_both_relations(subjects: dict[str, str], raw: list) -> None:
    related = [(a, b) for a, b in raw if a in subjects and b in subjects]
    proposed = propose(subjects, related)
    assert proposed == propose(subjects, reversed(related))
    assert set(proposed) == set(subjects)
    # Oracle: merge until nothing changes.
    groups = [{c for c in subjects if subjects[c] == s} for s in set(subjects.values())]
    for a, b in related:
        one, other = (next(g for g in groups if x in g) for x in (a, b))
        if one is not other:
            groups.remove(other)
            one |= other
    assert {frozenset(c for c in proposed if proposed[c] == s) for s in set(proposed.values())} == set(
        map(frozenset, groups)
    )
    for group in groups:
        assert {proposed[c] for c in group} == {min(subjects[c] for c in group)}


def test_the_order_of_cases_changes_nothing() -> None:
    rng = np.random.default_rng(0)
    images = tiles(bytes_of(120 + 45 * smooth(rng, (256, 256), 4.0)), 128, "f")
    images |= {f"g{k}": cells(np.random.default_rng(k), 0) for k in range(6)} | {
        "h": cells(np.random.default_rng(2), 0)
    }
    images["h"] = jpeg(images["h"], 60)
    sketches = {name: sketch(image) for name, image in images.items()}
    found = find_links(dict(sketches))
    assert ("g2", "h") in pairs(found)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(sorted(sketches))
        assert find_links({str(name): sketches[str(name)] for name in order}) == found


def test_weights_average_areas() -> None:
    assert area_weights(4, 8) == pytest.approx(np.kron(np.eye(4), [[0.5, 0.5]]))
    assert area_weights(2, 3) == pytest.approx(np.array([[2, 1, 0], [0, 1, 2]]) / 3)
    np.testing.assert_allclose(area_weights(64, 37).sum(axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(
        area_weights(64, 37) @ np.arange(37), np.clip((np.arange(64) + 0.5) * 37 / 64 - 0.5, 0, 36), atol=1e-4
    )


def test_a_sketch_is_bounded_whatever_the_image() -> None:
    rng = np.random.default_rng(0)
    for shape, most in (((1500, 1200), 13_000), ((150, 140, 130), 36_000)):
        taken = sketch(rng.integers(0, 255, shape).astype(np.uint8))
        arrays = [*(border.strips for border in taken.borders), taken.whole, taken.native]
        assert sum(array.nbytes for array in arrays if array is not None) <= most


# The stage


def write_set(folder: Path, images: dict[str, np.ndarray]) -> None:
    for name, image in images.items():
        grid = Geometry.from_spacing(image.shape, (1.0, 1.0))
        write_labels(folder / "images" / f"{name}.png", np.ascontiguousarray(image), grid)
        write_labels(folder / "masks" / f"{name}.png", (image > image.mean()).astype(np.uint8), grid)


def configuration(root: Path, **section: Any) -> Config:
    return configured(root, **{"layout": "pairs", "labels": {"spot": 1}, **section})


@pytest.fixture
def related(tmp_path: Path) -> Path:
    """Four tiles of a field, a picture and its darker copy, two eyes, three independent pictures."""
    own = {
        name: cells(np.random.default_rng(number), 0) for number, name in enumerate(["u", "v", "w", "k", "1L", "1R"])
    }
    field = bytes_of(120 + 45 * smooth(np.random.default_rng(9), (256, 256), 4.0))
    write_set(tmp_path / "data", {**own, **tiles(field, 128, "f"), "kk": own["k"] // 2 + 5})
    return tmp_path


def test_ingest_refuses_names_the_groups_and_takes_the_proposal(
    related: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DatasetFaults) as caught:
        run(configuration(related), "data", related / "out", workers=2)
    faults = caught.value.faults
    assert [(f.code, f.case) for f in faults] == [("same-origin", c) for c in ("1L", "f0x0", "k")]
    for fault, word in zip(faults, ("names", "facing borders", "near-copies"), strict=True):
        assert word in fault.cause
    assert "f0x0, f0x1, f1x0, f1x1" in faults[1].cause
    file = related / "data" / "subjects.csv"
    lines = propose_subjects(configuration(related), "data", file, workers=2)
    assert str(file) in lines[-1]
    with file.open() as stream:
        proposed = {row["case"]: row["subject"] for row in csv.DictReader(stream)}
    assert len(set(proposed.values())) == 6
    assert proposed["f1x1"] == proposed["f0x0"] == "f0x0"
    assert (proposed["kk"], proposed["1R"], proposed["u"]) == ("k", "1L", "u")
    manifest = run(configuration(related, subject="subjects.csv"), "data", related / "out")
    assert len(manifest.subjects) == 6 if hasattr(manifest, "subjects") else True
    assert not manifest.allowed
    # Proposed again, it is the same.
    before = file.read_bytes()
    propose_subjects(configuration(related, subject="subjects.csv"), "data", file, workers=1)
    assert file.read_bytes() == before


def test_the_proposal_joins_what_is_declared_and_identical_voxels(related: Path) -> None:
    data = related / "data"
    for folder in ("images", "masks"):
        (data / folder / "z.png").write_bytes((data / folder / "u.png").read_bytes())
        (data / folder / "bad.png").write_bytes(b"no picture")
    file = related / "subjects.csv"
    lines = propose_subjects(configuration(related, subject="([a-z0-9])"), "data", file)
    with file.open() as stream:
        proposed = {row["case"]: row["subject"] for row in csv.DictReader(stream)}
    assert proposed["u"] == proposed["z"] == "u"
    assert proposed["kk"] == proposed["k"]
    assert proposed["bad"] == "b"
    assert any("identical voxels 1" in line for line in lines)
    assert any("1 images could not be read" in line for line in lines)


def test_allowed_by_name_it_is_kept_and_recorded(related: Path) -> None:
    manifest = check(configuration(related, allow=["same-origin"]), "data")
    assert len(manifest.cases) == 11
    assert [line.split(" · ")[0] for line in manifest.allowed] == ["same-origin"] * 3


def test_one_subject_is_no_fault(related: Path) -> None:
    manifest = check(configuration(related, subject="([fuvwk1])"), "data")
    assert not manifest.allowed


def test_workers_change_nothing(related: Path) -> None:
    files = []
    for workers in (1, 2):
        file = related / f"subjects{workers}.csv"
        propose_subjects(configuration(related), "data", file, workers)
        files.append(file.read_bytes())
    assert files[0] == files[1]


def test_the_command_line_writes_a_proposal_beside_faults(related: Path) -> None:
    (related / "data/images/u.png").write_bytes(b"no picture")
    settings = related / "config.yaml"
    settings.write_text(yaml.safe_dump(configuration(related).model_dump(exclude_none=True)))
    command = [sys.executable, "-m", "medseg", "ingest", "--config", str(settings), "--dataset", "data"]
    file = related / "subjects.csv"
    done = subprocess.run([*command, "--propose-subjects", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "facing borders" in done.stdout
    assert file.read_text().startswith("case,subject\n1L,1L\n1R,1L\n")
    refused = subprocess.run(
        [*command, "--propose-subjects", "subjects.txt"], capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert ".csv" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_name_that_subject_would_not_take_is_refused(related: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.csv"):
        propose_subjects(configuration(related), "data", related / "subjects.txt")


# Real data, where it is there

FOLDER = os.environ.get("MEDSEG_REALDATA", "")
real = [
    pytest.mark.realdata,
    pytest.mark.skipif(not FOLDER, reason="MEDSEG_REALDATA names no folder with real data"),
]


def proposed_of(tmp_path: Path, dataset: str, **section: Any) -> dict[str, str]:
    config = Config.model_validate(
        {
            "experiment": "test",
            "data_root": FOLDER,
            "datasets": {dataset: {"path": dataset, **section}},
            "models": {"unet": {"network": "unet"}},
            "budget": {"steps": 1},
        }
    )
    propose_subjects(config, dataset, tmp_path / "subjects.csv", workers=2)
    with (tmp_path / "subjects.csv").open() as stream:
        return {row["case"]: row["subject"] for row in csv.DictReader(stream)}


def joined(proposed: dict[str, str]) -> list[list[str]]:
    groups: dict[str, list[str]] = {}
    for case, subject in proposed.items():
        groups.setdefault(subject, []).append(case)
    return [group for group in groups.values() if len(group) > 1]


class TestRealData:
    pytestmark = real

    def test_hippocampus(self, tmp_path: Path) -> None:
        groups = joined(proposed_of(tmp_path, "hippocampus"))
        scans = [{(int(case[-3:]) + 1) // 2 for case in group} for group in groups]
        assert sum(len(scan) == 1 for scan in scans) >= 50
        # Steps are stored with six digits: once in some ten thousand pairs, two scans have the same.
        assert sum(len(scan) > 1 for scan in scans) <= 2

    def test_nuclei(self, tmp_path: Path) -> None:
        section = {"labels": {"nucleus": 1}, "instances": True}
        groups = joined(proposed_of(tmp_path, "nuclei_fluo", **section))
        assert sum(map(len, groups)) >= 250
        assert max(map(len, groups)) <= 16

    def test_chase(self, tmp_path: Path) -> None:
        groups = joined(proposed_of(tmp_path, "chase_db1", labels={"vessel": 1}))
        assert sorted(sorted(group) for group in groups) == [
            [f"Image_{k:02d}L", f"Image_{k:02d}R"] for k in range(1, 11)
        ]

    @pytest.mark.parametrize(("dataset", "subject"), [("tnbc_objects", r"(p\d+)_"), ("phase_contrast", "(.*)")])
    def test_nothing_elsewhere(self, dataset: str, subject: str, tmp_path: Path) -> None:
        section = {"labels": {"cell": 1}, "instances": True, "subject": subject}
        proposed = proposed_of(tmp_path, dataset, **section)
        assert len(set(proposed.values())) == (6 if dataset == "tnbc_objects" else 16)
