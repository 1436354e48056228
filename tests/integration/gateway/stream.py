"""A subscriber over server-sent events that comes again by itself, as a browser does."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from typing import Any

import httpx2

from tests.running import Client, until


@dataclass
class Message:
    """One server-sent event."""

    id: str
    name: str
    data: dict[str, Any]


@dataclass
class Stream:
    """What a subscriber has seen, collected in the background until `close`."""

    client: Client
    query: dict[str, Any] = field(default_factory=dict)
    last_event_id: str = ""
    messages: list[Message] = field(default_factory=list)
    connections: int = 0
    refused: httpx2.Response | None = None
    _closed: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Stream:
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()
        # From the first checkpoint on nothing is missed.
        until(lambda: self.messages or self.refused, "the stream begins")
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()

    @property
    def events(self) -> list[dict[str, Any]]:
        """The changes seen, in their order."""
        return [each.data["event"] for each in self.messages if not each.name]

    def saw(self, what: Any, reason: str) -> Any:
        """Waits until ``what(events)`` is true."""
        return until(lambda: what(self.events), reason)

    def _follow(self) -> None:
        while not self._closed.is_set():
            headers = {"authorization": f"Bearer {self.client.key}"}
            if self.last_event_id:
                headers["last-event-id"] = self.last_event_id
            try:
                with httpx2.stream(
                    "GET", f"{self.client.url}/v1/events:subscribe", params=self.query, headers=headers, timeout=60
                ) as reply:
                    if reply.status_code != 200:
                        reply.read()
                        self.refused = reply
                        return
                    self.connections += 1
                    self._read(reply)
            except httpx2.HTTPError:
                pass
            self._closed.wait(0.1)

    def _read(self, reply: httpx2.Response) -> None:
        message = Message("", "", {})
        for line in reply.iter_lines():
            if self._closed.is_set():
                return
            name, _, value = line.partition(": ")
            if name == "id":
                message.id = value
            elif name == "event":
                message.name = value
            elif name == "data":
                message.data = json.loads(value)
            elif not line and message.data:
                self.last_event_id = message.id or self.last_event_id
                self.messages.append(message)
                if message.name == "end":
                    return
                message = Message("", "", {})
