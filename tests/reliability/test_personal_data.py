"""What people wrote stands in the databases and nowhere else: no log line, no trace, no error repeats it."""

from __future__ import annotations

import json
import secrets
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx2
import pytest

from chassis.contract import load
from tests.contract.rest import send
from tests.contract.world import BODIES, World, request
from tests.reliability.conftest import Report
from tests.reliability.test_texts import METHODS, PLACES, Requests, put
from tests.running import Client, Running, until

RACERS = 4


class Watched(World):
    """A tenant whose every text bears a canary, with the traces of all its calls."""

    def __init__(self, client: Client) -> None:
        super().__init__(client, f"canary{secrets.token_hex(6)}")
        self.traces: set[str] = set()
        client.http.event_hooks["response"].append(self._keep)

    def _keep(self, answer: httpx2.Response) -> None:
        self.traces.add(answer.headers.get("x-trace-id", ""))

    def live(self) -> None:
        """Calls every method, well and badly, with a canary in every place of every request."""
        for method in METHODS:
            if not method.permission.startswith("platform."):
                send(self.client, method, request(self, method))
        requests = Requests(self)
        for method, place in PLACES:
            if not method.permission.startswith("platform."):
                send(self.client, method, put(requests.of(method), place, self.text()))

    def race(self) -> None:
        """The same new record from several clients at once: the database refuses all but one."""
        with ThreadPoolExecutor(RACERS) as pool:
            for prefix in BODIES:
                kind = load().resources[prefix]
                if prefix != "tenant":
                    path, body = f"/v1/{kind.plural}", self.body(prefix)
                    list(
                        pool.map(lambda _, path=path, body=body: self.client.http.post(path, json=body), range(RACERS))
                    )


@pytest.mark.line(37, nightly=True)
def test_no_log_and_no_trace_holds_what_people_wrote(platform: Running, report: Report) -> None:
    watched = Watched(platform.tenant("Watched"))
    watched.live()
    watched.race()
    last = watched.make("lead")
    until(lambda: watched.client.get(f"/v1/timeline/{last['id']}")["entries"], "the last event is consumed")
    store = httpx2.Client(base_url=platform.env["RAPPORT_TRACES_URL"])
    traces = [found for each in watched.traces if (found := _trace(store, each))]
    store.close()
    hits = [f"trace: {each[:200]}" for each in traces if watched.mark in each.lower()]
    size = 0
    for log in platform.state.log("gateway-1").parent.glob("*.log"):
        size += log.stat().st_size
        with log.open(errors="replace") as lines:
            hits += [f"{log.name}: {line[:300]}" for line in lines if watched.mark in line.lower()]
    report(
        not hits and len(traces) > 100,
        calls=len(watched.traces), traces_read=len(traces), log_mb=round(size / 2**20, 1), hits=len(hits),
        first=hits[:4],
    )  # fmt: skip


def _trace(store: Any, trace_id: str) -> str:
    answer = store.get(f"/traces/{trace_id}")
    return json.dumps(answer.json()) if answer.is_success else ""
