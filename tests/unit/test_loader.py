"""Worker processes: equal bits whoever reads, faults named with their case, nobody left behind."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
import pytest
import torch
from torch import Tensor

from medseg.augment.policy import AUGMENTATIONS
from medseg.augment.tables import TABLES
from medseg.errors import DataError, TrainingError
from medseg.train.data import Space, augment_batch, batch_cases, make_batch, read_batch
from medseg.train.loader import SPACES, batches

KINDS = ("flat", "solid", "slices")


@pytest.fixture
def setting(tiny_cases: Any, tiny_plan: Any) -> Callable[..., tuple[Any, Any]]:
    """``setting(kind, recipe, **changes)``: cases, and a plan whose recipe changes most samples."""

    def build(kind: str = "flat", recipe: str = "nnunet", **changes: Any) -> tuple[Any, Any]:
        dims = 2 if kind == "flat" else 3
        if kind == "slices":
            changes = {"spacing": (1.0, 0.0, 1.5), "patch": (12, 10), **changes}
        often = {name: {"probability": 0.6} for name in TABLES.get(recipe, {})}
        network_dims = 3 if kind == "solid" else 2
        return tiny_cases(dims), tiny_plan(dims=network_dims, augment=recipe, augmentation=often, **changes)

    return build


@pytest.fixture(autouse=True)
def nobody_left() -> Iterator[None]:
    assert not multiprocessing.active_children()
    yield
    assert not multiprocessing.active_children()


def taken(cases: Any, plan: Any, steps: range, **options: Any) -> list[tuple[int, Tensor, Tensor]]:
    with batches(cases, plan, 3, steps, **options) as stream:
        return [(raw.step, raw.images.clone(), raw.labels.clone()) for raw in stream]


def assert_same(one: list[tuple[int, Tensor, Tensor]], other: list[tuple[int, Tensor, Tensor]]) -> None:
    assert [step for step, _, _ in one] == [step for step, _, _ in other]
    for (_, x, y), (_, again_x, again_y) in zip(one, other, strict=True):
        assert torch.equal(x, again_x)
        assert torch.equal(y, again_y)


def spoil_reading(monkeypatch: pytest.MonkeyPatch, case: str, act: Callable[[], Any]) -> None:
    """Do something bad where the case is read, but never in the process of the tests."""
    from medseg.preprocess.store import PreparedCase

    plain, main = PreparedCase.read_image, os.getpid()

    def read(self: PreparedCase, box: Any = None) -> Any:
        if self.id == case and os.getpid() != main:
            act()
        return plain(self, box)

    monkeypatch.setattr(PreparedCase, "read_image", read)


def first_step_of(case: str, cases: Any, plan: Any) -> int:
    return next(s for s in range(100) if case in [c.id for c in batch_cases(cases, plan, 3, s)])


def gone(message: str) -> bool:
    found = re.search(r"process (\d+)", message)
    assert found
    return not Path(f"/proc/{found[1]}").exists()


# Equal bits


@pytest.mark.parametrize("kind", KINDS)
def test_the_number_of_workers_changes_nothing(kind: str, setting: Any) -> None:
    cases, plan = setting(kind)
    steps = range(5, 5 + 4 * SPACES + 1)
    alone = taken(cases, plan, steps)
    assert len({tuple(x.shape) for _, x, _ in alone}) > 1, "batches of several sizes"
    for workers in (1, 2, 4):
        assert_same(taken(cases, plan, steps, workers=workers), alone)


def test_a_start_in_the_middle_gives_what_a_whole_run_gives_there(setting: Any) -> None:
    cases, plan = setting()
    whole = taken(cases, plan, range(9), workers=2)
    assert_same(taken(cases, plan, range(4, 9), workers=2), whole[4:])
    assert_same(taken(cases, plan, range(8, 9), workers=4), whole[8:])
    assert taken(cases, plan, range(9, 9), workers=2) == []


def test_a_batch_is_what_was_read_for_its_step_augmented(setting: Any) -> None:
    cases, plan = setting()
    with batches(cases, plan, 3, range(4), workers=2) as stream:
        for step, raw in enumerate(stream):
            x, y = augment_batch(raw, plan, 3)
            expected_x, expected_y = make_batch(cases, plan, 3, step)
            assert torch.equal(x, expected_x)
            assert torch.equal(y, expected_y)


@pytest.mark.parametrize("recipe", AUGMENTATIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_parts_put_together_are_the_whole(kind: str, recipe: str, setting: Any) -> None:
    cases, plan = setting(kind, recipe, batch=5)
    for step in range(3):
        whole = make_batch(cases, plan, 3, step)
        for parts in ([range(2), range(2, 5)], [range(n, n + 1) for n in range(5)], [range(0, 5, 2), range(1, 5, 2)]):
            order = [position for part in parts for position in part]
            made = [augment_batch(read_batch(cases, plan, 3, step, part), plan, 3, part) for part in parts]
            for together, expected in zip(zip(*made, strict=True), whole, strict=True):
                assert torch.equal(torch.cat(together), expected[order])


def test_workers_read_parts(setting: Any) -> None:
    cases, plan = setting(batch=5)
    whole = taken(cases, plan, range(4))
    for part in (range(1, 3), range(4, 5)):
        rows = slice(part.start, part.stop)
        some = [(step, x[rows], y[rows]) for step, x, y in whole]
        assert_same(taken(cases, plan, range(4), workers=2, part=part), some)


def test_used_memory_is_cleaned_first(setting: Any) -> None:
    cases, plan = setting("solid")
    clean = read_batch(cases, plan, 3, 0)
    space = Space(
        np.full(clean.images.numel() + 7, np.nan, np.float32), np.full(clean.labels.numel() + 7, 250, np.uint8)
    )
    again = read_batch(cases, plan, 3, 0, into=space)
    assert torch.equal(again.images, clean.images)
    assert torch.equal(again.labels, clean.labels)
    assert np.shares_memory(again.images.numpy(), space.images)


def test_what_is_read_is_told_before(setting: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from medseg.train import data

    cases, plan = setting(batch=4)
    told: list[Any] = []
    plain = data._read_patch
    monkeypatch.setattr(data, "_read_patch", lambda case, *rest: (told.append(case.id), plain(case, *rest)))
    read_batch(cases, plan, 3, 2, range(1, 4), told.append)
    names = [case.id for case in batch_cases(cases, plan, 3, 2)]
    assert told == [1, names[1], 2, names[2], 3, names[3]]


def test_workers_use_one_thread(setting: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from medseg.preprocess.store import PreparedCase

    cases, plan = setting(recipe="none")
    seen = lambda self, box=None: np.full((1, *[b.stop - b.start for b in box]), torch.get_num_threads())  # noqa: E731
    also = lambda self, box=None: np.full([b.stop - b.start for b in box], blosc2.nthreads)  # noqa: E731
    monkeypatch.setattr(PreparedCase, "read_image", seen)
    monkeypatch.setattr(PreparedCase, "read_labels", also)
    monkeypatch.setattr(blosc2, "nthreads", 7)
    torch.set_num_threads(2)
    try:
        _, x, y = taken(cases, plan, range(1))[0]
        assert (int(x.max()), int(y.max())) == (2, 7)
        _, x, y = taken(cases, plan, range(1), workers=1)[0]
        assert (int(x.max()), int(y.max())) == (1, 1)
    finally:
        torch.set_num_threads(1)


# Faults


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGKILL), "was killed by SIGKILL"),
        (lambda: os._exit(3), "ended with exit status 3"),
        (lambda: time.sleep(600), r"gave nothing for 1\.5 s"),
    ],
)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_worker_that_dies_or_hangs_is_named_with_its_case(
    act: Any, words: str, workers: int, setting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases, plan = setting()
    first = first_step_of("case1", cases, plan)
    spoil_reading(monkeypatch, "case1", act)
    whole = taken(cases, plan, range(first))
    came = []
    with (
        pytest.raises(TrainingError) as caught,
        batches(cases, plan, 3, range(20), workers=workers, timeout_s=1.5) as stream,
    ):
        for raw in stream:
            came.append((raw.step, raw.images.clone(), raw.labels.clone()))
    assert_same(came, whole)
    message = str(caught.value)
    pattern = (
        rf"^step {first}: worker process \d+ {words} .*case 'case1' in {re.escape(str(cases[0].path.parent))}\. "
        r".*loader\.workers: 0 .*loader\.timeout_s \(now 1\.5\)"
    )
    assert re.search(pattern, message), message
    assert "case0" not in message and "case2" not in message
    assert gone(message)


def test_a_worker_that_dies_while_it_waits_is_an_error_at_its_next_batch(setting: Any) -> None:
    cases, plan = setting()
    came = []
    with (
        pytest.raises(TrainingError, match=r"killed by SIGKILL .*loader\.workers: 0") as caught,
        batches(cases, plan, 3, range(1000), workers=1) as stream,
    ):
        for raw in stream:
            came.append(raw.step)
            if raw.step == 2:
                (worker,) = multiprocessing.active_children()
                worker.kill()
                worker.join()
    # What was ready before it died still counts.
    assert came == list(range(len(came)))
    assert 3 <= len(came) <= 3 + SPACES
    assert str(caught.value).startswith(f"step {len(came)}:")
    assert any(f"'{case.id}'" in str(caught.value) for case in batch_cases(cases, plan, 3, len(came)))


@pytest.mark.parametrize("name", ["image", "locations"])
def test_a_damaged_case_is_the_same_error_whoever_reads_it(name: str, setting: Any) -> None:
    cases, plan = setting()
    path, part = cases[1].path, cases[1].parts[name]
    data = bytearray(path.read_bytes())
    data[part.start + part.size // 2] ^= 1
    path.write_bytes(bytes(data))
    errors = []
    for workers in (0, 1, 2):
        with pytest.raises(DataError, match=rf"case1\.case: missing, or its {name} damaged") as caught:
            taken(cases, plan, range(20), workers=workers)
        errors.append((type(caught.value), str(caught.value)))
    assert errors[0] == errors[1] == errors[2]


def test_a_mistake_in_the_code_shows_its_traceback(
    setting: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    cases, plan = setting()
    spoil_reading(monkeypatch, "case2", lambda: {}["nothing"])
    with pytest.raises(TrainingError, match=r"ended with exit status 1 .*case 'case2'"):
        taken(cases, plan, range(20), workers=2)
    assert "KeyError: 'nothing'" in capfd.readouterr().err


# Nobody is left behind


def test_workers_survive_what_their_group_is_sent(setting: Any) -> None:
    cases, plan = setting()
    came = []
    with batches(cases, plan, 3, range(12), workers=2) as stream:
        for raw in stream:
            came.append((raw.step, raw.images.clone(), raw.labels.clone()))
            for worker in multiprocessing.active_children():
                os.kill(worker.pid or 0, signal.SIGTERM if raw.step % 2 else signal.SIGINT)
    assert_same(came, taken(cases, plan, range(12)))
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_workers_end_with_the_block(setting: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cases, plan = setting()
    with batches(cases, plan, 3, range(100), workers=2) as stream:
        next(stream)
        assert len(multiprocessing.active_children()) == 2
    assert not multiprocessing.active_children()
    with pytest.raises(ZeroDivisionError), batches(cases, plan, 3, range(100), workers=2):
        1 // 0  # noqa: B018
    assert not multiprocessing.active_children()
    spoil_reading(monkeypatch, "case1", lambda: time.sleep(600))
    with batches(cases, plan, 3, range(100), workers=2):
        pass


@pytest.mark.parametrize("hangs", [False, True])
def test_workers_end_when_the_main_process_is_killed(
    hangs: bool, setting: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases, plan = setting()
    if hangs:
        for case in cases:
            spoil_reading(monkeypatch, case.id, lambda: time.sleep(600))
    ours, theirs = os.pipe()

    def train() -> None:
        with batches(cases, plan, 3, range(100), workers=2):
            os.write(theirs, b"x")
            time.sleep(600)

    main = multiprocessing.get_context("fork").Process(target=train)
    main.start()
    os.close(theirs)
    try:
        assert os.read(ours, 1) == b"x"
        main.kill()
        main.join()
        # The other end is open in every process that was forked and lives.
        assert wait([ours], 60)
        assert os.read(ours, 1) == b""
    finally:
        main.kill()
        os.close(ours)
