"""What one tenant has, no other tenant's call returns, counts or changes, whichever ids it names."""

from __future__ import annotations

import json
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
READS = [method for method in METHODS if not method.writes and method.name != "CreateToken"]


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


def rows_of(platform: Running, world: World) -> dict[str, Any]:
    """How often each record of a tenant was written, by table."""
    return {
        kind.plural: platform.rows(
            kind.home,
            world.client.tenant,
            f"SELECT id::text, revision FROM {kind.plural} ORDER BY id",
        )
        for kind in load().resources.values()
    }


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.path.lstrip("/"))
def test_a_call_with_their_ids_returns_and_changes_nothing_of_theirs(
    platform: Running, theirs: World, ours: World, method: Method
) -> None:
    asked = request(theirs, method)
    before = rows_of(platform, theirs)
    reply = send(ours.client, method, asked)
    assert theirs.mark.lower() not in _without(reply.text, asked).lower(), f"{method.path}: {reply.text}"
    assert reply.status_code < 500, reply.text
    try:
        answer = json.dumps(ours.client.grpc(method.path, asked))
    except grpc.RpcError as error:
        answer = str(error)
    assert theirs.mark.lower() not in _without(answer, asked).lower(), f"{method.path}: {answer}"
    assert rows_of(platform, theirs) == before
    if method.writes and "requests" not in asked and "id" in json.dumps(asked) and _names_a_record(asked):
        assert reply.status_code in (400, 404), f"{method.path} {printed(asked)}: {reply.status_code} {reply.text}"


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
    pipeline = ours.client.get("/v1/reports/pipeline", pipeline_id=theirs.id("pipeline"))
    assert int(pipeline["total"]["deal_count"]) == 0


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


def _without(answer: str, asked: dict[str, Any]) -> str:
    """The answer without the texts that the caller itself sent."""
    for text in sorted(_texts(asked), key=len, reverse=True):
        answer = answer.replace(text, "").replace(json.dumps(text)[1:-1], "")
    return answer


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for each in value.values() for text in _texts(each)]
    if isinstance(value, list):
        return [text for each in value for text in _texts(each)]
    return [value, value.casefold()] if isinstance(value, str) else []
