"""From a row's cells to a record: what is mapped where, how cells are read, what is said of mistakes."""

from __future__ import annotations

from typing import Any
from zoneinfo import ZoneInfo

import pytest

from cli.importing import targets
from cli.importing.drafts import Draft, draft
from cli.importing.mapping import plan
from cli.importing.reading import Row
from cli.importing.targets import Kind
from cli.importing.values import Reading
from cli.problems import UsageProblem
from cli.resources import BY_PLURAL

LEADS, DEALS, CONTACTS = (targets.of(BY_PLURAL[plural]) for plural in ("leads", "deals", "contacts"))
UTC = Reading(ZoneInfo("UTC"))


def read(
    known: targets.Targets,
    header: str,
    cells: str,
    *maps: str,
    values: tuple[str, ...] = (),
    reading: Reading = UTC,
) -> Draft:
    made = plan(known, header.split(","), maps, values, not reading.currency)
    return draft(Row(2, cells.split(",")), made, reading)


def test_every_settable_field_of_a_resource_can_be_filled() -> None:
    assert {"given_name", "email", "source", "landing_page", "utm.source", "tags", "owner", "campaign"} <= set(
        LEADS.by_name
    )
    assert {"amount", "stage", "company", "product", "lead", "close_time", "loss_reason", "expected_close_date"} <= set(
        DEALS.by_name
    )
    for never in ("id", "status", "converted_deal_id", "create_time", "etag", "stage_id"):
        assert LEADS.find(never) is None
        assert DEALS.find(never) is None
    assert DEALS.by_name["owner"].lookup == "users"
    assert DEALS.by_name["amount"].kind is Kind.MONEY
    assert DEALS.required == {"display_name"}
    assert LEADS.by_name["open_time"] == LEADS.by_name["occur_time"]


def test_columns_fill_fields_as_asked_and_by_their_names() -> None:
    made = plan(LEADS, ["mql_id", "Source", "landing page", "shoe size"], ["external_id=mql_id"], [], True)
    assert [(f.target.name, f.source.name) for f in made.by_header] == [
        ("source", "Source"),
        ("landing_page", "landing page"),
    ]
    assert made.unmapped == ["shoe size"]


def test_nested_repeated_and_custom_fields_take_their_places() -> None:
    found = read(
        CONTACTS, "mail,mail2,tel,vip,labels", "a@x.pt,b@x.pt,912345678,yes,new;big",
        "emails.address=mail", "emails.address=mail2", "emails.label:=work", "phones.number=tel",
        "phones.region:=PT", "custom.vip=vip", "tags=labels", "display_name:={mail} ({tel})",
    )  # fmt: skip
    assert found.problems == []
    assert found.record == {
        "emails": [{"address": "a@x.pt", "label": "work"}, {"address": "b@x.pt"}],
        "phones": [{"number": "912345678", "region": "PT"}],
        "custom": {"vip": "yes"},
        "tags": ["new", "big"],
        "display_name": "a@x.pt (912345678)",
    }


def test_constants_alone_make_no_list_element() -> None:
    maps = ("phones.number=tel", "phones.region:=PT", "emails.address=mail", "emails.address=mail2")
    assert read(CONTACTS, "tel,mail,mail2", ",,b@x.pt", *maps).record == {"emails": [{"address": "b@x.pt"}]}


def test_empty_stays_unset_and_unknown_stays_text() -> None:
    assert read(LEADS, "source", "").record == {}
    assert read(LEADS, "source", "unknown").record == {"source": "unknown"}
    assert read(LEADS, "source", "unknown", values=("source:unknown=",)).record == {}
    assert read(LEADS, "source", "", values=("source:=none",)).record == {"source": "none"}


def test_values_are_mapped_before_they_are_read() -> None:
    found = read(DEALS, "product,company", "GTXPro,Isdom", values=("product:GTXPro=GTX Pro",))
    assert [(name.collection, name.text) for name in found.names] == [("products", "GTX Pro"), ("companies", "Isdom")]


