"""Warm starts: weights that have seen a subject do not start a training that is scored on that subject."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from medseg.errors import CheckpointError, DataError
from medseg.files import read_json, sha256_file
from medseg.image.geometry import Geometry
from medseg.ingest.manifest import Case, read_manifest, write_manifest, write_test
from medseg.ingest.splits import write_splits
from medseg.records import read_record, write_record
from medseg.train import advance, saving
from medseg.train import run as stage
from medseg.train.checkpoint import read_description
from medseg.train.lineage import StartModel, TrainedOn, clear_start
from tests.records import rewrite_table

GRID = Geometry.from_spacing((4, 4), (1.0, 1.0))


def case(name: str, subject: str, *digests: str) -> Case:
    return Case(name, subject, ("i",), ("l",), digests, ("x",), GRID, "uint8", {0: 16})


def seen(*cases: Case, dataset: str = "hippo", complete: bool = True) -> TrainedOn:
    subjects: dict[tuple[str, str], dict[str, tuple[str, ...]]] = {}
    for one in cases:
        subjects.setdefault((dataset, one.subject), {})[one.id] = one.images_sha256
    return TrainedOn(subjects, complete)


def check(record: TrainedOn | None, *cases: Case, allow: Sequence[str] = (), dataset: str = "hippo") -> list[str]:
    return clear_start("tuned", StartModel("model base", "a/folder", record), dataset, {"the val": cases}, allow)


# What counts as the same subject

SEEN = case("c1", "s1", "aa", "bb")
MEETINGS = {
    "the very case": (case("c1", "s1", "aa", "bb"), "hippo", "the image of c1 is that of c1"),
    "renamed, equal files": (
        case("c9", "s9", "zz", "bb"),
        "heart",
        r"the image of c9 is that of c1 \(subject s1, .* hippo",
    ),
    "saved anew": (case("c1", "s1", "yy", "zz"), "hippo", "a subject of this name in data set hippo"),
    "another scan of the subject": (case("c2", "s1", "yy"), "hippo", "a subject of this name in data set hippo"),
    "saved anew under another name": (case("c1", "s1", "yy"), "heart", "c1 has this subject and id in data set hippo"),
}
STRANGERS = {
    "another subject": (case("c2", "s2", "yy"), "hippo"),
    "others' data with subjects of the same name": (case("c2", "s1", "yy"), "heart"),
    "others' data with cases of the same name": (case("c1", "s2", "yy"), "heart"),
}


@pytest.mark.parametrize("name", MEETINGS)
def test_a_subject_is_recognised(name: str) -> None:
    met, dataset, evidence = MEETINGS[name]
    with pytest.raises(DataError, match=f"{met.subject}: .*{evidence}"):
        check(seen(SEEN), case("other", "other", "q"), met, dataset=dataset)


@pytest.mark.parametrize("name", STRANGERS)
def test_other_subjects_are_not_in_the_way(name: str) -> None:
    stranger, dataset = STRANGERS[name]
    assert check(seen(SEEN), stranger, dataset=dataset) == []


def test_the_refusal_names_models_subjects_and_what_can_be_done() -> None:
    cases = [case(f"c{k}", f"s{k}", f"d{k}") for k in range(12)]
    with pytest.raises(DataError) as caught:
        check(seen(*cases[:9]), *cases)
    message = str(caught.value)
    for part in ("models.tuned.start: a/folder, model base", "9 subjects", "s0: ", "s2: ", "and 6 more", "the val"):
        assert part in message
    assert "models.tuned.allow: [start-overlap]" in message
    assert "s3: " not in message
    assert "\n" not in message


def test_cases_of_one_subject_are_counted_once() -> None:
    cases = [case("c1", "s1", "aa"), case("c2", "s1", "bb")]
    with pytest.raises(DataError, match=r"have seen 1 subject \(s1: the image of c1 "):
        check(seen(*cases), *cases)


@pytest.mark.parametrize("record", [None, seen(case("c2", "s2", "y"), complete=False)])
def test_weights_without_a_record_cannot_be_cleared(record: TrainedOn | None) -> None:
    with pytest.raises(DataError, match=r"no record.*models\.tuned\.allow: \[start-unrecorded\]"):
        check(record, case("c1", "s1", "a"))
    (told,) = check(record, case("c1", "s1", "a"), allow=["start-unrecorded"])
    assert told.startswith("start-unrecorded: model base: ")
    # Their record is not whole from then on, whatever comes later.
    assert not seen(case("c3", "s3", "z")).after(record).complete


def test_one_thing_allowed_is_not_the_other() -> None:
    record = seen(SEEN, complete=False)
    with pytest.raises(DataError, match=r"no record.*\[start-unrecorded\]") as caught:
        check(record, SEEN, allow=["start-overlap"])
    assert "subject (s1" not in str(caught.value)
    with pytest.raises(DataError, match=r"have seen.*\[start-overlap\]"):
        check(record, SEEN, allow=["start-unrecorded"])
    with pytest.raises(DataError, match=r"allow: \[start-overlap, start-unrecorded\]"):
        check(record, SEEN)
    told = check(record, SEEN, allow=["start-unrecorded", "start-overlap"])
    assert [line.split(":")[0] for line in told] == ["start-overlap", "start-unrecorded"]


def test_records_add_up_and_come_back() -> None:
    one, two = case("c1", "s1", "b", "a"), case("c2", "s1", "c")
    both = seen(two, dataset="z").after(seen(one)).after(seen(replace(one, images_sha256=("n",))))
    text = json.dumps(both.to_json())
    assert TrainedOn.from_json(json.loads(text)) == both
    assert both.to_json() == {
        "complete": True,
        "subjects": [
            {"dataset": "hippo", "subject": "s1", "cases": {"c1": ["a", "b", "n"]}},
            {"dataset": "z", "subject": "s1", "cases": {"c2": ["c"]}},
        ],
    }
    # Whatever the order of trainings and cases, the same bytes.
    other = seen(replace(one, images_sha256=("n",))).after(seen(one)).after(seen(two, dataset="z"))
    assert json.dumps(other.to_json()) == text


DAMAGES: list[Callable[[dict[str, Any]], Any]] = [
    lambda t: t.pop("complete"),
    lambda t: t.update(complete="no"),
    lambda t: t.update(subjects=None),
    lambda t: t["subjects"][0].pop("dataset"),
    lambda t: t["subjects"][0].update(subject=3),
    lambda t: t["subjects"][0].update(cases=["c1"]),
    lambda t: t["subjects"][0].update(cases={"c1": [1]}),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_is_not_taken_for_an_empty_one(
    damage: Callable[[Any], Any], study: Any, tmp_path: Path
) -> None:
    shutil.copytree(study.model("flat"), tmp_path / "m")
    facts = read_record(tmp_path / "m" / "model.json", "")
    damage(facts["trained_on"])
    write_record(tmp_path / "m" / "model.json", facts)
    with pytest.raises(CheckpointError, match=r"model\.json: damaged"):
        read_description(tmp_path / "m")


# The stage. Cases f0 to f3 of the data set `flat`, each a subject.


class Trainings:
    """Trains on splits of its own, in a copy of the ingest folder."""

    def __init__(self, study: Any, folder: Path) -> None:
        self.study, self.folder = study, folder
        shutil.copytree(study.manifest("flat").parent, folder / "ingest")

    @property
    def manifest(self) -> Path:
        return self.folder / "ingest" / "manifest.tsv"

    def inputs(self, name: str, train: Sequence[str], val: Sequence[str], **more: Any) -> stage.Inputs:
        splits = self.folder / f"{name}.json"
        write_splits(splits, [{"train": list(train), "val": list(val)}], seed=0)
        return stage.Inputs(self.manifest, self.study.plan("flat"), self.study.index("flat"), splits, 0, 0, **more)

    def train(self, name: str, train: Sequence[str], val: Sequence[str], **more: Any) -> Path:
        """The model folder."""
        stage.run(self.inputs(name, train, val, **more), self.folder / "state" / name, self.folder / name, "code")
        return self.folder / name

    def rewrite(self, change: Callable[[str], str]) -> None:
        """Change the text of the manifest."""
        rewrite_table(self.manifest, change)


@pytest.fixture
def trainings(study: Any, tmp_path: Path) -> Trainings:
    return Trainings(study, tmp_path)


def untrained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(advance, "augment_batch", lambda *_: pytest.fail("trained"))


def test_a_model_records_whom_it_was_trained_on(study: Any) -> None:
    facts = read_json(study.model("flat") / "model.json")
    train = read_json(study.splits("flat"))["folds"][0]["train"]
    digests = {name: [sha256_file(study.folder("flat") / "images" / f"{name}.png")] for name in sorted(train)}
    subjects = [{"dataset": "flat", "subject": n, "cases": {n: d}} for n, d in digests.items()]
    assert facts["trained_on"] == {"complete": True, "subjects": subjects}
    assert facts["allowed"] == []


def test_through_a_chain_of_three_what_the_first_has_seen_counts(
    trainings: Trainings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = trainings.train("a", ["f0"], ["f1"])
    second = trainings.train("b", ["f1"], ["f2"], start=first)
    record = read_description(second)[0].trained_on
    assert record is not None
    assert {subject for _, subject in record.subjects} == {"f0", "f1"}
    with monkeypatch.context() as patch:
        untrained(patch)
        with pytest.raises(
            DataError, match=r"models\.unet\.start: .*/b, model unet.* 1 subject \(f0: .*cases of fold 0"
        ):
            trainings.train("c", ["f3"], ["f0"], start=second)
        assert not (trainings.folder / "c").exists()
        assert not (trainings.folder / "state" / "c").exists()
    # Training subjects may meet training subjects.
    third = trainings.train("d", ["f0", "f1"], ["f2", "f3"], start=second)
    assert read_json(third / "model.json")["allowed"] == []
    capsys.readouterr()
    allowed = trainings.train("c", ["f3"], ["f0"], start=second, allow=("start-overlap",))
    facts = read_json(allowed / "model.json")
    (line,) = facts["allowed"]
    assert line.startswith("start-overlap: model unet of data set flat (fold 0, seed 0, weights ")
    assert "f0" in line
    assert f"allowed {line}" in capsys.readouterr().err
    assert str(trainings.folder) not in json.dumps(facts)
    assert {row["subject"] for row in facts["trained_on"]["subjects"]} == {"f0", "f1", "f3"}


def test_the_same_fold_passes_and_another_is_refused(study: Any, tmp_path: Path) -> None:
    def run(fold: int) -> None:
        inputs = (study.manifest("flat"), study.plan("flat"), study.index("flat"), study.splits("flat"))
        stage.run(
            stage.Inputs(*inputs, fold, 0, start=study.model("flat")), tmp_path / "s", tmp_path / f"o{fold}", "code"
        )

    run(0)
    record = [read_json(folder / "model.json")["trained_on"] for folder in (study.model("flat"), tmp_path / "o0")]
    assert record[0] == record[1]
    with pytest.raises(DataError, match=r"2 subjects .*the validation cases of fold 1"):
        run(1)
    assert not (tmp_path / "o1").exists()


def test_a_data_set_is_known_by_its_files_under_another_name(trainings: Trainings) -> None:
    first = trainings.train("a", ["f0"], ["f1"])
    write_manifest(replace(read_manifest(trainings.manifest), dataset="renamed"), trainings.manifest.parent)
    with pytest.raises(DataError, match=r"the image of f0 is that of f0 \(subject f0, data set flat\)"):
        trainings.train("b", ["f1"], ["f0"], start=first)


def test_a_data_set_that_was_saved_anew_is_known_by_its_name(trainings: Trainings) -> None:
    first = trainings.train("a", ["f0"], ["f1"])
    digest = sha256_file(trainings.study.folder("flat") / "images" / "f0.png")
    trainings.rewrite(lambda text: text.replace(digest, "0" * 64))
    with pytest.raises(DataError, match=r"f0: a subject of this name in data set flat"):
        trainings.train("b", ["f1"], ["f0"], start=first)


def test_a_model_of_other_people_passes(trainings: Trainings) -> None:
    first = trainings.train("a", ["f0"], ["f1"])
    facts = read_record(first / "model.json", "")
    text = json.dumps(facts["trained_on"]).replace('"f0"', '"case_001"').replace('"flat"', '"theirs"')
    digest = sha256_file(trainings.study.folder("flat") / "images" / "f0.png")
    write_record(first / "model.json", {**facts, "trained_on": json.loads(text.replace(digest, "0" * 64))})
    second = trainings.train("b", ["f1"], ["f0"], start=first)
    rows = read_json(second / "model.json")["trained_on"]["subjects"]
    assert [(row["dataset"], row["subject"]) for row in rows] == [("flat", "f1"), ("theirs", "case_001")]


def test_a_model_from_before_there_were_records(trainings: Trainings) -> None:
    first = trainings.train("a", ["f0"], ["f1"])
    facts = read_record(first / "model.json", "")
    write_record(first / "model.json", {k: v for k, v in facts.items() if k != "trained_on"})
    assert read_description(first)[0].trained_on is None
    with pytest.raises(DataError, match=r"no record of the subjects.*start-unrecorded"):
        trainings.train("b", ["f1"], ["f2"], start=first)
    second = trainings.train("b", ["f1"], ["f2"], start=first, allow=("start-unrecorded",))
    assert not read_json(second / "model.json")["trained_on"]["complete"]
    with pytest.raises(DataError, match=r"a model that it started from has no record"):
        trainings.train("c", ["f1"], ["f3"], start=second)


def test_a_test_set_counts_as_validation_cases_do(trainings: Trainings) -> None:
    first = trainings.train("a", ["f0"], ["f1"])
    case, folder = read_manifest(trainings.manifest).case("f0"), trainings.manifest.parent
    write_test([], [], None, folder)
    trainings.train("b", ["f1"], ["f2"], start=first)
    write_test([case], [], {}, folder)
    with pytest.raises(DataError, match=r"1 subject \(f0: .*\) of the test set"):
        trainings.train("c", ["f1"], ["f2"], start=first)


def test_it_is_asked_again_when_a_training_is_resumed(trainings: Trainings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Allowing changes no weight, so that state is resumed with or without; but not what was allowed no longer."""

    class Killed(BaseException):
        pass

    first = trainings.train("a", ["f0"], ["f1"])
    undisturbed = trainings.train("whole", ["f1"], ["f0"], start=first, allow=("start-overlap",))
    monkeypatch.setattr(saving, "SAVE_INTERVAL_S", -1.0)
    monkeypatch.setattr(saving, "SAVE_PATIENCE", -1.0)
    made = advance.augment_batch

    def killing(raw: Any, *rest: Any) -> Any:
        if raw.step == 2:
            raise Killed
        return made(raw, *rest)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(advance, "augment_batch", killing)
        trainings.train("b", ["f1"], ["f0"], start=first, allow=("start-overlap",))
    with monkeypatch.context() as patch, pytest.raises(DataError, match="start-overlap"):
        untrained(patch)
        trainings.train("b", ["f1"], ["f0"], start=first)
    steps: list[int] = []
    monkeypatch.setattr(advance, "augment_batch", lambda raw, *rest: steps.append(raw.step) or made(raw, *rest))
    resumed = trainings.train("b", ["f1"], ["f0"], start=first, allow=("start-overlap",))
    assert steps == [2, 3]
    assert sha256_file(resumed / "model.safetensors") == sha256_file(undisturbed / "model.safetensors")
    assert read_json(resumed / "model.json")["allowed"] == read_json(undisturbed / "model.json")["allowed"]


