"""An event on the wire: CloudEvents 1.0 in binary mode over NATS headers; the body is a `Change`."""

from __future__ import annotations

from typing import Any, NamedTuple
from uuid import UUID

from nats.aio.msg import Msg

from chassis.change import Change, message_of
from chassis.events.broker import EVENT_ID, POSITION, SOURCE, TENANT, TRACEPARENT
from chassis.events.reactions import subject_of

Envelope = tuple[str, dict[str, str], bytes]


def seal(service: str, row: Any, traceparent: str, limit_bytes: int) -> Envelope:
    """Subject, headers and body that tell of a numbered ledger row.

    A body above ``limit_bytes`` leaves out the record before the change: the record after it always fits.
    """
    message = message_of(row)
    body = message.SerializeToString()
    if len(body) > limit_bytes:
        message.ClearField("before")
        body = message.SerializeToString()
    headers = {
        EVENT_ID: message.event_id,
        "ce-specversion": "1.0",
        "ce-id": message.event_id,
        "ce-type": row.type,
        SOURCE: service,
        "ce-subject": row.entity_id,
        "ce-time": row.commit_time.isoformat(),
        "content-type": "application/protobuf",
        TENANT: str(row.tenant_id),
        POSITION: str(row.position),
    }
    if traceparent:
        headers[TRACEPARENT] = traceparent
    return subject_of(row.type, row.tenant_id.hex), headers, body


class Arrival(NamedTuple):
    """A change that came and has not been opened: where it belongs is known, for those who need no more."""

    service: str
    position: int
    tenant: UUID
    message: Msg

    def open(self) -> Change:
        """The change. Raises ValueError where it is none."""
        traceparent = (self.message.headers or {}).get(TRACEPARENT, "")
        return Change.decode(self.service, self.position, self.tenant, self.message.data, traceparent)


def read_envelope(message: Msg) -> Arrival:
    """What a message says outside. Raises ValueError where that is not what an event says."""
    headers = message.headers or {}
    try:
        return Arrival(headers[SOURCE], int(headers[POSITION]), UUID(headers[TENANT]), message)
    except KeyError as error:
        raise ValueError(f"the header {error} is missing") from error


def open_envelope(message: Msg) -> Change:
    """The change in a message. Raises ValueError where it is none."""
    return read_envelope(message).open()
