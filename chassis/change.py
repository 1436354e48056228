"""A committed change as code reads it, and its way from a ledger row to the message that carries it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any
from uuid import UUID

from crm.type.v1 import change_pb2
from google.protobuf.message import DecodeError, Message

from chassis import ids, telemetry
from chassis.context import Caller, owners_for
from chassis.contract import load
from chassis.rows import moment, timestamp, uuid_of


@dataclass(frozen=True)
class Change:
    """One committed change of one record, and its place in its service's ledger.

    ``before`` and ``after`` are the record, decoded by the contract; None where there was none.
    """

    service: str
    position: int
    tenant: UUID
    message: change_pb2.Change
    # The traceparent under which it was delivered; empty where it came from a ledger.
    delivery_context: str = ""

    @classmethod
    def decode(cls, service: str, position: int, tenant: UUID, body: bytes, delivery_context: str = "") -> Change:
        """The change in a message's body. Raises ValueError where something in it cannot be read."""
        try:
            change = cls(service, position, tenant, change_pb2.Change.FromString(body), delivery_context)
            _ = change.event_id, change.entity_uuid, change.before, change.after, change.commit_time
        except (DecodeError, KeyError) as error:
            raise ValueError(f"not a change: {type(error).__name__}") from error
        return change

    @cached_property
    def event_id(self) -> UUID:
        """The same for the same change, however often it arrives."""
        return UUID(self.message.event_id)

    @property
    def type(self) -> str:
        """Resource and verb, for example ``crm.sales.v1.Deal.won``."""
        return self.message.type

    @property
    def resource(self) -> str:
        """The record's message, for example ``crm.sales.v1.Deal``."""
        return self.message.type.rpartition(".")[0]

    @property
    def verb(self) -> str:
        """What happened, for example ``won``."""
        return self.message.type.rpartition(".")[2]

    @property
    def entity_id(self) -> str:
        """The record's id, a TypeID."""
        return self.message.entity_id

    @cached_property
    def entity_uuid(self) -> UUID:
        """The UUID inside the record's id."""
        return ids.decode(self.message.entity_id)[1]

    @property
    def revision(self) -> int:
        """The record's revision after the change."""
        return self.message.revision

    @cached_property
    def before(self) -> Any:
        """The record before the change, or None."""
        return self._record(self.message.before)

    @cached_property
    def after(self) -> Any:
        """The record after the change, or None."""
        return self._record(self.message.after)

    def _record(self, body: bytes) -> Message | None:
        return load().message(self.resource).FromString(body) if body else None

    @property
    def changed(self) -> list[str]:
        """The fields that differ between before and after."""
        return list(self.message.changed.paths)

    @property
    def actor(self) -> str:
        """Who made the change: a user, an API key, or ``service:<name>``."""
        return self.message.actor

    @cached_property
    def cause_event_id(self) -> UUID | None:
        """The event that this change answers, where a reaction made it."""
        return UUID(self.message.cause_event_id) if self.message.cause_event_id else None

    @cached_property
    def occur_time(self) -> datetime:
        """When it happened in the world, in UTC."""
        return moment(self.message.occur_time)

    @cached_property
    def commit_time(self) -> datetime:
        """When Rapport learned it, in UTC."""
        return moment(self.message.commit_time)

    @property
    def trace_context(self) -> str:
        """The traceparent of the call that made the change."""
        return self.message.trace_context

    @property
    def trace_id(self) -> str:
        """The trace of the call that made the change; empty where it had none."""
        return telemetry.trace_id_of(self.message.trace_context)


def message_of(row: Any) -> change_pb2.Change:
    """The message that tells of a ledger row."""
    message = change_pb2.Change(
        event_id=str(row.event_id),
        type=row.type,
        entity_id=row.entity_id,
        revision=row.revision,
        before=bytes(row.before or b""),
        after=bytes(row.after or b""),
        actor=row.actor,
        cause_event_id=str(row.cause_event_id) if row.cause_event_id else "",
        occur_time=timestamp(row.occur_time),
        commit_time=timestamp(row.commit_time),
        trace_context=row.trace_context,
    )
    message.changed.paths.extend(row.changed or ())
    return message


def in_sight(caller: Caller, resource: str, states: Callable[[], Iterable[Message | None]]) -> bool:
    """Whether a caller may read the record that changed, as it was or as it is now.

    ``resource`` is the record's message by its name; ``states`` are what it was and is, asked for where that matters.
    """
    kind = load().by_message.get(resource)
    if kind is None or not caller.may(load().read_permission(kind)):
        return False
    owners = owners_for(caller, kind.descriptor)
    if owners is None:
        return True
    held: set[str] = {each.owner_id for each in states() if each is not None}  # type: ignore[attr-defined]
    return any(uuid_of(each) in owners for each in held if each)