def test_a_run_of_mlflow_brings_its_record(trainings: Trainings) -> None:
    from medseg.results.paths import Results
    from medseg.tracking import init_store, resolve_model, sync
    from medseg.workflow import write_config

    # What is sent is what a configuration and a plan ask for.
    results = trainings.folder / "results"
    sections = {"datasets": {"flat": trainings.study.config.datasets["flat"]}}
    sections |= {"models": {"unet": trainings.study.config.models["unet"]}}
    folds = trainings.study.config.folds.model_copy(update={"run": [0]})
    config = trainings.study.config.model_copy(update={"experiment": "chain", "folds": folds, **sections})
    write_config(config, results / "config.json")
    plan = Results(results).plan("flat").plan("unet")
    plan.parent.mkdir(parents=True)
    shutil.copy(trainings.study.plan("flat"), plan)
    place = results / "flat" / "train" / "unet" / "fold0-seed0"
    first = trainings.train("a", ["f0"], ["f1"])
    shutil.copytree(first, place)
    uri = f"sqlite:///{trainings.folder / 'mlflow.db'}"
    init_store(uri, "chain", results / "tracking" / "store.json")
    sync(results)
    import mlflow

    client = mlflow.MlflowClient(uri)
    (experiment,) = [e for e in client.search_experiments() if e.name == "chain"]
    runs = client.search_runs([experiment.experiment_id], "tags.`mlflow.parentRunId` LIKE '%'")
    folder = resolve_model(f"runs:/{runs[0].info.run_id}", uri)
    assert read_json(folder / "model.json")["trained_on"] == read_json(first / "model.json")["trained_on"]
    with pytest.raises(DataError, match=r"1 subject \(f0: "):
        trainings.train("b", ["f1"], ["f0"], start=folder)


# Around the stage


def test_the_command_line_refuses_with_exit_code_2(
    trainings: Trainings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from medseg import cli

    first, inputs = trainings.train("a", ["f0"], ["f1"]), trainings.inputs("b", ["f1"], ["f0"])
    words = ["--manifest", inputs.manifest, "--plan", inputs.plan, "--index", inputs.index, "--splits", inputs.splits]
    words += ["--fold", 0, "--seed", 0, "--state", trainings.folder / "s", "--out", trainings.folder / "b"]
    monkeypatch.setattr("sys.argv", [str(w) for w in ("medseg", "train", *words, "--start", first, "--code", "code")])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2
    assert re.search(
        r"^models\.unet\.start: .*1 subject \(f0: .*allow: \[start-overlap\]", capsys.readouterr().err, re.M
    )
    monkeypatch.setattr("sys.argv", [*cli.sys.argv, "--allow", "start-overlap"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 0
    assert (trainings.folder / "b" / "model.json").is_file()
