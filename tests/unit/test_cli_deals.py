"""Rows of deals: stages, endings and times become what the platform takes, and quirks are told."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from cli.client import Json
from cli.importing.deals import Deals
from cli.importing.drafts import Draft
from cli.importing.options import Options
from cli.importing.reading import Row, open_table
from cli.importing.stages import Pipeline, StageKind, check_same, parse_stages
from cli.importing.stages import Stage as PipelineStage
from cli.importing.tally import ErrorsFile, Tally
from cli.problems import Problem, UsageProblem

PIPELINE = Pipeline(
    "pipeline_1",
    "Hardware",
    {
        name: PipelineStage(name, kind, f"stage_{name}")
        for name, kind in (("Engaging", StageKind.OPEN), ("Won", StageKind.WON), ("Lost", StageKind.LOST))
    },
)
OPENED, CLOSED = "2017-01-02T00:00:00Z", "2017-03-01T00:00:00Z"


def draft(**beside: str) -> Draft:
    return Draft(Row(2, []), {"display_name": "Acme"}, beside)


@pytest.mark.parametrize(
    ("beside", "expected", "remarks"),
    [
        (
            {"stage": "Engaging", "occur_time": OPENED},
            {"deal": {"stage_id": "stage_Engaging"}, "occur_time": OPENED},
            [],
        ),
        (
            {"stage": "Won", "occur_time": OPENED, "close_time": CLOSED},
            {"deal": {}, "occur_time": OPENED, "close": {"won": {}, "occur_time": CLOSED}},
            [],
        ),
        (
            {"stage": "Lost", "occur_time": OPENED, "close_time": CLOSED, "loss_reason": "price"},
            {"deal": {}, "occur_time": OPENED, "close": {"lost": {"loss_reason": "price"}, "occur_time": CLOSED}},
            [],
        ),
        (
            {"stage": "Engaging"},
            {"deal": {"stage_id": "stage_Engaging"}},
            ["deals without an opening time: taken as opened now"],
        ),
        (
            {"stage": "Won", "close_time": CLOSED},
            {"deal": {}, "occur_time": CLOSED, "close": {"won": {}, "occur_time": CLOSED}},
            ["closed deals without an opening time: taken as opened when they closed"],
        ),
        (
            {"stage": "Won", "occur_time": CLOSED, "close_time": OPENED},
            {"deal": {}, "occur_time": CLOSED, "close": {"won": {}, "occur_time": OPENED}},
            ["deals closed before they opened: kept as they are, left out of durations"],
        ),
    ],
)
def test_a_row_becomes_a_deal_that_stands_or_ended_where_it_says(
    beside: dict[str, str], expected: Json, remarks: list[str]
) -> None:
    tally = Tally(None)
    item = Deals(PIPELINE, "crm", all_won=False).item(draft(**beside), tally)
    expected["deal"] |= {"display_name": "Acme", "pipeline_id": "pipeline_1"}
    assert item == expected
    assert list(tally.remarks) == remarks


def test_an_unknown_stage_names_those_there_are() -> None:
    with pytest.raises(Problem, match="unknown stage 'Signed': the pipeline has Engaging, Won, Lost"):
        Deals(PIPELINE, "crm", all_won=False).item(draft(stage="Signed"), Tally(None))


def test_a_closing_time_in_an_open_stage_is_refused() -> None:
    with pytest.raises(Problem, match="is in an open stage"):
        Deals(PIPELINE, "crm", all_won=False).item(draft(stage="Engaging", close_time=CLOSED), Tally(None))


def test_a_conversion_takes_the_time_of_the_win_and_is_the_same_call_every_time() -> None:
    deals = Deals(Pipeline(), "olist", all_won=True)
    first, again = (deals.conversion(draft(lead="l1", occur_time=CLOSED)) for _ in range(2))
    assert first == again
    assert (first["occur_time"], first["close"]) == (CLOSED, {"won": {}})
    other = deals.conversion(draft(lead="l2", occur_time=CLOSED))
    assert other["request_id"] != first["request_id"]


def test_stages_are_read_and_checked() -> None:
    wanted = parse_stages("Prospecting, Engaging,Won:won,Lost:lost")
    assert [(stage.display_name, stage.kind) for stage in wanted] == [
        ("Prospecting", "open"), ("Engaging", "open"), ("Won", "won"), ("Lost", "lost"),
    ]  # fmt: skip
    for text, complaint in (("A,Won:won", "one lost stage"), ("A:open:x", "write name"), (",", "write name")):
        with pytest.raises(UsageProblem, match=complaint):
            parse_stages(text)
    with pytest.raises(Problem, match="has other stages: Engaging,Won:won,Lost:lost"):
        check_same(PIPELINE, wanted)


def test_failed_rows_can_be_corrected_and_fed_again(tmp_path: Path) -> None:
    source = tmp_path / "deals.csv"
    source.write_text('id,name\n1,"Acme, Inc"\n2,x,y\n3,Zo\n')
    table = open_table(source)
    options = Options()
    options.check(source)
    path = options.errors_path(source)
    assert path == tmp_path / "deals.csv.errors.csv"
    tally = Tally(ErrorsFile(path, table.header))
    for row in reversed(list(table.rows())[:2]):
        tally.fail(row, row.problem or "no such company")
    tally.write_failed()
    assert tally.errors is not None
    assert tally.errors.close()
    assert list(csv.reader(path.read_text().splitlines())) == [
        ["_error", "_line", "id", "name"],
        ["no such company", "2", "1", "Acme, Inc"],
        ["has 3 cells where the header has 2", "3", "2", "x", "y"],
    ]
    again = Options()
    again.check(path)
    assert again.system == options.system == "deals"
    assert again.errors_path(path) == tmp_path / "deals.csv.errors2.csv"
    assert [row.cells for row in open_table(path).rows()] == [["1", "Acme, Inc"], ["2", "x", "y"]]
    with pytest.raises(UsageProblem, match="the file that is read"):
        Options(errors=path).check(path)
