"""Who belongs together and who is left out: what can be declared, and advice that works when it is followed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from medseg import slices
from medseg.config import load_config
from medseg.errors import ConfigError, DataError, DatasetFaults, Fault
from medseg.formats.read import read_labels
from medseg.formats.write import write_labels
from medseg.ingest.grouping import NOBODY, Grouping
from medseg.ingest.manifest import read_manifest
from medseg.ingest.run import check, run
from medseg.records import read_record, write_record
from tests.faults.sets import CASES, KINDS, config

IDS = {kind: [f"{kind}_{k:03d}" for k in range(CASES)] for kind in KINDS}
# Case k and case k + 1 are one subject's, for even k: `id // 2`, which no regular expression can say.
HALVES = {case: f"scan{k // 2}" for kind in IDS for k, case in enumerate(IDS[kind])}


@pytest.fixture(scope="session")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sound")
    for name in ("cells", "organs", "channels", "objects"):
        KINDS[name].write(root / name, CASES, 7)
    return root


@pytest.fixture
def copy(sound: Path, tmp_path: Path) -> Callable[[str], Path]:
    def of(kind: str) -> Path:
        shutil.copytree(sound / kind, tmp_path / kind)
        return tmp_path / kind

    return of


def table(path: Path, subjects: Mapping[str, str], separator: str = ",") -> None:
    lines = [separator.join(row) for row in [("case", "subject"), *subjects.items()]]
    path.write_text("\n".join(lines) + "\n")


def halves(kind: str) -> dict[str, str]:
    return {case: HALVES[case] for case in IDS[kind]}


def faults_of(root: Path, kind: str, **section: Any) -> list[Fault]:
    with pytest.raises(DatasetFaults) as caught:
        check(config(root, kind, **section), kind)
    return list(caught.value.faults)


# Who belongs together


@pytest.mark.parametrize(("name", "separator"), [("subjects.csv", ","), ("subjects.tsv", "\t"), ("excel.csv", ";")])
@pytest.mark.parametrize("inside", [True, False])
def test_a_file_says_what_no_expression_can(
    name: str, separator: str, inside: bool, copy: Callable[[str], Path], tmp_path: Path, monkeypatch: Any
) -> None:
    folder = copy("cells")
    monkeypatch.chdir(tmp_path)
    table(folder / name if inside else tmp_path / name, halves("cells"), separator)
    manifest = run(config(tmp_path, "cells", subject=name, folds={"count": 3}), "cells", tmp_path / "out")
    assert {c.id: c.subject for c in manifest.cases} == halves("cells")
    for fold in json.loads((tmp_path / "out/splits.json").read_text())["folds"]:
        sides = [{HALVES[case] for case in fold[part]} for part in ("train", "val")]
        assert len(sides[1]) == 1
        assert not sides[0] & sides[1]
    read = read_manifest(tmp_path / "out/manifest.tsv")
    assert read.independence == f"subject, declared by {name}: 3 subjects"
    assert json.loads((tmp_path / "out/dataset.json").read_text())["unit"] == {
        "by": "file",
        "how": name,
        "subjects": 3,
    }


def test_the_configuration_itself_may_say_it(copy: Callable[[str], Path], tmp_path: Path) -> None:
    """Two unlike names of one subject; all others are subjects of their own."""
    copy("cells")
    told = {"cells_000": "anna", "cells_003": "anna"}
    manifest = run(config(tmp_path, "cells", subject=told, folds={"count": 3}), "cells", tmp_path / "out")
    assert {c.id: c.subject for c in manifest.cases if c.subject != c.id} == told
    read = read_manifest(tmp_path / "out/manifest.tsv")
    assert read.independence == "subject, declared by the configuration: 5 subjects"
    for fold in json.loads((tmp_path / "out/splits.json").read_text())["folds"]:
        assert len({"cells_000", "cells_003"} & set(fold["val"])) in (0, 2)
    (wrong,) = faults_of(tmp_path, "cells", subject={**told, "cell_001": "bob"})
    assert (wrong.code, wrong.cause) == (
        "subject",
        "`subject` names 'cell_001', which is no case; did you mean 'cells_001'?",
    )
    with pytest.raises(ConfigError, match=r"datasets.cells.subject: 'cells_001' has no subject"):
        check(config(tmp_path, "cells", subject={"cells_001": " "}), "cells")


def test_a_file_wins_over_what_the_layout_says(copy: Callable[[str], Path], tmp_path: Path) -> None:
    table(copy("objects") / "s.csv", halves("objects"))
    manifest = check(config(tmp_path, "objects", subject="s.csv"), "objects")
    assert [c.subject for c in manifest.cases] == list(halves("objects").values())


def test_everything_wrong_with_the_file_is_told_at_once(copy: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy("cells")
    rows = ["case,subject", "cells_000,a", "cells_000,b", "cell_003,c", "cells_002,", "nobody,d", "cells_004,d"]
    (folder / "s.csv").write_text("\n".join(rows))
    # A case with a fault of its own may stand there, and may be missing there.
    (folder / "masks" / "cells_005.png").unlink()
    found = faults_of(tmp_path, "cells", subject="s.csv")
    # Lines of cases that are not here do no harm, but may be meant for one.
    meant = "; line 'cell_003' is of no case here: is this one meant?"
    assert [(f.code, f.case, f.file, f.cause) for f in found] == [
        ("image-without-label", "cells_005", "images/cells_005.png", "no file masks/cells_005.*"),
        ("subject", "cells_000", "s.csv", "is there 2 times"),
        ("subject", "cells_001", "s.csv", f"not listed there{meant}"),
        ("subject", "cells_002", "s.csv", "no subject in its line"),
        ("subject", "cells_003", "s.csv", f"not listed there{meant}"),
    ]
    assert all(f.fix for f in found)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (None, "cannot be read (No such file or directory)"),
        ("case,patient\na,b\n", "no column 'subject'; there are case, patient"),
        ("id,subject\na,b\n", "no column 'case'"),
        ("case,subject\na\n", "line 2 has 1 cells"),
        ("", "empty"),
    ],
)
def test_an_unusable_file_is_one_fault(
    content: str | None, cause: str, copy: Callable[[str], Path], tmp_path: Path
) -> None:
    folder = copy("cells")
    if content is not None:
        (folder / "s.csv").write_text(content)
    (fault,) = faults_of(tmp_path, "cells", subject="s.csv")
    assert (fault.code, fault.case, fault.file) == ("subject", "-", "s.csv")
    assert cause in fault.cause


def test_cases_that_are_left_out_may_stand_in_the_file_or_not(copy: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy("cells")
    for listed in (halves("cells"), {case: s for case, s in halves("cells").items() if case != "cells_005"}):
        table(folder / "s.csv", listed)
        manifest = check(config(tmp_path, "cells", subject="s.csv", exclude=["cells_005"]), "cells")
        assert [c.id for c in manifest.cases] == IDS["cells"][:5]


@pytest.mark.parametrize(
    ("unit", "told"),
    [
        (NOBODY, "each case by itself: nobody declared which belong together (4 cases)"),
        (Grouping("case"), "each case by itself, declared by `subject: case`: 4 cases"),
        (Grouping("pattern", r"^(p\d+)_"), r"subject, declared by the pattern '^(p\d+)_': 4 subjects"),
        (Grouping("layout", "the folders sub-…"), "subject, declared by the folders sub-…: 4 subjects"),
        (Grouping("file", "s.csv"), "subject, declared by s.csv: 4 subjects"),
    ],
)
def test_the_unit_of_independence_is_one_sentence(unit: Grouping, told: str) -> None:
    assert unit.sentence(4) == told


def test_who_declared_it_is_stored_and_printed(
    copy: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy("cells"), copy("objects")
    pattern = r"cells_0*(\d)"
    for kind, subject, unit in [
        ("cells", None, NOBODY),
        ("cells", "case", Grouping("case")),
        ("cells", pattern, Grouping("pattern", pattern)),
        # Its folders say which file is whose mask, and nothing about subjects.
        ("objects", None, NOBODY),
    ]:
        run(config(tmp_path, kind, subject=subject), kind, tmp_path / "out")
        found = read_manifest(tmp_path / "out/manifest.tsv")
        assert found.grouping == unit
        assert f"unit of independence: {found.independence}" in capsys.readouterr().err


def test_a_manifest_of_an_earlier_version_is_refused_by_name(copy: Callable[[str], Path], tmp_path: Path) -> None:
    copy("cells")
    run(config(tmp_path, "cells"), "cells", tmp_path / "out")
    path = tmp_path / "out/dataset.json"
    facts = read_record(path, "medseg ingest")
    del facts["unit"]
    write_record(path, facts)
    with pytest.raises(DataError, match=r"KeyError\('unit'\).*run `medseg ingest` again"):
        read_manifest(tmp_path / "out/manifest.tsv")


@pytest.mark.parametrize("extra", [{}, {"download": {"url": "https://example.org/a.zip"}}])
@pytest.mark.parametrize("inside", [True, False])
def test_a_changed_file_of_subjects_or_test_cases_is_seen(
    inside: bool, extra: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data/p").mkdir(parents=True)
    section = {"layout": "pairs", "path": "p", "subject": "s.csv", "test": "t.csv", **extra}
    loaded = load_config([], {"datasets": {"d": section}, "budget": {"steps": 1}})
    stamps = [slices.dataset_slice(loaded, "d")]
    for name, text in [("s.csv", "1"), ("s.csv", "2"), ("t.csv", "1"), ("t.csv", "2")]:
        path = (tmp_path / "data/p" if inside else tmp_path) / name
        path.write_text(text)
        stamps.append(slices.dataset_slice(loaded, "d"))
        assert slices.dataset_slice(loaded, "d") == stamps[-1]
    assert len(set(stamps)) == 5


# Cases left out


def files(folder: Path, case: str) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file() and p.name.startswith(case)]


@pytest.mark.parametrize("kind", ["cells", "organs", "channels", "objects"])
def test_excluded_cases_are_not_read_and_their_faults_do_not_count(
    kind: str, copy: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = copy(kind), tmp_path / "out"
    damaged, gone = IDS[kind][1], IDS[kind][4]
    for path in files(folder, damaged):
        path.write_bytes(b"no image")
    if kind == "objects":
        shutil.rmtree(folder / gone / "masks")
    else:
        next(p for p in files(folder, gone) if p.parent.name in ("masks", "labelsTr")).unlink()
    assert {f.case for f in faults_of(tmp_path, kind)} == {damaged, gone}
    run(config(tmp_path, kind, exclude=[gone, damaged]), kind, out)
    manifest = read_manifest(out / "manifest.tsv")
    assert [c.id for c in manifest.cases] == [case for case in IDS[kind] if case not in (damaged, gone)]
    assert manifest.excluded == (damaged, gone)
    assert json.loads((out / "dataset.json").read_text())["excluded"] == [damaged, gone]
    assert f"excluded by name (2): {damaged}, {gone}" in capsys.readouterr().err


def test_an_unknown_name_is_refused_with_the_nearest(copy: Callable[[str], Path], tmp_path: Path) -> None:
    copy("cells")
    with pytest.raises(ConfigError, match=r"datasets\.cells\.exclude: no case 'cell_003'; did you mean 'cells_003'\?"):
        check(config(tmp_path, "cells", exclude=["cell_003"]), "cells")
    with pytest.raises(ConfigError, match=r"no case 'zzz'; there are 6, such as cells_000, cells_001, cells_002"):
        check(config(tmp_path, "cells", exclude=["zzz"]), "cells")


def test_nothing_left_is_a_fault_that_says_why(copy: Callable[[str], Path], tmp_path: Path) -> None:
    copy("cells")
    (fault,) = faults_of(tmp_path, "cells", exclude=IDS["cells"])
    assert (fault.code, fault.cause.endswith("but 6 that `exclude` names")) == ("missing", True)


def test_files_that_nobody_listed_can_be_left_out(copy: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy("organs")
    index = json.loads((folder / "dataset.json").read_text())
    index["training"] = index["training"][:-1]
    (folder / "dataset.json").write_text(json.dumps(index))
    (fault,) = faults_of(tmp_path, "organs")
    assert (fault.code, fault.case) == ("unlisted", "organs_005")
    assert len(check(config(tmp_path, "organs", exclude=["organs_005"]), "organs").cases) == 5


def test_folds_of_ones_own_may_still_name_what_is_left_out(copy: Callable[[str], Path], tmp_path: Path) -> None:
    folder, out = copy("cells"), tmp_path / "out"
    ids = IDS["cells"]
    own = [{"train": ids[:3], "val": ids[3:]}, {"train": ids[3:], "val": ids[:3]}]
    (folder / "own.json").write_text(json.dumps(own))
    (folder / "own.csv").write_text("\n".join(["case,fold", *(f"{c},{k % 2}" for k, c in enumerate(ids))]))
    for name, val in (("own.json", ids[3:5]), ("own.csv", [ids[0], ids[2], ids[4]])):
        run(config(tmp_path, "cells", splits=name, exclude=[ids[5]]), "cells", out)
        folds = json.loads((out / "splits.json").read_text())["folds"]
        assert folds[0]["val"] == val
        assert all(sorted(fold["train"] + fold["val"]) == ids[:5] for fold in folds)


# Advice is followed to the letter, and helps


def plant_copy(folder: Path, kind: str, case: str, name: str) -> None:
    """A case with the voxels of another: copied files, and an entry in dataset.json where there is one."""
    for path in files(folder, case):
        shutil.copy(path, path.with_name(path.name.replace(case, name)))
    index = folder / "dataset.json"
    if kind == "organs":
        value = json.loads(index.read_text())
        entry = next(e for e in value["training"] if case in e["image"])
        value["training"].append({part: file.replace(case, name) for part, file in entry.items()})
        index.write_text(json.dumps(value))
    elif kind == "channels":
        value = json.loads(index.read_text())
        index.write_text(json.dumps(value | {"numTraining": value["numTraining"] + 1}))


def configured(advice: str, key: str) -> Any:
    """What advice says to write for a key, as YAML reads it."""
    (text,) = re.findall(rf"`({key}: [^`]+)`", advice)
    return yaml.safe_load(text)[key]


def excluding(advice: str) -> list[str]:
    found: list[str] = configured(advice, "exclude")
    return found


LAYOUTS = ["cells", "organs", "channels"]  # pairs, decathlon, nnunet


@pytest.mark.parametrize("kind", LAYOUTS)
def test_advice_for_leakage_to_leave_copies_out(kind: str, copy: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy(kind)
    for name in ("other", "third"):
        plant_copy(folder, kind, IDS[kind][1], name)
    found = faults_of(tmp_path, kind, subject="case")
    assert [(f.code, f.case) for f in found] == [("leakage", "other"), ("leakage", "third")]
    assert len({f.fix for f in found}) == 1
    assert excluding(found[0].fix) == ["other", "third"]
    left = check(config(tmp_path, kind, subject="case", exclude=excluding(found[0].fix)), kind)
    assert [c.id for c in left.cases] == IDS[kind]


@pytest.mark.parametrize("kind", LAYOUTS)
def test_advice_for_leakage_to_give_both_one_subject(kind: str, copy: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy(kind)
    plant_copy(folder, kind, IDS[kind][1], "other")
    (fault,) = faults_of(tmp_path, kind, subject="case")
    name, allow = configured(fault.fix, "subject"), configured(fault.fix, "allow")
    assert "(columns case,subject)" in fault.fix
    table(folder / name, {**{case: case for case in IDS[kind]}, "other": IDS[kind][1]})
    kept = check(config(tmp_path, kind, subject=name, allow=allow), kind)
    assert len(kept.cases) == CASES + 1


@pytest.mark.parametrize("kind", LAYOUTS)
def test_advice_for_copies_within_a_subject(kind: str, copy: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy(kind)
    plant_copy(folder, kind, IDS[kind][1], "other")
    table(folder / "s.csv", {**{case: case for case in IDS[kind]}, "other": IDS[kind][1]})
    (fault,) = faults_of(tmp_path, kind, subject="s.csv")
    assert (fault.code, fault.case) == ("identical-images", "other")
    left = check(config(tmp_path, kind, subject="s.csv", exclude=excluding(fault.fix)), kind)
    assert [c.id for c in left.cases] == IDS[kind]


@pytest.mark.parametrize("kind", LAYOUTS)
@pytest.mark.parametrize("way", ["pattern", "case", "file"])
def test_advice_for_ids_that_repeat_subjects(kind: str, way: str, copy: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy(kind)
    again = f"{IDS[kind][0]}_b"
    plant_copy(folder, kind, IDS[kind][0], again)
    # Another image, under a name like that of the first.
    KINDS[kind].write(tmp_path / "strange" / kind, 1, 99)
    for path in files(folder, again):
        shutil.copy(tmp_path / "strange" / kind / path.parent.name / path.name.replace("_b", ""), path)
    (fault,) = faults_of(tmp_path, kind)
    assert fault.code == "subject"
    pattern, word, name = (yaml.safe_load(t)["subject"] for t in re.findall(r"`(subject: [^`]+)`", fault.fix))
    table(folder / name, {case: IDS[kind][0] if case == again else case for case in [*IDS[kind], again]})
    said = {"pattern": pattern, "case": word, "file": name}[way]
    subjects = {c.id: c.subject for c in check(config(tmp_path, kind, subject=said), kind).cases}
    assert (subjects[again] == subjects[IDS[kind][0]]) == (way != "case")
    assert len(set(subjects.values())) == CASES + (way == "case")


@pytest.mark.parametrize("kind", LAYOUTS)
def test_advice_where_an_expression_finds_no_subject(kind: str, copy: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy(kind)
    found = faults_of(tmp_path, kind, subject=r"^(scan\d+)")
    assert [f.case for f in found] == IDS[kind]
    name = configured(found[0].fix, "subject")
    table(folder / name, halves(kind))
    assert len({c.subject for c in check(config(tmp_path, kind, subject=name), kind).cases}) == CASES // 2


def test_advice_names_no_more_ids_than_a_line_holds(copy: Callable[[str], Path], tmp_path: Path) -> None:
    folder = copy("cells")
    for number in range(13):
        plant_copy(folder, "cells", "cells_001", f"other{number:02d}")
    found = faults_of(tmp_path, "cells", subject="case")
    assert len(found) == 13
    assert "`exclude: [...]` with the 13 cases named here" in found[0].fix
    left = check(config(tmp_path, "cells", subject="case", exclude=[f.case for f in found]), "cells")
    assert [c.id for c in left.cases] == IDS["cells"]


def test_labels_of_excluded_cases_do_not_make_a_class(copy: Callable[[str], Path], tmp_path: Path) -> None:
    """What only an excluded case shows is absent from the data set."""
    folder = copy("organs")
    for case in IDS["organs"][1:]:
        label = next(p for p in files(folder, case) if p.parent.name == "labelsTr")
        values, grid = read_labels(label)
        write_labels(label, np.where(values == 1, 2, values).astype(np.uint8), grid)
    found = faults_of(tmp_path, "organs", exclude=["organs_000"])
    assert [f.code for f in found] == ["class-absent"]
    assert "0 of 5 cases show class" in found[0].cause
