"""REST requests through the gateway, and the same one through Envoy."""

from __future__ import annotations

from collections.abc import Sequence
from urllib.parse import quote

import msgspec

from tests.bench import records
from tests.bench.envoy import Envoy
from tests.bench.load import Load, Wrk
from tests.bench.measure import Case
from tests.bench.records import Records
from tests.bench.stack import Stack

TITLES = {
    "get": "get one",
    "page": "page of 50, sorted",
    "search": "text search",
    "create": "create",
    "move": "move a deal",
    "deals": "page of 50 deals",
}


def cases(stack: Stack, found: Records) -> list[Case]:
    """The requests of the table against what a buyer can run today."""
    page = "/v1/contacts?page_size=50&order_by=display_name"
    searches = [f"/v1/search?types=contact&page_size=50&query={quote(name)}" for name in found.names]
    return [
        get("rest get", stack, found),
        _case("rest page", stack, Wrk(stack.url, _headers(found), [page])),
        _case("rest search", stack, Wrk(stack.url, _headers(found), searches)),
        _case("rest create", stack, Wrk(stack.url, _headers(found), _creates(), "POST")),
        _case("rest move", stack, Wrk(stack.url, _headers(found), _moves(found), "POST", in_order=True)),
        _case("rest deals", stack, Wrk(stack.url, _headers(found), ["/v1/deals?page_size=50"])),
    ]


def get(name: str, stack: Stack, found: Records) -> Case:
    """Reading one contact, drawn at random."""
    return _case(name, stack, Wrk(stack.url, _headers(found), _paths(found)))


def through_envoy(envoy: Envoy, stack: Stack, found: Records) -> Case:
    """The same through Envoy; it checks no key, so the token of the service goes with the request."""

    def drive(seconds: float) -> Load:
        headers = {"Authorization": f"Bearer {stack.token('contacts', found.client.tenant)}"}
        return Wrk(envoy.url, headers, _paths(found))(seconds)

    return Case("envoy get", drive, {"gateway": [envoy.pid], "service": stack.pids("contacts")})


def _case(name: str, stack: Stack, load: Wrk) -> Case:
    charged = {
        "gateway": stack.pids("gateway"),
        "services": stack.pids("contacts", "sales", "activities", "marketing"),
        "postgres": stack.pids("postgres"),
        "nats": stack.pids("nats"),
        "platform": stack.whole,
    }
    # What has effects is over when they are; of a read the last requests alone are left.
    return Case(name, load, charged, settle=stack.whole)


def _headers(found: Records) -> dict[str, str]:
    return {"Authorization": f"Bearer {found.client.key}", "Content-Type": "application/json"}


def _paths(found: Records) -> list[str]:
    return [f"/v1/contacts/{person}" for person in found.people]


def _creates() -> list[str]:
    """New people; the number that wrk puts in makes each another one."""
    bodies = ({**records.person(0), "emails": [{"address": "new.%d@example.com"}]} for _ in range(200))
    return [f"/v1/contacts\t{msgspec.json.encode(body).decode()}" for body in bodies]


def _moves(found: Records) -> Sequence[str]:
    """Every deal to the next stage of its pipeline, then every deal to the one after, and so on in a circle."""
    places = {stage: place for place, stage in enumerate(found.stages)}
    moves = (
        (deal, found.stages[(places[stage] + step) % len(places)])
        for step in range(1, len(places) + 1)
        for deal, stage in found.deals
    )
    return [f'/v1/deals/{deal}:move\t{{"stage_id":"{stage}"}}' for deal, stage in moves]
