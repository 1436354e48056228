"""Statements that are transactions of their own stay inside their tenant, are whole, and leave nothing behind."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from uuid import uuid4

import asyncpg
import pytest
from crm.sales.v1 import deal_pb2, pipeline_pb2
from crm.sales.v1 import lead_pb2 as pb
from crm.type.v1.common_pb2 import ExternalId
from google.protobuf.field_mask_pb2 import FieldMask
from sqlalchemy import bindparam, select, text

from chassis import ids
from chassis.db import Database
from chassis.errors import Aborted, Internal, Invalid, NotFound, Reason
from chassis.sql import Pool, Prepared
from chassis.work import Raced, Work
from services.sales.deals import deals
from services.sales.lead_records import leads
from services.sales.pipelines import pipelines
from services.sales.tables import schema
from tests.integration.sales.house import House, Tenant

_IDS = select(leads.table.c.id).where(leads.table.c.tenant_id == bindparam("tenant"))


@pytest.fixture
async def single(house: House) -> AsyncIterator[Database]:
    """The sales database by one connection alone, so that whatever stayed on it would be seen."""
    settings = house.settings("sales").model_copy(update={"pool_size": 1})
    database = Database(settings, schema)
    yield database
    await database.close()


async def test_two_tenants_in_turn_on_one_connection_see_their_own(
    single: Database, sales: Tenant, other: Tenant
) -> None:
    mine = await sales.call("LeadService/CreateLead", lead=pb.Lead(given_name="Ana"))
    for tenant, expected in ((sales.id, [mine.id]), (other.id, []), (sales.id, [mine.id])):
        async with single.read(tenant) as tx:
            rows = await tx.rows_alone(_IDS)
            assert not tx.begun
        assert [ids.encode("lead", row.id) for row in rows] == expected


@pytest.mark.parametrize("turns", range(5))
async def test_a_statement_cancelled_after_its_preparation_leaves_no_limit_to_the_next(
    house: House, turns: int
) -> None:
    pool = Pool(house.settings("sales").database_url.get_secret_value(), 1, "limit", statement_limit_ms=200)
    try:
        await pool.fetch_alone("SELECT 1", (), again=True)
        cancelled = asyncio.create_task(pool.fetch_alone("SELECT $1::int", (turns,), again=True))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        time.sleep(0.05)  # noqa: ASYNC251 -- nothing runs meanwhile: the server's answer to the preparation lies in the socket
        for _ in range(turns):
            await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.wait([cancelled])
        await asyncio.sleep(0.3)  # longer than the limit
        assert await pool.fetch_alone("SELECT 2", (), again=True)
    finally:
        await pool.close()


async def test_a_statement_that_is_given_up_does_not_cost_its_connection(house: House) -> None:
    pool = Pool(house.settings("sales").database_url.get_secret_value(), 1, "given up", statement_limit_ms=5_000)
    try:
        before = await pool.fetch_alone("SELECT pg_backend_pid() AS pid", (), again=True)
        for _ in range(3):
            given_up = asyncio.create_task(pool.fetch_alone("SELECT pg_sleep(3)", (), again=True))
            await asyncio.sleep(0.05)
            given_up.cancel()
            await asyncio.wait([given_up])
        assert await pool.fetch_alone("SELECT pg_backend_pid() AS pid", (), again=True) == before
    finally:
        await pool.close()


async def test_after_a_statement_of_its_own_nobody_is_entered(single: Database, sales: Tenant) -> None:
    async with single.read(sales.id) as tx:
        await tx.rows_alone(_IDS)
    # The policy asks for a tenant and there is none: loud, not merely empty.
    with pytest.raises(asyncpg.PostgresError):
        await single._app.fetch_alone("SELECT id FROM leads", (), again=False)


async def test_without_the_wall_or_its_own_predicate_the_other_holds(
    single: Database, sales: Tenant, other: Tenant
) -> None:
    await sales.call("LeadService/CreateLead", lead=pb.Lead(given_name="Ana"))
    async with single.read(other.id) as tx:
        named = select(leads.table.c.id).where(leads.table.c.tenant_id == bindparam("named", sales.id))
        assert await tx.rows(named) == []
        assert await tx.rows(select(leads.table.c.id)) == []


async def test_a_row_for_another_tenant_is_refused_and_nothing_of_the_call_stays(
    single: Database, sales: Tenant, other: Tenant
) -> None:
    keep = text("INSERT INTO natural_keys VALUES (:named, 'lead', 'kind', 'value', :id, true)")

    async def keep_both() -> None:
        async with single.write(sales.id) as tx:
            await tx.execute(keep, {"named": sales.id, "id": uuid4()})
            await tx.execute(keep, {"named": other.id, "id": uuid4()})

    with pytest.raises(Internal, match="wall"):
        await keep_both()
    async with single.read(sales.id) as tx:
        assert await tx.rows(text("SELECT FROM natural_keys")) == []


async def test_a_creation_in_one_statement_is_whole_or_absent(sales: Tenant) -> None:
    key = ExternalId(system="erp", id="7")
    first = await sales.call("LeadService/CreateLead", lead=pb.Lead(given_name="Ana", external_ids=[key]))
    request_id = str(uuid4())
    made = await sales.call("LeadService/CreateLead", lead=pb.Lead(given_name="Bo"), request_id=request_id)
    again = await sales.call("LeadService/CreateLead", lead=pb.Lead(given_name="Bo"), request_id=request_id)
    assert again == made
    with pytest.raises(Invalid):
        await sales.call("LeadService/CreateLead", lead=pb.Lead(given_name="Cy"), request_id=request_id)
    async with sales.server.platform.db.read(sales.id) as tx:
        kept = {ids.encode("lead", row.id) for row in await tx.rows_alone(_IDS)}
    assert kept == {first.id, made.id}
    assert await sales.ledger(made.id) == [("created", 1)]


async def test_validate_only_leaves_nothing(sales: Tenant) -> None:
    await sales.call("LeadService/CreateLead", lead=pb.Lead(given_name="Ana"), validate_only=True)
    async with sales.server.platform.db.read(sales.id) as tx:
        assert await tx.rows_alone(_IDS) == []


async def test_gets_of_one_moment_each_get_their_own(sales: Tenant, other: Tenant) -> None:
    made = [await sales.call("LeadService/CreateLead", lead=pb.Lead(given_name=f"L{n}")) for n in range(20)]
    unknown = ids.new("lead")
    asked = [sales.call("LeadService/GetLead", id=each.id) for each in made]
    strangers = [other.call("LeadService/GetLead", id=each.id) for each in made[:3]]
    nobody = sales.call("LeadService/GetLead", id=unknown)
    answers = await asyncio.gather(*asked, *strangers, nobody, return_exceptions=True)
    assert answers[:20] == made
    assert all(isinstance(each, NotFound) for each in answers[20:])


async def test_who_gives_up_a_shared_get_takes_nobody_along(sales: Tenant) -> None:
    made = await sales.call("LeadService/CreateLead", lead=pb.Lead(given_name="Ana"))
    impatient = [asyncio.ensure_future(sales.call("LeadService/GetLead", id=made.id)) for _ in range(5)]
    patient = [asyncio.ensure_future(sales.call("LeadService/GetLead", id=made.id)) for _ in range(5)]
    await asyncio.sleep(0)
    for each in impatient:
        each.cancel()
    assert await asyncio.gather(*patient) == [made] * 5
    assert sales.server.platform.db.checked_out == 0


async def test_the_clock_that_is_carried_on_is_never_ahead(single: Database, sales: Tenant) -> None:
    async with single.write(sales.id) as tx:
        await tx.now()
        for _ in range(50):
            carried = single.clock.now()
            true = (await tx.rows(text("SELECT clock_timestamp() AS now")))[0].now
            assert carried is None or carried <= true


async def test_of_two_that_change_a_record_at_once_both_are_done(sales: Tenant) -> None:
    deal = await sales.call("DealService/CreateDeal", deal=deal_pb2.Deal(display_name="Roof"))
    texts = [f"text {number}" for number in range(12)]
    wanted = [deal_pb2.Deal(id=deal.id, description=each) for each in texts]
    mask = FieldMask(paths=["description"])
    await asyncio.gather(*(sales.call("DealService/UpdateDeal", deal=each, update_mask=mask) for each in wanted))
    assert await sales.ledger(deal.id) == [("created", 1), *(("updated", 2 + number) for number in range(12))]


async def test_of_two_with_one_etag_one_is_done(sales: Tenant) -> None:
    deal = await sales.call("DealService/CreateDeal", deal=deal_pb2.Deal(display_name="Roof"))
    wanted = [deal_pb2.Deal(id=deal.id, etag=deal.etag, description=str(number)) for number in range(6)]
    done = await asyncio.gather(
        *(sales.call("DealService/UpdateDeal", deal=each) for each in wanted), return_exceptions=True
    )
    refused = [each for each in done if isinstance(each, Aborted)]
    assert len(refused) == 5
    assert {each.reason for each in refused} == {Reason.REASON_ETAG_MISMATCH}
    assert await sales.ledger(deal.id) == [("created", 1), ("updated", 2)]


async def test_nothing_is_written_where_what_it_stands_on_has_changed_since(sales: Tenant) -> None:
    deal = await sales.call("DealService/CreateDeal", deal=deal_pb2.Deal(display_name="Roof"))
    renamed = pipeline_pb2.Pipeline(id=deal.pipeline_id, display_name="Other")

    async def change() -> None:
        async with sales.server.platform.db.write(sales.id) as tx:
            work = Work(tx, optimistic=True)
            record = await work.lock(deals, deal.id)
            assert await work.share(pipelines, deal.pipeline_id)
            record.after.description = "new"
            await work.update(record)
            await sales.call("PipelineService/UpdatePipeline", pipeline=renamed)
            await work.flush()

    with pytest.raises(Raced):
        await change()
    assert await sales.ledger(deal.id) == [("created", 1)]
    assert await sales.call("DealService/GetDeal", id=deal.id) == deal


def test_a_list_that_would_never_be_filled_in_is_refused() -> None:
    table = schema.ledger
    with pytest.raises(TypeError, match="IN"):
        Prepared(select(table.c.event_id).where(table.c.event_id.in_([uuid4()])))
