"""Pages: how many rows, and the signed token that says where the next page begins."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import msgspec

from chassis import context
from chassis.errors import Invalid, Reason, invalid
from chassis.tokens import Sealer

DEFAULT_SIZE: Final = 50
MAX_SIZE: Final = 1_000


@dataclass(frozen=True)
class Page:
    """A page of a list. ``after`` is the place of the row before it, or None for the first page."""

    size: int
    after: list[Any] | None
    _digest: str
    _sealer: Sealer

    def next_token(self, place: Sequence[Any]) -> str:
        """The token of the page that begins after the row at ``place``."""
        return self._sealer.sign(msgspec.json.encode([self._digest, [_write(each) for each in place]]))


def page_of(sealer: Sealer, page_size: int, page_token: str, query: Sequence[object]) -> Page:
    """The page that was asked for of the list that ``query`` tells apart: tenant, method, filter, order.

    Raises Invalid for a negative size (FIELD_INVALID), and for a token that is forged or of another query
    (PAGE_TOKEN_INVALID).
    """
    if page_size < 0:
        raise invalid("page_size", "it cannot be negative; 0 means 50")
    size = min(page_size or DEFAULT_SIZE, MAX_SIZE)
    told_apart = [str(each) for each in query]
    call = context.current_or_none()
    if call is not None and call.caller.access is not None:
        # Another caller would go on in the middle of a list that it sees other records of.
        told_apart.append(call.caller.access.claim)
    digest = hashlib.sha256(json.dumps(told_apart).encode()).hexdigest()[:24]
    after = _open(sealer, page_token, digest) if page_token else None
    return Page(size, after, digest, sealer)


def _open(sealer: Sealer, token: str, digest: str) -> list[Any]:
    try:
        found, place = json.loads(sealer.open(token))
        values = [_read(each) for each in place]
    except (ValueError, TypeError, KeyError) as error:
        raise _invalid("it is forged or damaged; use next_page_token as it came") from error
    if found != digest:
        raise _invalid("it belongs to another query; keep filter and order while paging")
    return values


def _invalid(message: str) -> Invalid:
    return invalid("page_token", message, Reason.REASON_PAGE_TOKEN_INVALID)


def _write(value: Any) -> Any:
    match value:
        case UUID():
            return {"u": value.hex}
        case dt.datetime():
            return {"t": value.isoformat()}
        case dt.date():
            return {"d": value.isoformat()}
        case dt.timedelta():
            return {"s": [value.days, value.seconds, value.microseconds]}
        case Decimal():
            return {"n": str(value)}
    return value


def _read(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, body),) = value.items()
    match kind:
        case "u":
            return UUID(body)
        case "t":
            return dt.datetime.fromisoformat(body)
        case "d":
            return dt.date.fromisoformat(body)
        case "s":
            return dt.timedelta(days=body[0], seconds=body[1], microseconds=body[2])
        case "n":
            return Decimal(body)
    raise ValueError(kind)