@pytest.mark.parametrize(
    ("maps", "values", "complaint"),
    [
        (["sauce=origin"], [], "no field 'sauce' can be filled; did you mean 'source'?"),
        (["source=origgin"], [], "the file has no column 'origgin'; did you mean 'origin'?"),
        (["source=zzz"], [], "the file has no column 'zzz'; it has 'id', 'origin'"),
        (["source:={origgin}!"], [], "the file has no column 'origgin'"),
        (["source"], [], "write field=column"),
        (["source=origin", "source=id"], [], "source is mapped already"),
        (["status=origin"], [], "no field 'status' can be filled"),
        (["source=origin"], ["source"], "write field:from=to"),
        (["source=origin"], ["email:a=b"], "no column is mapped to email"),
        (["source=origin"], ["sourcee:a=b"], "did you mean 'source'?"),
    ],
)
def test_a_mistake_in_a_mapping_names_what_was_meant(maps: list[str], values: list[str], complaint: str) -> None:
    with pytest.raises(UsageProblem) as refused:
        plan(LEADS, ["id", "origin"], maps, values, True)
    assert complaint in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (Kind.TEXT, "12", "12"),
        (Kind.TAGS, "a, b;; c ", ["a", "b", "c"]),
        (Kind.INTEGER, "12.0", 12),
        (Kind.FLAG, "Yes", True),
        (Kind.FLAG, "0", False),
        (Kind.DECIMAL, "1.50", {"value": "1.50"}),
        (Kind.DATE, "2018-02-26", {"year": 2018, "month": 2, "day": 26}),
        (Kind.MONEY, "0.0", {"currency_code": "BRL", "units": "0"}),
        (Kind.MONEY, "1054", {"currency_code": "BRL", "units": "1054"}),
        (Kind.MONEY, "-1.05", {"currency_code": "BRL", "units": "-1", "nanos": -50_000_000}),
        (Kind.MONEY, "0.000000001", {"currency_code": "BRL", "units": "0", "nanos": 1}),
        # São Paulo was two hours behind UTC in the summer of 2018 and three in the winter.
        (Kind.TIME, "2018-02-01", "2018-02-01T02:00:00Z"),
        (Kind.TIME, "2018-05-08 20:17:59", "2018-05-08T23:17:59Z"),
        (Kind.TIME, "2018-05-08T20:17:59.123456+02:00", "2018-05-08T18:17:59.123456Z"),
        (Kind.TIME, "2018-05-08T20:17:59Z", "2018-05-08T20:17:59Z"),
        # Clocks were set from 0:00 to 1:00 on this day: its midnight never was, and it began at 3:00 UTC.
        (Kind.TIME, "2017-10-15", "2017-10-15T03:00:00Z"),
    ],
)
def test_cells_are_read_as_what_their_field_holds(kind: Kind, text: str, value: Any) -> None:
    assert Reading(ZoneInfo("America/Sao_Paulo"), "BRL").value(kind, text) == value


@pytest.mark.parametrize(
    ("kind", "text", "complaint"),
    [
        (Kind.INTEGER, "1.5", "is not a whole number"),
        (Kind.INTEGER, "abc", "is not a number such as 1234.50"),
        (Kind.MONEY, "1,234", "--decimal says whether a comma or a point"),
        (Kind.MONEY, "1e3", "is not a number"),
        (Kind.MONEY, "0.0000000001", "has more than nine decimals"),
        (Kind.MONEY, "9223372036854775808", "is too large an amount"),
        (Kind.MONEY, "NaN", "is not a number"),
        (Kind.MONEY, "٣", "is not a number"),
        (Kind.FLAG, "maybe", "is neither true nor false"),
        (Kind.TIME, "26/02/2018", "--date-format reads others"),
        (Kind.TIME, "2018-02-30", "is not a time"),
        (Kind.TIME, "0001-01-01T00:00:00+14:00", "is not a time that can be kept"),
    ],
)
def test_a_cell_that_cannot_be_read_says_why(kind: Kind, text: str, complaint: str) -> None:
    with pytest.raises(ValueError) as refused:
        Reading(ZoneInfo("UTC"), "EUR").value(kind, text)
    assert complaint in str(refused.value)


def test_an_amount_without_a_currency_is_a_problem_of_its_row() -> None:
    found = read(DEALS, "amount", "12")
    assert found.problems == ["column 'amount': '12' is an amount without a currency: name it with --currency, "
                              "such as --currency EUR"]  # fmt: skip
    assert read(DEALS, "amount,currency", "12,EUR").record["amount"] == {"currency_code": "EUR", "units": "12"}


@pytest.mark.parametrize(
    ("decimal", "text", "value"),
    [(",", "1.234,50", "1234.50"), (",", "1234,5", "1234.5"), (".", "1,234.50", "1234.50"), (".", "1,234", "1234")],
)
def test_a_named_decimal_mark_reads_grouped_numbers(decimal: str, text: str, value: str) -> None:
    assert Reading(ZoneInfo("UTC"), decimal=decimal).value(Kind.DECIMAL, text) == {"value": value}


def test_other_dates_are_read_by_their_format() -> None:
    brazilian = Reading(ZoneInfo("America/Sao_Paulo"), date_format="%d/%m/%Y")
    assert brazilian.value(Kind.TIME, "26/02/2018") == "2018-02-26T03:00:00Z"
    assert brazilian.value(Kind.TIME, "2018-02-26") == "2018-02-26T03:00:00Z"


def test_all_problems_of_a_row_are_told_at_once() -> None:
    found = read(DEALS, "amount,probability,occur_time", "x,y,z", reading=Reading(ZoneInfo("UTC"), "EUR"))
    assert [problem.partition(":")[0] for problem in found.problems] == [
        "column 'probability'", "column 'occur_time'", "column 'amount'",
    ]  # fmt: skip
