"""A call that cannot be done fails over REST and over gRPC alike: same code, same reason, same words, same details."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from google.rpc import status_pb2

from chassis import ids
from chassis.contract import Method, load
from chassis.errors import DETAILS_KEY
from tests.contract.rest import send
from tests.contract.world import World, request
from tests.running import Client, Running, as_json

METHODS = [method for method in load().methods.values() if not method.internal and not method.streams]
_ID = re.compile(r"\b([a-z_]+)_[0-7][0-9a-z]{25}\b")


@pytest.fixture(scope="module")
def world(platform: Running) -> World:
    """A tenant with a record of each kind."""
    return World(platform.operator(), "Failure")


def over_rest(client: Client, method: Method, asked: dict[str, Any]) -> dict[str, Any]:
    """The error that the call fails with; empty where it does not."""
    reply = send(client, method, asked)
    error: dict[str, Any] = reply.json().get("error", {})
    assert not error or error.pop("code") == reply.status_code
    return error


def over_grpc(client: Client, method: Method, asked: dict[str, Any]) -> dict[str, Any]:
    """The same over gRPC, as REST writes it."""
    try:
        client.grpc(method.path, asked)
    except grpc.RpcError as failed:
        error: Any = failed
    else:
        return {}
    status = status_pb2.Status.FromString(dict(error.trailing_metadata())[DETAILS_KEY])
    assert (error.code().value[0], error.details()) == (status.code, status.message)
    details = as_json(status)["details"]
    for each in details:
        if "field_violations" in each:
            each["field_violations"] = [{k: v for k, v in it.items() if v} for it in each["field_violations"]]
    return {"status": error.code().name, "message": status.message, "details": details}


def differing(client: Client, asked: Iterator[tuple[Method, dict[str, Any]]]) -> list[str]:
    """The calls that fail differently over the two, or not at all over one."""
    found = []
    for method, message in asked:
        rest, other = over_rest(client, method, message), over_grpc(client, method, message)
        if rest != other:
            found.append(f"{method.path} {json.dumps(message)[:200]}:\n  {rest}\n  {other}")
    return found


def test_without_permission(platform: Running, world: World) -> None:
    scopes = {"display_name": "nothing much", "scopes": ["events.read"]}
    few = platform.client(world.client.post("/v1/api_keys", scopes)["secret"], world.client.tenant)
    mine = [method for method in METHODS if not method.permission.startswith("self.")]
    assert not differing(few, ((method, request(world, method)) for method in mine))
    nobody = Client(world.client.url, world.client.address, "", world.client.tenant)
    assert not differing(nobody, ((method, request(world, method)) for method in mine[:20]))


def elsewhere(asked: dict[str, Any]) -> dict[str, Any]:
    """The request with ids of records that nobody has."""
    nobody: dict[str, Any] = json.loads(_ID.sub(lambda found: ids.encode(found[1], ids.new_uuid()), json.dumps(asked)))
    return nobody


def test_for_records_that_are_not_there(world: World) -> None:
    assert not differing(
        world.client, ((method, elsewhere(request(world, method))) for method in METHODS if _named(method))
    )


def _named(method: Method) -> bool:
    return "{" in (method.http.template if method.http else "") and method.name != "ListTimeline"


def test_with_fields_that_break_their_rules(world: World) -> None:
    def asked() -> Iterator[tuple[Method, dict[str, Any]]]:
        for method in METHODS:
            fields = method.descriptor.input_type.fields_by_name
            message = request(world, method)
            if "page_size" in fields:
                yield method, {**message, "page_size": -1}
            if "request_id" in fields:
                yield method, {**message, "request_id": "once"}
            if "etag" in fields:
                yield method, {**message, "etag": "x" * 41}

    assert not differing(world.client, asked())
