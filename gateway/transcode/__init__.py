"""HTTP and JSON to protobuf and back, from the descriptors alone: no line here knows a method."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Final, NamedTuple, Protocol

import msgspec
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message

from chassis.contract import Method, inner, is_repeated, is_resource, load
from gateway.contract import Route
from gateway.transcode import request
from gateway.transcode.body import BODY_LIMIT, too_large
from gateway.transcode.fault import Fault
from gateway.transcode.pages import records_of
from gateway.transcode.reader import Reader
from gateway.transcode.request import HttpCall
from gateway.transcode.well_known import exact
from gateway.transcode.writer import Writer

__all__ = ["BODY_LIMIT", "HttpCall", "JsonCodec", "Reply", "Transcoder", "exact", "too_large"]


# So many records' JSON is kept, of records of up to so many bytes: a few megabytes.
_KEPT: Final = 4_096
_KEPT_BYTES: Final = 2_048


class Reply(NamedTuple):
    """A reply as JSON, and the etag of the record it shows; empty where it shows none."""

    body: bytes
    etag: str


class JsonCodec(Protocol):
    """What the gateway needs of a codec, so that a faster one can take its place."""

    def request(self, route: Route, call: HttpCall) -> bytes:
        """The request's bytes. Raises Invalid where the call cannot be read."""

    def reply(self, method: Method, data: bytes) -> Reply:
        """The reply's JSON."""


class Transcoder:
    """The codec on google.protobuf messages."""

    def __init__(self) -> None:
        self._reader = Reader()
        self._writer = Writer()
        # A record's JSON depends on nothing but its bytes, and the same records are asked for again and again.
        self._known = lru_cache(maxsize=_KEPT)(self._shown)

    def request(self, route: Route, call: HttpCall) -> bytes:
        """The request's bytes. Raises Invalid where it cannot be read, Exhausted for too large a body."""
        return request.build(self._reader, route, call).SerializeToString()

    def message(self, method: Method, value: object) -> bytes:
        """The bytes of a request that a JSON value says. Raises Invalid, naming what was wrong and where."""
        request = method.request()
        try:
            self._reader.fill(request, value)
        except Fault as fault:
            raise fault.failure() from None
        return request.SerializeToString()

    def reply(self, method: Method, data: bytes) -> Reply:
        """The reply's JSON, and the etag of the record where the reply is one."""
        kind = method.response.DESCRIPTOR
        # What a write answers may hold a secret that is shown once.
        if not method.writes:
            if is_resource(kind):
                return self._record(kind.full_name, data)
            if (field := _records_field(kind)) is not None:
                return Reply(self._page(method.response, field, data), "")
        return self._shown(kind.full_name, data)

    def _page(self, response: type[Message], field: FieldDescriptor, data: bytes) -> bytes:
        records, rest = records_of(field.number, data)
        members = self._writer.value(response.FromString(rest))
        kind = inner(field).full_name
        members[field.name] = [msgspec.Raw(self._record(kind, each).body) for each in records]
        return msgspec.json.encode(members)

    def _record(self, kind: str, data: bytes) -> Reply:
        return self._known(kind, data) if len(data) <= _KEPT_BYTES else self._shown(kind, data)

    def _shown(self, kind: str, data: bytes) -> Reply:
        message = load().message(kind).FromString(data)
        etag = message.etag if "etag" in message.DESCRIPTOR.fields_by_name else ""  # type: ignore[attr-defined]
        return Reply(self.json(message), etag)

    def json(self, message: Message) -> bytes:
        """A message as JSON text."""
        return msgspec.json.encode(self._writer.value(message))

    def value(self, message: Message) -> object:
        """A message as a JSON value."""
        return self._writer.value(message)


@cache
def _records_field(response: Descriptor) -> FieldDescriptor | None:
    """The field of a list's reply that holds its rows; None for a reply that is no list of what has an id."""
    first: FieldDescriptor | None = next(iter(response.fields), None)
    if first is None or not is_repeated(first) or first.message_type is None:
        return None
    return first if "id" in inner(first).fields_by_name else None
