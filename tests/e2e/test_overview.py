"""One customer in one call: everything that belongs to it, as it is or was, and what cannot be had by name."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr

from chassis.context import Caller
from chassis.contract import load
from chassis.run import platform_of
from chassis.service import Server
from chassis.settings import Settings
from gateway.__main__ import APPLICATION
from tests.running import Client, Running, as_json, until

SOON, LATER = "2035-01-01T10:00:00Z", "2035-01-02T10:00:00Z"


class Customer:
    """A person at a company, with a deal, a campaign, and things to do."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.contact = client.post("/v1/contacts", {"given_name": "Ana", "family_name": "Silva"})
        self.company = client.post("/v1/companies", {"display_name": "Acme"})
        ends = {"contact_id": self.contact["id"], "company_id": self.company["id"]}
        self.link = client.post("/v1/affiliations", {**ends, "role": "buyer"})
        self.campaign = client.post("/v1/campaigns", {"display_name": "Spring"})
        self.deal = client.post("/v1/deals", {"display_name": "40 seats", **ends})
        related = {"related_ids": [self.contact["id"], self.company["id"]]}
        self.done = client.post("/v1/tasks", {"title": "Ask", **related})
        client.post(f"/v1/tasks/{self.done['id']}:complete", {})
        self.late = client.post("/v1/tasks", {"title": "Call back", "due_time": LATER, **related})
        self.early = client.post("/v1/tasks", {"title": "Write", "due_time": "2020-01-01T00:00:00Z", **related})
        self.meeting = client.post("/v1/meetings", {"title": "Demonstration", "start_time": SOON, **related})
        self.call = client.post(
            "/v1/calls", {"title": "Introduction", "direction": "CALL_DIRECTION_OUTBOUND", **related}
        )
        touch = {"subject_id": self.contact["id"], "channel": "email", "campaign_id": self.campaign["id"]}
        self.touch = client.post("/v1/touches", touch)

    def overview(self, of: str = "contacts", **query: Any) -> dict[str, Any]:
        """The overview of the contact, or of the company."""
        record = self.contact if of == "contacts" else self.company
        return self.client.get(f"/v1/{of}/{record['id']}:overview", **query)


@pytest.fixture(scope="module")
def customer(platform: Running) -> Customer:
    """A customer all of whose timeline is there."""
    made = Customer(platform.tenant("Overview"))
    until(lambda: "last_touch" in made.overview("companies"), "the call is on the company's timeline")
    last = made.touch["id"]
    until(lambda: made.overview()["timeline"][0]["entity_id"] == last, "the touch is on the contact's timeline")
    return made


def ids(records: list[dict[str, Any]]) -> list[str]:
    return [each["id"] for each in records]


def test_a_contact_comes_with_all_that_belongs_to_it(customer: Customer) -> None:
    found = customer.overview()
    assert found["contact"] == customer.contact
    assert found["companies"] == [{"affiliation": customer.link, "company": customer.company}]
    assert ids(found["tasks"]) == ids([customer.early, customer.late])
    assert found["meetings"] == [customer.meeting]
    assert found["deals"] == [customer.deal]
    assert (found["touches"], found["campaigns"]) == ([customer.touch], [customer.campaign])
    assert found["last_touch"]["entity_id"] == customer.touch["id"]
    assert found["next_touch"] == {"id": customer.meeting["id"], "title": "Demonstration", "time": SOON}
    assert found["timeline"] == customer.client.get(f"/v1/timeline/{customer.contact['id']}", page_size=20)["entries"]
    assert found["missing"] == []


def test_a_company_comes_with_its_people_and_what_reached_them(customer: Customer) -> None:
    found = customer.overview("companies")
    assert found["company"] == customer.company
    assert found["people"] == [{"affiliation": customer.link, "contact": customer.contact}]
    assert (found["deals"], found["touches"], found["campaigns"]) == (
        [customer.deal], [customer.touch], [customer.campaign],
    )  # fmt: skip
    assert found["last_touch"]["entity_id"] == customer.call["id"]
    assert found["missing"] == []


