"""A change as clients see it, on a stream and in a webhook alike."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID, uuid5

from crm.gateway.v1 import event_pb2 as pb

from chassis.change import Change
from chassis.context import Caller, fields_for
from chassis.contract import load
from chassis.rows import moment, timestamp
from gateway.transcode import Transcoder

# The verb of events that show a record as it is, and the namespace of their ids (RFC 9562, section 5.5).
SNAPSHOT: Final = "snapshot"
_SNAPSHOTS: Final = UUID("6f1d5d2c-5b60-4c5e-9c43-6d0c2f5f6a51")


def event_of(change: Change, codec: Transcoder, caller: Caller) -> pb.Event:
    """The event that tells of a change, with the fields that a caller may read."""
    event = pb.Event(
        event_id=change.message.event_id,
        type=change.type,
        entity_id=change.entity_id,
        revision=change.revision,
        actor=change.actor,
        cause_event_id=change.message.cause_event_id,
        trace_id=change.trace_id,
    )
    readable = fields_for(caller, load().by_message[change.resource].descriptor).readable
    event.changed.paths.extend(each for each in change.changed if each in readable)
    event.occur_time.CopyFrom(change.message.occur_time)
    event.commit_time.CopyFrom(change.message.commit_time)
    for record, target in ((change.before, event.before), (change.after, event.after)):
        if record is not None:
            target.update(_shown(record, codec, caller))
    return event


def snapshot_of(record: Any, codec: Transcoder, caller: Caller) -> pb.Event:
    """The event that shows a record as it is: the same one as long as the record is the same."""
    revision = revision_of(record)
    event = pb.Event(
        event_id=str(uuid5(_SNAPSHOTS, f"{record.id} {revision}")),
        type=f"{record.DESCRIPTOR.full_name}.{SNAPSHOT}",
        entity_id=record.id,
        revision=revision,
        occur_time=timestamp(moment(record.update_time)),
        commit_time=timestamp(moment(record.update_time)),
    )
    event.after.update(_shown(record, codec, caller))
    return event


def revision_of(record: Any) -> int:
    """The revision that a record's etag names."""
    return int(record.etag.strip('"'))


def _shown(record: Any, codec: Transcoder, caller: Caller) -> dict[str, Any]:
    readable = fields_for(caller, record.DESCRIPTOR).readable
    shown: Any = codec.value(record)
    return {name: value for name, value in shown.items() if name in readable}
