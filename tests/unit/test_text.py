"""Text from data: no control character reaches a terminal, no cell a spreadsheet's formulas, and nothing is lost."""

from __future__ import annotations

import csv
import io
import random
import re
from pathlib import Path

import numpy as np
import pytest

from medseg.config import load_config
from medseg.errors import ConfigError
from medseg.files import write_json
from medseg.formats.errors import FormatError
from medseg.formats.write import write_labels
from medseg.image.geometry import Geometry
from medseg.image.labels import LabelTable
from medseg.ingest.sources import find_cases
from medseg.progress import say
from medseg.text import cell, csv_table, escaped, is_printable, text_of_cell

HOSTILE = "=+-@\t\r\n＝＋－＠'\";, a1.e\x1b\x07\x9b\x7f\u202e\u2066\u2028\ud800\u200d\xa0é漢█"
TEXTS = 20_000


def texts(count: int = TEXTS, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return ["".join(rng.choices(HOSTILE, k=rng.randint(0, 9))) for _ in range(count)]


def test_what_is_escaped_can_be_printed_and_names_the_character() -> None:
    for text in texts():
        shown = escaped(text)
        assert is_printable(shown)
        assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\u2028\u2029\ud800-\udfff]", shown)
        if is_printable(text):
            assert shown == text
    assert escaped("a\x1b[31m\x9b\n\u202eb") == r"a\x1b[31m\x9b\n\u202eb"
    assert escaped("one\ntwo\x07", keep="\n") == "one\ntwo\\x07"


def test_letters_of_all_scripts_and_joiners_stay() -> None:
    for text in ("Tumor größer", "肝臓", "می‌خواهم", "👩‍⚕️", "1 000"):
        assert escaped(text) == text
        assert is_printable(text)


def test_no_cell_is_a_formula_and_each_gives_its_text_back() -> None:
    for text in texts():
        assert text_of_cell(cell(text)) == text
        for part in re.split(r"[;,\t\r\n]", cell(text)):
            assert not part.startswith(tuple("=+-@＝＋－＠")) or re.fullmatch(r"[+-][\d.e+-]+", text)


@pytest.mark.parametrize("number", ["-1", "+2.5", "-.5e-3", "-1E+9", "0.25"])
def test_numbers_are_no_formulas(number: str) -> None:
    assert cell(number) == number


@pytest.mark.parametrize("formula", ["-1+cmd", "=1", "@a", "+a", "-a", "--1", "\t=1", "a;=1", "a,\n-b"])
def test_formulas_are_neutralised(formula: str) -> None:
    assert cell(formula) != formula


def test_a_table_is_read_back_as_it_was_written() -> None:
    found = texts(3000)
    rows = [found[k : k + 3] for k in range(0, len(found), 3)]
    read = list(csv.reader(io.StringIO(csv_table(["a", "b", "c"], rows), newline="")))
    assert read[0] == ["a", "b", "c"]
    assert [[text_of_cell(one) for one in row] for row in read[1:]] == rows
    assert csv_table(["n", "x"], [[1, 0.1], [None, "y"]]) == "n,x\n1,0.1\n,y\n"


def test_progress_shows_control_characters_as_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    say("class \x1b]0;title\x07 of\nall: done")
    assert capsys.readouterr().err == "class \\x1b]0;title\\x07 of\\nall: done\n"


def test_the_name_of_an_image_file_stays_on_its_line() -> None:
    assert str(FormatError(Path("a\nall is well.png"), "cut")).startswith("a\\nall is well.png: cut")


@pytest.mark.parametrize("name", ["a\nb", "\x1b[31m", "left\u202eright", "\x9b0m"])
def test_class_names_that_cannot_be_printed_are_refused(name: str) -> None:
    for tables in ({"names": {name: 1}}, {"names": {"a": 1}, "regions": {name: [1]}}):
        with pytest.raises(ConfigError, match="has a character that cannot be printed; rename it") as caught:
            LabelTable.create(**tables)
        assert is_printable(str(caught.value))


def test_names_of_data_that_cannot_be_printed_are_faults_on_one_line(tmp_path: Path) -> None:
    folder = tmp_path / "set"
    for kind in ("im\x1b[2Jages", "masks"):
        write_labels(folder / kind / "a.png", np.ones((4, 4), np.uint8), Geometry.from_spacing((4, 4), (1.0, 1.0)))
    (folder / "cases.csv").write_text(
        'case,image,label,subject,site\na,"im\x1b[2Jages/a.png",masks/a.png,"x\ny","\x07"\n'
    )
    section = {"layout": "table", "path": "set", "table": "cases.csv", "labels": {"c": 1}, "channels": ["R\u202e"]}
    config = load_config(
        [],
        {
            "experiment": "e",
            "datasets": {"d": section},
            "models": {"unet": {"network": "unet"}},
            "budget": {"steps": 1},
        },
    )
    faults = find_cases("d", folder, config.datasets["d"]).faults
    assert {fault.code for fault in faults} == {"unsafe-path", "subject", "table", "channels"}
    assert all(is_printable(str(fault)) for fault in faults)
    assert all("rename it" in fault.fix for fault in faults)


def test_keys_of_a_configuration_stay_on_their_line(tmp_path: Path) -> None:
    write_json(tmp_path / "c.json", {"experiment": "e", "a\nall is well": 1, "\x1b[2J": {}})
    with pytest.raises(ConfigError) as caught:
        load_config([tmp_path / "c.json"])
    assert "all is well" in str(caught.value)
    assert not any(line.startswith("all") for line in str(caught.value).splitlines())
    assert is_printable(str(caught.value).replace("\n", ""))
