"""A page token works for the query it was given for, as it was given, and for nothing else."""

from __future__ import annotations

import base64
import datetime as dt
import random
import secrets
import string
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from chassis.contract import Method, load
from chassis.errors import Invalid
from chassis.query.page import page_of
from chassis.tokens import Sealer
from tests.contract.rest import send
from tests.contract.world import World, request
from tests.reliability.conftest import Report
from tests.running import Running

ALPHABET = string.ascii_letters + string.digits + "-_"
QUERY = ("tenant one", "ListLeads", "source = 'a'", "create_time")
OTHERS = (
    ("tenant two", *QUERY[1:]),
    (QUERY[0], "ListDeals", *QUERY[2:]),
    (*QUERY[:2], "source = 'b'", QUERY[3]),
    (*QUERY[:3], "create_time desc"),
    (*QUERY, ""),
)
PAGED = [each for each in load().methods.values() if "page_token" in each.request.DESCRIPTOR.fields_by_name]


def forged(good: str, dice: random.Random) -> Iterator[str]:
    """A round of texts that are not ``good``, most of them almost."""
    place = dice.randrange(len(good))
    other = dice.choice(ALPHABET.replace(good[place], ""))
    yield good[: place or 1]
    yield good[:place] + other + good[place + 1 :]
    yield good[:place] + good[place + 1 :]
    yield good[:place] + dice.choice(ALPHABET) + good[place:]
    yield good + dice.choice(ALPHABET)
    yield good[:-1] + dice.choice(ALPHABET.replace(good[-1], ""))
    raw = bytearray(base64.urlsafe_b64decode(good + "=" * (-len(good) % 4)))
    raw[dice.randrange(len(raw))] ^= 1 << dice.randrange(8)
    yield base64.urlsafe_b64encode(raw).decode().rstrip("=")
    yield base64.urlsafe_b64encode(dice.randbytes(dice.randrange(1, 200))).decode()
    yield "".join(dice.choices(string.printable + "é\u202e\U0001f600", k=dice.randrange(1, 80)))
    yield good + "=" * dice.randrange(1, 4)
    yield dice.choice((" ", "\n", "\t")) + good
    yield good.swapcase()


@pytest.mark.line(28)
def test_no_forged_token_is_accepted(scale: Callable[[int, int], int], seed: int, report: Report) -> None:
    dice = random.Random(seed)
    sealer, stranger = Sealer(secrets.token_hex(32)), Sealer(secrets.token_hex(32))
    places: list[list[Any]] = [
        [dt.datetime(2026, 1, 2, 3, 4, 5, 678, dt.UTC), UUID(int=dice.getrandbits(128))],
        [None, "Müller\u202e\n", Decimal("12.50"), UUID(int=0)],
        [dt.date(2026, 1, 2), dt.timedelta(days=3, microseconds=4), True, 17],
    ]
    accepted: list[str] = []
    tried = 0

    def reason_of(token: str, query: tuple[str, ...]) -> str:
        try:
            page_of(sealer, 10, token, query)
        except Invalid as refusal:
            return refusal.reason_name
        return ""

    def attempt(token: str, query: tuple[str, ...] = QUERY) -> None:
        nonlocal tried
        tried += 1
        if reason_of(token, query) != "PAGE_TOKEN_INVALID":
            accepted.append(token)

    attempt(base64.urlsafe_b64encode(dice.randbytes(1_000_000)).decode())
    while tried < scale(20_000, 1_000_000):
        for place in places:
            good = page_of(sealer, 10, "", QUERY).next_token(place)
            assert page_of(sealer, 10, good, QUERY).after == place
            for each in forged(good, dice):
                attempt(each)
            for query in OTHERS:
                attempt(good, query)
            attempt(page_of(stranger, 10, "", QUERY).next_token(place))
    report(not accepted, forged=tried, accepted=len(accepted), first=accepted[:3])


@pytest.mark.line(28)
def test_no_service_takes_a_token_of_another_tenant_or_query(platform: Running, seed: int, report: Report) -> None:
    dice = random.Random(seed)
    theirs, ours = World(platform.tenant("Tokens of others"), "Secretary"), World(platform.tenant("Tokens"), "Openly")
    tokens = {method.path: token for method in PAGED if (token := _token(theirs, method))}
    # A record's revisions fill one page here: it was made, and no more.
    lists = [each for each in PAGED if not each.name.endswith("Revisions")]
    assert len(tokens) > len(lists) / 2
    outcomes = []
    for method in PAGED:
        asked = request(ours, method)
        texts = dice.sample(sorted(tokens.values()), 4)
        texts += [tokens[method.path]] if method.path in tokens else []
        texts += [*forged(texts[0], dice), "x" * 60_000]
        for token in texts:
            reply = send(ours.client, method, asked | {"page_token": token})
            reason = "" if reply.is_success else reply.json()["error"]["details"][0].get("reason", "")
            outcomes.append((method.name, token[:80], reply.status_code, reason))
    wrong = [each for each in outcomes if each[2] not in (400, 431) and each[1] != ""]
    unclear = [each for each in outcomes if each[2] == 400 and each[3] not in ("PAGE_TOKEN_INVALID", "FIELD_INVALID")]
    report(
        not wrong and not unclear,
        methods=len(PAGED), tried=len(outcomes), accepted=len(wrong), first=(wrong + unclear)[:3],
    )  # fmt: skip


def _token(world: World, method: Method) -> str:
    """A token that the method gives out, with enough rows for it; empty where the method has but one page here."""
    asked = request(world, method)
    if "page_size" in method.request.DESCRIPTOR.fields_by_name:
        asked["page_size"] = 1
    if "filter" in asked:
        asked["filter"] = ""
        kinds = [each for each in load().resources.values() if f"{each.full_name}Service" == method.service]
        for kind in kinds * 2:
            world.make(kind.prefix)
    reply = send(world.client, method, asked)
    assert reply.is_success, reply.text
    return str(reply.json().get("next_page_token", ""))
