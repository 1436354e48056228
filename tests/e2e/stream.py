"""A stream of events as a client reads it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from tests.running import Client


class Message(NamedTuple):
    """A server-sent event: its name, the replay id, and the event in it, None in a checkpoint."""

    name: str
    replay_id: str
    event: dict[str, Any] | None


def messages(lines: Iterator[str]) -> Iterator[Message]:
    """The messages of a stream."""
    fields: dict[str, str] = {}
    for line in lines:
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            if "data" in fields:
                event = json.loads(fields["data"]).get("event")
                yield Message(fields.get("event", ""), fields.get("id", ""), event)
            fields = {}


@contextmanager
def following(client: Client, last: str = "", **query: Any) -> Iterator[Iterator[Message]]:
    """The messages of a stream, which ends with the block."""
    headers = {"Last-Event-ID": last} if last else {}
    with client.http.stream("GET", "/v1/events:subscribe", params=query, headers=headers) as answer:
        assert answer.status_code == 200, answer.read()
        yield messages(answer.iter_lines())


def events(stream: Iterator[Message], count: int) -> list[tuple[str, dict[str, Any]]]:
    """The next events, each with its replay id."""
    found: list[tuple[str, dict[str, Any]]] = []
    while len(found) < count:
        message = next(stream)
        assert message.name in ("", "checkpoint"), message
        if message.event is not None:
            found.append((message.replay_id, message.event))
    return found
