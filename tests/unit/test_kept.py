"""What is kept: outputs that are whole and were made from what is wanted now, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medseg.errors import DataError
from medseg.files import sha256_file
from medseg.kept import kept, write_stamp
from medseg.records import read_record, signed
from medseg.stages import stage_modules


@pytest.fixture
def stamp(tmp_path: Path) -> Path:
    """The stamp of two outputs, made for ``key``."""
    (tmp_path / "a").write_bytes(b"first")
    (tmp_path / "b").write_bytes(b"second")
    write_stamp(tmp_path / ".case.json", "key", [tmp_path / "a", tmp_path / "b"], facts={"more": [1, 2]})
    return tmp_path / ".case.json"


def test_whole_outputs_of_the_same_key_are_kept(stamp: Path) -> None:
    digests = {name: sha256_file(stamp.parent / name) for name in "ab"}
    assert kept(stamp, "key") == digests
    assert kept(stamp, "key", ["a"]) == {"a": digests["a"]}
    assert kept(stamp, "other") is None
    assert kept(stamp, "key", ["a", "c"]) is None
    assert kept(stamp.parent / "none", "key") is None
    assert read_record(stamp, "medseg preprocess")["more"] == [1, 2]


def test_only_what_is_needed_must_be_whole(stamp: Path) -> None:
    (stamp.parent / "b").write_bytes(b"changed")
    assert kept(stamp, "key") is None
    assert kept(stamp, "key", ["a"]) is not None
    (stamp.parent / "a").unlink()
    assert kept(stamp, "key", ["a"]) is None


def test_outputs_are_compared_by_the_digest_that_is_given(stamp: Path) -> None:
    write_stamp(stamp, "key", [stamp.parent / "a"], digest=lambda path: str(path.stat().st_size))
    assert kept(stamp, "key", digest=lambda path: "5") == {"a": "5"}
    assert kept(stamp, "key", digest=lambda path: "6") is None


@pytest.mark.parametrize("text", ["", "[]", "{}", "5", '{"digest": ""}', '{"digest": "", "x": NaN}', '{"key": "key"}'])
def test_a_stamp_that_is_not_as_written_keeps_nothing(stamp: Path, text: str) -> None:
    stamp.write_text(text)
    assert kept(stamp, "key") is None
    with pytest.raises(DataError, match=r"\.case\.json"):
        read_record(stamp, "medseg preprocess")


def test_a_changed_digit_is_noticed(stamp: Path) -> None:
    facts = json.loads(stamp.read_text())
    assert facts == signed({name: value for name, value in facts.items() if name != "digest"})
    stamp.write_text(json.dumps({**facts, "more": [1, 3]}))
    assert kept(stamp, "key") is None


@pytest.mark.parametrize("stage", ["preprocess_case", "predict_case"])
def test_another_option_in_the_configuration_makes_no_case_again(stage: str) -> None:
    """The code in a case's key does not reach the configuration, nor what only trains."""
    beyond = ("medseg.config", "medseg.losses", "medseg.engine.step", "medseg.train.loop", "medseg.metrics")
    modules = stage_modules(stage)
    assert f"medseg.{stage.removesuffix('_case')}.cases" in modules
    assert [name for name in modules if name.startswith(beyond)] == []
