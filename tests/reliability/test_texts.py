"""Every text in every field is refused or kept as it is; none reaches the database as anything but a value."""

from __future__ import annotations

import itertools
import json
import random
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import httpx2
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from chassis.contract import Method, inner, is_output_only, load
from tests.contract.rest import send
from tests.contract.world import World, field_of, request
from tests.reliability.conftest import Report
from tests.reliability.texts import NUL, SURROGATE, TEXTS
from tests.running import Running

Path = tuple[str | int, ...]
METHODS = [each for each in load().methods.values() if each.http and not each.streams and not each.internal]
# What stands for a JSON text: these, and numbers and times, which also come as texts.
_TEXTUAL = {"google.protobuf.Timestamp", "google.protobuf.Duration", "google.protobuf.FieldMask"}
_BROKEN = re.compile(
    r"(?:ERROR|FATAL|PANIC): +"
    r"(?!duplicate key|deadlock|could not obtain lock|canceling statement|.*another writer was first)(.*)"
)
# Set by the server, or kept in the one form that their kind has, so that equal ones are equal.
_FORMED = {"etag", "address", "domain", "email", "company_domain", "number", "phone", "value", "currency_code"}


def fields(kind: Descriptor, seen: tuple[Descriptor, ...] = ()) -> Iterator[Path]:
    """The path of every field of a request that a text can be written into; of a list, of its first item."""
    for each in kind.fields:
        if is_output_only(each) and seen:
            continue
        place: Path = (each.name, 0) if each.is_repeated else (each.name,)
        if each.message_type is None or inner(each).full_name in _TEXTUAL:
            if each.type not in (FieldDescriptor.TYPE_BOOL, FieldDescriptor.TYPE_BYTES):
                yield place
        elif inner(each).GetOptions().map_entry or inner(each).full_name == "google.protobuf.Struct":
            yield each.name, "key"
        elif inner(each) not in seen and inner(each).full_name != "google.protobuf.Value":
            for rest in fields(inner(each), (*seen, kind)):
                yield (*place, *rest)


PLACES = [(method, place) for method in METHODS for place in fields(method.descriptor.input_type)]


def put(asked: Any, place: Path, text: str) -> Any:
    """The request with this text at this place."""
    asked = json.loads(json.dumps(asked))
    at = asked
    for step, following in itertools.pairwise(place):
        empty: Any = [] if isinstance(following, int) else {}
        if isinstance(step, int):
            if not at:
                at.append(empty)
        elif not isinstance(at.get(step), type(empty)):
            at[step] = empty
        at = at[step]
    last = place[-1]
    if isinstance(last, int):
        at[:] = [text]
    else:
        at[last] = text
    return asked


@dataclass
class Tried:
    """What the platform answered, and what it should not have."""

    statuses: Counter[int] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    unsendable: int = 0

    def send(self, world: World, method: Method, asked: Any) -> httpx2.Response | None:
        """The answer; None where no HTTP client can say this."""
        try:
            reply = send(world.client, method, asked)
        except (UnicodeEncodeError, httpx2.InvalidURL):
            self.unsendable += 1
            return None
        self.statuses[reply.status_code] += 1
        return reply

    def blame(self, method: Method, place: Path, text: str, what: str) -> None:
        """Notes a fault."""
        self.wrong.append(f"{method.name} {'.'.join(map(str, place))} {text[:60]!a}: {what[:200]}")


class Requests:
    """A valid request of each method. One that creates is new each time, or what it creates would be there already."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._kept = {method: request(world, method) for method in METHODS}

    def of(self, method: Method) -> Any:
        """The request."""
        creates = method.name.startswith(("Create", "BatchCreate", "BatchUpsert"))
        return request(self.world, method) if creates else self._kept[method]


def kept_of(reply: httpx2.Response, method: Method, place: Path) -> Any:
    """What the reply shows at the place of a record's field; None where it shows no record."""
    kind = next((each for each in load().resources.values() if f"{each.full_name}Service" == method.service), None)
    if kind is None or place[0] != field_of(kind) or len(place) < 2 or method.name.startswith("Batch"):
        return None
    shown = reply.json()
    for step in place[1:]:
        shown = shown[step]
    return shown


@pytest.fixture(scope="module")
def world(platform: Running) -> World:
    """A tenant of its own."""
    return World(platform.tenant("Texts"), "Texts")


def errors_of(platform: Running, begin: int) -> list[str]:
    """What the database complained of since its log was so long."""
    with platform.state.log("postgres").open("rb") as log:
        log.seek(begin)
        return _BROKEN.findall(log.read().decode(errors="replace"))


