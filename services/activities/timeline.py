"""The timeline of any record: what happened to it and to all that is linked to it, from every service."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any, Final
from uuid import UUID

from crm.activities.v1 import timeline_pb2 as pb
from crm.type.v1 import change_pb2
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Value
from sqlalchemy import ColumnElement, Select, Text, Uuid, bindparam, cast, false, func, or_, select, tuple_
from sqlalchemy.dialects.postgresql import ARRAY

from chassis import context, contract
from chassis.change import Change
from chassis.errors import Invalid, Reason
from chassis.query import page_of
from chassis.rows import moment
from chassis.service import Service
from chassis.sql import Row
from chassis.work import View
from services.activities.tables import entity_owner, entry_subject, timeline_entries

# They say nothing of their own: the entry itself names record, revision and times.
_BOOKKEEPING: Final = frozenset({"id", "etag", "create_time", "update_time"})
_PLACE: Final = tuple(entry_subject.c[name] for name in ("occur_time", "service", "position", "event_id"))

_ENTRIES: Final = (
    select(*_PLACE, timeline_entries.c.change)
    .join(
        timeline_entries,
        (timeline_entries.c.tenant_id == bindparam("tenant"))
        & (timeline_entries.c.event_id == entry_subject.c.event_id),
    )
    .where(entry_subject.c.tenant_id == bindparam("tenant"), entry_subject.c.subject_id == bindparam("subject_id"))
)


class Timeline(Service, serves="crm.activities.v1.TimelineService"):
    """Everything that happened to a customer, in the order it happened."""

    async def ListTimeline(self, request: pb.ListTimelineRequest, tx: View) -> pb.ListTimelineResponse:
        """Lists a page of a record's timeline; an empty one for a record nothing is known of.

        A caller that sees some owners' records alone is shown what happened to these.
        """
        page = page_of(self.platform.sealer, request.page_size, request.page_token, _query(request, tx))
        statement = _in_order(_seen(_narrowed(_ENTRIES, request)), request.ascending, page.after)
        rows = await tx.rows(statement.limit(page.size + 1), {"subject_id": request.subject_id})
        response = pb.ListTimelineResponse(entries=[entry_of(row, tx) for row in rows[: page.size]])
        if len(rows) > page.size:
            response.next_page_token = page.next_token(tuple(rows[page.size - 1])[: len(_PLACE)])
        return response


def _query(request: pb.ListTimelineRequest, tx: View) -> tuple[object, ...]:
    """What tells this list from others, so that a page token belongs to one of them alone."""
    bare = pb.ListTimelineRequest()
    bare.CopyFrom(request)
    bare.ClearField("page_size")
    bare.ClearField("page_token")
    return tx.tenant, bare.SerializeToString(deterministic=True).hex()


def _narrowed(statement: Select[Any], request: pb.ListTimelineRequest) -> Select[Any]:
    if request.kinds:
        types = bindparam("types", types_of(request.kinds), ARRAY(Text))
        statement = statement.where(timeline_entries.c.type == func.any(types))
    if request.HasField("start_time"):
        statement = statement.where(entry_subject.c.occur_time >= moment(request.start_time))
    if request.HasField("end_time"):
        statement = statement.where(entry_subject.c.occur_time < moment(request.end_time))
    return statement


def _seen(statement: Select[Any]) -> Select[Any]:
    """Leaves the entries of records that the current caller may see, by the owner that each has now."""
    call = context.current_or_none()
    if call is None or call.caller.access is None:
        return statement
    types: dict[tuple[UUID, ...] | None, list[str]] = {}
    for event_type in contract.load().event_types:
        resource = contract.load().by_message[event_type.rpartition(".")[0]]
        if call.caller.may(contract.load().read_permission(resource)):
            owners = context.owners_for(call.caller, resource.descriptor)
            types.setdefault(None if owners is None else tuple(owners), []).append(event_type)
    seen: list[ColumnElement[bool]] = []
    for whose, those in types.items():
        of_type = timeline_entries.c.type == func.any(cast(those, ARRAY(Text)))
        if whose is None:
            seen.append(of_type)
        elif whose:
            seen.append(of_type & (entity_owner.c.owner_id == func.any(cast(list(whose), ARRAY(Uuid)))))
    owner = (entity_owner.c.tenant_id == bindparam("tenant")) & (
        entity_owner.c.entity_id == timeline_entries.c.entity_id
    )
    return statement.outerjoin(entity_owner, owner).where(or_(false(), *seen))


def _in_order(statement: Select[Any], ascending: bool, after: list[Any] | None) -> Select[Any]:
    if after is not None:
        place = tuple_(*_PLACE)
        statement = statement.where(place > after if ascending else place < after)
    return statement.order_by(*(each.asc() if ascending else each.desc() for each in _PLACE))


def kind_of(event_type: str) -> str:
    """An event's type as a timeline shows it: ``crm.sales.v1.Deal.won`` is ``deal.won``."""
    resource, _, verb = event_type.rpartition(".")
    return f"{contract.load().by_message[resource].prefix}.{verb}"


