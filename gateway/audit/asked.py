"""What a call asked for and what its answer showed, taken from their bytes for the log of reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.timestamp_pb2 import Timestamp

from chassis.contract import Method, is_resource, load, refs
from gateway.audit.facts import Facts
from gateway.transcode.pages import first_of, records_of

# How many records an entry names, and how much of what was asked it keeps.
MOST_IDS: Final = 100
_MOST_QUERY: Final = 500
_MOST_ID: Final = 100
# What says how an answer is cut, not what is in it; and what may be a secret.
_NOT_TOLD: Final = frozenset({
    "page_size", "page_token", "read_mask", "order_by", "etag", "request_id", "replay_id", "validate_only", "atomic",
    "update_mask",
})  # fmt: skip


class Asked(NamedTuple):
    """The records that a request names, what else it asks, and whether it only wants to know what would be done."""

    record_id: str
    record_ids: list[str]
    query: str
    rehearses: bool = False

    @property
    def resource(self) -> str:
        """The prefix of the one record's id, where it is one of ours."""
        prefix = self.record_id.rpartition("_")[0]
        return prefix if prefix in load().resources else ""


NOTHING: Final = Asked("", [], "")


def asked_of(facts: Facts, method: Method, request: bytes) -> Asked:
    """What a request asks. One that cannot be read asks nothing."""
    if facts.by_id and len(request) < 130 and request[:1] == b"\x0a" and request[1] == len(request) - 2:
        return Asked(_text(request[2:].decode(errors="replace"), _MOST_ID), [], "")
    try:
        message = method.request.FromString(request)
    except DecodeError:
        return NOTHING
    named = list(dict.fromkeys(_text(each, _MOST_ID) for each in _named(message)))
    query = _text("; ".join(_told(message)), _MOST_QUERY)
    rehearses = bool(getattr(message, "validate_only", False))
    if len(named) == 1:
        return Asked(named[0], [], query, rehearses)
    return Asked("", named[:MOST_IDS], query, rehearses)


def shown(facts: Facts, answer: bytes) -> tuple[int | None, tuple[str, ...]]:
    """How many rows an answer holds, and the ids of the first of them, where they have any."""
    try:
        rows, _ = records_of(facts.rows, answer)
    except ValueError:
        return None, ()
    return len(rows), tuple([_id_in(row, facts.ids) for row in rows[:MOST_IDS]]) if facts.ids else ()


def _id_in(row: bytes, number: int) -> str:
    if number == 1 and row[:1] == b"\x0a":
        # The first field, of less than 128 bytes: a tag, a length, and the text.
        return row[2 : 2 + row[1]].decode()
    return first_of(number, row).decode()


def _named(message: Message) -> Iterator[str]:
    for field, value in message.ListFields():
        if field.message_type is None:
            if refs(field):
                yield from value if field.is_repeated else (value,)
        elif not field.is_repeated and is_resource(field.message_type) and value.id:
            yield value.id


def _told(message: Message) -> Iterator[str]:
    for field, value in message.ListFields():
        if field.name in _NOT_TOLD or refs(field):
            continue
        if field.message_type is None:
            values = value if field.is_repeated else (value,)
            yield f"{field.name}: {', '.join(_plain(field, each) for each in values)}"
        elif field.message_type.full_name == Timestamp.DESCRIPTOR.full_name:
            yield f"{field.name}: {value.ToJsonString()}"


def _plain(field: FieldDescriptor, value: Any) -> str:
    if field.enum_type is not None:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known is not None else str(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def _text(value: str, most: int) -> str:
    """A text that the database can keep, cut to length."""
    return value.replace("\x00", "")[:most]
