"""The tables of activities: its records, whose columns come from the contract, and the timeline's projection."""

from crm.activities.v1 import call_pb2, meeting_pb2, note_pb2, task_pb2
from sqlalchemy import BigInteger, Column, Index, LargeBinary, Text, Uuid

from chassis.db import Schema, Time

schema = Schema("activities")

tasks = schema.record(task_pb2.Task)
notes = schema.record(note_pb2.Note)
calls = schema.record(call_pb2.Call)
meetings = schema.record(meeting_pb2.Meeting)

# Each ends in the id, as the orders of lists do: a page is a piece of an index, whatever there is of one value.
Index(None, tasks.c.tenant_id, tasks.c.due_time, tasks.c.id)
for table in (tasks, notes, calls, meetings):
    Index(None, table.c.tenant_id, table.c.owner_id, table.c.id)
Index(None, notes.c.tenant_id, notes.c.note_time, notes.c.id)
Index(None, calls.c.tenant_id, calls.c.call_time, calls.c.id)
Index(None, meetings.c.tenant_id, meetings.c.start_time, meetings.c.id)

# Every change of every record, once. `change` is the event's body, from which an entry is read.
timeline_entries = schema.table(
    "timeline_entries",
    Column("event_id", Uuid, nullable=False),
    Column("entity_id", Text, nullable=False),
    Column("type", Text, nullable=False),
    Column("occur_time", Time, nullable=False),
    Column("service", Text, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("change", LargeBinary, nullable=False),
    key=("event_id",),
)
Index(None, timeline_entries.c.tenant_id, timeline_entries.c.entity_id)

# On whose timelines an entry stands. The key is the order in which a timeline is read.
entry_subject = schema.table(
    "entry_subject",
    Column("subject_id", Text, nullable=False),
    Column("occur_time", Time, nullable=False),
    Column("service", Text, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("event_id", Uuid, nullable=False),
    key=("subject_id", "occur_time", "service", "position", "event_id"),
)

# Every link ever seen: what happens to the entity shows on the subject's timeline.
entity_subject = schema.table(
    "entity_subject",
    Column("entity_id", Text, nullable=False),
    Column("subject_id", Text, nullable=False),
    key=("entity_id", "subject_id"),
)

# Whose each record is that had an owner once, as the event of the highest revision known here says that set one.
entity_owner = schema.table(
    "entity_owner",
    Column("entity_id", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("owner_id", Uuid),
    key=("entity_id",),
)
