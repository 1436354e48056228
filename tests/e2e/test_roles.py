"""A sales representative sees their own deals, without a field, by every way in; a manager those of the team."""

from __future__ import annotations

import base64
from typing import Any

import grpc
import pytest
from crm.sales.v1 import deal_pb2

from chassis.access import ACCESS_KEY
from tests.running import Client, Running, until

_LIST_DEALS = "/crm.sales.v1.DealService/ListDeals"


@pytest.fixture(scope="module")
def owner(platform: Running) -> Client:
    return platform.tenant("Selling")


def user(platform: Running, owner: Client, role: str, **fields: Any) -> tuple[Client, str]:
    made: str = owner.post("/v1/users", {"display_name": "Somebody", "role_ids": [role], **fields})["id"]
    key = owner.post("/v1/api_keys", {"display_name": "Key", "scopes": ["*"], "user_id": made})
    return platform.client(key["secret"], owner.tenant), made


def deals(client: Client) -> set[str]:
    return {deal["id"] for deal in client.get("/v1/deals")["deals"]}


def directly(platform: Running, client: Client, *, access: bool = True) -> Any:
    """The deals that the sales service gives to whoever brings the client's token, past the gateway."""
    made = client.post("/v1/tokens", {"audience": "sales"})
    address = platform.env["RAPPORT_SALES_ADDRESS"].split(",")[0]
    metadata: list[tuple[str, Any]] = [("authorization", f"Bearer {made['token']}")]
    if access:
        metadata.append((ACCESS_KEY, base64.b64decode(made["access"])))
    with grpc.insecure_channel(address) as channel:
        call: Any = channel.unary_unary(_LIST_DEALS)
        answer = call(deal_pb2.ListDealsRequest().SerializeToString(), metadata=metadata, timeout=20)
    return deal_pb2.ListDealsResponse.FromString(answer).deals


def test_a_representative_sees_their_own_deals_without_the_hidden_field(platform: Running, owner: Client) -> None:
    roles = {each["display_name"]: each for each in owner.get("/v1/roles")["roles"]}
    selling = roles["Sales representative"]["id"]
    hidden = {"resource": "deal", "field": "amount", "access": "FIELD_ACCESS_HIDDEN"}
    owner.patch(f"/v1/roles/{selling}", {"field_rules": [hidden]})
    ann, ann_id = user(platform, owner, selling)
    pipeline = owner.get("/v1/pipelines")["pipelines"]
    assert ann.get("/v1/pipelines")["pipelines"] == pipeline
    amount = {"currency_code": "EUR", "units": "1200"}
    theirs = owner.post("/v1/deals", {"display_name": "Theirs", "amount": amount})["id"]
    given = owner.post("/v1/deals", {"display_name": "Given", "amount": amount, "owner_id": ann_id})["id"]
    own = ann.post("/v1/deals", {"display_name": "Own"})
    assert own["owner_id"] == ann_id
    assert deals(ann) == {given, own["id"]}
    assert ann.http.get(f"/v1/deals/{theirs}").status_code == 404
    assert ann.get(f"/v1/deals/{given}").get("amount") is None
    assert owner.get(f"/v1/deals/{given}")["amount"]["units"] == "1200"
    refused = ann.http.get("/v1/deals", params={"filter": "amount > 100"})
    assert (refused.status_code, "FILTER_UNKNOWN_FIELD" in refused.text) == (400, True)

    read = directly(platform, ann)
    assert {deal.id for deal in read} == {given, own["id"]}
    assert not any(deal.HasField("amount") for deal in read)
    with pytest.raises(grpc.RpcError) as failed:
        directly(platform, ann, access=False)
    assert failed.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_a_manager_sees_the_deals_of_the_teams_below(platform: Running, owner: Client) -> None:
    roles = {each["display_name"]: each["id"] for each in owner.get("/v1/roles")["roles"]}
    top = owner.post("/v1/teams", {"display_name": "Sales"})["id"]
    middle = owner.post("/v1/teams", {"display_name": "South", "parent_id": top})["id"]
    low = owner.post("/v1/teams", {"display_name": "Rome", "parent_id": middle})["id"]
    chief, chief_id = user(platform, owner, roles["Sales manager"], team_ids=[middle])
    _, member_id = user(platform, owner, roles["Sales representative"], team_ids=[low])
    _, other_id = user(platform, owner, roles["Sales representative"], team_ids=[top])
    made = {
        who: owner.post("/v1/deals", {"display_name": "Deal", "owner_id": who})["id"]
        for who in (chief_id, member_id, other_id)
    }
    assert deals(chief) == {made[chief_id], made[member_id]}
    owner.patch(f"/v1/users/{member_id}", {"team_ids": [top]})
    until(lambda: deals(chief) == {made[chief_id]}, "who has left the team is out of sight")
    owner.patch(f"/v1/teams/{middle}", {"parent_id": ""}, update_mask="parentId")
    owner.patch(f"/v1/users/{chief_id}", {"team_ids": [top]})
    until(lambda: deals(chief) == set(made.values()), "the new team is in sight")
