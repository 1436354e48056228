"""Every method of the contract answers over REST and over gRPC alike, and what it says it did is in the ledger."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from chassis import ids
from chassis.contract import Method, load
from tests.contract.rest import send
from tests.contract.world import World, request
from tests.running import Client, Running, printed, until

METHODS = [method for method in load().methods.values() if not method.internal and not method.streams]
_ID = re.compile(r"^([a-z_]+)_[0-7][0-9a-z]{25}$")
_ETAG = re.compile(r'^"\d+"$')
_TIME = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$")
# What differs between two records of the world: a running number in every text, and secrets.
_NUMBER = re.compile(r"\d+")
# What may be there in one answer and not in the next: seals come all the time.
_PASSING = {"etag", "oldest_unsealed_time", "seal_time"}
_SECRET_FIELDS = {
    "admin_secret",
    "secret",
    "prefix",
    "token",
    "trace_id",
    "event_id",
    "next_page_token",
    "cursor",
    "hash",
}


@pytest.fixture(scope="module")
def world(platform: Running) -> World:
    """A tenant of its own; the operator, so that CreateTenant can be called too."""
    return World(platform.operator(), "Contract")


def like(value: Any, name: str = "") -> Any:
    """The answer without what differs from call to call: ids, etags, times, secrets and running numbers."""
    if isinstance(value, dict):
        return {key: like(each, key) for key, each in value.items() if key not in _PASSING}
    if isinstance(value, list):
        return [like(each, name) for each in value]
    if not isinstance(value, str):
        return value
    if name in _SECRET_FIELDS:
        return f"<{name}>"
    if match := _ID.match(value):
        return f"<{match[1]}>"
    if _TIME.match(value):
        return "<time>"
    return _NUMBER.sub("#", value)


def records_in(answer: Any) -> list[str]:
    """The ids of the records that an answer holds at its top, or one below."""
    found = [answer["id"]] if isinstance(answer, dict) and "id" in answer else []
    for value in answer.values():
        for each in value if isinstance(value, list) else [value]:
            if isinstance(each, dict):
                found += [each["id"]] if "id" in each else []
                found += [inner["id"] for inner in each.values() if isinstance(inner, dict) and "id" in inner]
    # An external id has a field of this name too.
    return [each for each in found if _ID.match(each)]


def check_written(platform: Running, client: Client, method: Method, answer: Any) -> None:
    """The events that the method declares, and no others, are the last ones of the records it answers with."""
    declared = {f"{method.service.rpartition('.')[0]}.{emitted}" for emitted in method.emits}
    found = set()
    for record in records_in(answer):
        prefix, uuid = ids.decode(record)
        kind = load().resources.get(prefix)
        if kind is None:
            continue
        tenant = uuid if method.name == "CreateTenant" else client.tenant
        events = platform.ledger(kind.home, tenant, record)
        rows = platform.rows(kind.home, tenant, f"SELECT revision FROM {kind.plural} WHERE id = $1", uuid)
        assert [row["revision"] for row in rows] == [len(events)], f"{record}: {events}"
        found.add(events[-1])
    assert found, f"{method.path} names no record in {printed(answer)}"
    assert found & declared, f"{method.path} declares {declared}, the ledger says {found}"


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.path.lstrip("/"))
def test_it_answers_over_rest_and_grpc_alike_and_the_ledger_knows(
    platform: Running, world: World, method: Method
) -> None:
    rest_request = request(world, method)
    reply = send(world.client, method, rest_request)
    assert reply.is_success, f"{method.path} {printed(rest_request)}: {reply.status_code} {reply.text}"
    over_rest = reply.json()
    grpc_request = request(world, method)
    over_grpc = world.client.grpc(method.path, grpc_request)
    assert like(over_rest) == like(over_grpc)
    assert '"status": {' not in json.dumps(over_rest), f"an item failed: {printed(over_rest)}"
    if method.emits:
        for answer in (over_rest, over_grpc):
            check_written(platform, world.client, method, answer)
    else:
        assert over_rest, f"{method.path} answers nothing"
    assert re.fullmatch(r"[0-9a-f]{32}", reply.headers["x-trace-id"])


def test_the_only_stream_is_the_feed_of_events_and_it_has_its_own_test() -> None:
    assert [method.name for method in load().methods.values() if method.streams] == ["Subscribe"]


def test_a_change_reaches_timeline_and_funnel(world: World) -> None:
    lead = world.make("lead")
    until(
        lambda: world.client.get(f"/v1/timeline/{lead['id']}")["entries"],
        "the lead's creation shows on its timeline",
    )
    until(
        lambda: int(world.client.get("/v1/reports/funnel")["total"]["entered"]) > 0,
        "the lead counts in the funnel",
    )
