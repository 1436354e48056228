"""A subscriber that is killed at any moment, or away for longer than the stream remembers, sees every change once."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nats
import pytest

from chassis.events.broker import STREAM
from tests.e2e.stream import events, following
from tests.e2e.test_cli import command
from tests.reliability.conftest import Report
from tests.running import Client, Running, until

COMPANY = "crm.contacts.v1.Company"


class Notebook:
    """What a subscriber wrote down, a line an event, with the place to go on from. A torn line was not written."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.touch()

    def lines(self) -> list[dict[str, Any]]:
        """The whole lines."""
        return [json.loads(line) for line in self._path.read_bytes().split(b"\n")[:-1]]

    def mend(self) -> str:
        """Cuts a torn line off; the place after the last whole one."""
        body = self._path.read_bytes()
        self._path.write_bytes(body[: body.rfind(b"\n") + 1])
        return self.lines()[-1]["replay_id"] if self.lines() else ""


@pytest.mark.line(44)
def test_a_subscriber_that_is_killed_at_random_sees_every_change_once(
    platform: Running, tmp_path: Path, scale: Callable[[int, int], int], seed: int, report: Report
) -> None:
    client, chance, kills = platform.tenant("Killed"), random.Random(seed), scale(10, 200)
    start = client.post("/v1/companies", {"display_name": "First"})["create_time"]
    notebook, stop = Notebook(tmp_path / "seen"), threading.Event()
    writer = threading.Thread(target=_write, args=(client, stop))
    writer.start()
    try:
        for _ in range(kills):
            before = len(notebook.lines())
            with _subscriber(platform, client, notebook, tmp_path / "seen", start) as process:
                # Also while it starts, and between an event and the next.
                if chance.random() < 0.8:
                    wanted = before + chance.randrange(1, 6)
                    until(lambda wanted=wanted: len(notebook.lines()) >= wanted, "events arrive")  # type: ignore[misc]
                time.sleep(chance.random() * 0.3)
                process.kill()
    finally:
        stop.set()
        writer.join(30)
    written = _written(platform, client)
    with _subscriber(platform, client, notebook, tmp_path / "seen", start) as process:
        until(lambda: len(notebook.lines()) >= len(written), f"all {len(written)} changes are seen")
        process.kill()
    seen = [line["event_id"] for line in notebook.lines()]
    report(
        sorted(seen) == sorted(written),
        kills=kills, changes=len(written), lost=len(set(written) - set(seen)), doubled=len(seen) - len(set(seen)),
    )  # fmt: skip


def _subscriber(
    platform: Running, client: Client, notebook: Notebook, path: Path, start: str
) -> subprocess.Popen[bytes]:
    """`rapport events tail`, from where the notebook ends."""
    program, environment = command(client, platform)
    place = notebook.mend()
    begin = ["--from", place] if place else ["--since", start]
    with path.open("ab") as out:
        arguments = [*program, "events", "tail", "--type", COMPANY, "--json", *begin]
        return subprocess.Popen(arguments, env=environment, stdout=out)


def _write(client: Client, stop: threading.Event) -> None:
    writer = Client(client.url, client.address, client.key, client.tenant)
    number = 0
    while not stop.wait(0.02):
        number += 1
        made = writer.post("/v1/companies", {"display_name": f"Company {number}"})
        writer.patch(f"/v1/companies/{made['id']}", {"display_name": f"Changed {number}"})


def _written(platform: Running, client: Client) -> list[str]:
    rows = platform.rows("contacts", client.tenant, f"SELECT event_id FROM ledger WHERE type LIKE '{COMPANY}.%'")
    return [str(row["event_id"]) for row in rows]


@pytest.mark.line(44)
def test_one_that_was_away_for_longer_than_the_stream_remembers_loses_nothing(
    platform: Running, scale: Callable[[int, int], int], report: Report
) -> None:
    client, count = platform.tenant("Away"), scale(50, 5_000)
    made = client.post("/v1/companies", {"display_name": "Before"})
    with following(client, types=COMPANY, start_time=made["create_time"]) as stream:
        ((place, _),) = events(stream, 1)
    for first in range(0, count, 500):
        batch = [{"company": {"display_name": f"Missed {number}"}} for number in range(first, min(first + 500, count))]
        client.post("/v1/companies:batchCreate", {"requests": batch})
    asyncio.run(_purge(platform.env["RAPPORT_NATS_URL"]))
    with following(client, place, types=COMPANY) as stream:
        seen = [event["event_id"] for _, event in events(stream, count)]
    with following(client, types=COMPANY, start_time=made["create_time"]) as stream:
        by_time = [event["event_id"] for _, event in events(stream, count + 1)]
    written = _written(platform, client)
    report(
        sorted(by_time) == sorted(written) and by_time[1:] == seen,
        changes=len(written), lost=len(set(written) - set(by_time)), doubled=len(by_time) - len(set(by_time)),
    )  # fmt: skip


async def _purge(url: str) -> None:
    """Has the stream forget everything, once the services have taken what is theirs."""
    client = await nats.connect(url)
    try:
        jetstream = client.jetstream()
        async with asyncio.timeout(30):
            while any(each.num_pending or each.num_ack_pending for each in await jetstream.consumers_info(STREAM)):
                await asyncio.sleep(0.05)
        await jetstream.purge_stream(STREAM)
    finally:
        await client.close()
