"""Planted bugs: what the harness must catch, each as a patch of a test process from outside.

The list of ten, with the tenant walls as two (each dropped while the other is off) and the revision check as two (a
writer's etag, a copy's guard), and one of the sealer: thirteen in all. A patch names what it replaces; where the
shipped code has no such thing any more, the process ends at its start and says so.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import sys
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import asyncpg
from sqlalchemy import bindparam, insert
from sqlalchemy.dialects.postgresql import insert as upsert

from chassis import work
from chassis.audit import sealer
from chassis.events.consume import Consumer
from chassis.events.relay import Relay
from chassis.query.order import Order
from chassis.run import GrpcServing
from chassis.service import IDEMPOTENCY_LIFE, Server, idempotency_key

# How long a planted race stays open: a kill finds it, and so does a call that comes second.
MOMENT_S: Final = 0.25

Wrap = Callable[[Any], Any]


@dataclass(frozen=True)
class Bug:
    """A defect that a test process can be given, and what shows it within half a minute.

    ``menu`` are the faults of `nemesis.FAULTS` that make it visible. ``workload`` are the operations of
    `workload.WEIGHTS` that do. ``walls`` is SQL that the owner runs for each table of a tenant, with {table} in it.
    """

    description: str
    plant: Callable[[], None]
    menu: tuple[str, ...] = ()
    workload: tuple[str, ...] = ()
    walls: str = ""


def _patch(owner: Any, name: str, wrap: Wrap) -> None:
    """Replaces what ``owner`` has under ``name``, wherever in our modules it was imported to."""
    original = vars(owner).get(name)
    if original is None:
        raise SystemExit(f"cannot plant: {owner} has no {name}")
    changed = wrap(original)
    if _parameters(changed) not in (_parameters(original), None):
        raise SystemExit(f"cannot plant: {name} takes {_parameters(original)} now")
    setattr(owner, name, changed)
    for module in list(sys.modules.values()):
        if module.__name__.split(".")[0] in ("chassis", "services", "gateway"):
            for each, value in list(vars(module).items()):
                if value is original:
                    setattr(module, each, changed)


def _parameters(function: Any) -> list[str] | None:
    """The names of its parameters, those that it does not use without their underscore; None where it takes any."""
    found = inspect.signature(function).parameters
    if any(each.kind is inspect.Parameter.VAR_POSITIONAL for each in found.values()):
        return None
    return [name.lstrip("_") for name in found]


# ---- events ------------------------------------------------------------------------------------------------


def _ack_first(attempt: Any) -> Any:
    async def _attempt(self: Consumer, group: Any) -> Any:
        for delivery in group:
            await delivery.message.ack()
        await asyncio.sleep(MOMENT_S)
        return await attempt(self, group)

    return _attempt


def _skip_inbox(_: Any) -> Any:
    async def _enter(self: Consumer, changes: Any, _tx: Any) -> set[Any]:
        return {(each.name, change.event_id) for change in changes for each in self._for(change.type)}

    return _enter


def _swallow(apply: Any) -> Any:
    async def _apply(self: Consumer, changes: Any) -> None:
        try:
            await apply(self, changes)
        except Exception as error:
            print(f"swallowed: {error!r}", file=sys.stderr)

    return _apply


def _move_first(send: Any) -> Any:
    async def _send(self: Relay, rows: Any) -> Any:
        connection = await asyncpg.connect(self._dsn, timeout=2, command_timeout=2)
        try:
            await connection.execute(
                "UPDATE relay SET watermark = $1 WHERE id = 1 AND watermark < $1", rows[-1].position
            )
        finally:
            connection.terminate()
        await asyncio.sleep(MOMENT_S)
        return await send(self, rows)

    return _send


def _plant_guard() -> None:
    """In marketing, whose copies of leads and deals are guarded by revision."""
    module = sys.modules.get("services.marketing.copies")
    if module is None:
        return
    for name in ("_KEEP_LEAD", "_KEEP_DEAL"):
        statement = vars(module).get(name)
        if statement is None:
            raise SystemExit(f"cannot plant: {module.__name__} has no {name}")
        clause = statement._independent_ctes[0].element._post_values_clause
        if clause.update_whereclause is None:
            raise SystemExit(f"cannot plant: {name} has no guard")
        clause.update_whereclause = None


# ---- writes ------------------------------------------------------------------------------------------------

_request_id: ContextVar[UUID | None] = ContextVar("request id", default=None)
_ledger_rows: ContextVar[list[dict[str, Any]] | None] = ContextVar("ledger rows", default=None)


def _without_ledger(write: Any) -> Any:
    async def _write_together(self: Any, changes: Any, index: Any, **others: Any) -> None:
        if (kept := _ledger_rows.get()) is not None:
            kept += others.pop("ledger", [])
        await write(self, changes, index, **others)

    return _write_together


def _ledger_after(write: Any) -> Any:
    async def _write(self: Server, bound: Any, request: Any, call: Any) -> Any:
        rows: list[dict[str, Any]] = []
        token = _ledger_rows.set(rows)
        try:
            response = await write(self, bound, request, call)
        finally:
            _ledger_rows.reset(token)
        if rows:
            await asyncio.sleep(MOMENT_S)
            async with self.platform.db.write(call.caller.tenant) as tx:
                await tx.execute_many(insert(tx.schema.ledger).values(tenant_id=bindparam("tenant")), rows)
            self.platform.wake()
        return response

    return _write


def _plant_ledger() -> None:
    _patch(work.Work, "_write_together", _without_ledger)
    _patch(Server, "_write", _ledger_after)


def _answer_after(write: Any) -> Any:
    async def _write(self: Server, bound: Any, request: Any, call: Any) -> Any:
        key = idempotency_key(request, bound.method, call)
        if key is None:
            return await write(self, bound, request, call)
        async with self.platform.db.read(call.caller.tenant) as tx:
            if (remembered := await key.look_up(tx)) is not None:
                return remembered
        bare = type(request)()
        bare.CopyFrom(request)
        bare.ClearField("request_id")
        token = _request_id.set(key.request_id)
        try:
            response = await write(self, bound, bare, call)
        finally:
            _request_id.reset(token)
        await asyncio.sleep(MOMENT_S)
        async with self.platform.db.write(call.caller.tenant) as tx:
            row = {
                "principal_id": key.principal,
                "method": key.method,
                "request_id": key.request_id,
                "digest": key.digest,
                "response": response if isinstance(response, bytes) else response.SerializeToString(),
                "expire_time": await tx.now() + IDEMPOTENCY_LIFE,
            }
            values: dict[str, Any] = {name: bindparam(f"the_{name}") for name in row}
            statement = upsert(tx.schema.idempotency).values(tenant_id=bindparam("tenant"), **values)
            statement = statement.on_conflict_do_nothing()
            await tx.execute(statement, {f"the_{name}": value for name, value in row.items()})
        return response

    return _write


def _still_named(flush: Any) -> Any:
    async def _flush(self: Any, request_id: UUID | None = None, *rest: Any) -> None:
        await flush(self, request_id or _request_id.get(), *rest)

    return _flush


def _plant_idempotency() -> None:
    """The ledger still says whose request it was: only the kept answer stands outside."""
    _patch(Server, "_write", _answer_after)
    _patch(work.Work, "flush", _still_named)


def _any_etag(check: Any) -> Any:
    def check_lock(record: Any, _wanted: str, *, deleted: bool = False) -> None:
        check(record, "", deleted=deleted)

    return check_lock


# ---- reads -------------------------------------------------------------------------------------------------

_PREDICATE: Final = re.compile(r"\btenant_id = (\$\d+(?:::uuid)?|entered\.tenant)", re.IGNORECASE)


def _every_tenant(get: Any) -> Any:
    def _get_statement(self: Any, query: str, *rest: Any, **more: Any) -> Any:
        if query.lstrip().startswith(("SELECT", "WITH entered")) and "INSERT" not in query:
            query = _PREDICATE.sub(lambda found: f"tenant_id >= '{_ZERO}' AND {_typed(found[1])} IS NOT NULL", query)
        return get(self, query, *rest, **more)

    return _get_statement


_ZERO: Final = "00000000-0000-0000-0000-000000000000"


def _typed(value: str) -> str:
    return value if "::" in value or not value.startswith("$") else f"{value}::uuid"


def _plant_predicate() -> None:
    _patch(asyncpg.Connection, "_get_statement", _every_tenant)


def _no_tie(after: Any) -> Any:
    def cut(self: Order, values: Any) -> Any:
        if len(self.columns) == 1:
            return after(self, values)
        return after(Order(self.columns[:-1]), values[:-1])

    return cut


# ---- the process -------------------------------------------------------------------------------------------


def _stop_first(_: Any) -> Any:
    async def drain(self: GrpcServing) -> None:
        await self._server.stop(0)

    return drain


def _skip_last(seal: Any) -> Any:
    async def skipping(connection: Any, its: Any, rows: Any) -> None:
        await seal(connection, its, rows[:-1])

    return skipping


BUGS: Final[dict[str, Bug]] = {
    "ack-before-commit": Bug(
        "an event is acknowledged before the transaction with its effects commits",
        lambda: _patch(Consumer, "_attempt", _ack_first),
        ("kill-consumer", "kill-postgres"),
        ("create_contact", "create_note"),
    ),
    "ledger-outside": Bug(
        "the ledger row is written in a transaction of its own, after the change's",
        _plant_ledger,
        ("kill-serving",),
        ("create_contact", "write_field", "create_lead"),
    ),
    "inbox-skipped": Bug(
        "a reaction that acts does not look into its inbox",
        lambda: _patch(Consumer, "_enter", _skip_inbox),
        ("duplicate", "replay"),
        ("create_contact",),
    ),
    "etag-unchecked": Bug(
        "a writer's etag is not compared",
        lambda: _patch(work, "check_lock", _any_etag),
        ("delay",),
        ("increment",),
    ),
    "guard-dropped": Bug(
        "a copy is overwritten by an older revision",
        _plant_guard,
        ("shuffle", "replay", "duplicate"),
        ("move", "close", "reopen", "convert"),
    ),
    "watermark-before-ack": Bug(
        "the watermark moves before the stream has acknowledged",
        lambda: _patch(Relay, "_send", _move_first),
        ("kill-nats", "kill-relay", "cut-relay"),
        ("create_contact", "create_note"),
    ),
    "predicate-dropped": Bug(
        "statements do not name the tenant, while row security is off",
        _plant_predicate,
        ("delay",),
        ("peek", "scan"),
        "ALTER TABLE {table} DISABLE ROW LEVEL SECURITY",
    ),
    "wall-dropped": Bug(
        "row security lets every tenant through, while statements do not name the tenant",
        _plant_predicate,
        ("delay",),
        ("peek", "scan"),
        "ALTER POLICY tenant_wall ON {table} USING (true)",
    ),
    "idempotency-outside": Bug(
        "the answer to a request id is kept in a transaction of its own, after the change's",
        _plant_idempotency,
        ("kill-serving",),
        ("race", "replay"),
    ),
    "page-without-tie-breaker": Bug(
        "a page begins after a value that the next row may have too",
        lambda: _patch(Order, "after", _no_tie),
        ("delay",),
        ("scan", "create_company"),
    ),
    "consumer-swallows": Bug(
        "what goes wrong in a reaction counts as done",
        lambda: _patch(Consumer, "_apply", _swallow),
        ("kill-postgres", "cut-consumer", "poison"),
        ("create_contact", "create_note"),
    ),
    "seal-skips": Bug(
        "the last row of a stretch is not sealed with the others",
        lambda: _patch(sealer, "_seal", _skip_last),
        ("delay",),
        ("create_contact", "write_field"),
    ),
    "drain-unannounced": Bug(
        "a process that is asked to stop does so before it says NOT_SERVING",
        lambda: _patch(GrpcServing, "drain", _stop_first),
        ("restart",),
        ("create_contact", "increment"),
    ),
}
