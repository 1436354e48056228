"""What is not a list: timelines, keys, ledgers, the projections' statements, and the reports that must count all."""

from __future__ import annotations

import uuid
from typing import Any

from crm.activities.v1 import timeline_pb2
from crm.contacts.v1 import company_pb2, contact_pb2
from crm.internal.v1 import ledger_pb2, search_pb2
from crm.marketing.v1 import funnel_report_pb2
from crm.sales.v1 import deal_pb2, pipeline_report_pb2

from chassis.change import Change
from chassis.events import statements
from services.activities import reactions as activities
from services.marketing import reactions as marketing
from tests.integration.plans.stage import Plan, Watched
from tests.integration.plans.test_plans import MOST_READ, PAGE, check

TIMELINE = "/crm.activities.v1.TimelineService/ListTimeline"
SEARCH = "/crm.internal.v1.SearchService/Search"
READ_CHANGES = "/crm.internal.v1.LedgerService/ReadChanges"


async def test_a_timeline(watched: Watched) -> None:
    for ascending in (False, True):
        request = timeline_pb2.ListTimelineRequest(
            subject_id=watched.filled.busiest, page_size=PAGE, ascending=ascending
        )
        first, plans = await watched.call(TIMELINE, request)
        check(plans)
        request.page_token = first.next_page_token
        assert request.page_token, "the busiest contact has more than a page"
        _, plans = await watched.call(TIMELINE, request)
        check(plans)


async def test_a_timeline_of_one_kind(watched: Watched) -> None:
    request = timeline_pb2.ListTimelineRequest(subject_id=watched.filled.busiest, page_size=PAGE, kinds=["task"])
    _, plans = await watched.call(TIMELINE, request)
    # It passes over the entries of other kinds, of this one record.
    check(plans, most=20 * MOST_READ)


async def test_one_record_and_its_history(watched: Watched) -> None:
    contact = watched.filled.samples["contact"][7]
    service = "/crm.contacts.v1.ContactService"
    for path, request in (
        ("GetContact", contact_pb2.GetContactRequest(id=contact)),
        ("ListContactRevisions", contact_pb2.ListContactRevisionsRequest(id=contact)),
        ("BatchGetContacts", contact_pb2.BatchGetContactsRequest(ids=watched.filled.samples["contact"][:PAGE])),
    ):
        _, plans = await watched.call(f"{service}/{path}", request)
        check(plans)


async def test_an_upsert_finds_its_records(watched: Watched) -> None:
    service = "/crm.contacts.v1.CompanyService"
    ids = watched.filled.samples["company"][:PAGE]
    found, _ = await watched.call(f"{service}/BatchGetCompanies", company_pb2.BatchGetCompaniesRequest(ids=ids))
    upsert = company_pb2.BatchUpsertCompaniesRequest()
    for result in found.results:
        company = upsert.requests.add().company
        company.external_ids.extend(result.company.external_ids)
        company.industry = f"Music {uuid.uuid4()}"
    _, plans = await watched.call(f"{service}/BatchUpsertCompanies", upsert)
    check([plan for plan in plans if "pg_advisory" not in plan.statement])


async def test_a_deal_is_written(watched: Watched) -> None:
    service = "/crm.sales.v1.DealService"
    deal, plans = await watched.call(
        f"{service}/CreateDeal", deal_pb2.CreateDealRequest(deal=deal_pb2.Deal(display_name="New"))
    )
    _, more = await watched.call(f"{service}/WinDeal", deal_pb2.WinDealRequest(id=deal.id))
    check(plans + more)


async def test_a_ledger_read_in_order(watched: Watched) -> None:
    for home in ("contacts", "sales", "activities", "marketing"):
        for everybody in (False, True):
            request = ledger_pb2.ReadChangesRequest(after_position=500, limit=PAGE, all_tenants=everybody)
            _, plans = await watched.call(READ_CHANGES, request, home=home, principal="service:activities")
            check(plans)


async def test_what_the_relay_runs(watched: Watched) -> None:
    for statement, values in (
        (statements.STATE, ()),
        (statements.UNPUBLISHED, (100, PAGE)),
        (statements.NUMBER, (-1, PAGE)),
    ):
        check(await watched.as_worker("sales", statement, values))


async def test_what_the_reactions_run(watched: Watched) -> None:
    request = ledger_pb2.ReadChangesRequest(after_position=500, limit=PAGE)
    answer, _ = await watched.call(READ_CHANGES, request, home="sales")
    changes = [Change("sales", each.position, watched.tenant, each.change) for each in answer.changes]
    check(await watched.react("activities", [activities.add_to_timeline], changes))
    for resource, reaction in (("Lead", marketing.keep_lead), ("Deal", marketing.keep_deal)):
        mine = [each for each in changes if each.resource == f"crm.sales.v1.{resource}"]
        if mine:
            check(await watched.react("marketing", [reaction], mine))


# Reports count everything that a tenant has in them. That is read once, by no more than this:
REPORTS: dict[str, str] = {
    "pipeline": "two passes over the pipeline's deals: figures, and sums by currency",
    "funnel": "one pass over the leads, one look-up in an index for each",
}


async def test_reports_read_each_record_once(watched: Watched) -> None:
    deals = watched.filled.size.rows
    _, plans = await watched.call(
        "/crm.sales.v1.PipelineReportService/GetPipelineReport", pipeline_report_pb2.GetPipelineReportRequest()
    )
    assert _read(plans, "deals") <= 2 * (deals + 10), REPORTS["pipeline"]
    _, plans = await watched.call(
        "/crm.marketing.v1.FunnelReportService/GetFunnelReport",
        funnel_report_pb2.GetFunnelReportRequest(split_by=funnel_report_pb2.FUNNEL_SPLIT_SOURCE),
    )
    assert _read(plans, "lead_view") <= deals + 10, REPORTS["funnel"]
    assert not [
        each for plan in plans for each in plan.top.walk() if (each.kind, each.table) == ("Seq Scan", "deal_view")
    ]


def _read(plans: list[Plan], table: str) -> float:
    return sum(node.rows + node.removed for plan in plans for node in plan.top.walk() if node.table == table)


async def test_a_report_of_a_month_reads_that_month(watched: Watched) -> None:
    start: Any = "2020-01-01T00:00:00Z"
    request = funnel_report_pb2.GetFunnelReportRequest()
    request.start_time.FromJsonString(start)
    request.end_time.FromJsonString("2020-02-01T00:00:00Z")
    _, plans = await watched.call("/crm.marketing.v1.FunnelReportService/GetFunnelReport", request)
    check(plans)


async def test_a_search_reads_pieces_of_the_index(watched: Watched) -> None:
    person = contact_pb2.GetContactRequest(id=watched.filled.samples["contact"][0])
    contact, _ = await watched.call("/crm.contacts.v1.ContactService/GetContact", person)
    name = contact.display_name
    for query in (name, name.split()[0], name[:3], name.replace("a", "e", 1) + "x", contact.emails[0].address):
        _, plans = await watched.call(SEARCH, search_pb2.SearchRequest(query=query), home="contacts")
        assert plans
        for plan in plans:
            # At this size it may be cheapest to read all of a few spellings.
            steps = [node for node in plan.top.walk() if node.table not in ("", "search_spellings")]
            assert all("Index" in node.kind for node in steps), f"{query}: {plan.text}"
