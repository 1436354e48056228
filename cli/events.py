"""The live feed: every change as it is committed, across broken connections without a gap."""

from __future__ import annotations

import json as jsonlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx2

from cli.client import PASSING_STATUSES, Client, Json, refusal, refused_by, unreachable
from cli.problems import Problem, Refused
from cli.render import cell, moment, stderr, stdout

PATH = "/v1/events:subscribe"
LONGEST_PAUSE_S = 5.0
# How often a subscription keeps the place.
KEEP_S = 1.0


@dataclass(frozen=True)
class Asked:
    """What to follow, and from where."""

    types: Sequence[str] = ()
    replay_id: str = ""
    since: str = ""
    subscription: str = ""
    snapshot: bool = False
    filter: str = ""

    def params(self, last: str) -> dict[str, Any]:
        """The query of a stream that begins, or goes on after a place."""
        named: dict[str, Any] = {"types": list(self.types)} if self.types else {}
        if self.filter:
            named["filter"] = self.filter
        if self.subscription:
            named["subscription_id"] = self.subscription
        # The place resumes the stream; what it began with would begin it again.
        if self.since and not last:
            named["start_time"] = self.since
        if self.snapshot and not last:
            named["snapshot"] = "true"
        return named


def tail(client: Client, asked: Asked, limit: int | None, json: bool) -> None:
    """Prints changes as they come, until `limit` of them, Ctrl-C, or a refusal.

    A broken connection is taken up again after the last event that was seen.
    """
    last = kept = asked.replay_id
    seen, due = 0, time.monotonic() + KEEP_S
    try:
        for last, event in follow(client, asked):
            if event is not None:
                print_event(last, event, json)
                seen += 1
            if asked.subscription and last != kept and time.monotonic() >= due:
                kept, due = keep(client, asked.subscription, last), time.monotonic() + KEEP_S
            if limit is not None and seen >= limit:
                return
    finally:
        if asked.subscription and last != kept:
            keep(client, asked.subscription, last)
        elif last and not json and stderr.is_terminal:
            stderr.print(f"[dim]go on with: rapport events tail --from {cell(last)}[/dim]")


def keep(client: Client, subscription: str, replay_id: str) -> str:
    """Has a subscription keep the place of what was printed."""
    client.post(f"/v1/subscriptions/{quote(subscription, safe='')}:commit", {"replay_id": replay_id})
    return replay_id


def follow(client: Client, asked: Asked) -> Iterator[tuple[str, Json | None]]:
    """Replay ids and events; None for a checkpoint. Raises Problem where nothing answers for `patience_s`."""
    last, deadline, pause = asked.replay_id, time.monotonic() + client.patience_s, 0.2
    while True:
        failure: Problem
        try:
            with client.stream(PATH, asked.params(last), {"last-event-id": last} if last else {}) as response:
                if not response.is_success:
                    raise refusal(response)
                for message in httpx2.EventSource(response):
                    deadline, pause = time.monotonic() + 60.0, 0.2
                    found = read(message.data)
                    last = message.id or last
                    if error := found.get("error"):  # why the platform ends a stream that began well
                        raise refused_by(error, int(error["code"]))
                    yield last, found.get("event")
            failure = Problem("the stream ended")
        except Refused as refused:
            if refused.http_status not in PASSING_STATUSES:
                raise
            failure = refused
        except httpx2.TransportError as error:
            failure = unreachable(client.settings.url, error)
        if time.monotonic() + pause > deadline:
            raise failure
        time.sleep(pause)
        pause = min(pause * 2, LONGEST_PAUSE_S)


def read(data: str) -> Json:
    """The object in a message; an empty one where it holds none."""
    try:
        found = jsonlib.loads(data) if data else {}
    except ValueError as error:
        raise Problem(f"the feed sent what is not JSON: {data[:80]}") from error
    return found if isinstance(found, dict) else {}


def print_event(replay_id: str, event: Json, json: bool) -> None:
    """Prints an event on a line of its own."""
    if json:
        sys.stdout.write(jsonlib.dumps({"replay_id": replay_id, **event}, ensure_ascii=False) + "\n")
        sys.stdout.flush()
        return
    _, _, what = event.get("type", "").rpartition(".v1.")
    after = event.get("after") or {}
    name = after.get("display_name") or after.get("title") or ""
    changed = event.get("changed", "")
    when, record_id = moment(event.get("occur_time", "")), cell(event.get("entity_id", ""))
    stdout.print(f"{when}  [bold]{cell(what)}[/bold]  {record_id}  {cell(name)}  [dim]{cell(changed)}[/dim]")