@cache
def _types_by_kind() -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = {}
    for event_type in contract.load().event_types:
        kind = kind_of(event_type)
        for name in (kind, kind.partition(".")[0]):
            found.setdefault(name, set()).add(event_type)
    return {kind: frozenset(types) for kind, types in found.items()}


def types_of(kinds: Iterable[str]) -> list[str]:
    """The types of events that are of these kinds. Raises Invalid for a kind that does not exist."""
    known, types = _types_by_kind(), set[str]()
    for index, kind in enumerate(kinds):
        if kind not in known:
            message = f"there is no kind '{kind}'; a kind is a resource such as 'deal', or with a verb 'deal.won'"
            raise Invalid(
                Reason.REASON_FIELD_INVALID, f"kinds[{index}]: {message}", violations=[(f"kinds[{index}]", message)]
            )
        types |= known[kind]
    return sorted(types)


def entry_of(row: Row, tx: View) -> pb.TimelineEntry:
    """The entry that a change makes on a timeline."""
    change = Change(row.service, row.position, tx.tenant, change_pb2.Change.FromString(row.change))
    readable = context.fields(contract.load().by_message[change.resource].descriptor).readable
    return pb.TimelineEntry(
        event_id=change.message.event_id,
        kind=kind_of(change.type),
        type=change.type,
        entity_id=change.entity_id,
        display_name=_name_of(change, readable),
        changes=_field_changes(change, readable),
        actor=change.actor,
        occur_time=change.message.occur_time,
        commit_time=change.message.commit_time,
        trace_id=change.trace_id,
        revision=change.revision,
    )


def _name_of(change: Change, readable: frozenset[str]) -> str:
    record = change.before if change.after is None else change.after
    name = next((each for each in ("display_name", "title") if each in readable), None)
    return str(getattr(record, name)) if name else ""


def _field_changes(change: Change, readable: frozenset[str]) -> list[pb.FieldChange]:
    names = [name for name in change.changed if name in readable and name not in _BOOKKEEPING]
    before, after = (_values(record, frozenset(names)) for record in (change.before, change.after))
    return [pb.FieldChange(field=name, before=before.get(name), after=after.get(name)) for name in names]


def _values(record: Message | None, wanted: frozenset[str]) -> dict[str, Value]:
    """The values of a record's fields as JSON has them; those that are not set are left out."""
    if record is None:
        return {}
    shown = type(record)()
    shown.CopyFrom(record)
    for field, _ in record.ListFields():
        if field.name not in wanted:
            shown.ClearField(field.name)
    fields = MessageToDict(shown, preserving_proto_field_name=True)
    return {name: ParseDict(value, Value()) for name, value in fields.items()}
