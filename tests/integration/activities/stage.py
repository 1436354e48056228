"""The activities service on real servers, called as the gateway calls it and fed as the consumer feeds it."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from crm.activities.v1 import timeline_pb2
from crm.type.v1 import change_pb2
from google.protobuf.message import Message

from chassis import contract, ids, migrate
from chassis.context import Caller
from chassis.events import Change
from chassis.rows import timestamp
from chassis.run import platform_of
from chassis.service import Platform, Server, generated
from chassis.settings import Settings
from chassis.work import changed_fields
from deploy.local import keys, nats, ports, postgres
from deploy.local.state import State
from services.activities import reactions
from services.activities.__main__ import application

START = datetime(2018, 3, 1, 12, tzinfo=UTC)


def at(hour: float) -> datetime:
    """A time, in hours after the beginning of a story."""
    return START + timedelta(hours=hour)


@dataclass
class Activities:
    """The service as one tenant sees it."""

    platform: Platform
    server: Server
    tenant: UUID = field(default_factory=uuid4)
    user: str = field(default_factory=lambda: ids.new("user"))

    async def call(self, method: str, request: Message) -> Any:
        """The answer to ``method``, such as ``TaskService/CreateTask``; raises its Failure."""
        path = f"/crm.activities.v1.{method}"
        caller = Caller(self.tenant, self.user, frozenset({"*"}))
        answer = await self.server.handle(path, request.SerializeToString(), {}, 10, caller)
        return generated(contract.load().methods[path].response.DESCRIPTOR.full_name).FromString(answer)

    async def deliver(self, changes: Iterable[Change]) -> None:
        """Brings events to the reaction as a consumer does: those of a group share a transaction."""
        async with self.platform.db.write(self.tenant) as tx:
            for change in changes:
                await reactions.add_to_timeline(change, tx)

    async def timeline(self, subject_id: str, **asked: Any) -> list[timeline_pb2.TimelineEntry]:
        """The whole timeline of a record, the earliest first, read page by page."""
        request = timeline_pb2.ListTimelineRequest(subject_id=subject_id, **{"ascending": True} | asked)
        entries = []
        while True:
            answer = await self.call("TimelineService/ListTimeline", request)
            entries += answer.entries
            if not answer.next_page_token:
                return entries
            request.page_token = answer.next_page_token

    async def kinds(self, subject_id: str, **asked: Any) -> list[str]:
        """What happened on a record's timeline, the earliest first."""
        return [entry.kind for entry in await self.timeline(subject_id, **asked)]


@dataclass
class Story:
    """Changes as the services' ledgers would tell of them."""

    tenant: UUID
    changes: list[Change] = field(default_factory=list)

    def tell(self, verb: str, hour: float, after: Any, before: Any = None) -> Change:
        """Adds what happened to a record, ``hour`` hours after the beginning."""
        kind = contract.load().by_message[after.DESCRIPTOR.full_name]
        message = change_pb2.Change(
            event_id=str(ids.new_uuid()),
            type=f"{kind.full_name}.{verb}",
            entity_id=after.id,
            revision=1 + sum(each.entity_id == after.id for each in self.changes),
            before=before.SerializeToString() if before is not None else b"",
            after=after.SerializeToString(),
            actor="user_somebody",
            occur_time=timestamp(at(hour)),
            commit_time=timestamp(datetime.now(UTC)),
            trace_context=f"00-{uuid4().hex}-{uuid4().hex[:16]}-01",
        )
        message.changed.paths.extend(changed_fields(before, after))
        position = 1 + sum(each.service == kind.home for each in self.changes)
        change = Change.decode(kind.home, position, self.tenant, message.SerializeToString())
        self.changes.append(change)
        return change


async def until(condition: Callable[[], Awaitable[Any]], limit_s: float = 15.0) -> Any:
    """Asks again until the answer is true, and returns it; fails after ``limit_s`` seconds."""
    end = time.monotonic() + limit_s
    while not (answer := await condition()):
        assert time.monotonic() < end, f"not so within {limit_s} s"
        await asyncio.sleep(0.02)
    return answer


def platform(server: postgres.Postgres, broker: nats.Nats, directory: Path) -> Platform:
    """A fresh database with the service's tables, and what the service stands on."""
    server.create_databases(["activities"])
    state = State(directory / "state")
    state.create()
    keys.make(state, {"activities": ["activities"]})
    listen = f"127.0.0.1:{ports.free()}"
    settings = Settings.model_validate(
        {
            "database_url": server.dsn_for("activities", "activities_app"),
            "worker_database_url": server.dsn_for("activities", "activities_worker"),
            "owner_database_url": server.dsn_for("activities", "activities_owner"),
            "nats_url": broker.url,
            "listen": listen,
            "activities_address": listen,
            "signing_key_file": state.key("activities.pem"),
            "trust_file": state.key("trust.json"),
            "token_key_file": state.key("token.key"),
        }
    )
    migrate.upgrade(settings, application.schema, application.migrations)
    return platform_of(application, settings)
