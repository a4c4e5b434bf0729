"""Records: files that notice that they were changed, and say which command writes them again."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path

import pytest

from medseg.errors import DataError, PlanError
from medseg.records import as_written, holds, read_record, signed, write_record


@pytest.fixture
def record(tmp_path: Path) -> Path:
    write_record(tmp_path / "a.json", {"number": 1.5, "text": "größer", "list": [1, None, True]})
    return tmp_path / "a.json"


def test_facts_come_back_without_their_digest(record: Path) -> None:
    assert read_record(record, "medseg x") == {"number": 1.5, "text": "größer", "list": [1, None, True]}
    assert list(json.loads(record.read_text())) == ["number", "text", "list", "digest"]
    assert holds(record, {"list": [1, None, True], "text": "größer", "number": 1.5})
    assert not holds(record, {"number": 1.5}) and not holds(record.parent / "none", {})


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda text: text.replace("1.5", "1.6"), "damaged or edited since it was written"),
        (lambda text: text.replace("1.5", "NaN"), "damaged or edited"),
        (lambda text: text.replace("true", "1"), "damaged or edited"),
        (lambda text: text.replace("größer", "\\ud800"), "damaged or edited"),
        (lambda text: text.replace('"digest"', '"digesu"'), "has no digest; written by an earlier version"),
        (lambda text: "[]", "has no digest"),
        (lambda text: text[:-4], "damaged, no readable JSON"),
        (lambda text: "", "damaged, no readable JSON"),
    ],
)
def test_another_file_is_refused_with_the_command_that_makes_it(record: Path, change: object, cause: str) -> None:
    record.write_text(change(record.read_text()))  # type: ignore[operator]
    with pytest.raises(DataError, match=rf"a\.json: {cause}.*delete it and run `medseg x` again; or else$"):
        read_record(record, "medseg x", "or else")
    assert not holds(record, {"number": 1.5})


def test_a_missing_file_names_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"b\.json: no such file; run `medseg x` first"):
        read_record(tmp_path / "b.json", "medseg x")
    with pytest.raises(DataError, match="cannot be read"):
        read_record(tmp_path, "medseg x")


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"digest":', "}"), ('{"a":[', "]}")])
def test_nesting_about_as_deep_as_python_can_read_is_refused(tmp_path: Path, opening: str, closing: str) -> None:
    """Some depths can just be read, and no digest can be taken of them."""
    for depth in (*range(300, 500), *range(800, 1000)):
        (tmp_path / "deep.json").write_text('{"digest": "", "a": ' + opening * depth + "1" + closing * depth + "}")
        with pytest.raises(DataError, match="delete it and run"):
            read_record(tmp_path / "deep.json", "medseg x")


def test_the_digest_is_no_fact_of_ones_own() -> None:
    with pytest.raises(ValueError, match="digest"):
        signed({"digest": "mine"})


# What a block of ``as_written`` may call: constructors, readers of JSON and of tables, and methods of dictionaries.
PARSERS = re.compile(
    r"[A-Z]\w*|int|float|str|bool|tuple|dict|list|as_written|from_json|model_validate|_case_from_row|read_csv|to_dict|get|items|setdefault"
)


def test_only_fields_are_taken_out_where_errors_are_put_down_to_the_file() -> None:
    """Else a mistake of ours would have users delete what took days to compute."""
    blocks = 0
    for path in sorted((Path(__file__).parents[2] / "medseg").rglob("*.py")):
        for block in ast.walk(ast.parse(path.read_bytes())):
            uses = isinstance(block, ast.With) and "as_written(" in ast.unparse(block.items[0].context_expr)
            for node in (node for statement in block.body for node in ast.walk(statement)) if uses else ():
                assert not isinstance(node, ast.Raise | ast.BinOp | ast.FunctionDef), (path, ast.unparse(node))
                if isinstance(node, ast.Call):
                    called = ast.unparse(node.func).rpartition(".")[2]
                    assert PARSERS.fullmatch(called), (path, ast.unparse(node))
            blocks += uses
    assert blocks >= 8


@pytest.mark.parametrize(
    "error", [KeyError("x"), TypeError("x"), ValueError("x"), OverflowError("x"), AttributeError("x"), IndexError("x")]
)
def test_what_parsing_raises_names_the_file(error: Exception) -> None:
    words = r"a\.json: not as this version of medseg writes it.*run `medseg x` again"
    with pytest.raises(DataError, match=words), as_written(Path("a.json"), "medseg x"):
        raise error
    with pytest.raises(PlanError, match=r"^as it is$"), as_written(Path("a.json"), "medseg x"):
        raise PlanError("as it is")
