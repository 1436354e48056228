"""A change as clients see it, on a stream and in a webhook alike."""

from __future__ import annotations

from typing import Any

from crm.gateway.v1 import event_pb2 as pb

from chassis import context
from chassis.change import Change
from chassis.contract import load
from gateway.transcode import Transcoder


def event_of(change: Change, codec: Transcoder) -> pb.Event:
    """The event that tells of a change, with the fields that the current caller may read."""
    event = pb.Event(
        event_id=change.message.event_id,
        type=change.type,
        entity_id=change.entity_id,
        revision=change.revision,
        actor=change.actor,
        cause_event_id=change.message.cause_event_id,
        trace_id=change.trace_id,
    )
    readable = context.fields(load().by_message[change.resource].descriptor).readable
    event.changed.paths.extend(name for name in change.changed if name in readable)
    event.occur_time.CopyFrom(change.message.occur_time)
    event.commit_time.CopyFrom(change.message.commit_time)
    for record, target in ((change.before, event.before), (change.after, event.after)):
        if record is not None:
            shown: Any = codec.value(record)
            target.update({name: value for name, value in shown.items() if name in readable})
    return event
