"""Notes: what somebody wants remembered about a record."""

from __future__ import annotations

from typing import Final

from crm.activities.v1 import note_pb2 as pb

from chassis.resource import Resource
from chassis.service import Service
from chassis.work import Work
from services.activities import tables

# What the beginning of a body is cut to when it serves as title, in characters.
TITLE_LENGTH: Final = 80


async def prepare(_work: Work, note: pb.Note, _before: pb.Note | None) -> None:
    """Takes the beginning of the body as title where none was given."""
    if not note.title:
        note.title = beginning(note.body)


def beginning(body: str) -> str:
    """The first line of a body that says something, cut between words where it is long."""
    line = next((each for each in map(str.strip, body.splitlines()) if each), "")
    if len(line) <= TITLE_LENGTH:
        return line
    head, _, _ = line[:TITLE_LENGTH].rpartition(" ")
    return f"{head or line[: TITLE_LENGTH - 1]}…"


notes: Resource[pb.Note] = Resource(pb.Note, tables.notes, prepare=prepare, optimistic=True)


class Notes(Service, serves="crm.activities.v1.NoteService"):
    """Notes on records."""

    resource = notes
