"""An endpoint's queue: taken by one process at a time, and given back with what became of it."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from crm.gateway.v1 import webhook_endpoint_pb2 as pb
from sqlalchemy import bindparam, func, select, update

from chassis import ids
from chassis.context import Caller
from chassis.db import Database, Tx
from chassis.resource import Record
from chassis.rows import moment, timestamp
from chassis.sql import Row
from chassis.tokens import Sealer
from chassis.work import Work
from gateway.identity.later import caller_now
from gateway.webhooks import schedule, signing
from gateway.webhooks.endpoints import RESOURCE, disable
from gateway.webhooks.tables import ITS_DELIVERIES, THIS_QUEUE, deliveries, endpoints, queues

# How long one turn at an endpoint may take attempts, and how long it is nobody else's: the last attempt's time more.
TURN_S: Final = 30.0
_LEASE: Final = dt.timedelta(seconds=60)
_AT_ONCE: Final = 50
_NOTE_STEP: Final = dt.timedelta(minutes=1)

DUE = (
    select(queues.c.tenant_id, queues.c.endpoint_id)
    .where(queues.c.due_time <= func.now(), queues.c.resume_time <= func.now())
    .order_by(queues.c.due_time)
    .limit(500)
)
_TAKE = (
    select(queues)
    .where(*THIS_QUEUE, queues.c.due_time <= bindparam("at"), queues.c.resume_time <= bindparam("at"))
    .with_for_update(skip_locked=True)
)
_HOLD = update(queues).where(*THIS_QUEUE).values(resume_time=bindparam("until"))
_STOP = update(queues).where(*THIS_QUEUE).values(due_time=None)
_WAITING = (
    select(deliveries)
    .where(*ITS_DELIVERIES, deliveries.c.due_time <= bindparam("at"))
    .order_by(deliveries.c.due_time, deliveries.c.commit_time, deliveries.c.position)
    .limit(bindparam("n"))
)
_SETTLE = (
    update(deliveries)
    .where(*ITS_DELIVERIES, deliveries.c.event_id == bindparam("event"))
    .values(
        state=bindparam("to"),
        attempts=bindparam("count"),
        url=bindparam("to_url"),
        last_status=bindparam("status"),
        last_error=bindparam("error"),
        excerpt=bindparam("body"),
        last_attempt_time=bindparam("at"),
        due_time=bindparam("due"),
    )
)
_LOCK = select(queues).where(*THIS_QUEUE).with_for_update()
_NEXT = select(func.min(deliveries.c.due_time).label("due")).where(*ITS_DELIVERIES, deliveries.c.due_time.is_not(None))
_GIVE_BACK = (
    update(queues)
    .where(*THIS_QUEUE)
    .values(
        due_time=bindparam("due"),
        resume_time=bindparam("resume"),
        failures=bindparam("failed"),
        failing_since=bindparam("since"),
    )
)
# Health is noted on the row alone, as the use of a key is: it is no change of the record and makes no event.
_NOTE = (
    update(endpoints)
    .where(endpoints.c.tenant_id == bindparam("tenant"), endpoints.c.id == bindparam("endpoint"))
    .values(
        state=bindparam("now_state"),
        state_reason=bindparam("reason"),
        state_time=bindparam("since"),
        last_success_time=bindparam("success"),
        record=bindparam("kept"),
    )
)


@dataclass(frozen=True)
class Result:
    """What became of an attempt. ``gone`` says that the endpoint wants no more of anything."""

    state: int
    status: int = 0
    error: str = ""
    excerpt: str = ""
    gone: bool = False


@dataclass
class Turn:
    """An endpoint in hand: who it hears for, what signs, and the deliveries that are due."""

    tenant: UUID
    endpoint_id: UUID
    endpoint: pb.WebhookEndpoint
    caller: Caller | None
    secrets: list[str]
    waiting: list[Row]
    failures: int
    failing_since: dt.datetime | None
    succeeded: bool = False
    gone: bool = False
    error: str = ""

    def count(self, result: Result, now: dt.datetime) -> None:
        """Counts an attempt towards the endpoint's health."""
        if result.state == pb.WEBHOOK_DELIVERY_STATE_WITHHELD:
            return
        if result.state == pb.WEBHOOK_DELIVERY_STATE_DELIVERED:
            self.failures, self.failing_since, self.succeeded, self.error = 0, None, True, ""
            return
        self.failures += 1
        self.failing_since = self.failing_since or now
        self.gone = self.gone or result.gone
        self.error = result.error


