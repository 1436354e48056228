"""Reading a page costs a page, whatever the tenant holds: no statement reads a table through or sorts what it holds."""

from __future__ import annotations

from typing import Any

import pytest
from crm.internal.v1 import access_pb2
from google.protobuf.message import Message

from chassis import contract
from chassis.access import Access
from chassis.service import generated
from tests.integration.plans.stage import Plan, Watched

PAGE = 20
# A scan that reads no more than this is a page's own work: the page, a row more, and what visibility costs.
MOST_READ = 4 * (PAGE + 1)

# Equality filters that an index serves, by resource, with the sample that gives the value.
FILTERS = {
    "contacts": {"owner_id": "owner_id"},
    "companies": {"owner_id": "owner_id"},
    "affiliations": {"contact_id": "contact_id", "company_id": "company_id"},
    "leads": {"owner_id": "owner_id", "status": "status"},
    "deals": {
        "owner_id": "owner_id", "company_id": "company_id", "contact_id": "contact_id", "lead_id": "lead_id",
    },
    "touches": {"subject_id": "subject_id", "campaign_id": "campaign_id"},
    "tasks": {"owner_id": "owner_id"},
}  # fmt: skip
ORDERS = {
    "contacts": ("display_name", "update_time"),
    "companies": ("display_name", "update_time"),
    "affiliations": (),
    "leads": ("display_name", "open_time", "update_time"),
    "deals": ("display_name", "open_time", "update_time"),
    "products": ("display_name",),
    "tasks": ("due_time",),
    "notes": ("note_time",),
    "calls": ("call_time",),
    "meetings": ("start_time",),
    "campaigns": ("display_name",),
    "touches": ("touch_time",),
    "pipelines": (),
}


def check(plans: list[Plan], most: int = MOST_READ) -> None:
    """Fails where a statement read a table through, sorted more than a page, or threw away more than it gave."""
    assert plans, "no statement was seen"
    for plan in plans:
        for node in plan.top.walk():
            told = f"{plan.statement}\n{plan.text}"
            assert not (node.kind == "Seq Scan" and node.rows + node.removed > most), told
            assert node.sorted_rows <= most, told
            assert not (node.table and node.rows + node.removed > most), told


def listed(plural: str) -> tuple[str, Any]:
    """The list method of a resource, and its request."""
    for path, method in contract.load().methods.items():
        if method.http is not None and method.http.verb == "get" and method.http.template == f"/v1/{plural}":
            return path, generated(method.descriptor.input_type.full_name)
    raise AssertionError(plural)


async def pages(watched: Watched, plural: str, **asked: Any) -> Message:
    """Reads two pages of a list and checks the plans of both."""
    path, request = listed(plural)
    first, plans = await watched.call(path, request(page_size=PAGE, **asked))
    check(plans)
    if first.next_page_token:
        _, plans = await watched.call(path, request(page_size=PAGE, page_token=first.next_page_token, **asked))
        check(plans)
    return first  # type: ignore[no-any-return]


@pytest.mark.parametrize("plural", ORDERS)
async def test_lists(watched: Watched, plural: str) -> None:
    await pages(watched, plural)
    await pages(watched, plural, show_deleted=True)
    await pages(watched, plural, read_mask={"paths": ["id"]})


@pytest.mark.parametrize(("plural", "field"), [(each, name) for each, names in ORDERS.items() for name in names])
@pytest.mark.parametrize("direction", ["", " desc"])
async def test_orders(watched: Watched, plural: str, field: str, direction: str) -> None:
    if (field, direction) == ("due_time", " desc"):
        pytest.skip("records without a value come last: only one of both ways has an index")
    await pages(watched, plural, order_by=f"{field}{direction}")


@pytest.mark.parametrize(("plural", "field"), [(each, name) for each, names in FILTERS.items() for name in names])
async def test_filters(watched: Watched, plural: str, field: str) -> None:
    path, request = listed(plural)
    answer, _ = await watched.call(path, request(page_size=200))
    found = [getattr(each, field) for each in getattr(answer, plural) if getattr(each, field)]
    value = found[0]
    if isinstance(value, int):
        value = answer.DESCRIPTOR.fields_by_name[plural].message_type.fields_by_name[field].enum_type.values[value].name
    await pages(watched, plural, filter=f'{field} = "{value}"')


@pytest.mark.parametrize(
    ("plural", "order"), [("tasks", "due_time"), ("tasks", ""), ("meetings", "start_time"), ("notes", "")]
)
async def test_what_a_record_is_named_by(watched: Watched, plural: str, order: str) -> None:
    path, request = listed(plural)
    answer, _ = await watched.call(path, request(page_size=200))
    named = next(each.related_ids[0] for each in getattr(answer, plural) if each.related_ids)
    found = await pages(watched, plural, filter=f'related_ids = "{named}"', order_by=order)
    assert getattr(found, plural)
    open_ones = {"tasks": " AND status = TASK_STATUS_OPEN", "meetings": " AND status = MEETING_STATUS_SCHEDULED"}
    await pages(watched, plural, filter=f'related_ids = "{named}"{open_ones.get(plural, "")}', order_by=order)
    await pages(watched, plural, filter=f'related_ids:"{named}"', show_deleted=True)


async def test_a_stage_of_the_board(watched: Watched) -> None:
    deal = (await pages(watched, "deals")).deals[0]  # type: ignore[attr-defined]
    await pages(watched, "deals", filter=f'pipeline_id = "{deal.pipeline_id}" AND stage_id = "{deal.stage_id}"')


async def test_a_list_without_an_index_is_noticed(watched: Watched) -> None:
    with pytest.raises(AssertionError):
        await pages(watched, "contacts", order_by="job_title")


@pytest.mark.parametrize(
    "plural", sorted(set(ORDERS) - {"pipelines", "products", "campaigns", "affiliations", "touches"})
)
async def test_lists_of_what_a_caller_owns(watched: Watched, plural: str) -> None:
    path, request = listed(plural)
    answer, _ = await watched.call(path, request(page_size=200))
    owner = next(each.owner_id for each in getattr(answer, plural) if each.owner_id)
    access = Access(access_pb2.Access(user_id=owner, default_visibility=access_pb2.VISIBILITY_OWN))
    mine, plans = await watched.call(path, request(page_size=PAGE), access=access)
    check(plans)
    assert {each.owner_id for each in getattr(mine, plural)} == {owner}
    _, plans = await watched.call(path, request(page_size=PAGE, page_token=mine.next_page_token), access=access)
    check(plans)
