"""What a call would do: it is made without writing, and each record of the answer is compared with what is there."""

from __future__ import annotations

from typing import Any, Final

from crm.gateway.v1 import proposal_pb2 as pb
from crm.type.v1 import change_pb2
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from chassis import masks
from chassis.change import Change
from chassis.clients import Channels
from chassis.context import Caller, fields_for
from chassis.contract import Method, ResourceType, descriptor_of, is_repeated, is_resource, load
from chassis.errors import Exhausted, NotFound, Precondition, Reason
from chassis.work import changed_fields
from gateway.live.wanted import may_see
from gateway.transcode import Transcoder

# The most that the records which one proposal shows may weigh together, before and after.
_CHANGES_BYTES: Final = 1024 * 1024
_VERB: Final = ".proposed"
# They say nothing of what is proposed.
_UNSAID: Final = frozenset({"id", "create_time", "update_time", "etag"})

_codec = Transcoder()


def kind_of(method: Method) -> ResourceType:
    """The kind of record that a method changes."""
    return load().by_message[method.service.removesuffix("Service")]


def target(method: Method, request: Any) -> Any:
    """The message in a request that names the record to change by its ``id``, and its ``etag``; None for a new one."""
    if method.http is None or "{" not in method.http.template:
        return None
    if "id" in request.DESCRIPTOR.fields_by_name:
        return request
    kind = kind_of(method).full_name
    (field,) = (each for each in request.DESCRIPTOR.fields if each.message_type and each.message_type.full_name == kind)
    return getattr(request, field.name)


async def foresee(channels: Channels, method: Method, request: Any, caller: Caller) -> list[change_pb2.Change]:
    """What a call of this caller would change. Where the request names no etag, it gets the record's.

    Raises what the method would refuse it with, Precondition where nothing would change.
    """
    known: dict[str, Any] = {}
    if (named := target(method, request)) is not None and named.id:
        known[named.id] = await _read(channels, kind_of(method), named.id, caller)
        named.etag = named.etag or known[named.id].etag
    trial = method.request()
    trial.CopyFrom(request)
    trial.validate_only = True  # type: ignore[attr-defined]
    answer = await channels.unary(method.home, method.path, trial.SerializeToString(), caller=caller)
    changes = []
    for after in records_of(method.response.FromString(answer)):
        if after.id not in known:
            try:
                known[after.id] = await _read(
                    channels, load().by_message[descriptor_of(after).full_name], after.id, caller
                )
            except NotFound:
                known[after.id] = None
        before = known[after.id]
        if names := [each for each in changed_fields(before, after) if each not in _UNSAID]:
            changes.append(_change(before, after, names))
    if not changes:
        raise Precondition(Reason.REASON_STATE_INVALID, "nothing would change: the record is like that already")
    if sum(each.ByteSize() for each in changes) > _CHANGES_BYTES:
        raise Exhausted(Reason.REASON_TOO_LARGE, f"it changes records of more than {_CHANGES_BYTES} bytes")
    return changes


async def _read(channels: Channels, kind: ResourceType, record_id: str, caller: Caller) -> Any:
    get = load().methods[f"/{kind.full_name}Service/Get{kind.descriptor.name}"]
    request = get.request(id=record_id)
    answer = await channels.unary(get.home, get.path, request.SerializeToString(), caller=caller)
    return get.response.FromString(answer)


def records_of(message: Message) -> list[Any]:
    """The records in a message: itself, or those inside."""
    if is_resource(descriptor_of(message)):
        return [message]
    return [
        record
        for field, value in message.ListFields()
        if field.message_type is not None
        for each in (value if is_repeated(field) else (value,))
        for record in records_of(each)
    ]


def _change(before: Any, after: Any, names: list[str]) -> change_pb2.Change:
    change = change_pb2.Change(
        type=descriptor_of(after).full_name + _VERB,
        entity_id=after.id if before is not None else "",
        before=before.SerializeToString() if before is not None else b"",
        after=after.SerializeToString(),
    )
    change.changed.paths.extend(names)
    return change


def show(
    proposal: pb.Proposal, method: Method, request: bytes, changes: list[change_pb2.Change], caller: Caller
) -> None:
    """Completes a proposal with what the caller may read of what is proposed; nothing of records out of its sight."""
    seen = [Change("gateway", 0, caller.tenant, each) for each in changes]
    if not all(may_see(caller, each) for each in seen):
        return
    for change in seen:
        kind = load().by_message[change.resource]
        readable = fields_for(caller, kind.descriptor).readable
        before: Any = _codec.value(change.before) if change.before is not None else {}
        after: Any = _codec.value(change.after)
        for name in change.changed:
            if name in readable:
                shown = proposal.changes.add(entity_id=change.entity_id, resource=kind.prefix, field=name)
                _set(shown.before, before, name)
                _set(shown.after, after, name)
    proposal.request.update(_asked(method, request, caller))


def _set(value: Any, members: dict[str, Any], name: str) -> None:
    if name in members:
        ParseDict(members[name], value)


def _asked(method: Method, request: bytes, caller: Caller) -> Any:
    """A request as the caller may read it: what stands beside a record under a field's name is that field's."""
    message = method.request.FromString(request)
    masks.hide(message)
    kind = kind_of(method).descriptor
    hidden = {each.name for each in kind.fields} - fields_for(caller, kind).readable
    for field, _ in message.ListFields():
        if field.name in hidden:
            message.ClearField(field.name)
    return _said(message, _codec.value(message))


def _said(message: Message, value: Any) -> dict[str, Any]:
    """Of a message's JSON what it says itself, without what stands for nothing said."""
    found = {}
    for field, inner in message.ListFields():
        nested = field.message_type is not None and is_resource(field.message_type) and not is_repeated(field)
        found[field.name] = _said(inner, value[field.name]) if nested else value[field.name]
    return found
