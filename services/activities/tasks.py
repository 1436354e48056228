"""Tasks: what somebody has to do, until it is done."""

from __future__ import annotations

from crm.activities.v1 import task_pb2 as pb

from chassis.errors import Precondition, Reason
from chassis.resource import Resource
from chassis.rows import timestamp
from chassis.service import Service
from chassis.work import Work
from services.activities import tables


async def prepare(_work: Work, task: pb.Task, before: pb.Task | None) -> None:
    """A new task is open."""
    if before is None:
        task.status = pb.TASK_STATUS_OPEN


tasks: Resource[pb.Task] = Resource(pb.Task, tables.tasks, prepare=prepare, optimistic=True)


class Tasks(Service, serves="crm.activities.v1.TaskService"):
    """Things to do."""

    resource = tasks

    async def CompleteTask(self, request: pb.CompleteTaskRequest, work: Work) -> pb.Task:
        """Marks a task as done at the time given."""
        task = await work.lock(tasks, request.id, request.etag)
        if task.before.status == pb.TASK_STATUS_COMPLETED:
            raise Precondition(Reason.REASON_STATE_INVALID, f"{request.id} is completed already")
        done = await work.happened(tasks, request.occur_time)
        task.after.status = pb.TASK_STATUS_COMPLETED
        task.after.complete_time.CopyFrom(timestamp(done))
        return await work.update(task, "completed", occur_time=done)

    async def ReopenTask(self, request: pb.ReopenTaskRequest, work: Work) -> pb.Task:
        """Marks a task as still to be done."""
        task = await work.lock(tasks, request.id, request.etag)
        if task.before.status == pb.TASK_STATUS_OPEN:
            raise Precondition(Reason.REASON_STATE_INVALID, f"{request.id} is open; there is nothing to reopen")
        task.after.status = pb.TASK_STATUS_OPEN
        task.after.ClearField("complete_time")
        return await work.update(task, "reopened", occur_time=request.occur_time)
