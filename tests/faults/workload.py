"""The workload: several tenants' clients at once, each with its own dice from the seed."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from typing import Any, Final, Protocol

from tests.faults.client import Client
from tests.faults.history import History
from tests.faults.model import Tenant
from tests.faults.operations import Person, prepare
from tests.running import Running

TENANTS: Final = 4
CLIENTS: Final = 24

# How often each operation is chosen. Cheap ones dominate, hot records meet often.
WEIGHTS: Final[dict[str, float]] = {
    "create_contact": 10,
    "create_company": 3,
    "create_lead": 7,
    "create_deal": 6,
    "create_note": 8,
    "create_task": 3,
    "increment": 12,
    "write_field": 10,
    "move": 8,
    "close": 4,
    "reopen": 2,
    "convert": 5,
    "upsert": 3,
    "delete": 2,
    "replay": 4,
    "race": 2,
    "get": 16,
    "timeline": 2,
    "scan": 0.7,
    "peek": 3,
    "storm": 0.5,
}


class Platform(Protocol):
    """What the workload needs of a stand."""

    env: dict[str, str]
    running: Running


class Workload:
    """Runs from `start` to `stop`. ``rate`` is the most operations a second, of all clients together."""

    def __init__(
        self,
        stand: Platform,
        seed: int,
        history: History,
        *,
        rate: float = 400.0,
        clients: int = CLIENTS,
        weights: dict[str, float] | None = None,
    ) -> None:
        self._stand, self._seed, self._history = stand, seed, history
        self._pace_s = clients / rate
        self._clients = clients
        self._weights = weights or WEIGHTS
        self._stopping = threading.Event()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="workload", daemon=True)
        self._error: BaseException | None = None
        self._made = [stand.running.tenant(f"Faults {seed} {number}") for number in range(TENANTS)]
        for made in self._made:
            history.tenant(made.tenant, f"zq{made.tenant.hex[-12:]}zq")

    def start(self) -> None:
        """Makes the records that all write to, and begins; returns when the clients work."""
        self._thread.start()
        while not self._ready.wait(0.1):
            if not self._thread.is_alive():
                break
        self._raise()

    def stop(self) -> None:
        """Ends the clients after the operations they are at. Raises what ended one before."""
        self._stopping.set()
        self._thread.join(60)
        self._raise()

    @property
    def broken(self) -> bool:
        """Whether the workload ended by an error of its own."""
        return self._error is not None

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            asyncio.run(self._work())
        except BaseException as error:
            self._error = error

    async def _work(self) -> None:
        env = self._stand.env
        canaries = [canary for _, canary in self._history.tenants]
        tenants: list[Tenant] = []
        for number, made in enumerate(self._made):
            foreign = [each.encode() for each in canaries if each != canaries[number]]
            client = Client(env["RAPPORT_URL"], env["RAPPORT_GATEWAY_ADDRESS"], made.key, foreign)
            tenants.append(Tenant(number, client, canaries[number]))
        try:
            await asyncio.gather(*(prepare(each, self._history, self._seed) for each in tenants))
            self._ready.set()
            async with asyncio.TaskGroup() as group:
                for number in range(self._clients):
                    group.create_task(self._client(number, tenants))
        finally:
            for tenant in tenants:
                await tenant.client.close()

    async def _client(self, number: int, tenants: list[Tenant]) -> None:
        rng = random.Random(f"{self._seed}/{number}")
        person = Person(number, tenants[number % len(tenants)], tenants, rng, self._history)
        names, weights = list(self._weights), list(self._weights.values())
        await asyncio.sleep(rng.random() * self._pace_s)
        while not self._stopping.is_set():
            began = time.monotonic()
            operation: Any = getattr(person, rng.choices(names, weights)[0])
            await operation()
            await asyncio.sleep(max(0.0, began + self._pace_s * rng.uniform(0.5, 1.5) - time.monotonic()))
