"""Small prepared arrays stay decoded: the same values, a new file is a new array, and no more memory than allowed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medseg.preprocess import arrays
from medseg.preprocess.arrays import _Decoded, read_array, write_array

BOX = (slice(None), slice(1, 4), slice(0, 7))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> _Decoded:
    fresh = _Decoded()
    monkeypatch.setattr(arrays, "_decoded", fresh)
    return fresh


def write(path: Path, seed: int) -> np.ndarray[Any, Any]:
    array = np.random.default_rng(seed).standard_normal((2, 9, 8)).astype(np.float16)
    path.unlink(missing_ok=True)
    write_array(path, array, 1, None)
    return array


def read(path: Path, box: Any) -> np.ndarray[Any, Any]:
    facts = os.stat(path)
    return read_array((path, 0, facts.st_size, facts.st_mtime_ns, facts.st_ino), box)


def test_boxes_are_the_same_decoded_or_not(decoded: _Decoded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = write(tmp_path / "a.b2nd", 0)
    for box in (BOX, ..., BOX):
        assert np.array_equal(read(tmp_path / "a.b2nd", box), array[box])
    assert len(decoded.arrays) == 1
    monkeypatch.setattr(arrays, "DECODED_ARRAY_BYTES", 10)
    write(tmp_path / "b.b2nd", 1)
    assert np.array_equal(read(tmp_path / "b.b2nd", BOX), write(tmp_path / "b.b2nd", 1)[BOX])
    assert len(decoded.arrays) == 1


def test_a_replaced_file_is_read_anew(decoded: _Decoded, tmp_path: Path) -> None:
    for seed in range(3):
        array = write(tmp_path / "a.b2nd", seed)
        assert np.array_equal(read(tmp_path / "a.b2nd", BOX), array[BOX])


def test_what_is_kept_cannot_be_changed(decoded: _Decoded, tmp_path: Path) -> None:
    write(tmp_path / "a.b2nd", 0)
    with pytest.raises(ValueError, match="read-only"):
        read(tmp_path / "a.b2nd", ...)[0] = 1


def test_no_more_is_kept_than_allowed(decoded: _Decoded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays, "DECODED_BYTES", 2 * 9 * 8 * 2 * 2)
    written = {name: write(tmp_path / f"{name}.b2nd", k) for k, name in enumerate("abcd")}
    for _ in range(2):
        for name, array in written.items():
            assert np.array_equal(read(tmp_path / f"{name}.b2nd", BOX), array[BOX])
    assert sorted(key[0].stem for key in decoded.arrays) == ["a", "b"]
    assert decoded.size == arrays.DECODED_BYTES
