"""One wrapper around every RPC: trace, authenticate, authorise, deadline, validate, idempotency, handler, errors.

It knows bytes and metadata and no transport, so the gateway can host services inside its own process.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import Any, ClassVar, Final, TypeVar
from uuid import UUID

from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message
from opentelemetry.trace import SpanKind
from sqlalchemy import Select, Table, bindparam, select

from chassis import context, contract, masks, telemetry
from chassis.batches import Batches
from chassis.checks import check, check_required
from chassis.clients import Channels
from chassis.context import Call, Caller
from chassis.db import Database, Tx, constraint_of
from chassis.errors import (
    DeadlineExceeded,
    Denied,
    Failure,
    Internal,
    Invalid,
    Reason,
    Unimplemented,
    invalid,
)
from chassis.gate import Gate
from chassis.resource import Record, Resource
from chassis.settings import Settings
from chassis.standard import Standard
from chassis.tokens import Sealer, Signer, Verifier
from chassis.work import Raced, View, Work

log = telemetry.logger()

DEFAULT_DEADLINE_S: Final = 10.0
MAX_DEADLINE_S: Final = 30.0
# A replay is answered for at least so long; then `chassis.sweep` takes the answer away.
IDEMPOTENCY_LIFE: Final = timedelta(hours=24)
_SPAN: Final = {"rpc.system": "grpc"}

F = TypeVar("F", bound=Callable[..., Any])


class StartupError(Exception):
    """The process cannot start as it is; the message says what is missing."""


@dataclass
class Platform:
    """What every service of a process stands on."""

    kind: str
    settings: Settings
    db: Database
    channels: Channels
    signer: Signer
    verifier: Verifier
    sealer: Sealer
    # Called after each commit that appended to the ledger.
    wake: Callable[[], None] = lambda: None
    # The kinds of records that this process keeps, by prefix.
    resources: dict[str, Resource[Any]] = field(default_factory=dict)

    def revoke(self, who: str, at: float) -> None:
        """Ends what was given to a principal or credential before ``at``, a Unix time in seconds."""
        self.verifier.revoked.add(who, at)
        self.signer.revoked.add(who, at)


class Service:
    """One gRPC service. Its methods are handlers ``(request, transaction) -> response``.

    A method that writes gets a Work, another a View. The standard methods of ``resource`` need not be written.
    ``created`` and ``merged`` may do more in the transaction of a creation or of an upsert that found its record. A
    written method may call on ``standard`` for the standard part of its work.
    """

    serves: ClassVar[str]
    resource: ClassVar[Resource[Any] | None] = None
    standard: Standard

    def __init_subclass__(cls, *, serves: str, **rest: Any) -> None:
        super().__init_subclass__(**rest)
        cls.serves = serves

    def __init__(self, platform: Platform) -> None:
        self.platform = platform

    async def created(self, _request: Any, record: Any, _work: Work) -> Any:
        """Completes a creation; the answer is what the caller gets."""
        return record

    async def merged(self, _request: Any, record: Record[Any], _work: Work) -> Any:
        """Completes the change of a record that an upsert found; the answer is what the caller gets."""
        return record.before


def saga(handler: F) -> F:
    """Marks a handler that needs more than one transaction and opens them itself: ``(request, call)``."""
    handler.__dict__["own_transactions"] = True
    return handler


@dataclass(frozen=True)
class _Bound:
    method: contract.Method
    request: type[Message]
    handler: Callable[[Any, Any], Awaitable[Any]]
    own_transactions: bool
    batch: bool
    standard: bool
    # The record whose fields the method may write.
    writes_fields: Descriptor | None
    resource: Resource[Any] | None


class _Rehearsal(Exception):
    """Ends the transaction of a validate_only call without a trace."""

    def __init__(self, response: Message) -> None:
        self.response = response


class Server:
    """The services of one process behind the wrapper.

    Raises StartupError where the contract declares for this kind what no service here provides, or lacks an option.
    """

    def __init__(self, platform: Platform, services: Iterable[type[Service]]) -> None:
        self.platform = platform
        self._methods: dict[str, _Bound] = {}
        # What serves each gRPC service, by its full name.
        self.hosted: dict[str, Service] = {}
        self._reads = Gate(platform.settings.concurrency_reads)
        self._writes = Gate(platform.settings.concurrency_writes)
        problems = contract.load().problems()
        for service in services:
            self.hosted[service.serves] = hosted = service(platform)
            problems += self._bind(hosted)
        served = {bound.method.service for bound in self._methods.values()}
        for name, descriptor in contract.load().services.items():
            if descriptor.file.package == f"crm.{platform.kind}.v1" and name not in served:
                problems.append(f"{name} is declared but nothing serves it")
        if problems:
            raise StartupError("\n".join(problems))

    def _bind(self, service: Service) -> list[str]:
        problems, standard = [], None
        if service.resource is not None:
            standard = Batches(service.resource, service.serves, self.platform.sealer, generated)
            standard.create_hook, standard.merge_hook = service.created, service.merged
            service.standard = standard
            self.platform.resources[service.resource.kind.prefix] = service.resource
        for method in contract.load().methods_of(service.serves):
            written = getattr(service, method.name, None)
            handler = written or (standard.handler(method.name) if standard else None)
            if handler is None and not method.streams:
                problems.append(f"{method.path} has no method in {type(service).__name__}")
            elif handler is not None:
                self._methods[method.path] = _Bound(
                    method,
                    generated(method.descriptor.input_type.full_name),
                    handler,
                    bool(getattr(handler, "own_transactions", False)),
                    method.name.startswith("Batch") and service.resource is not None,
                    standard is not None and standard.handler(method.name) is not None,
                    contract.descriptor_of(service.resource.message) if service.resource and method.writes else None,
                    service.resource,
                )
        return problems

    @property
    def services(self) -> list[str]:
        """The full names of what is served here."""
        return sorted({bound.method.service for bound in self._methods.values()})

    @property
    def in_flight(self) -> int:
        """How many calls are being served."""
        return self._reads.taken + self._writes.taken

    async def handle(
        self, path: str, request: bytes, metadata: Mapping[str, str], timeout_s: float | None,
        caller: Caller | None = None, access: bytes = b"",
    ) -> bytes:  # fmt: skip
        """Serves one call on bytes. ``caller`` is given where the process itself vouches for it, else ``access`` is
        what came in the metadata of that name.

        Raises Failure, and nothing else but CancelledError.
        """
        request_id = metadata.get("rapport-request-id") or context.new_request_id()
        parent = metadata.get("traceparent")
        with telemetry.span(path.lstrip("/"), kind=SpanKind.SERVER, parent=parent, attributes=_SPAN) as span:
            try:
                if caller is None:
                    caller = self.platform.verifier.verify(metadata.get("authorization", ""), access)
                telemetry.note_tenant(caller.tenant)
                return await self._serve(path, request, timeout_s, caller, request_id)
            except Failure as failure:
                if isinstance(failure, Internal):
                    failure.metadata.setdefault("request_id", request_id)
                telemetry.fail(span, failure)
                raise
            except asyncio.CancelledError:
                raise
            except Exception as error:
                telemetry.fail(span, error)
                log.error("call failed", method=path, request_id=request_id, exc_info=error)
                raise Internal(
                    Reason.REASON_INTERNAL, "an internal error; the request id finds it in our logs",
                    metadata={"request_id": request_id},
                ) from error  # fmt: skip

    async def _serve(
        self, path: str, request: bytes, timeout_s: float | None, caller: Caller, request_id: str
    ) -> bytes:
        bound = self._methods.get(path)
        if bound is None:
            raise Unimplemented(Reason.REASON_METHOD_UNKNOWN, f"there is no method {path}")
        if not caller.may(bound.method.permission):
            raise Denied(
                Reason.REASON_PERMISSION_DENIED,
                f"this needs the permission '{bound.method.permission}'",
                metadata={"permission": bound.method.permission},
            )
        limit = min(timeout_s if timeout_s is not None else DEFAULT_DEADLINE_S, MAX_DEADLINE_S)
        call = Call(caller, path, time.monotonic() + limit, request_id, caller.cause)
        with context.enter(call):
            async with (self._writes if bound.method.writes else self._reads).enter(caller.tenant):
                if call.remaining_s() <= 0:
                    raise DeadlineExceeded(Reason.REASON_DEADLINE_EXCEEDED, "its time was over before its turn came")
                try:
                    async with asyncio.timeout(call.remaining_s()):
                        response = _shown(bound, await self._answer(bound, _parse(bound.request, request), call), call)
                except TimeoutError as error:
                    raise DeadlineExceeded(Reason.REASON_DEADLINE_EXCEEDED, f"not done within {limit:.1f} s") from error
        return response if isinstance(response, bytes) else response.SerializeToString()

    async def _answer(self, bound: _Bound, request: Any, call: Call) -> Any:
        if not bound.batch:
            check(request)
            if not bound.method.name.startswith("Update"):
                check_required(request, records=False)
        if bound.writes_fields and call.caller.access is not None and call.caller.access.has_field_rules:
            masks.check_request(request, bound.writes_fields, records=not bound.standard)
        if bound.own_transactions:
            return await bound.handler(request, call)
        if not bound.method.writes:
            async with self.platform.db.read(call.caller.tenant) as tx:
                return await bound.handler(request, View(tx, bound.method))
        return await self._write(bound, request, call)

    async def _write(self, bound: _Bound, request: Any, call: Call) -> Any:
        key = idempotency_key(request, bound.method, call)
        asked = request.SerializeToString()
        try:
            try:
                response = await self._written(bound, request, call, key, optimistic=True)
            except Raced:
                # The handler may have changed the message.
                request = _parse(bound.request, asked)
                response = await self._written(bound, request, call, key, optimistic=False)
        except _Rehearsal as rehearsal:
            return rehearsal.response
        except Exception as error:
            # Also where another check failed: the first call may be why. And two calls with one id may race.
            if key is not None:
                async with self.platform.db.read(call.caller.tenant) as tx:
                    if (remembered := await key.look_up(tx)) is not None:
                        return await _seen_now(bound, remembered, View(tx, bound.method))
            if constraint_of(error):
                raise Invalid(
                    Reason.REASON_CONFLICT, "another writer took a unique value of this record; try again"
                ) from error
            raise
        self.platform.wake()
        return response

    async def _written(
        self, bound: _Bound, request: Any, call: Call, key: IdempotencyKey | None, *, optimistic: bool
    ) -> Message:
        async with self.platform.db.write(call.caller.tenant) as tx:
            work = Work(tx, bound.method, optimistic=optimistic)
            response: Message = await bound.handler(request, work)
            if getattr(request, "validate_only", False):
                raise _Rehearsal(response)
            if key is None:
                await work.flush()
            else:
                # The row of an answer is unique: a repeated call gets this far, no further, and is undone.
                await work.flush(key.request_id, key.row(work.remembered or response, await work.now()))
        return response


@dataclass(frozen=True)
class IdempotencyKey:
    """A request id in its room: the same id of another caller or method is another one."""

    principal: str
    method: str
    request_id: UUID
    digest: bytes

    async def look_up(self, tx: Tx) -> bytes | None:
        """The first answer, or None. Raises Invalid, REQUEST_ID_REUSED, where another message used the id."""
        rows = await tx.rows_alone(_look_up(tx.schema.idempotency), self._named())
        if not rows:
            return None
        if rows[0].digest != self.digest:
            raise invalid(
                "request_id", "it was used with another message; take a new one", Reason.REASON_REQUEST_ID_REUSED
            )
        return bytes(rows[0].response)

    def row(self, response: Message, now: datetime) -> dict[str, Any]:
        """The row that keeps the answer for 24 hours; it belongs in the transaction that did the work."""
        return {
            **self._named(),
            "digest": self.digest,
            "response": response.SerializeToString(),
            "expire_time": now + IDEMPOTENCY_LIFE,
        }

    def _named(self) -> dict[str, Any]:
        return {"principal_id": self.principal, "method": self.method, "request_id": self.request_id}


@cache
def _look_up(table: Table) -> Select[Any]:
    return select(table.c.digest, table.c.response).where(
        table.c.tenant_id == bindparam("tenant"),
        table.c.principal_id == bindparam("principal_id"),
        table.c.method == bindparam("method"),
        table.c.request_id == bindparam("request_id"),
    )


def idempotency_key(request: Any, method: contract.Method, call: Call) -> IdempotencyKey | None:
    """The key of a request that carries a request id, else None."""
    text = getattr(request, "request_id", "")
    if not text:
        return None
    bare = type(request)()
    bare.CopyFrom(request)
    bare.ClearField("request_id")
    digest = hashlib.sha256(bare.SerializeToString(deterministic=True)).digest()
    try:
        request_id = UUID(text)
    except ValueError as error:
        raise Invalid(
            Reason.REASON_FIELD_INVALID,
            "request_id: it is a UUID",
            violations=[("request_id", "it is a UUID")],
        ) from error
    return IdempotencyKey(call.caller.principal, method.path, request_id, digest)


def generated(full_name: str) -> Any:
    """The class of a message as handlers know it: the generated one, or the contract's where none was imported."""
    try:
        return message_factory.GetMessageClass(descriptor_pool.Default().FindMessageTypeByName(full_name))
    except KeyError:
        return contract.load().message(full_name)


async def _seen_now(bound: _Bound, remembered: bytes, view: View) -> Message | bytes:
    """A remembered answer; of records that the caller may not see any more it keeps what the call itself did."""
    if bound.resource is None or bound.resource.owners() is None:
        return remembered
    message = bound.method.response.FromString(remembered)
    records = {each.id: each for each in masks.records_in(message, bound.resource.kind.full_name)}
    seen = await view.get_bodies(bound.resource, list(records))
    for record_id, record in records.items():
        if record_id not in seen:
            etag = record.etag
            record.Clear()
            record.id, record.etag = record_id, etag
    return message


def _shown(bound: _Bound, response: Message | bytes, call: Call) -> Message | bytes:
    """The response without what the caller may not read, also where it answers a repeated call from memory."""
    if call.caller.access is None or not call.caller.access.hides:
        return response
    message = bound.method.response.FromString(response) if isinstance(response, bytes) else response
    masks.hide(message)
    return message


def _parse(kind: type[Message], request: bytes) -> Message:
    try:
        return kind.FromString(request)
    except DecodeError as error:
        raise Invalid(Reason.REASON_BODY_MALFORMED, f"the message is no {kind.DESCRIPTOR.name}") from error
