"""The gateway's JSON is proto JSON: google's own codec writes and reads the same, but for a written list."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.message import Message

from chassis.contract import load
from chassis.errors import Failure
from gateway.transcode import body
from gateway.transcode.fault import Fault
from gateway.transcode.reader import Reader
from gateway.transcode.writer import Writer
from tests.reliability.conftest import Report
from tests.reliability.messages import fill

TYPES = [each.request for each in load().methods.values()] + [each.message for each in load().resources.values()]
# Put in the place of something in a valid text.
ODD: tuple[Any, ...] = (
    None, True, False,
    0, 1, -1, 1.0, 1.5, 2**31, -(2**31) - 1, 2**63, 2**64, 1e308, "", "0", "1", "-1", "1.0", "1.5",
    "1e2",    " 1", "1 ", "+1", "0x1", "NaN", "Infinity", "true", "null", "x", [], {}, [None], [[]], {"a": 1},
    {"": None},
    "2026-01-01T00:00:00Z", "2026-01-01T00:00:00+02:00", "2026-01-01", "2026-13-01T00:00:00Z",
    "2026-01-01T00:00:00",
    "2026-01-01t00:00:00z", "2026-01-01T24:00:00Z", "2026-01-01T00:00:60Z", "0001-01-01T00:00:00Z",
    "9999-12-31T23:59:59.999999999Z", "2026-01-01T00:00:00.1234567890Z", "1s", "1.5s", "-1.5s", "1", "s", "1e3s", ".5s",
    "315576000001s", "-0s", "00000000-0000-0000-0000-000000000000", "DEAL_STATE_WON", "deal_state_won", "YQ", "YQ==",
    "Y Q=",
)  # fmt: skip


def read_ours(kind: type[Message], text: str) -> Message | None:
    """The message that the gateway reads, or None where it refuses."""
    message = kind()
    try:
        Reader_.fill(message, body.parse(text.encode()))
    except (Fault, Failure):
        return None
    return message


def read_googles(kind: type[Message], text: str) -> Message | None:
    """The message that google's codec reads, or None where it refuses."""
    try:
        return json_format.Parse(text, kind())
    except (json_format.ParseError, ValueError, TypeError, OverflowError, RecursionError):
        return None


Reader_, Writer_ = Reader(), Writer()


_TIME = re.compile(r"\b(\d{4}-\d\d-\d\d)t(\d\d:\d\d:\d\d)z")
_MASK = re.compile(r'(mask": )"[^"]*"')


def shared_form(text: str) -> str:
    """The text without the two differences that our documentation names.

    Field masks are in snake_case here, in camelCase there; RFC 3339's lower-case ``t`` and ``z`` are taken here only.
    """
    return _TIME.sub(r"\1T\2Z", _MASK.sub(r'\1""', text))


def bent(value: Any, dice: random.Random) -> Any:
    """The value with one thing in it replaced, renamed or taken away."""
    spots = list(_spots(value))
    if not spots:
        return dice.choice(ODD)
    holder, key = dice.choice(spots)
    match dice.randrange(8):
        case 0 if isinstance(holder, dict):
            holder[str(key) + "x"] = holder.pop(key)
        case 1 if isinstance(holder, dict):
            holder[str(key).title()] = holder[key]
        case 2:
            holder[key] = [holder[key]]
        case _:
            holder[key] = dice.choice(ODD)
    return value


def _spots(value: Any) -> Iterator[tuple[Any, Any]]:
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from _spots(value[key])


@pytest.mark.line(26, nightly=True)
def test_what_one_codec_writes_the_other_reads(
    scale: Callable[[int, int], int], time_left: Callable[[], bool], seed: int, report: Report
) -> None:
    dice, different, cases = random.Random(seed), [], 0
    while cases < scale(2_000, 100_000) and time_left():
        cases += 1
        kind = dice.choice(TYPES)
        message = fill(kind(), dice)
        ours = Writer_.value(message)
        googles = json_format.MessageToDict(
            message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
        text = json.dumps(ours)
        if ours != googles or read_ours(kind, json.dumps(googles)) != message or read_googles(kind, text) != message:
            different.append(f"{kind.DESCRIPTOR.name}: {first_difference(ours, googles)} {text[:150]}")
    report(not different, cases=cases, differences=len(different), first=different[:4])


def first_difference(ours: Any, googles: Any, place: str = "") -> str:
    """Where two JSON values part, for a message."""
    if isinstance(ours, dict) and isinstance(googles, dict):
        for key in {**ours, **googles}:
            if ours.get(key, "absent") != googles.get(key, "absent"):
                return first_difference(ours.get(key, "absent"), googles.get(key, "absent"), f"{place}.{key}")
    return f"{place}: {str(ours)[:80]!a} is not {str(googles)[:80]!a}"


@pytest.mark.line(26, nightly=True)
def test_both_codecs_accept_the_same_and_read_it_alike(
    scale: Callable[[int, int], int], time_left: Callable[[], bool], seed: int, report: Report
) -> None:
    """Where the gateway accepts, google's codec accepts and reads the same; what it alone refuses is counted."""
    dice, different, outcomes = random.Random(seed), [], Counter[str]()
    while outcomes.total() < scale(2_000, 100_000) and time_left():
        kind = dice.choice(TYPES)
        text = json.dumps(bent(Writer_.value(fill(kind(), dice)), dice))
        ours, googles = read_ours(kind, text), read_googles(kind, text)
        if ours is None:
            outcomes["both refuse" if googles is None else "we are stricter"] += 1
        else:
            as_documented = read_googles(kind, shared_form(text)) == read_ours(kind, shared_form(text))
            alike = "alike" if ours == googles else "documented" if as_documented else "different"
            outcomes[alike] += 1
            if alike == "different":
                different.append(f"{kind.DESCRIPTOR.name}: {text[:200]}")
    report(not different, cases=outcomes.total(), outcomes=dict(outcomes), first=different[:5])
