"""Filters: what is written becomes one safe condition, and what cannot be read is refused with its place."""

from __future__ import annotations

import contextlib
from uuid import uuid4

import pytest
from crm.sales.v1 import deal_pb2
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg

from chassis.contract import descriptor_of
from chassis.db import Schema
from chassis.errors import Invalid
from chassis.query import condition, parse_order

TABLE = Schema("probe").record(deal_pb2.Deal)
DEAL = descriptor_of(deal_pb2.Deal)


DIALECT = PGDialect_asyncpg()  # type: ignore[no-untyped-call]


def sql(text: str) -> str:
    return str(condition(text, DEAL, TABLE).compile(dialect=DIALECT))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('display_name = "Acme"', "deals.display_name = "),
        ("amount >= 1000.50", "deals.amount >= "),
        ('amount.currency_code = "EUR"', "deals.amount_currency = "),
        ('state = "WON"', "deals.state = "),
        ('state = "DEAL_STATE_WON"', "deals.state = "),
        ('open_time < "2026-01-01"', "deals.open_time < "),
        ('stage_id = "stage_01h455vb4pex5vsknk084sn02q"', "deals.stage_id = "),
        ('tags:"vip"', "= ANY (deals.tags)"),
        ('external_ids.id = "1"', "deals.external_ids @> "),
        ("close_time:*", "deals.close_time IS NOT NULL"),
        ('display_name:"acme"', "ILIKE"),
        ("probability < 2147483647", "deals.probability < "),
        ("probability = 20 AND NOT probability = 30", "AND deals.probability != "),
        ("probability = 1 OR probability = 2 AND probability = 3", " OR "),
        ("(probability = 1 OR probability = 2) AND probability = 3", ") AND "),
        ("", "true"),
    ],
)
def test_it_becomes_a_condition(text: str, expected: str) -> None:
    assert expected in sql(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ammount = 3", "unknown field 'ammount' at position 1; did you mean 'amount'?"),
        ('source = "x" AND nope = 1', "unknown field 'nope' at position 18"),
        ("amount = ", "it ends where a value after 'amount =' belongs"),
        ("(amount = 1", "a ')' is missing"),
        ("amount = 1 amount = 2", "join comparisons with AND or OR"),
        ("amount ~ 1", "'~ 1' cannot be read, at position 8"),
        ('state = "MAYBE"', "it is one of DEAL_STATE_OPEN"),
        ("amount = abc", "it is a number"),
        ("amount = nan", "it is a number"),
        ("probability = 2147483648", "it is a number"),
        ("probability > -99999999999999999999", "it is a number"),
        ('open_time > "yesterday"', "it is a time such as"),
        ('stage_id = "deal_01h455vb4pex5vsknk084sn02q"', "it is an id such as 'stage_"),
        ("custom.tier = 1", "there is no custom field 'tier'"),
        ("amount = *", "'*' goes with ':' only"),
        ("NOT " * 30 + "amount = 1", "nested more than 20 deep"),
        (" AND ".join(["amount = 1"] * 101), "more than 100 comparisons"),
        ("'amount' = 1", "where a field's name belongs"),
        ("etag = 1", "'etag' cannot be filtered by"),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_place(text: str, message: str) -> None:
    with pytest.raises(Invalid) as refused:
        sql(text)
    assert message in refused.value.message


@given(st.text(max_size=200))
@settings(max_examples=500)
def test_no_text_breaks_the_reader(text: str) -> None:
    with contextlib.suppress(Invalid):
        sql(text)


@given(st.text(max_size=50))
def test_a_value_never_becomes_sql(value: str) -> None:
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    assert sql(f'display_name = "{escaped}"') == sql('display_name = "x"')


@pytest.mark.parametrize("text", ["nope", "amount sideways", "tags", "custom", "amount,,", "a,b,c,d,e,f"])
def test_an_order_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(Invalid, match="order_by"):
        parse_order(text, DEAL, TABLE)


def test_the_next_page_begins_at_a_row_that_an_index_finds() -> None:
    order = parse_order("display_name desc", DEAL, TABLE)
    after = str(order.after(["Acme", uuid4()]))
    assert after.startswith("(deals.display_name, deals.id) < (")
    ways = str(parse_order("display_name desc, amount", DEAL, TABLE).after(["Acme", None, uuid4()]))
    assert ways.startswith("deals.display_name <= ")


def test_an_order_always_ends_in_the_id() -> None:
    clauses = [str(each) for each in parse_order("amount desc, display_name", DEAL, TABLE).clauses()]
    assert clauses == ["deals.amount DESC NULLS LAST", "deals.display_name", "deals.id"]
