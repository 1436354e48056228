"""From a commit through NATS to the timeline, and the timeline made again from the ledger."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from crm.activities.v1 import task_pb2
from sqlalchemy import bindparam, insert, select

from chassis import ids
from chassis.events import Consumer, Relay, apply_topology, reactions_of
from chassis.run import GrpcServing, Process
from chassis.service import Platform, Server
from services.activities import reactions
from services.activities.__main__ import application
from services.activities.rebuild import Rebuild
from services.activities.tables import entity_subject, entry_subject, timeline_entries
from tests.integration.activities.stage import Activities, until


@pytest.fixture
async def running(platform: Platform, server: Server) -> AsyncIterator[None]:
    """The service's relay, consumer and gRPC server."""
    declared = reactions_of(reactions)
    await apply_topology(platform.settings.nats_url.get_secret_value(), {"activities": declared}, wait_s=10)
    relay = Relay(platform.db, platform.settings)
    consumer = Consumer("activities", platform.db, platform.settings, declared)
    tasks = [asyncio.create_task(relay.run()), asyncio.create_task(consumer.run())]
    serving = await GrpcServing(Process(application, platform.settings, platform, server)).start()
    yield
    await serving.stop()
    await consumer.stop()
    await relay.stop()
    await asyncio.gather(*tasks)


async def create_task(activities: Activities, *related_ids: str) -> Any:
    task = task_pb2.Task(title="Ring back", related_ids=related_ids)
    return await activities.call("TaskService/CreateTask", task_pb2.CreateTaskRequest(task=task))


async def projection(activities: Activities) -> list[Any]:
    """Everything the timeline's tables hold of a tenant."""
    async with activities.platform.db.read(activities.tenant) as tx:
        return [
            sorted(map(tuple, await tx.rows(select(table).where(table.c.tenant_id == bindparam("tenant")))))
            for table in (timeline_entries, entry_subject, entity_subject)
        ]


@pytest.mark.usefixtures("running")
async def test_the_timeline_made_again_equals_what_events_built(activities: Activities) -> None:
    contact = ids.new("contact")
    task = await create_task(activities, contact)
    for number in range(5):
        await create_task(activities, contact, ids.new("deal") if number % 2 else task.id)
    await activities.call("TaskService/CompleteTask", task_pb2.CompleteTaskRequest(id=task.id))
    await activities.call("TaskService/ReopenTask", task_pb2.ReopenTaskRequest(id=task.id))
    await until(lambda: shows(activities, contact, 8))
    assert sorted(await activities.kinds(task.id)) == [
        *["task.completed"],
        *["task.created"] * 4,
        *["task.reopened"],
    ]
    built = await projection(activities)

    async with activities.platform.db.write(activities.tenant) as tx:
        row = {"entity_id": task.id, "subject_id": "contact_that_was_never_named"}
        await tx.execute(insert(entity_subject).values(tenant_id=bindparam("tenant"), **row))
    rebuild = Rebuild(activities.platform.db, activities.platform.channels, ["activities"])
    assert await rebuild.run() >= 8
    assert await projection(activities) == built


async def shows(activities: Activities, subject: str, count: int) -> bool:
    return len(await activities.timeline(subject)) == count
