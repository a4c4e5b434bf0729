"""Batches, schedule, journal, validation and the stage that ties them together."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medseg.engine.step import Step
from medseg.errors import BusyError, DataError, PlanError, TrainingError
from medseg.files import read_json, sha256_file, writer_lock
from medseg.image.labels import LabelTable
from medseg.metrics.counts import dice_of_counts, overlap_counts
from medseg.plan.plan import Plan, read_plan, write_plan
from medseg.preprocess.store import PreparedCase
from medseg.records import read_record, write_record
from medseg.train import advance, saving
from medseg.train import run as stage
from medseg.train import state as train_state
from medseg.train import validate as validation
from medseg.train.data import RawBatch, batch_cases, make_batch
from medseg.train.identity import Opened, fingerprint
from medseg.train.journal import Journal, line_of
from medseg.train.loop import train
from medseg.train.resume import generations
from medseg.train.schedule import learning_rate
from medseg.train.start import Start
from medseg.train.state import FoldCases, RunOptions
from medseg.train.validate import validate

LABELS = LabelTable.create({"ball": 1, "rod": 3})


def labels_as_image(draw_scene: Any) -> Callable[[int, np.ndarray], None]:
    """Makes each image equal its labels, so that any shift between the two shows."""

    def spoil(index: int, image: np.ndarray) -> None:
        image[...] = draw_scene(image.shape, 10 + index)[1]

    return spoil


# Batches


@pytest.mark.parametrize("dims", [2, 3])
def test_batches_are_functions_of_seed_and_step(dims: int, tiny_cases: Any, tiny_plan: Any) -> None:
    cases, plan = tiny_cases(dims), tiny_plan(dims=dims)
    forward = [make_batch(cases, plan, 7, step) for step in (0, 1, 2)]
    backward = [make_batch(cases, plan, 7, step) for step in (2, 1, 0)][::-1]
    for (x, y), (again_x, again_y) in zip(forward, backward, strict=True):
        assert torch.equal(x, again_x)
        assert torch.equal(y, again_y)
        assert x.shape == (plan.training.batch, 1, *plan.network.patch)
        assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
        assert y.shape == (plan.training.batch, *plan.network.patch)
    assert not torch.equal(forward[0][0], forward[1][0])
    assert not torch.equal(forward[0][0], make_batch(cases, plan, 8, 0)[0])


@pytest.mark.parametrize("dims", [2, 3])
def test_patches_are_cut_from_image_and_label_at_one_place(
    dims: int, tiny_cases: Any, tiny_plan: Any, draw_scene: Any
) -> None:
    cases = tiny_cases(dims, spoil=labels_as_image(draw_scene))
    plan = tiny_plan(dims=dims, augment="none", batch=4, foreground=0.5)
    for step in range(6):
        x, y = make_batch(cases, plan, 0, step)
        assert torch.equal(x[:, 0], y.float())
        assert all(y[i].any() for i in (2, 3)), "the last half is centred on foreground"
        if dims == 2:
            # Each patch is found, whole, somewhere in its case with a margin of zeros around it.
            for position, case in enumerate(batch_cases(cases, plan, 0, step)):
                padded = np.pad(case.read_labels(), plan.network.patch[0])
                windows = np.lib.stride_tricks.sliding_window_view(padded, plan.network.patch)
                assert (windows == y[position].numpy()).all(axis=(-1, -2)).any()


def test_every_case_is_seen_once_per_epoch(tiny_cases: Any, tiny_plan: Any) -> None:
    cases, plan = tiny_cases(2), tiny_plan(batch=2)
    seen = [case.id for step in range(6) for case in batch_cases(cases, plan, 0, step)]
    for epoch in range(4):
        assert sorted(seen[epoch * 3 : epoch * 3 + 3]) == ["case0", "case1", "case2"]


def drawn_by(
    plan: Plan, fold: FoldCases, seed: int, state: Path, monkeypatch: pytest.MonkeyPatch, workers: int = 0
) -> dict[str, Any]:
    """What a training of two steps draws: first weights, batches as read, one augmented batch, seeds of dropout."""
    network, augment, step = train_state.first_network, advance.augment_batch, Step.__call__
    drawn: dict[str, Any] = {"batches": [], "augmented": [], "dropout": []}
    image = torch.linspace(0, 1, 32 * 32).reshape(1, 1, 32, 32).repeat(plan.training.batch, 1, 1, 1)

    def first_weights(*rest: Any) -> nn.Module:
        made = network(*rest)
        drawn["weights"] = [p.detach().clone().flatten().tolist() for p in made.parameters()]
        return made

    def augment_batch(raw: RawBatch, *rest: Any) -> tuple[Tensor, Tensor]:
        drawn["batches"].append(raw.images.flatten().tolist())
        same = RawBatch(raw.step, image, torch.zeros(plan.training.batch, 32, 32, dtype=torch.uint8))
        drawn["augmented"].append(augment(same, *rest)[0].flatten().tolist())
        return augment(raw, *rest)

    def call(self: Step, *rest: Any) -> float:
        drawn["dropout"].append(torch.initial_seed())
        return step(self, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(train_state, "first_network", first_weights)
        patch.setattr(advance, "augment_batch", augment_batch)
        patch.setattr(Step, "__call__", call)
        trained = train(plan, fold, seed, state, "drawn", options=RunOptions(workers))
    drawn["end"] = [p.detach().flatten().tolist() for p in trained.parameters()]
    return drawn


def test_every_draw_depends_on_seed_and_fold(
    tiny_cases: Any, tiny_plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the same cases in every fold: a seed that is unlucky in one fold must not be so in all."""
    cases, plan = tiny_cases(2), tiny_plan(steps=2, augment="default")
    pairs = [(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (0, 2)]
    drawn = {
        (seed, number): drawn_by(
            plan, FoldCases(cases, [], LABELS, number), seed, tmp_path / f"{seed}-{number}", monkeypatch
        )
        for seed, number in pairs
    }
    for name in ("weights", "batches", "augmented", "dropout", "end"):
        for index, one in enumerate(pairs):
            assert all(drawn[one][name] != drawn[other][name] for other in pairs[:index]), (name, one)
    again = drawn_by(plan, FoldCases(cases, [], LABELS, 1), 0, tmp_path / "again", monkeypatch, workers=1)
    assert again == drawn[0, 1]


# Journal


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_journal_drops_what_the_killed_attempt_did_after_its_last_save(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    first = Journal(path, 0)
    for step in range(1, 6):
        first.write(step, {"train/loss": float(step)})
    first.write(4, {"val/dice/mean": 0.5})
    first.close()
    second = Journal(path, 4)
    second.write(5, {"train/loss": 50.0})
    # Readers see a record as soon as it is written.
    assert [r["step"] for r in lines_of(path)] == [1, 2, 3, 4, 4, 5]
    assert lines_of(path)[-1]["metrics"] == {"train/loss": 50.0}
    assert all(isinstance(r["time_ms"], int) for r in lines_of(path))
    second.close()
    Journal(path, 0).close()
    assert path.read_text() == ""


def test_a_torn_line_anywhere_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    whole = line_of(1, 5, {"train/loss": 1.0})
    for cut in range(1, len(whole)):
        path.write_text(whole + whole[:cut])
        journal = Journal(path, 10)
        assert path.read_text() == whole
        journal.write(2, {})
        journal.close()
        assert [r["step"] for r in lines_of(path)] == [1, 2]


def test_attempts_are_counted_whatever_line_was_torn(tmp_path: Path) -> None:
    whole, later = line_of(1, 5000, {"train/loss": 1.0}), line_of(2, 8500, {"train/loss": 1.0})
    assert stage._attempts(tmp_path) == {"attempts": 1, "seconds": 0.0}
    for number, cut in enumerate(range(1, len(whole)), start=2):
        (tmp_path / "journal.jsonl").write_text(whole + later + whole[:cut])
        facts = stage._attempts(tmp_path)
        assert facts["attempts"] == number
        if cut < len(whole) - 1:
            assert facts["seconds"] == 3.5


def test_a_changed_line_of_a_journal_is_left_out_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A resumed training takes over what its journal says; a flipped digit would end in the curves of the report."""
    path, whole = tmp_path / "journal.jsonl", [line_of(step, 5, {"train/loss": 1 / step}) for step in (1, 2, 3)]
    path.write_text(whole[0] + whole[1].replace("0.5", "0.7") + whole[2])
    Journal(path, 10).close()
    assert path.read_text() == whole[0] + whole[2]
    assert "a line was damaged and is left out" in capsys.readouterr().err
    data = "".join(whole).encode()
    for bit in range(0, 8 * len(data), 5):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        Journal(path, 10).close()
        assert set(path.read_text().splitlines()) < {line.strip() for line in whole}


def test_a_damaged_count_of_attempts_begins_anew_and_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert [stage._attempts(tmp_path)["attempts"] for _ in range(2)] == [1, 2]
    (tmp_path / "attempts.json").write_text((tmp_path / "attempts.json").read_text().replace("2", "7", 1))
    assert stage._attempts(tmp_path)["attempts"] == 1
    assert "attempts are counted anew" in capsys.readouterr().err


# Validation


class Oracle(nn.Module):
    """Logits of the class that the (rounded) intensity names; a trained-mode flag to see it come back."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training
        assert torch.is_inference_mode_enabled()
        return 9.0 * nn.functional.one_hot(x[:, 0].round().long().clamp(0, self.classes - 1), self.classes).movedim(
            -1, 1
        )


@pytest.mark.parametrize("dims", [2, 3])
def test_validation_scores_whole_images_pooled_over_cases(
    dims: int, tiny_cases: Any, tiny_plan: Any, draw_scene: Any
) -> None:
    network, plan = Oracle().train(), tiny_plan(dims=dims)
    perfect = validate(network, tiny_cases(dims, spoil=labels_as_image(draw_scene)), plan, LABELS)
    assert perfect == {"val/dice/ball": 1.0, "val/dice/rod": 1.0, "val/dice/mean": 1.0}
    assert network.training
    cases = tiny_cases(dims)
    scores = validate(network, cases, plan, LABELS)
    expected = []
    for k in (1, 2):
        truth = np.concatenate([c.read_labels().ravel() for c in cases])
        said = np.concatenate([np.round(c.read_image()[0]).clip(0, 2).astype(np.uint8).ravel() for c in cases])
        expected.append(dice_of_counts(overlap_counts(truth, said, 3)[k - 1]))
    assert [scores["val/dice/ball"], scores["val/dice/rod"]] == pytest.approx(expected, abs=1e-6)
    assert scores["val/dice/mean"] == pytest.approx(np.mean(expected))


def test_a_class_that_is_nowhere_is_left_out(tiny_cases: Any, tiny_plan: Any) -> None:
    def dark(index: int, image: np.ndarray) -> None:
        image[...] = 0.0

    cases = tiny_cases(2, spoil=dark)
    scores = validate(Oracle(4), cases, tiny_plan(classes=4), LabelTable.create({"ball": 1, "rod": 3, "none": 4}))
    assert scores == {"val/dice/ball": 0.0, "val/dice/rod": 0.0, "val/dice/mean": 0.0}
    # Whatever was predicted: the reference alone decides which classes count.
    bright = tiny_cases(2, spoil=lambda index, image: image.fill(3.0))
    scores = validate(Oracle(4), bright, tiny_plan(classes=4), LabelTable.create({"ball": 1, "rod": 3, "none": 4}))
    assert scores == {"val/dice/ball": 0.0, "val/dice/rod": 0.0, "val/dice/mean": 0.0}
    assert validate(Oracle(), [], tiny_plan(), LABELS) == {}


# The loop


def test_training_learns_and_journals(tiny_cases: Any, tiny_plan: Any, tmp_path: Path) -> None:
    cases = tiny_cases(2)
    plan = tiny_plan(steps=40, validate_every=15, lr=0.01, augment="none", widths=(16, 32, 64))
    train(plan, FoldCases(cases, cases[:2], LABELS), 0, tmp_path, "learn")
    records = lines_of(tmp_path / "journal.jsonl")
    losses = [r["metrics"]["train/loss"] for r in records if "train/loss" in r["metrics"]]
    rates = [r["metrics"]["train/lr"] for r in records if "train/lr" in r["metrics"]]
    validated = [r["step"] for r in records if "val/dice/mean" in r["metrics"]]
    assert len(losses) == 40
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:5])
    assert rates == [learning_rate(plan, s) for s in range(40)]
    assert validated == [15, 30, 40]
    assert records[-1]["metrics"]["val/dice/mean"] > 0.6


