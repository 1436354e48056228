"""The live feed: every change as it is committed, across broken connections without a gap."""

from __future__ import annotations

import json as jsonlib
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Any

import httpx2

from cli.client import PASSING_STATUSES, Client, Json, refusal, refused_by, unreachable
from cli.problems import Problem, Refused
from cli.render import cell, moment, stderr, stdout

PATH = "/v1/events:subscribe"
LONGEST_PAUSE_S = 5.0


def tail(client: Client, types: Sequence[str], replay_id: str, since: str, limit: int | None, json: bool) -> None:
    """Prints changes as they come, until `limit` of them, Ctrl-C, or a refusal.

    A broken connection is taken up again after the last event that was seen.
    """
    last = replay_id
    seen = 0
    try:
        for last, event in follow(client, types, replay_id, since):
            if event is None:
                continue
            print_event(last, event, json)
            seen += 1
            if limit is not None and seen >= limit:
                return
    finally:
        if last and not json and stderr.is_terminal:
            stderr.print(f"[dim]go on with: rapport events tail --from {cell(last)}[/dim]")


def follow(client: Client, types: Sequence[str], replay_id: str, since: str) -> Iterator[tuple[str, Json | None]]:
    """Replay ids and events; None for a checkpoint. Raises Problem where nothing answers for `patience_s`."""
    params: dict[str, Any] = {"types": list(types), **({"start_time": since} if since else {})}
    last, deadline, pause = replay_id, time.monotonic() + client.patience_s, 0.2
    while True:
        failure: Problem
        try:
            # The place resumes the stream; the time it began with would begin it again.
            asked = {k: v for k, v in params.items() if not (last and k == "start_time")}
            with client.stream(PATH, asked, {"last-event-id": last} if last else {}) as response:
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
