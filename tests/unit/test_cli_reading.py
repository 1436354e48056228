"""Files people really have: every dialect is read alike, and a broken one is refused naming the place."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import openpyxl
import pytest

from cli.importing.reading import Row, open_table
from cli.problems import Problem


def written(folder: Path, content: bytes | str) -> Path:
    path = folder / "people.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (b"name,city\nAna,Lisboa\n", [["Ana", "Lisboa"]]),
        (b"name,city\r\nAna,Lisboa\r\n", [["Ana", "Lisboa"]]),
        (b"name,city\nAna,Lisboa", [["Ana", "Lisboa"]]),
        (b"name;city\nAna;Lisboa, PT\nZo;Rio\n", [["Ana", "Lisboa, PT"], ["Zo", "Rio"]]),
        (b"name\tcity\nAna\tLisboa\n", [["Ana", "Lisboa"]]),
        (b"name|city\nAna|Lisboa\n", [["Ana", "Lisboa"]]),
        (b'name,city\n"Ana ""Nita"" Sa","two\nlines"\n', [['Ana "Nita" Sa', "two\nlines"]]),
        ("name,city\nAna,São Paulo\n".encode(), [["Ana", "São Paulo"]]),
        ("name,city\nAna,São Paulo\n".encode("utf-8-sig"), [["Ana", "São Paulo"]]),
        ("name,city\nAna,São Paulo\n".encode("utf-16"), [["Ana", "São Paulo"]]),
        ("name,city\nAna,São Paulo\n".encode("utf-16-le"), [["Ana", "São Paulo"]]),
        ("name,city\nAna,São Paulo\n".encode("utf-16-be"), [["Ana", "São Paulo"]]),
        ("name,city\nAna,São Paulo – Brás\n".encode("cp1252"), [["Ana", "São Paulo – Brás"]]),
        (b"name,city,\nAna,Lisboa,\n", [["Ana", "Lisboa"]]),
        (b"name,city\n\n,\nAna,Lisboa\n\n", [["Ana", "Lisboa"]]),
        (b"name\nAna\n", [["Ana"]]),
    ],
)
def test_every_common_dialect_reads_alike(tmp_path: Path, content: bytes, rows: list[list[str]]) -> None:
    table = open_table(written(tmp_path, content))
    assert table.header == (["name", "city"] if len(rows[0]) == 2 else ["name"])
    assert [row.cells for row in table.rows()] == rows
    assert table.row_count == len(rows)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b",,\n1,2,3\n", "is empty"),
        (b"name,city,name\nAna,Lisboa,Ana\n", "names a column twice: 'name' is column 1 and 3"),
        (b'name,city\nAna,Lisboa\n"Zo,Rio\n', "line 3: a quote is opened here and never closed"),
        (b'name,city\n"Ana"x,Lisboa\n', "line 2: text follows a closing quote"),
        (b'name,city\n"Ana\nMaria"x,Lisboa\n', "lines 2 to 3: text follows a closing quote"),
        (b'name,city\n"Ana,' + b"Lisboa\n" * 40_000, "line 2: a quote is opened here and not closed within"),
        ("name,city\nJoão,S".encode() + b"\xe3o Paulo\n", "line 2, byte offset 17: byte 0xE3 is not utf-8"),
        (b"name,city\nAna,\xff\xfe\n", "line 2, byte offset 14: byte 0xFF is not utf-8"),
        (b"name,city\nAna,Lis\x00boa\n", "line 2, byte offset 17: a NUL byte"),
        ("name,city\nAna,São\n".encode("utf-16")[:-1], "is not utf-16"),
    ],
)
def test_a_broken_file_is_refused_naming_the_place(tmp_path: Path, content: bytes, complaint: str) -> None:
    with pytest.raises(Problem) as refused:
        open_table(written(tmp_path, content))
    assert complaint in str(refused.value)
    assert "people.csv" in str(refused.value)


def test_the_place_of_a_broken_byte_is_right_far_into_a_file(tmp_path: Path) -> None:
    sound = "name,city\n" + "João,São Paulo\n" * 100_000
    path = written(tmp_path, sound.encode() + b"Ana,\xe3\n")
    with pytest.raises(Problem, match=f"line 100002, byte offset {len(sound.encode()) + 4}:"):
        open_table(path)


def test_windows_text_is_read_with_a_note(tmp_path: Path) -> None:
    table = open_table(written(tmp_path, "name\nAna\nJoão\n".encode("cp1252")))
    assert table.notes == ["read as Windows-1252, since line 3 is not UTF-8 (--encoding chooses another)"]


def test_a_named_encoding_is_kept_to(tmp_path: Path) -> None:
    path = written(tmp_path, "name\nŁódź\n".encode("cp1250"))
    assert [row.cells for row in open_table(path, encoding="cp1250").rows()] == [["Łódź"]]
    with pytest.raises(Problem, match="there is no encoding 'latin-99'"):
        open_table(path, encoding="latin-99")


def test_ragged_rows_are_kept_with_their_line_and_what_is_wrong(tmp_path: Path) -> None:
    table = open_table(written(tmp_path, b'name,city\nAna\nZo,"Rio\nde Janeiro"\nEva,Rome,Italy\nIda,Oslo\n'))
    assert list(table.rows()) == [
        Row(2, ["Ana"], "has 1 cells where the header has 2"),
        Row(3, ["Zo", "Rio\nde Janeiro"]),
        Row(5, ["Eva", "Rome", "Italy"], "has 3 cells where the header has 2"),
        Row(6, ["Ida", "Oslo"]),
    ]


def test_a_header_alone_is_a_table_without_rows(tmp_path: Path) -> None:
    table = open_table(written(tmp_path, b"name,city\n"))
    assert (table.header, table.row_count, list(table.rows())) == (["name", "city"], 0, [])


def test_the_columns_of_an_errors_file_are_ignored(tmp_path: Path) -> None:
    table = open_table(written(tmp_path, b"_error,_line,name,city\nbad,7,Ana,Lisboa\nworse,8,Zo\n"))
    assert table.header == ["name", "city"]
    assert list(table.rows()) == [
        Row(2, ["Ana", "Lisboa"]),
        Row(3, ["Zo"], "has 1 cells where the header has 2"),
    ]


def test_what_is_no_file_is_said_so(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.csv", tmp_path):
        with pytest.raises(Problem, match="cannot read"):
            open_table(path)


def test_a_workbook_reads_as_its_cells_are_shown(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.title = "first"
    sheet.append(["id", "price", "day", "time", "active", "note"])
    sheet.append([7, 0.1 + 0.2, dt.date(2018, 2, 1), dt.datetime(2018, 2, 1, 3, 4, 5), True, "São"])  # noqa: DTZ001
    sheet.append([])
    sheet.append([8, 1e14, None, None, False, None])
    book.create_sheet("second").append(["other"])
    path = tmp_path / "prices.xlsx"
    book.save(path)
    table = open_table(path)
    assert table.header == ["id", "price", "day", "time", "active", "note"]
    assert list(table.rows()) == [
        Row(2, ["7", "0.3", "2018-02-01", "2018-02-01 03:04:05", "true", "São"]),
        Row(4, ["8", "100000000000000", "", "", "false", ""]),
    ]
    assert open_table(path, sheet="second").header == ["other"]
    with pytest.raises(Problem, match="has no sheet 'third'; it has 'first', 'second'"):
        open_table(path, sheet="third")


def test_a_broken_workbook_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "prices.xlsx"
    path.write_bytes(b"PK\x03\x04 not really")
    with pytest.raises(Problem, match="is not a spreadsheet that can be read"):
        open_table(path)
