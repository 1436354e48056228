"""Whoever sees some owners' records alone finds no others, by no method and no guess, and changes none."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from crm.internal.v1 import access_pb2 as pb

from chassis import contract, ids
from chassis.access import Access
from chassis.contract import ResourceType
from chassis.errors import Failure, Reason
from gateway.identity.rights import MAX_SEEN_USERS
from tests.contract.world import field_of
from tests.integration.access.restricted import ALL, NONE, OWN, OWNED, TEAM, House, Restricted, Visibility

VISIBLE = {NONE: (), OWN: ("mine",), TEAM: ("mine", "team"), ALL: ("mine", "team", "other", "nobody")}
# What verbs need beside the id before they look at the record.
_MORE: dict[str, dict[str, Any]] = {
    "MoveDeal": {"stage_id": "stage_01h455vb4pex5vsknk084sn02q"},
    "LoseDeal": {"loss_reason": "price"},
    "DisqualifyLead": {"reason": "no budget"},
}
kinds = pytest.mark.parametrize("kind", OWNED, ids=lambda kind: kind.prefix)


@pytest.fixture(scope="module")
def records(house: House) -> dict[str, dict[str, Any]]:
    """Of each kind a record of the user's, of its team's, of a stranger's, and of nobody's."""
    owners = {"mine": house.me, "team": house.mate, "other": house.stranger, "nobody": ""}
    return {kind.prefix: {name: house.make(kind, owner) for name, owner in owners.items()} for kind in OWNED}


def reason(who: Restricted, kind: ResourceType, verb: str, request: dict[str, Any]) -> str:
    """Why a call failed."""
    with pytest.raises(Failure) as found:
        who.standard(kind, verb, request)
    return found.value.reason_name


@kinds
@pytest.mark.parametrize("visibility", VISIBLE, ids=["none", "own", "team", "all"])
def test_only_records_of_the_owners_are_read(
    house: House, records: Any, kind: ResourceType, visibility: Visibility
) -> None:
    who, made = house.who(visibility), records[kind.prefix]
    seen = {made[name]["id"] for name in VISIBLE[visibility]}
    everything = [each["id"] for each in made.values()]
    either = " OR ".join(f'id = "{each}"' for each in everything)
    listed: Any = next(iter(who.standard(kind, "List", {"filter": either}).values()), [])
    assert {each["id"] for each in listed or []} == seen
    results = who.standard(kind, "BatchGet", {"ids": everything})["results"]
    assert [field_of(kind) in each for each in results] == [each in seen for each in everything]
    for record in made.values():
        reads = {
            "Get": {"id": record["id"]},
            "List.Revisions": {"id": record["id"]},
            "Get.as_of": {"id": record["id"], "as_of": record["update_time"]},
        }
        for name, request in reads.items():
            method = f"List{kind.descriptor.name}Revisions" if "Revisions" in name else f"Get{kind.descriptor.name}"
            if record["id"] in seen:
                assert who.of(kind, method, request)
            else:
                with pytest.raises(Failure) as found:
                    who.of(kind, method, request)
                assert found.value.reason_name == "NOT_FOUND"


@kinds
def test_nothing_is_done_to_a_record_out_of_sight(house: House, records: Any, kind: ResourceType) -> None:
    who, other = house.who(TEAM), records[kind.prefix]["other"]
    carried, record = field_of(kind), other["id"]
    before = house.state(kind)
    service = f"{kind.full_name}Service"
    tried = 0
    for method in contract.load().methods_of(service):
        fields = method.request.DESCRIPTOR.fields_by_name
        if not method.emits or method.name.startswith(("Create", "BatchCreate", "BatchUpsert", "BatchGet")):
            continue
        if method.name.startswith("Update"):
            request: dict[str, Any] = {carried: {"id": record, "owner_id": house.me}}
        elif method.name.startswith("BatchUpdate"):
            request = {"requests": [{carried: {"id": record, "owner_id": house.me}}], "atomic": True}
        elif method.name.startswith("BatchDelete"):
            request = {"requests": [{"id": record}], "atomic": True}
        else:
            assert "id" in fields, method.name
            request = {"id": record, **_MORE.get(method.name, {})}
            if method.name.startswith("Revert"):
                request["revision"] = 1
        with pytest.raises(Failure) as found:
            who.of(kind, method.name, request)
        assert found.value.reason_name == "NOT_FOUND", (method.name, found.value)
        tried += 1
    assert tried >= 5
    assert house.state(kind) == before


@kinds
def test_a_record_without_owner_is_its_makers(house: House, kind: ResourceType) -> None:
    who = house.who(OWN, seen={each: ALL for each in ("pipeline", "product", "contact", "company", "campaign", "lead")
                               if each != kind.prefix})  # fmt: skip
    made = who.standard(kind, "Create", {field_of(kind): house.world.body(kind.prefix)})
    assert made["owner_id"] == house.me
    assert who.standard(kind, "Get", {"id": made["id"]})["id"] == made["id"]
    free = house.who(ALL).standard(kind, "Create", {field_of(kind): house.world.body(kind.prefix)})
    assert not free.get("owner_id")


@pytest.mark.parametrize("prefix", ["contact", "lead", "deal"])
def test_a_key_out_of_sight_is_taken_and_says_no_more(house: House, prefix: str) -> None:
    kind = contract.load().resources[prefix]
    keys = [{"system": "access", "id": house.world.text()}]
    hidden = house.make(kind, house.stranger, external_ids=keys)
    who, carried = house.who(TEAM, seen={"pipeline": ALL}), field_of(kind)
    body = {**house.world.body(prefix), "external_ids": keys}
    before = house.state(kind)
    with pytest.raises(Failure) as found:
        who.standard(kind, "Create", {carried: body})
    assert found.value.reason == Reason.REASON_KEY_TAKEN
    told = [str(found.value.metadata), found.value.message]
    for verb in ("BatchCreate", "BatchUpsert"):
        answer = who.standard(kind, verb, {"requests": [{carried: body}]})
        assert "KEY_TAKEN" in str(answer["results"][0]["status"])
        told.append(str(answer))
    assert not any(hidden["id"] in each for each in told)
    assert house.state(kind) == before
    assert hidden["id"] in str(house.who(ALL).standard(kind, "BatchCreate", {"requests": [{carried: body}]}))


def test_a_page_token_is_of_no_use_to_another_caller(house: House, records: Any) -> None:
    kind = contract.load().resources["deal"]
    first = house.who(ALL).standard(kind, "List", {"page_size": 1})
    assert reason(house.who(OWN), kind, "List", {"page_token": first["next_page_token"]}) == "PAGE_TOKEN_INVALID"
    assert house.who(ALL).standard(kind, "List", {"page_size": 1, "page_token": first["next_page_token"]})["deals"]


def test_what_comes_along_must_be_what_the_token_speaks_of(house: House, records: Any) -> None:
    path, request = "/crm.sales.v1.DealService/ListDeals", {"page_size": 1}
    wider = house.who(ALL).access.encoded
    for encoded in (b"", b"\xff", wider):
        with pytest.raises(Failure) as found:
            house.who(OWN).call(path, request, encoded=encoded)
        assert found.value.reason_name == "UNAUTHENTICATED"


def test_a_team_of_thousands_fits(house: House, records: Any) -> None:
    large = pb.Access(user_id=house.me, default_visibility=pb.VISIBILITY_TEAM)
    large.team_user_ids.extend(ids.new_uuid().bytes for _ in range(5_000))
    who = Restricted(house, Access(large))
    assert who.call("/crm.sales.v1.DealService/GetDeal", {"id": records["deal"]["mine"]["id"]})["id"]


def test_an_answer_given_again_says_no_more_of_a_record_that_went_out_of_sight(house: House) -> None:
    kind = contract.load().resources["contact"]
    request = {"contact": house.world.body("contact"), "request_id": str(uuid4())}
    first = house.who(OWN).of(kind, "CreateContact", request)
    assert house.who(OWN).of(kind, "CreateContact", request) == first
    house.world.client.patch(f"/v1/contacts/{first['id']}", {"owner_id": house.stranger})
    again = house.who(OWN).of(kind, "CreateContact", request)
    assert {name for name, value in again.items() if value} == {"id", "etag"}
    assert house.who(ALL).of(kind, "CreateContact", request) == first


def test_a_lead_is_converted_within_what_its_owner_sees(house: House) -> None:
    lead, contact = (contract.load().resources[name] for name in ("lead", "contact"))
    email = f"{uuid4().hex}@access.example"
    mine = house.make(lead, house.me)
    who = house.who(OWN, ("contact", "emails", pb.FIELD_ACCESS_HIDDEN))
    answer = who.of(lead, "ConvertLead", {"id": mine["id"], "deal": {"display_name": "Mine"}})
    assert answer["deal"]["owner_id"] == house.me
    made = house.world.client.get(f"/v1/contacts/{answer['deal']['contact_id']}")
    assert (made["owner_id"], made["emails"][0]["address"]) == (house.me, mine["email"])
    # The conversion itself joins what is there; that makes it no more visible, and no other may be named.
    other = house.make(contact, house.stranger, emails=[{"address": email, "label": "work", "primary": True}])
    joined = who.of(lead, "ConvertLead", {"id": house.make(lead, house.me, email=email)["id"]})
    assert joined["contact_id"] == other["id"]
    assert reason(who, contact, "Get", {"id": other["id"]}) == "NOT_FOUND"
    open_lead = house.make(lead, house.me)["id"]
    with pytest.raises(Failure) as found:
        who.of(lead, "ConvertLead", {"id": open_lead, "contact_id": other["id"]})
    assert found.value.reason_name == "NOT_FOUND"
    assert house.world.client.get(f"/v1/leads/{open_lead}")["status"] == "LEAD_STATUS_OPEN"


def test_the_default_pipeline_is_kept_one_by_those_who_do_not_see_it(house: House) -> None:
    kind = contract.load().resources["pipeline"]
    first = house.make(kind, house.stranger)
    house.world.client.patch(f"/v1/pipelines/{first['id']}", {"default": True})
    who = house.who(OWN)
    with pytest.raises(Failure) as found:
        who.of(kind, "CreatePipeline", {"pipeline": {**house.world.body("pipeline"), "default": True}})
    assert found.value.reason_name == "KEY_TAKEN"
    assert "pipeline_" not in f"{found.value.message} {found.value.metadata} {found.value.violations}"
    mine = house.make(kind, house.me)
    assert who.of(kind, "UpdatePipeline", {"pipeline": {"id": mine["id"], "default": True}})["default"]
    assert not house.world.client.get(f"/v1/pipelines/{first['id']}")["default"]


def test_as_many_colleagues_as_a_user_may_have_travel_with_its_calls(house: House) -> None:
    deal = contract.load().resources["deal"]
    mine, other = house.make(deal, house.mate), house.make(deal, house.stranger)
    many = [ids.new("user") for _ in range(MAX_SEEN_USERS - 2)]
    access = pb.Access(user_id=house.me, default_visibility=pb.VISIBILITY_TEAM)
    access.team_user_ids.extend(ids.decode(each)[1].bytes for each in (house.me, house.mate, *many))
    who = Restricted(house, Access(access))
    assert who.standard(deal, "Get", {"id": mine["id"]})["id"] == mine["id"]
    with pytest.raises(Failure) as refused:
        who.standard(deal, "Get", {"id": other["id"]})
    assert refused.value.reason_name == "NOT_FOUND"
