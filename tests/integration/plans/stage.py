"""The services on one filled PostgreSQL that writes down the plan of every statement it runs.

The plans are PostgreSQL's own (auto_explain), of exactly the statements that the code sends: as the app role or the
worker, behind row security, with their parameters, and with the rows that each step really read.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from chassis import contract, migrate
from chassis.access import Access
from chassis.change import Change
from chassis.context import Caller
from chassis.ledger import Ledger
from chassis.run import Application, platform_of
from chassis.search.service import Search
from chassis.service import Server, generated
from chassis.settings import Settings
from deploy.local import keys, ports, postgres
from deploy.local.state import State
from services.activities.__main__ import application as activities
from services.contacts.__main__ import application as contacts
from services.marketing.__main__ import application as marketing
from services.sales.__main__ import application as sales
from tests.bench.data import Filled, fill_tenant

APPLICATIONS = {each.name: each for each in (contacts, sales, activities, marketing)}
_EXPLAIN = {
    "session_preload_libraries": "auto_explain",
    "auto_explain.log_min_duration": "0",
    "auto_explain.log_analyze": "on",
    "auto_explain.log_timing": "off",
    "auto_explain.log_format": "json",
}
_PLAN = re.compile(r"^[^\t\n].*?duration: [\d.]+ ms  plan:\n((?:\t.*\n)+)", re.MULTILINE)


@dataclass
class Node:
    """A step of a plan: what it is, on which table, and how many rows it gave on and threw away."""

    kind: str
    table: str
    rows: float
    removed: float
    below: list[Node] = field(default_factory=list)

    @classmethod
    def of(cls, plan: dict[str, Any]) -> Node:
        """A node of EXPLAIN's JSON."""
        loops = plan.get("Actual Loops", 1)
        removed = sum(value for name, value in plan.items() if name.startswith("Rows Removed by"))
        below = [cls.of(each) for each in plan.get("Plans", ())]
        return cls(
            plan["Node Type"],
            plan.get("Relation Name", ""),
            plan.get("Actual Rows", 0) * loops,
            removed * loops,
            below,
        )

    def walk(self) -> Iterator[Node]:
        """This node and all below it."""
        yield self
        for each in self.below:
            yield from each.walk()

    @property
    def sorted_rows(self) -> float:
        """How many rows a sort has to take in."""
        return sum(each.rows for each in self.below) if "Sort" in self.kind else 0


@dataclass
class Plan:
    """A statement and how it ran."""

    statement: str
    top: Node
    text: str


@dataclass
class Watched:
    """The platform's services over one filled tenant, in-process, and the server that tells of its plans."""

    server: postgres.Postgres
    log: Path
    settings: dict[str, Settings]
    filled: Filled
    tenant: UUID
    servers: dict[str, Server] = field(default_factory=dict)

    async def open(self) -> None:
        """New connections: settings of roles apply to these."""
        await self.close()
        for name, application in APPLICATIONS.items():
            self.servers[name] = _server(application, self.settings[name])

    async def close(self) -> None:
        """Closes every connection."""
        for server in self.servers.values():
            await server.platform.channels.close()
            await server.platform.db.close()
        self.servers = {}

    async def call(
        self,
        path: str,
        request: Any,
        *,
        home: str = "",
        principal: str = "user_01h455vb4pex5vsknk084sn02q",
        access: Access | None = None,
    ) -> tuple[Any, list[Plan]]:
        """The answer to a call of a method, such as ``/crm.sales.v1.DealService/ListDeals``, and its plans.

        ``home`` is the service where the method does not say it.
        """
        method = contract.load().methods[path]
        caller = Caller(self.tenant, principal, frozenset({"*", "internal.*"}), "gateway", access=access)
        began = self.log.stat().st_size
        server = self.servers[home or path.split(".")[1]]
        answer = await server.handle(path, request.SerializeToString(), {}, 60, caller)
        return generated(method.descriptor.output_type.full_name).FromString(answer), self.plans_since(began)

    async def react(self, service: str, reactions: Iterable[Any], changes: Iterable[Change]) -> list[Plan]:
        """The plans of what a service's reactions run for a group of events."""
        began = self.log.stat().st_size
        async with self.servers[service].platform.db.write(self.tenant) as tx:
            for change in changes:
                for reaction in reactions:
                    await reaction(change, tx)
        return self.plans_since(began)

    async def as_worker(self, service: str, statement: str, values: Iterable[Any]) -> list[Plan]:
        """The plans of a statement that the worker role runs."""
        began = self.log.stat().st_size
        connection = await asyncpg.connect(self.server.dsn_for(service, f"{service}_worker"))
        try:
            await connection.fetch(statement, *values)
        finally:
            await connection.close()
        return self.plans_since(began)

    def plans_since(self, began: int) -> list[Plan]:
        """The plans that the server wrote down since its log was so long."""
        with self.log.open("rb") as log:
            log.seek(began)
            text = log.read().decode()
        found = []
        for match in _PLAN.finditer(text):
            plan = json.loads(match[1])
            if "typeinfo_tree" in plan["Query Text"]:
                continue  # the driver's own, once a connection and type
            found.append(Plan(plan["Query Text"], Node.of(plan["Plan"]), json.dumps(plan["Plan"], indent=1)))
        return found

    async def plan_as(self, mode: str) -> None:
        """Has every new connection plan ``auto``, or all statements without regard to their parameters."""
        connection = await asyncpg.connect(self.server.dsn_for("postgres"))
        for name in APPLICATIONS:
            for role in ("app", "worker"):
                await connection.execute(f"ALTER ROLE {name}_{role} SET plan_cache_mode = {mode}")
        await connection.close()
        await self.open()


def _server(application: Application, settings: Settings) -> Server:
    return Server(platform_of(application, settings), [*application.services, Ledger, Search])


def filled_platform(directory: Path, rows: int) -> Watched:
    """A server with every service's database, one tenant in it filled with ``rows`` of each kind of record."""
    server = postgres.start(directory / "pg")
    server.create_databases(APPLICATIONS)
    state = State(directory / "state")
    state.create()
    keys.make(state, {name: list(APPLICATIONS) for name in APPLICATIONS})
    settings = {name: _settings(server, state, name) for name in APPLICATIONS}
    for name, application in APPLICATIONS.items():
        migrate.upgrade(settings[name], application.schema, application.migrations)
    owners = {name: server.dsn_for(name, f"{name}_owner") for name in APPLICATIONS}
    tenant = uuid4()
    filled = fill_tenant(owners, tenant, rows)
    asyncio.run(_explain(server))
    return Watched(server, directory / "pg" / "postgres.log", settings, filled, tenant)


async def _explain(server: postgres.Postgres) -> None:
    connection = await asyncpg.connect(server.dsn_for("postgres"))
    for name in APPLICATIONS:
        for role in ("app", "worker"):
            for setting, value in _EXPLAIN.items():
                await connection.execute(f"ALTER ROLE {name}_{role} SET {setting} = '{value}'")
    await connection.close()


def _settings(server: postgres.Postgres, state: State, name: str) -> Settings:
    return Settings.model_validate(
        {
            "database_url": server.dsn_for(name, f"{name}_app"),
            "worker_database_url": server.dsn_for(name, f"{name}_worker"),
            "owner_database_url": server.dsn_for(name, f"{name}_owner"),
            "listen": f"127.0.0.1:{ports.free()}",
            "signing_key_file": state.key(f"{name}.pem"),
            "trust_file": state.key("trust.json"),
            "token_key_file": state.key("token.key"),
        }
    )