def test_regions_are_learnt(tiny_cases: Any, tiny_plan: Any, tmp_path: Path) -> None:
    cases = tiny_cases(2)
    table = LabelTable.create({"ball": 1, "rod": 3}, regions={"both": ["ball", "rod"], "rod": ["rod"]})
    plan = tiny_plan(steps=40, validate_every=40, lr=0.01, augment="none", widths=(16, 32, 64), regions=table.members)
    train(plan, FoldCases(cases, cases[:2], table), 0, tmp_path, "learn")
    scores = lines_of(tmp_path / "journal.jsonl")[-1]["metrics"]
    assert set(scores) == {"val/dice/both", "val/dice/rod", "val/dice/mean"}
    assert scores["val/dice/mean"] > 0.6


def test_long_trainings_journal_means_of_many_steps(
    tiny_cases: Any, tiny_plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases = tiny_cases(2)
    plan = tiny_plan(steps=7, validate_every=100)
    train(plan, FoldCases(cases, cases[:1], LABELS), 0, tmp_path / "all", "all")
    single = [
        r["metrics"]["train/loss"] for r in lines_of(tmp_path / "all" / "journal.jsonl") if "train/loss" in r["metrics"]
    ]
    monkeypatch.setattr(train_state, "LOSS_RECORDS", 2)
    train(plan, FoldCases(cases, cases[:1], LABELS), 0, tmp_path / "few", "few")
    few = [r for r in lines_of(tmp_path / "few" / "journal.jsonl") if "train/loss" in r["metrics"]]
    assert [r["step"] for r in few] == [3, 6, 7]
    expected = [np.mean(single[0:3]), np.mean(single[3:6]), single[6]]
    assert [r["metrics"]["train/loss"] for r in few] == pytest.approx(expected)


def test_nan_in_an_image_stops_training_and_names_the_case(
    tiny_cases: Any, tiny_plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(saving, "SAVE_INTERVAL_S", -1.0)
    monkeypatch.setattr(saving, "SAVE_PATIENCE", -1.0)
    cases, plan = tiny_cases(2), tiny_plan(batch=1, steps=9)
    plain = PreparedCase.read_image
    monkeypatch.setattr(
        PreparedCase, "read_image", lambda self, box=None: plain(self, box) * (math.nan if self.id == "case1" else 1)
    )
    fold = FoldCases(cases, cases[:1], LABELS)
    first = next(s for s in range(9) if batch_cases(cases, plan, 2, s)[0].id == "case1")
    for _ in range(2):  # the second attempt goes on from the good state and meets the same case
        with pytest.raises(TrainingError, match=rf"loss nan at step {first}, cases case1; .*lr.*fp32"):
            train(plan, fold, 2, tmp_path, "bad")
    assert [int(p.name[5:]) for p in generations(tmp_path)][:1] == ([first] if first else [])


# The stage


def arguments(study: Any, name: str = "flat") -> tuple[Path, Path, Path, Path]:
    return study.manifest(name), study.plan(name), study.index(name), study.splits(name)


@pytest.mark.parametrize("name", ["flat", "solid"])
def test_stage_leaves_a_complete_model_folder(study: Any, name: str) -> None:
    folder = study.model(name)
    facts = read_json(folder / "model.json")
    assert facts["weights_sha256"] == sha256_file(folder / "model.safetensors")
    assert (facts["fold"], facts["seed"]) == (0, 0)
    assert facts["dataset"]["name"] == name
    assert list(facts["dataset"]["labels"]["names"]) == ["ball", "rod"]
    assert {"medseg", "torch", "monai", "git"} <= set(facts["provenance"])
    timing = read_json(folder / "timing.json")
    assert (timing["steps"], timing["attempts"], timing["device"], timing["threads"]) == (4, 1, "cpu", 1)
    records = lines_of(folder / "history.jsonl")
    assert [r["step"] for r in records if "train/loss" in r["metrics"]] == [1, 2, 3, 4]
    assert {"val/dice/ball", "val/dice/rod", "val/dice/mean"} >= set(records[-1]["metrics"])
    assert all(math.isfinite(v) for r in records for v in r["metrics"].values())


def test_two_runs_of_the_stage_give_equal_weights_and_a_second_call_trains_no_more(
    study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.run(stage.Inputs(*arguments(study), 0, 0), tmp_path / "state", tmp_path / "out", "code")
    weights = sha256_file(tmp_path / "out" / "model.safetensors")
    assert weights == sha256_file(study.model("flat") / "model.safetensors")
    monkeypatch.setattr(advance, "augment_batch", lambda *_: pytest.fail("trained again"))
    stage.run(stage.Inputs(*arguments(study), 0, 0), tmp_path / "state", tmp_path / "again", "code")
    assert sha256_file(tmp_path / "again" / "model.safetensors") == weights
    assert read_json(tmp_path / "again" / "timing.json")["attempts"] == 2
    assert (tmp_path / "again" / "history.jsonl").read_bytes() == (tmp_path / "out" / "history.jsonl").read_bytes()


def test_a_training_reads_manifest_and_index_once(study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the command, with curves that are tracked: of ten thousand cases each reading takes a second."""
    from contextlib import nullcontext

    from typer.testing import CliRunner

    from medseg import tracking
    from medseg.cli.commands import app
    from medseg.ingest import manifest as manifests
    from medseg.preprocess import store

    read: list[str] = []

    def counted(reader: Any) -> Any:
        return lambda path, *more: (read.append(Path(path).name), reader(path, *more))[1]

    monkeypatch.setattr(store, "read_record", counted(store.read_record))
    monkeypatch.setattr(manifests, "read_table", counted(manifests.read_table))
    monkeypatch.setattr(tracking, "LiveTracking", lambda *_: nullcontext())
    files = dict(zip(("manifest", "plan", "index", "splits"), map(str, arguments(study)), strict=True))
    options = [word for name, path in files.items() for word in (f"--{name}", path)]
    options += ["--fold", "0", "--seed", "0", "--state", str(tmp_path / "s"), "--out", str(tmp_path / "o")]
    done = CliRunner().invoke(app, ["train", *options, "--track", str(tmp_path / "store.json"), "--code", "code"])
    assert done.exit_code == 0, (done.output, done.exception)
    assert sorted(read) == ["index.json", "manifest.tsv"]
    assert sha256_file(tmp_path / "o" / "model.safetensors") == sha256_file(study.model("flat") / "model.safetensors")


def test_state_is_keyed_by_everything_the_weights_depend_on(study: Any, tmp_path: Path) -> None:
    plan = read_plan(study.plan("flat"))
    inputs = stage.Inputs(*arguments(study), 0, 0)

    def key(plan: Plan = plan, code: str = "code", start: Start | None = None, **changes: Any) -> str:
        return fingerprint(replace(Opened.of(replace(inputs, **changes)), plan=plan), start or Start(), code)

    facts = read_record(inputs.index, "")
    next(iter(facts["cases"].values()))["parts"]["image"][2] = "0" * 64
    write_record(tmp_path / "index.json", facts)
    folds = read_record(inputs.splits, "")
    write_record(tmp_path / "splits.json", {**folds, "folds": folds["folds"][:1] * 2})
    different = {
        "same": key(),
        "seed": key(seed=1),
        "code": key(code="other"),
        "fold": key(fold=1),
        "fold of the same cases": key(fold=1, splits=tmp_path / "splits.json"),
        "data": key(index=tmp_path / "index.json"),
        "steps": key(plan.changed(steps=5)),
        "lr": key(plan.changed(lr=0.5)),
        "threads": key(plan.changed(threads=2)),
        "patch": key(plan.changed(patch=(16, 16))),
        "options": key(plan.changed(options={"deep_supervision": True})),
        "start": key(start=Start(model=study.model("flat"))),
    }
    assert len(set(different.values())) == len(different)
    assert key(plan.changed(model="renamed", reasons={"lr": "other words"})) == key()
    assert stage.fingerprint_of(Opened.of(inputs), "code") == key()
    assert stage.journal_path(tmp_path, key()).parent.name == key()[:16]
    written = read_json(study.model("flat") / "model.json")["fingerprint"]
    assert written == key()
    assert stage.journal_path(study.root / ".state" / "flat", key()).is_file()


def test_inputs_that_do_not_belong_together_are_refused(study: Any, tmp_path: Path) -> None:
    manifest, plan, index, splits = arguments(study)
    write_plan(tmp_path / "plan.json", read_plan(plan).changed(spacing=(2.0, 2.0)))
    with pytest.raises(PlanError, match=r"another grid.*medseg preprocess"):
        stage.run(
            stage.Inputs(manifest, tmp_path / "plan.json", index, splits, 0, 0), tmp_path / "s", tmp_path / "o", "code"
        )
    facts = read_record(splits, "")
    facts["folds"][0]["val"].append("ghost")
    write_record(tmp_path / "splits.json", facts)
    with pytest.raises(DataError, match="ghost"):
        stage.run(
            stage.Inputs(manifest, plan, index, tmp_path / "splits.json", 0, 0), tmp_path / "s", tmp_path / "o", "code"
        )
    with pytest.raises(DataError, match="fold 7"):
        stage.run(stage.Inputs(manifest, plan, index, splits, 7, 0), tmp_path / "s", tmp_path / "o", "code")
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("amx", [False, True])
def test_a_plan_made_elsewhere_does_not_train_in_a_precision_that_is_wrong_here(
    amx: bool, study: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, plan, index, splits = arguments(study)
    write_plan(tmp_path / "plan.json", read_plan(plan).changed(precision="bf16"))
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: amx)
    begun: list[Any] = []
    monkeypatch.setattr(stage, "_run", lambda *given: begun.append(given))
    inputs = stage.Inputs(manifest, tmp_path / "plan.json", index, splits, 0, 0)
    if amx:
        stage.run(inputs, tmp_path / "s", tmp_path / "o", "code")
    else:
        with pytest.raises(PlanError, match=r"plan.json: machine.precision is bf16.*no AMX; run `medseg plan` again"):
            stage.run(inputs, tmp_path / "s", tmp_path / "o", "code")
    assert bool(begun) is amx


def test_two_processes_never_train_one_model(study: Any, tmp_path: Path) -> None:
    inputs = stage.Inputs(*arguments(study), 0, 0)
    key = stage.fingerprint_of(Opened.of(inputs), "code")
    with writer_lock(tmp_path / "s" / key[:16]), pytest.raises(BusyError):
        stage.run(inputs, tmp_path / "s", tmp_path / "o", "code")


@pytest.mark.parametrize("damage", ["gone", "cut", "empty", "image", "labels"])
def test_a_damaged_store_is_an_error_that_names_the_file(study: Any, tmp_path: Path, damage: str) -> None:
    shutil.copytree(study.index("flat").parent, tmp_path / "store")
    manifest, plan, _, splits = arguments(study)
    for path in (tmp_path / "store").glob("*.case"):
        data, parts = bytearray(path.read_bytes()), PreparedCase.open(path).parts
        path.unlink()
        if damage in parts:
            data[parts[damage].start] ^= 1
        if damage != "gone":
            path.write_bytes({"cut": data[: len(data) // 2], "empty": b""}.get(damage, bytes(data)))
    with pytest.raises(DataError, match=r"case: missing, or its \w+ damaged.*run"):
        stage.run(
            stage.Inputs(manifest, plan, tmp_path / "store" / "index.json", splits, 0, 0),
            tmp_path / "s",
            tmp_path / "o",
            "c",
        )


@pytest.mark.exhaustive
def test_memory_does_not_grow_over_fifty_passes_over_the_cases(
    tiny_cases: Any, tiny_plan: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a step left behind, its batch of half a megabyte above all, would add up to more than a twentieth."""
    pages: list[int] = []

    def validate(*_: Any) -> dict[str, float]:
        pages.append(int(Path("/proc/self/statm").read_text().split()[1]))
        return {}

    monkeypatch.setattr(validation, "validate", validate)
    cases = tiny_cases(2, count=8)
    plan = tiny_plan(batch=8, patch=(128, 128), widths=(8, 16), strides=((1, 1), (2, 2)), kernels=((3, 3),) * 2)
    train(plan.changed(steps=250, validate_every=25), FoldCases(cases, cases[:1], LABELS), 0, tmp_path, "soak")
    # Five passes to fill caches.
    assert len(pages) == 10
    assert max(pages[1:]) < 1.05 * pages[0]
