"""HTTP and JSON to protobuf and back, from the descriptors alone: no line here knows a method."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import msgspec
from google.protobuf.message import Message

from chassis.contract import Method
from gateway.contract import Route
from gateway.transcode import request
from gateway.transcode.body import BODY_LIMIT, too_large
from gateway.transcode.reader import Reader
from gateway.transcode.request import HttpCall
from gateway.transcode.writer import Writer

__all__ = ["BODY_LIMIT", "HttpCall", "JsonCodec", "Reply", "Transcoder", "too_large"]


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

    def request(self, route: Route, call: HttpCall) -> bytes:
        """The request's bytes. Raises Invalid where it cannot be read, Exhausted for too large a body."""
        return request.build(self._reader, route, call).SerializeToString()

    def reply(self, method: Method, data: bytes) -> Reply:
        """The reply's JSON, and the etag of the record where the reply is one."""
        message = method.response.FromString(data)
        etag = message.etag if "etag" in message.DESCRIPTOR.fields_by_name else ""  # type: ignore[attr-defined]
        return Reply(self.json(message), etag)

    def json(self, message: Message) -> bytes:
        """A message as JSON text."""
        return msgspec.json.encode(self._writer.value(message))

    def value(self, message: Message) -> object:
        """A message as a JSON value."""
        return self._writer.value(message)