async def take(db: Database, sealer: Sealer, tenant: UUID, endpoint: UUID) -> Turn | None:
    """The endpoint, for a turn; None where another process has it, it rests, or it is not sent to any more."""
    async with db.write(tenant) as tx:
        now = await tx.now()
        found = await tx.rows(_TAKE, {"endpoint": endpoint, "at": now})
        records = await tx.rows(RESOURCE.read_many, {"ids": [endpoint]}) if found else []
        if not records:
            return None
        queue, record = found[0], RESOURCE.read(records[0])
        if record.HasField("delete_time") or record.state == pb.WEBHOOK_STATE_DISABLED:
            await tx.execute(_STOP, {"endpoint": endpoint})
            return None
        # An endpoint that fails is asked by one delivery whether it is well again.
        n = _AT_ONCE if queue.failures < schedule.REST_AFTER else 1
        waiting = await tx.rows(_WAITING, {"endpoint": endpoint, "at": now, "n": n})
        await tx.execute(_HOLD, {"endpoint": endpoint, "until": now + _LEASE})
        secrets = [signing.unseal(sealer, tenant, endpoint, each) for each in _sealed(queue, now)]
        caller = await caller_now(tx, queue)
    return Turn(tenant, endpoint, record, caller, secrets, waiting, queue.failures, queue.failing_since)


def _sealed(queue: Row, now: dt.datetime) -> list[str]:
    until = queue.old_secret_expire_time
    return [queue.secret, *([queue.old_secret] if queue.old_secret and until is not None and now < until else [])]


async def settle(db: Database, turn: Turn, row: Row, result: Result) -> None:
    """Keeps what became of an attempt, and when the next is due."""
    async with db.write(turn.tenant) as tx:
        now = await tx.now()
        turn.count(result, now)
        withheld = result.state == pb.WEBHOOK_DELIVERY_STATE_WITHHELD
        attempts = row.attempts + (not withheld)
        state, due = result.state, None
        if state == pb.WEBHOOK_DELIVERY_STATE_PENDING:
            due = schedule.next_attempt(attempts, row.begin_time, now)
            state = state if due is not None else pb.WEBHOOK_DELIVERY_STATE_FAILED
        values = {
            "endpoint": turn.endpoint_id, "event": row.event_id, "to": state, "count": attempts,
            "to_url": turn.endpoint.url, "status": result.status, "error": result.error, "body": result.excerpt,
            "at": now, "due": due,
        }  # fmt: skip
        await tx.execute(_SETTLE, values)


async def give_back(db: Database, turn: Turn) -> bool:
    """Ends a turn: when the endpoint is due again, and how well it is. Says whether that disabled it."""
    async with db.write(turn.tenant) as tx:
        work = Work(tx)
        record = await work.lock(RESOURCE, ids.encode("webhook_endpoint", turn.endpoint_id), deleted=True)
        now = await tx.now()
        await tx.rows(_LOCK, {"endpoint": turn.endpoint_id})
        due = (await tx.rows(_NEXT, {"endpoint": turn.endpoint_id}))[0].due
        values = {"due": due, "resume": now + schedule.rest(turn.failures)}
        health = {"failed": turn.failures, "since": turn.failing_since}
        await tx.execute(_GIVE_BACK, {"endpoint": turn.endpoint_id, **values, **health})
        before = record.before
        if before.HasField("delete_time") or before.state == pb.WEBHOOK_STATE_DISABLED:
            return False
        if reason := _end(turn, now):
            await disable(work, record, reason)
            await work.flush()
            return True
        await _note(tx, turn, record, now)
    return False


def _end(turn: Turn, now: dt.datetime) -> str:
    """Why the endpoint is disabled now; empty where it is not."""
    if turn.gone:
        return "the endpoint answered 410: it is gone"
    if turn.failing_since is not None and now - turn.failing_since >= schedule.DISABLE_AFTER:
        return f"nothing was taken for {schedule.DISABLE_AFTER.days} days: {turn.error}"
    return ""


async def _note(tx: Tx, turn: Turn, record: Record[pb.WebhookEndpoint], now: dt.datetime) -> None:
    """Notes how well the endpoint is, where that is news."""
    after = record.after
    if turn.failures:
        after.state, after.state_reason = pb.WEBHOOK_STATE_FAILING, turn.error or after.state_reason
        after.state_time.CopyFrom(timestamp(turn.failing_since or now))
    elif after.state == pb.WEBHOOK_STATE_FAILING:
        after.state, after.state_reason = pb.WEBHOOK_STATE_ENABLED, ""
        after.state_time.CopyFrom(timestamp(now))
    if turn.succeeded and now - moment(after.last_success_time) >= _NOTE_STEP:
        after.last_success_time.CopyFrom(timestamp(now.replace(second=0, microsecond=0)))
    if after == record.before:
        return
    success = moment(after.last_success_time) if after.HasField("last_success_time") else None
    values = {
        "endpoint": turn.endpoint_id, "now_state": after.state, "reason": after.state_reason or None,
        "since": moment(after.state_time), "success": success, "kept": after.SerializeToString(),
    }  # fmt: skip
    await tx.execute(_NOTE, values)
