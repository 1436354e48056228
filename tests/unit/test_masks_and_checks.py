"""Updates change what they name and nothing else; wrong requests are refused with the path of what is wrong."""

from __future__ import annotations

from typing import Any

import pytest
from crm.activities.v1 import call_pb2
from crm.contacts.v1 import affiliation_pb2, contact_pb2
from crm.sales.v1 import deal_pb2, lead_pb2
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from chassis import masks
from chassis.checks import check, check_required, clear_output_only, fitting
from chassis.contract import descriptor_of
from chassis.errors import Invalid, Reason

DEAL_ID = "deal_01h455vb4pex5vsknk084sn02q"


def test_a_masked_field_without_a_value_is_cleared_and_the_others_stay() -> None:
    after = lead_pb2.Lead(given_name="Ana", family_name="Silva", tags=["a"])
    masks.apply(after, lead_pb2.Lead(tags=["b", "c"]), ["given_name", "tags"])
    assert after == lead_pb2.Lead(family_name="Silva", tags=["b", "c"])


def test_a_path_inside_changes_that_part_only() -> None:
    after = lead_pb2.Lead(utm=lead_pb2.Utm(source="google", medium="cpc"))
    masks.apply(after, lead_pb2.Lead(utm=lead_pb2.Utm(medium="email")), ["utm.medium"])
    assert (after.utm.source, after.utm.medium) == ("google", "email")


def test_custom_fields_merge_key_by_key() -> None:
    after, patch = lead_pb2.Lead(), lead_pb2.Lead()
    after.custom.update({"tier": "gold", "size": 3})
    patch.custom.update({"tier": None, "region": "south"})
    masks.apply(after, patch, masks.present(patch))
    expected = Struct()
    expected.update({"size": 3, "region": "south"})
    assert after.custom == expected


@pytest.mark.parametrize("path", ["nope", "status", "id", "etag", "utm.nope", "tags.x", "create_time"])
def test_a_path_that_cannot_be_changed_is_refused(path: str) -> None:
    with pytest.raises(Invalid, match="update_mask"):
        masks.apply(lead_pb2.Lead(), lead_pb2.Lead(), [path])


def test_a_read_mask_of_unknown_fields_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(Invalid, match="did you mean 'display_name'"):
        masks.wanted(FieldMask(paths=["displayname"]), descriptor_of(lead_pb2.Lead))


@pytest.mark.parametrize(
    ("kind", "content", "path"),
    [
        (deal_pb2.GetDealRequest, {"id": "contact_01h455vb4pex5vsknk084sn02q"}, "id"),
        (deal_pb2.GetDealRequest, {"id": "deal_1"}, "id"),
        (deal_pb2.ListDealsRequest, {"page_size": -1}, "page_size"),
        (deal_pb2.CreateDealRequest, {"deal": {"display_name": "x" * 201}}, "deal.display_name"),
        (deal_pb2.CreateDealRequest, {"deal": {"display_name": "a\0b"}}, "deal.display_name"),
        (deal_pb2.CreateDealRequest, {"deal": {"amount": {"currency_code": "euro"}}}, "deal.amount"),
        (
            deal_pb2.CreateDealRequest,
            {"deal": {"amount": {"currency_code": "EUR", "units": 1, "nanos": -1}}},
            "deal.amount",
        ),
        (deal_pb2.CreateDealRequest, {"deal": {"probability": 101}}, "deal.probability"),
        (
            deal_pb2.CreateDealRequest,
            {"deal": {"expected_close_date": {"year": 2026, "month": 2, "day": 30}}},
            "deal.expected_close_date",
        ),
        (
            deal_pb2.CreateDealRequest,
            {"deal": {"line_items": [{}, {"quantity": {"value": "many"}}]}},
            "deal.line_items[1].quantity",
        ),
        (
            deal_pb2.CreateDealRequest,
            {"deal": {"external_ids": [{"system": "a", "id": "1"}, {"id": "1"}]}},
            "deal.external_ids[1].system",
        ),
        (deal_pb2.CreateDealRequest, {"request_id": "no-uuid"}, "request_id"),
        (call_pb2.CreateCallRequest, {"call": {"direction": 99}}, "call.direction"),
        (contact_pb2.BatchGetContactsRequest, {"ids": ["contact_01h455vb4pex5vsknk084sn02q", DEAL_ID]}, "ids[1]"),
    ],
)
def test_a_wrong_field_is_named(kind: type[Message], content: dict[str, Any], path: str) -> None:
    with pytest.raises(Invalid) as refused:
        check(ParseDict(content, kind()))
    assert path in [each for each, _ in refused.value.violations]


def test_a_time_beyond_the_calendar_is_named() -> None:
    request = deal_pb2.CreateDealRequest()
    request.occur_time.seconds = 10**12
    with pytest.raises(Invalid, match="occur_time"):
        check(request)


def test_a_missing_required_field_is_named() -> None:
    with pytest.raises(Invalid) as refused:
        check_required(affiliation_pb2.Affiliation(company_id="company_01h455vb4pex5vsknk084sn02q"))
    assert refused.value.reason == Reason.REASON_FIELD_REQUIRED
    assert refused.value.violations == [("contact_id", "it is required")]


def test_what_only_the_server_sets_is_dropped_from_a_body() -> None:
    deal = deal_pb2.Deal(id=DEAL_ID, display_name="x", state=deal_pb2.DEAL_STATE_WON, loss_reason="none")
    clear_output_only(deal, frozenset({"id"}))
    assert deal == deal_pb2.Deal(id=DEAL_ID, display_name="x")


def test_a_made_up_text_is_cut_to_what_the_contract_allows() -> None:
    contact = contact_pb2.Contact(display_name=fitting(contact_pb2.Contact, "display_name", "é" * 500))
    assert contact.display_name == "é" * 200
    check(contact)
    assert fitting(contact, "display_name", "Ana") == "Ana"
    # No bound is said of what only the server writes.
    assert fitting(contact, "id", "x" * 5000) == "x" * 5000