def test_as_of_shows_the_customer_as_it_was_known_then(platform: Running) -> None:
    customer = Customer(platform.tenant("Overview as of"))
    client, contact = customer.client, customer.contact["id"]
    known = client.get(f"/v1/touches/{customer.touch['id']}")["create_time"]
    client.patch(f"/v1/contacts/{contact}", {"given_name": "Anna"})
    client.post(f"/v1/deals/{customer.deal['id']}:win", {})
    client.post(f"/v1/tasks/{customer.late['id']}:complete", {})
    client.post("/v1/deals", {"display_name": "More seats", "contact_id": contact})
    client.http.delete(f"/v1/meetings/{customer.meeting['id']}")
    won = until(
        lambda: [each for each in customer.overview()["timeline"] if each["kind"] == "deal.won"], "the win is there"
    )
    then = customer.overview(as_of=known)
    assert then["contact"] == customer.contact
    assert then["deals"] == [customer.deal]
    assert ids(then["tasks"]) == ids([customer.early, customer.late])
    assert then["meetings"] == [customer.meeting]
    assert then["campaigns"] == [customer.campaign]
    assert won[0]["event_id"] not in {each["event_id"] for each in then["timeline"]}
    first = customer.overview(as_of=customer.contact["create_time"])
    assert (first["contact"], first["companies"], first["deals"]) == (customer.contact, [], [])
    early = client.http.get(f"/v1/contacts/{contact}:overview", params={"as_of": "2020-01-01T00:00:00Z"})
    assert early.status_code == 404


def test_what_the_caller_may_not_read_is_named_and_the_rest_is_there(platform: Running, customer: Customer) -> None:
    client, path = customer.client, f"/v1/contacts/{customer.contact['id']}:overview"
    body = {"display_name": "few", "scopes": ["contacts.read", "deals.read", "timeline.read"]}
    few = platform.client(client.post("/v1/api_keys", body)["secret"], client.tenant)
    found = few.get(path)
    assert (found["contact"], found["deals"]) == (customer.contact, [customer.deal])
    assert found["timeline"]
    missing = {each["part"]: each["reason"] for each in found["missing"]}
    assert missing == dict.fromkeys(("companies", "tasks", "meetings", "touches"), "PERMISSION_DENIED")
    none = platform.client(client.post("/v1/api_keys", body | {"scopes": ["deals.read"]})["secret"], client.tenant)
    assert none.http.get(path).status_code == 403


@pytest.fixture
async def half(platform: Running) -> Any:
    """The gateway's own services where nobody answers for contacts and marketing."""
    env, key = platform.env, platform.state.key
    settings = Settings(
        database_url=SecretStr(env["RAPPORT_GATEWAY_DATABASE_URL"]),
        activities_address=env["RAPPORT_ACTIVITIES_ADDRESS"],
        sales_address=env["RAPPORT_SALES_ADDRESS"],
        contacts_address="127.0.0.1:9",
        marketing_address="127.0.0.1:9",
        signing_key_file=key("gateway.pem"),
        trust_file=key("trust.json"),
        token_key_file=key("token.key"),
    )  # type: ignore[call-arg]
    made = platform_of(APPLICATION, settings)
    yield Server(made, APPLICATION.services)
    await made.channels.close()
    await made.db.close()


async def test_a_part_that_is_down_is_named_and_the_rest_is_there(half: Server, customer: Customer) -> None:
    method = load().methods["/crm.gateway.v1.OverviewService/GetContactOverview"]
    caller = Caller(customer.client.tenant, "user", frozenset({"*"}), "gateway")
    request = method.request(id=customer.contact["id"]).SerializeToString()
    answer = await half.handle(method.path, request, {}, 8, caller)
    found = as_json(method.response.FromString(answer))
    missing = {each["part"]: each["reason"] for each in found["missing"]}
    assert missing == dict.fromkeys(("contact", "companies", "touches"), "UNAVAILABLE")
    assert (found["deals"], found["meetings"]) == ([customer.deal], [customer.meeting])
    assert "contact" not in found


def test_it_fails_where_there_is_no_such_record(customer: Customer) -> None:
    nobody = "contact_01h455vb4pex5vsknk084sn02q"
    for path, status in ((f"contacts/{nobody}", 404), (f"companies/{nobody}", 400), ("contacts/ana", 400)):
        assert customer.client.http.get(f"/v1/{path}:overview").status_code == status
