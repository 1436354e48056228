"""What another tenant has is, in any place of any request, what nobody has."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx2
import pytest

from chassis import ids
from chassis.contract import Method, load
from tests.contract.rest import send
from tests.contract.world import BODIES, World, request
from tests.reliability.conftest import Report
from tests.reliability.test_texts import Path, put
from tests.running import Running

METHODS = [
    each
    for each in load().methods.values()
    if not each.internal and not each.streams and not each.permission.startswith("platform.")
]
THEIRS, NOBODYS = "Secretary", "Sycophant"
_ID = re.compile(r"\b[a-z_]+_[0-7][0-9a-z]{25}\b")
_MARKED = re.compile(rf"[\w.@-]*{THEIRS}[\w.@-]*(?: \d+)?", re.IGNORECASE)
_NUMBER = re.compile(r"\d+")


def world_of(platform: Running, mark: str) -> World:
    """A tenant with a record of every kind."""
    world = World(platform.tenant(mark), mark)
    for prefix in BODIES:
        if prefix != "tenant":
            world.any(prefix)
    return world


def leaves(value: Any, place: Path = ()) -> Iterator[tuple[Path, str]]:
    """Every text in a request, with its place."""
    if isinstance(value, str):
        yield place, value
    elif isinstance(value, (dict, list)):
        for step, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*place, step))


def nobodys(text: str) -> str:
    """The like of a text of theirs that no tenant has."""
    unknown = _ID.sub(lambda match: ids.encode(match[0].rpartition("_")[0], uuid4()), text)
    return unknown.replace(THEIRS, NOBODYS).replace(THEIRS.lower(), NOBODYS.lower())


def outcome(reply: httpx2.Response) -> tuple[int, str]:
    """An answer without what differs between two unknown values, or two new records."""
    if reply.is_success:
        # What was made or found has its own etag, times and ids; that it was done is what must not differ.
        return reply.status_code, json.dumps(sorted(reply.json()))
    error = reply.json()["error"]
    said = re.sub(NOBODYS, THEIRS, error["message"], flags=re.IGNORECASE)
    return reply.status_code, _NUMBER.sub("#", _ID.sub("<id>", said)) + error["details"][0].get("reason", "")


class Swap:
    """Replays our requests with something of theirs, and with something that nobody has."""

    def __init__(self, theirs: World, ours: World) -> None:
        self.theirs, self.ours = theirs, ours
        self.secrets = {each["id"] for each in theirs.records.values()}
        self.substitutions = 0
        self.wrong: list[str] = []

    def method(self, method: Method) -> None:
        """Every text of a request of theirs, one at a time in a request of ours."""
        recorded = request(self.theirs, method)
        self.secrets.update(_ID.findall(json.dumps(recorded)))
        for place, text in leaves(recorded):
            if nobodys(text) != text:
                self.compare(method, place, text)

    def compare(self, method: Method, place: Path, text: str) -> None:
        """Their text and nobody's, in the same place."""
        self.substitutions += 1
        with_theirs = self.send(method, put(request(self.ours, method), place, text))
        with_nobodys = self.send(method, put(request(self.ours, method), place, nobodys(text)))
        if outcome(with_theirs) != outcome(with_nobodys):
            self.blame(method, place, f"{outcome(with_theirs)} is not {outcome(with_nobodys)}")

    def send(self, method: Method, asked: Any) -> httpx2.Response:
        """Our call; nothing of theirs may come back that we did not say ourselves."""
        reply = send(self.ours.client, method, asked)
        said = json.dumps(asked).lower()
        found = {each.lower() for each in _MARKED.findall(reply.text)} | self.secrets.intersection(
            _ID.findall(reply.text)
        )
        if foreign := {each for each in found if each not in said}:
            self.blame(method, (), f"answers {sorted(foreign)[:3]}")
        if reply.status_code >= 500:
            self.blame(method, (), reply.text)
        return reply

    def blame(self, method: Method, place: Path, what: str) -> None:
        """Notes a fault."""
        self.wrong.append(f"{method.name} {'.'.join(map(str, place))}: {what[:300]}")


@pytest.fixture(scope="module")
def swap(platform: Running) -> Swap:
    """Two tenants with the same kinds of records."""
    return Swap(world_of(platform, THEIRS), world_of(platform, "Openly"))


@pytest.mark.line(30)
def test_theirs_is_like_nobodys_in_every_place_of_every_request(swap: Swap, report: Report) -> None:
    for method in METHODS:
        swap.method(method)
    report(
        not swap.wrong,
        methods=len(METHODS), substitutions=swap.substitutions, faults=len(swap.wrong), first=swap.wrong[:3],
    )  # fmt: skip


@pytest.mark.line(30)
def test_a_request_id_of_theirs_is_a_fresh_one_for_us(swap: Swap, report: Report) -> None:
    methods = [each for each in METHODS if "request_id" in each.request.DESCRIPTOR.fields_by_name]
    for method in methods:
        key = {"request_id": str(uuid4())}
        asked = request(swap.theirs, method)
        first = send(swap.theirs.client, method, asked | key)
        assert first.is_success, f"{method.path}: {first.text}"
        mine = swap.send(method, request(swap.ours, method) | key)
        if not mine.is_success or mine.text == first.text:
            swap.blame(method, ("request_id",), mine.text)
        # The very same message: what they got must not come back to us.
        replayed = swap.send(method, asked | key)
        if replayed.text == first.text:
            swap.blame(method, ("request_id",), replayed.text)
    report(not swap.wrong, methods=len(methods), faults=len(swap.wrong), first=swap.wrong[:3])


@pytest.mark.line(30)
def test_a_filter_for_theirs_finds_nothing(platform: Running, report: Report) -> None:
    # Tenants of their own: after the other tests our records name theirs, as they may name what nobody has.
    swap = Swap(world_of(platform, THEIRS), world_of(platform, "Openly"))
    asked = 0
    for kind, method in itertools.product(load().resources.values(), METHODS):
        filters = "filter" in method.request.DESCRIPTOR.fields_by_name and kind.prefix != "tenant"
        if method.service != f"{kind.full_name}Service" or not filters:
            continue
        for name, value in swap.theirs.any(kind.prefix).items():
            if isinstance(value, str) and value and (_ID.fullmatch(value) or THEIRS.lower() in value.lower()):
                asked += 1
                reply = swap.send(method, {"filter": f'{name} = "{value}"', "page_size": 1_000})
                if reply.is_success and next(iter(reply.json().values())):
                    swap.blame(method, ("filter",), reply.text)
    report(not swap.wrong, filters=asked, faults=len(swap.wrong), first=swap.wrong[:3])
