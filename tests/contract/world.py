"""What a valid call of each method needs: records to work on, and a request for every method of the contract."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from chassis.contract import Method, ResourceType, load
from tests.running import Client, until

Request = dict[str, Any]
_COUNT = itertools.count(1)


@dataclass
class World:
    """A tenant with records of every kind. ``mark`` stands in every text, so that a leak can be seen."""

    client: Client
    mark: str
    records: dict[str, Any] = field(default_factory=dict)

    def any(self, prefix: str) -> Any:
        """A record of this kind that no test changes."""
        if prefix not in self.records:
            self.records[prefix] = self.make(prefix)
        return self.records[prefix]

    def id(self, prefix: str) -> str:
        """The id of a record of this kind that no test changes."""
        found: str = self.any(prefix)["id"]
        return found

    def make(self, prefix: str) -> Any:
        """A fresh record of this kind."""
        kind = load().resources[prefix]
        return self.client.post(f"/v1/{kind.plural}", self.body(prefix))

    def body(self, prefix: str) -> Request:
        """What a new record of this kind is made of."""
        return BODIES[prefix](self)

    def text(self) -> str:
        """A text that is new each time and bears the mark."""
        return f"{self.mark} {next(_COUNT)}"


def _external(world: World) -> list[Request]:
    return [{"system": "contract", "id": world.text()}]


BODIES: dict[str, Callable[[World], Request]] = {
    "contact": lambda w: {
        "given_name": w.text(),
        "family_name": "Silva",
        "emails": [{"address": f"person{next(_COUNT)}@{w.mark.lower()}.example", "label": "work", "primary": True}],
        "phones": [{"number": "+5511987654321"}],
        "external_ids": _external(w),
        "tags": ["vip"],
    },
    "company": lambda w: {"display_name": w.text(), "domain": f"c{next(_COUNT)}.{w.mark.lower()}.example"},
    "affiliation": lambda w: {"contact_id": w.id("contact"), "company_id": w.id("company"), "role": w.text()},
    "task": lambda w: {"title": w.text(), "related_ids": [w.id("contact")], "due_time": "2030-01-01T00:00:00Z"},
    "note": lambda w: {"body": w.text(), "related_ids": [w.id("deal")]},
    "call": lambda w: {"title": w.text(), "direction": "CALL_DIRECTION_INBOUND", "duration": "90s"},
    "meeting": lambda w: {
        "title": w.text(),
        "start_time": "2030-01-01T10:00:00Z",
        "end_time": "2030-01-01T11:00:00Z",
        "related_ids": [w.id("contact"), w.id("company")],
    },
    "lead": lambda w: {
        "given_name": w.text(),
        "email": f"lead{next(_COUNT)}@{w.mark.lower()}.example",
        "company_name": w.text(),
        "source": "organic_search",
        "external_ids": _external(w),
    },
    "pipeline": lambda w: {
        "display_name": w.text(),
        "stages": [
            {"display_name": "First", "kind": "STAGE_KIND_OPEN", "default_probability": 20},
            {"display_name": "Second", "kind": "STAGE_KIND_OPEN", "default_probability": 60},
            {"display_name": "Won", "kind": "STAGE_KIND_WON"},
            {"display_name": "Lost", "kind": "STAGE_KIND_LOST"},
        ],
    },
    "deal": lambda w: {
        "display_name": w.text(),
        "amount": {"currency_code": "EUR", "units": "1200", "nanos": 500000000},
        "pipeline_id": w.id("pipeline"),
        "contact_id": w.id("contact"),
        "external_ids": _external(w),
    },
    "product": lambda w: {
        "display_name": w.text(),
        "sku": w.text(),
        "unit_price": {"currency_code": "EUR", "units": "9"},
    },
    "campaign": lambda w: {"display_name": w.text(), "status": "CAMPAIGN_STATUS_ACTIVE"},
    "touch": lambda w: {"subject_id": w.id("lead"), "channel": "email", "source": w.text()},
    "user": lambda w: {
        "display_name": w.text(),
        "email": f"user{next(_COUNT)}@{w.mark.lower()}.example",
        "external_ids": _external(w),
    },
    "api_key": lambda w: {"display_name": w.text(), "scopes": ["contacts.read"]},
    "role": lambda w: {"display_name": w.text(), "permissions": ["deals.read"], "default_visibility": "VISIBILITY_OWN"},
    "team": lambda w: {"display_name": w.text()},
    "service_account": lambda w: {"display_name": w.text(), "role_ids": [w.id("role")]},
    "identity_provider": lambda w: {
        "display_name": w.text(),
        "issuer": f"https://idp.{w.mark.lower()}.example",
        "audiences": [w.text()],
    },
    # No call leaves for it: the address is refused.
    "webhook_endpoint": lambda w: {
        "url": f"https://10.0.0.1/{w.mark.lower()}/{next(_COUNT)}",
        "description": w.text(),
        "types": ["crm.gateway.v1.Tenant"],
    },
    "subscription": lambda w: {"display_name": w.text(), "types": ["crm.sales.v1.Deal"]},
    "proposal": lambda w: _proposed(w),
    "tenant": lambda w: {"display_name": w.text()},
}

# The field by which a test changes a record of a kind.
TEXT_FIELD = {
    "task": "title",
    "note": "title",
    "call": "title",
    "meeting": "title",
    "webhook_endpoint": "description",
}


def field_of(kind: ResourceType) -> str:
    """The name by which requests carry a record of this kind."""
    return re.sub(r"(?<!^)(?=[A-Z])", "_", str(kind.descriptor.name)).lower()


def request(world: World, method: Method) -> Request:
    """A fresh request that the method accepts. Raises KeyError for a method that nobody wrote one for."""
    if method.name in SPECIAL:
        return SPECIAL[method.name](world)
    kind = next(each for each in load().resources.values() if f"{each.full_name}Service" == method.service)
    name, prefix = str(kind.descriptor.name), kind.prefix
    change = {TEXT_FIELD.get(prefix, "display_name"): world.text()}
    carried = field_of(kind)
    standard: dict[str, Callable[[], Request]] = {
        f"Get{name}": lambda: {"id": world.id(prefix)},
        f"Create{name}": lambda: {carried: world.body(prefix)},
        f"Update{name}": lambda: {carried: {"id": world.make(prefix)["id"], **change}},
        f"Delete{name}": lambda: {"id": world.make(prefix)["id"]},
        f"Undelete{name}": lambda: {"id": _deleted(world, kind)},
        f"List{name}Revisions": lambda: {"id": world.id(prefix)},
        f"Revert{name}": lambda: {"id": _changed(world, kind), "revision": 1},
    }
    if method.name in standard:
        return standard[method.name]()
    batches: dict[str, Callable[[], Request]] = {
        "BatchGet": lambda: {"ids": [world.id(prefix)]},
        "BatchCreate": lambda: {"requests": [{carried: world.body(prefix)} for _ in range(2)], "atomic": True},
        "BatchUpdate": lambda: {"requests": [{carried: {"id": world.make(prefix)["id"], **change}}], "atomic": True},
        "BatchDelete": lambda: {"requests": [{"id": world.make(prefix)["id"]}], "atomic": True},
        "BatchUpsert": lambda: {"requests": [{carried: world.body(prefix)}], "atomic": True},
        "List": lambda: {"page_size": 5, "filter": _mine(world, kind)},
    }
    for verb, made in batches.items():
        if method.name.startswith(verb):
            return made()
    raise KeyError(f"no test calls {method.path}: write a request for it in tests/contract/world.py")


def _mine(world: World, kind: ResourceType) -> str:
    return f'id = "{world.id(kind.prefix)}"'


def _deleted(world: World, kind: ResourceType) -> str:
    record: str = world.make(kind.prefix)["id"]
    answer = world.client.http.delete(f"/v1/{kind.plural}/{record}")
    assert answer.is_success, answer.text
    return record


def _changed(world: World, kind: ResourceType) -> str:
    record: str = world.make(kind.prefix)["id"]
    change = {TEXT_FIELD.get(kind.prefix, "display_name"): world.text()}
    answer = world.client.http.patch(f"/v1/{kind.plural}/{record}", json=change)
    assert answer.is_success, answer.text
    return record


def _after(world: World, prefix: str, verb: str) -> str:
    kind = load().resources[prefix]
    record: str = world.make(prefix)["id"]
    world.client.post(f"/v1/{kind.plural}/{record}:{verb}", {})
    return record


def _on_its_timeline(world: World, prefix: str) -> str:
    record: str = world.make(prefix)["id"]
    until(lambda: world.client.get(f"/v1/timeline/{record}")["entries"], "its creation shows on its timeline")
    return record


def _renamed_tenant(world: World) -> Request:
    tenant = world.client.get("/v1/tenants")["tenants"][0]["id"]
    answer = world.client.http.patch(f"/v1/tenants/{tenant}", json={"display_name": world.text()})
    assert answer.is_success, answer.text
    return {"id": tenant, "revision": 1}


def _tested_endpoint(world: World) -> Request:
    """An endpoint that was sent a test, which it could not take, and rests now."""
    endpoint: str = world.make("webhook_endpoint")["id"]
    path = f"/v1/webhook_endpoints/{endpoint}"
    world.client.post(f"{path}:test", {})

    def attempted() -> bool:
        listed = world.client.get(f"{path}:listDeliveries")["deliveries"]
        return bool(listed) and listed[0]["attempt_count"] > 0

    until(attempted, "a test of the endpoint is attempted")
    world.client.post(f"{path}:disable", {})
    return {"id": endpoint}


def _proposed(world: World) -> Request:
    change = {"company": {"id": world.make("company")["id"], "display_name": world.text()}}
    return {"method": "UpdateCompany", "request": change, "reason": world.text()}


def _agent(world: World) -> str:
    agent = {"may_propose": True, "accept": [{"method": "CreateNote"}]}
    body = {"display_name": world.text(), "scopes": ["notes.*"], "agent": agent}
    key = world.client.post("/v1/api_keys", body)
    asked = {"method": "CreateNote", "request": {"note": {"body": world.text()}}}
    answer = world.client.http.post("/v1/proposals", json=asked, headers={"authorization": f"Bearer {key['secret']}"})
    assert answer.json()["state"] == "PROPOSAL_STATE_APPLIED", answer.text
    made: str = key["id"]
    return made


def _read_on_record(world: World) -> Request:
    """Asks for the entry of one read, once it is written: everything else that is read makes more of them."""
    if "a read" not in world.records:
        wanted = {"filter": f'display_name = "{world.any("company")["display_name"]}"'}
        world.records["a read"] = world.client.http.get("/v1/companies", params=wanted).headers["x-request-id"]
    asked = {"filter": f'request_id = "{world.records["a read"]}"'}
    until(lambda: world.client.get("/v1/audit/entries", **asked)["entries"], "a read is on record")
    return asked


def _place(world: World) -> str:
    """A replay id: the place of the first response of a stream."""
    with world.client.http.stream("GET", "/v1/events:subscribe") as answer:
        return next(line[4:] for line in answer.iter_lines() if line.startswith("id: "))


SPECIAL: dict[str, Callable[[World], Request]] = {
    "CreateTenant": lambda w: {"tenant": {"display_name": w.text()}},
    "GetTenant": lambda w: {"id": w.client.get("/v1/tenants")["tenants"][0]["id"]},
    "ListTenants": lambda w: {},
    "UpdateTenant": lambda w: {
        "tenant": {"id": w.client.get("/v1/tenants")["tenants"][0]["id"], "display_name": w.text()}
    },
    "ListTenantRevisions": lambda w: {"id": w.client.get("/v1/tenants")["tenants"][0]["id"]},
    "RevertTenant": _renamed_tenant,
    "CreateToken": lambda w: {"audience": "sales"},
    "GetLimits": lambda w: {},
    "VerifyAudit": lambda w: {},
    "ListAuditHeads": lambda w: {},
    "GetMe": lambda w: {},
    "SuspendUser": lambda w: {"id": w.make("user")["id"]},
    "ReactivateUser": lambda w: {"id": _after(w, "user", "suspend")},
    "SuspendServiceAccount": lambda w: {"id": w.make("service_account")["id"]},
    "ReactivateServiceAccount": lambda w: {"id": _after(w, "service_account", "suspend")},
    "ConvertLead": lambda w: {
        "id": w.make("lead")["id"],
        "deal": {"display_name": w.text(), "amount": {"currency_code": "EUR", "units": "10"}},
    },
    "DisqualifyLead": lambda w: {"id": w.make("lead")["id"], "reason": "no budget"},
    "MoveDeal": lambda w: {"id": w.make("deal")["id"], "stage_id": w.any("pipeline")["stages"][1]["id"]},
    "WinDeal": lambda w: {"id": w.make("deal")["id"]},
    "LoseDeal": lambda w: {"id": w.make("deal")["id"], "loss_reason": "price"},
    "ReopenDeal": lambda w: {"id": _after(w, "deal", "win")},
    "GetPipelineReport": lambda w: {"pipeline_id": w.id("pipeline"), "group_by": ["PIPELINE_GROUPING_STAGE"]},
    "CompleteTask": lambda w: {"id": w.make("task")["id"]},
    "ReopenTask": lambda w: {"id": _after(w, "task", "complete")},
    "CompleteMeeting": lambda w: {"id": w.make("meeting")["id"]},
    "CancelMeeting": lambda w: {"id": w.make("meeting")["id"]},
    "ListTimeline": lambda w: {"subject_id": w.id("contact"), "page_size": 3, "ascending": True},
    "Batch": lambda w: {"calls": [{"method": "GET", "path": f"/v1/contacts/{w.id('contact')}"}]},
    "Search": lambda w: {"query": w.any("company")["display_name"], "types": ["company"], "page_size": 1},
    "GetContactOverview": lambda w: {"id": _on_its_timeline(w, "contact")},
    "GetCompanyOverview": lambda w: {"id": _on_its_timeline(w, "company")},
    "CommitSubscription": lambda w: {"id": w.make("subscription")["id"], "replay_id": _place(w)},
    "SeekSubscription": lambda w: {"id": w.make("subscription")["id"], "start_time": "2020-01-01T00:00:00Z"},
    "EnableWebhookEndpoint": lambda w: {"id": _after(w, "webhook_endpoint", "disable")},
    "DisableWebhookEndpoint": lambda w: {"id": w.make("webhook_endpoint")["id"], "reason": "moved"},
    "RotateWebhookEndpointSecret": lambda w: {"id": w.make("webhook_endpoint")["id"], "overlap": "3600s"},
    "TestWebhookEndpoint": lambda w: {"id": w.make("webhook_endpoint")["id"]},
    "ReplayWebhookEndpoint": lambda w: {
        "id": w.make("webhook_endpoint")["id"],
        "start_time": "2020-01-01T00:00:00Z",
        "undelivered_only": True,
    },
    "ListWebhookDeliveries": _tested_endpoint,
    "AcceptProposal": lambda w: {"id": w.make("proposal")["id"], "comment": w.text()},
    "RevertAgent": lambda w: {"id": _agent(w)},
    "ListAuditEntries": _read_on_record,
    "RejectProposal": lambda w: {"id": w.make("proposal")["id"], "comment": w.text()},
    "GetFunnelReport": lambda w: {"split_by": "FUNNEL_SPLIT_SOURCE"},
}
