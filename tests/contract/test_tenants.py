"""What one tenant has, no other tenant's call returns, counts or changes, whichever ids it names."""

from __future__ import annotations

import json
import re
from typing import Any

import grpc
import pytest

from chassis.contract import Method, load
from tests.contract.rest import send
from tests.contract.world import BODIES, World, request
from tests.running import Running, printed, until

METHODS = [
    method
    for method in load().methods.values()
    if not method.internal and not method.streams and method.permission != "platform.tenants.create"
]
# They answer with no records, only with what holds for the caller.
_NO_RECORDS = ("GetLimits", "GetMe", "VerifyAudit", "ListAuditHeads")
READS = [method for method in METHODS if not method.writes and method.name not in _NO_RECORDS]


@pytest.fixture(scope="module")
def theirs(platform: Running) -> World:
    """The tenant whose records nobody else may see."""
    world = World(platform.tenant("Theirs"), "Secretary")
    for prefix in BODIES:
        if prefix != "tenant":
            world.any(prefix)
    return world


@pytest.fixture(scope="module")
def ours(platform: Running) -> World:
    """Another tenant, with the same kinds of records."""
    world = World(platform.tenant("Ours"), "Openly")
    for prefix in BODIES:
        if prefix != "tenant":
            world.any(prefix)
    return world


def state_of(platform: Running, world: World, home: str) -> Any:
    """How many records and events a tenant has in a service, and how often they were written, by table."""
    tables = [kind.plural for kind in load().resources.values() if kind.home == home]
    sums = [f"SELECT '{each}' AS name, count(*) AS n, sum(revision) AS revisions FROM {each}" for each in tables]
    sums.append("SELECT 'ledger', count(*), sum(revision) FROM ledger")
    return platform.rows(home, world.client.tenant, " UNION ALL ".join(sums))


# What we wrote ourselves, in any call: it may come back to us.
_SENT: set[str] = set()
_MARKED = re.compile(r"[\w.@-]*secretary[\w.@-]*(?: \d+)?", re.IGNORECASE)


def leaked(answer: str) -> set[str]:
    """The texts in an answer that bear their mark and that we did not write."""
    return {each.casefold() for each in _MARKED.findall(answer)} - _SENT


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.path.lstrip("/"))
def test_a_call_with_their_ids_returns_and_changes_nothing_of_theirs(
    platform: Running, theirs: World, ours: World, method: Method
) -> None:
    asked = request(theirs, method)
    _SENT.update(each.casefold() for each in _MARKED.findall(json.dumps(asked)))
    before = state_of(platform, theirs, method.home)
    reply = send(ours.client, method, asked)
    assert reply.status_code < 500, reply.text
    assert not leaked(reply.text), f"{method.path}: {reply.text}"
    try:
        answer = json.dumps(ours.client.grpc(method.path, asked))
    except grpc.RpcError as error:
        answer = str(error)
    assert not leaked(answer), f"{method.path}: {answer}"
    assert state_of(platform, theirs, method.home) == before
    if method.emits and "requests" not in asked and _names_a_record(asked):
        assert reply.status_code == 404, f"{method.path} {printed(asked)}: {reply.status_code} {reply.text}"
    if "requests" in asked and "Upsert" not in method.name and "Create" not in method.name:
        assert reply.status_code == 404, reply.text


@pytest.mark.parametrize("method", READS, ids=lambda method: method.path.lstrip("/"))
def test_the_owners_same_call_returns_rows(theirs: World, method: Method) -> None:
    reply = until(lambda: _rows(theirs, method), f"{method.path} returns rows to their owner")
    assert reply


def test_reports_count_each_tenants_own(theirs: World, ours: World) -> None:
    before = _entered(ours)
    for _ in range(3):
        theirs.make("lead")
    mine = ours.make("lead")
    until(lambda: _entered(ours) >= before + 1, "our lead counts")
    assert ours.client.get(f"/v1/timeline/{mine['id']}")["entries"]
    assert _entered(ours) == before + 1
    foreign = ours.client.http.get("/v1/reports/pipeline", params={"pipeline_id": theirs.id("pipeline")})
    assert foreign.status_code == 404


def _entered(world: World) -> int:
    return int(world.client.get("/v1/reports/funnel")["total"]["entered"])


def _rows(world: World, method: Method) -> bool:
    reply = send(world.client, method, request(world, method))
    assert reply.is_success, reply.text
    body = reply.text
    return world.mark.lower() in body.lower() or method.name in ("GetTenant", "ListTenants") or _counts(reply.json())


def _counts(answer: Any) -> bool:
    total = answer.get("total", {})
    return int(total.get("deal_count", 0)) > 0 or int(total.get("entered", 0)) > 0


def _names_a_record(asked: dict[str, Any]) -> bool:
    return "id" in asked or any(isinstance(each, dict) and "id" in each for each in asked.values())