def run(work: Callable[[tuple[Method, Path, str]], None], pieces: Iterable[tuple[Method, Path, str]]) -> int:
    """Does the pieces, a few at a time; how many there were."""
    with ThreadPoolExecutor(4) as pool:
        return sum(1 for _ in pool.map(work, pieces))


@pytest.mark.line(27)
def test_every_text_in_every_field_is_refused_or_kept(
    platform: Running, world: World, scale: Callable[[int, int], int], seed: int, report: Report
) -> None:
    begin = platform.state.log("postgres").stat().st_size
    texts = random.Random(seed).sample(TEXTS, len(TEXTS))
    each_gets = scale(1, len(texts))
    tried, requests = Tried(), Requests(world)

    def attempt(piece: tuple[Method, Path, str]) -> None:
        method, place, text = piece
        reply = tried.send(world, method, put(requests.of(method), place, text))
        if reply is None:
            return
        if reply.status_code >= 500:
            tried.blame(method, place, text, f"{reply.status_code} {reply.text}")
        elif reply.is_success and place[-1] not in _FORMED:
            shown = kept_of(reply, method, place)
            if isinstance(shown, str) and shown not in (text, unicodedata.normalize("NFC", text)):
                tried.blame(method, place, text, f"is kept as {shown!a}")

    turning = itertools.cycle(texts)
    done = run(attempt, ((*where, next(turning)) for where in PLACES for _ in range(each_gets)))
    broken = errors_of(platform, begin)
    report(
        not tried.wrong and not broken,
        fields=len(PLACES), texts=len(texts), calls=done, statuses=dict(tried.statuses), unsendable=tried.unsendable,
        faults=len(tried.wrong), database_errors=len(broken), first=(tried.wrong + broken)[:9],
    )  # fmt: skip


@pytest.mark.line(27)
def test_no_field_takes_a_nul_or_half_a_character(
    platform: Running, world: World, scale: Callable[[int, int], int], seed: int, report: Report
) -> None:
    begin = platform.state.log("postgres").stat().st_size
    tried, requests = Tried(), Requests(world)

    def attempt(piece: tuple[Method, Path, str]) -> None:
        method, place, text = piece
        reply = tried.send(world, method, put(requests.of(method), place, text))
        if reply is not None and reply.status_code not in ((400, 404) if place in (("id",),) else (400,)):
            tried.blame(method, place, text, f"{reply.status_code} {reply.text}")

    texts = NUL + SURROGATE
    places = PLACES if scale(0, 1) else random.Random(seed).sample(PLACES, 500)
    turning = itertools.cycle(texts)
    done = run(attempt, ((*where, next(turning)) for where in places for _ in range(scale(1, len(texts)))))
    broken = errors_of(platform, begin)
    report(
        not tried.wrong and not broken,
        fields=len(places), calls=done, statuses=dict(tried.statuses), unsendable=tried.unsendable,
        faults=len(tried.wrong), database_errors=len(broken), first=(tried.wrong + broken)[:9],
    )  # fmt: skip


@pytest.mark.line(27)
def test_a_filter_finds_exactly_the_record_with_this_text(platform: Running, report: Report) -> None:
    """Also where the text is a quote, a backslash, a wildcard of LIKE or half a statement."""
    begin = platform.state.log("postgres").stat().st_size
    client = platform.tenant("Filters")
    made = {text: client.post("/v1/notes", {"body": "x", "title": text})["id"] for text in TEXTS}
    wrong: list[str] = []
    for text, record in made.items():
        literal = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
        reply = client.http.get("/v1/notes", params={"filter": f"title = {literal}", "page_size": 1_000})
        found = [note["id"] for note in reply.json().get("notes", [])]
        if found != [record]:
            wrong.append(f"= {text!a}: {reply.status_code} {reply.text[:200]}")
        part = client.http.get("/v1/notes", params={"filter": f"title:{literal}", "page_size": 1_000})
        parts = {note["id"] for note in part.json().get("notes", [])}
        if (
            not {made[each] for each in TEXTS if text in each}
            <= parts
            <= {made[each] for each in TEXTS if _in(text, each)}
        ):
            wrong.append(f": {text!a}: {part.status_code} {part.text[:200]}")
    broken = errors_of(platform, begin)
    report(not wrong and not broken, texts=len(made), wrong=len(wrong), first=(wrong + broken)[:4])


def _in(part: str, text: str) -> bool:
    """Whether the part is in the text in any reading of upper and lower case."""
    forms = (str.lower, str.upper, str.casefold)
    return any(form(part) in form(text) for form in forms)
