"""A process: it starts its roles, answers probes, drains on SIGTERM, and stops."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, Final, TypeVar

import grpc
import uvloop
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from pydantic import ValidationError

from chassis import contract, events, telemetry
from chassis.access import ACCESS_KEY
from chassis.audit import Seals, seal_logs
from chassis.clients import MAX_MESSAGE_BYTES, MAX_METADATA_BYTES, Channels
from chassis.db import Database, Schema
from chassis.entries import LedgerEntries
from chassis.errors import DETAILS_KEY, Failure
from chassis.ledger import Ledger
from chassis.search.service import Search
from chassis.search.sweep import sweep_spellings
from chassis.service import Platform, Server, Service, StartupError
from chassis.settings import Settings, hostport
from chassis.sweep import sweep_idempotency
from chassis.tokens import Sealer, Signer, Verifier

log = telemetry.logger()

_SERVER_OPTIONS: Final = [
    # Two processes on one port would share it silently, and one channel's calls all land in one of them.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_concurrent_streams", 1_000),
    # What a caller may see travels there, up to a few thousand users of its teams.
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.absolute_max_metadata_size", MAX_METADATA_BYTES),
    ("grpc.max_connection_age_ms", 300_000),
    ("grpc.max_connection_age_grace_ms", 30_000),
    ("grpc.max_connection_idle_ms", 900_000),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
]
# A process whose event loop has not turned for so long is dead.
_STALL_S: Final = 10.0
_GRACE_S: Final = 15.0
# A timer that failed comes again after so long, and later each time it fails at once.
_TIMER_RETRY_S: Final = 1.0


T = TypeVar("T")


@dataclass(frozen=True)
class Application:
    """What makes a process of its kind.

    ``reactions`` holds the event handlers, to whom a busy tenant's events of ``gather_s`` seconds go together;
    ``timers`` run for as long as the process does. ``serve``, where given, takes the place of the plain gRPC server;
    the gateway brings its own.
    """

    name: str
    schema: Schema
    services: Sequence[type[Service]]
    migrations: Path
    reactions: ModuleType | None = None
    gather_s: float = events.GATHER_S
    timers: Sequence[Callable[[Platform], Awaitable[None]]] = ()
    serve: Callable[[Process], Awaitable[Serving]] | None = None


class Serving:
    """What answers calls: it can be told to take no more, and to stop."""

    async def drain(self) -> None:
        """Tells clients to go elsewhere; calls are still answered."""

    async def stop(self) -> None:
        """Ends when the calls under way have been answered, or the grace period is over."""

    async def problems(self) -> dict[str, str]:
        """Parts that are down, with what is wrong; readiness is red while there are any."""
        return {}


@dataclass
class Process:
    """A process as it runs."""

    application: Application
    settings: Settings
    platform: Platform
    server: Server
    draining: bool = False
    tasks: list[asyncio.Task[Any]] = field(default_factory=list)


class GrpcServing(Serving):
    """The gRPC server of a service, with health and reflection."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._server = grpc.aio.server(options=_SERVER_OPTIONS, maximum_concurrent_rpcs=2_000)
        self._health = health.aio.HealthServicer()

    async def start(self) -> GrpcServing:
        """Listens. Raises StartupError where the port is taken."""
        self._server.add_generic_rpc_handlers((_Handlers(self._process.server),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        names = [*self._process.server.services, reflection.SERVICE_NAME, health.SERVICE_NAME]
        reflection.enable_server_reflection(names, self._server, pool=contract.load().pool)
        address = self._process.settings.listen
        try:
            self._server.add_insecure_port(address)
        except RuntimeError as error:
            raise StartupError(f"{address} cannot be listened on") from error
        await self._server.start()
        await self._set(health_pb2.HealthCheckResponse.SERVING)
        return self

    async def _set(self, status: Any) -> None:
        for name in ("", *self._process.server.services):
            await self._health.set(name, status)

    async def drain(self) -> None:
        """NOT_SERVING first: clients that watch health send their next call elsewhere."""
        await self._set(health_pb2.HealthCheckResponse.NOT_SERVING)

    async def stop(self) -> None:
        """Waits for the calls under way; the server's own stop does not wait for all of them (grpc #37239)."""
        await self._server.stop(_GRACE_S)
        end = time.monotonic() + _GRACE_S
        while self._process.server.in_flight and time.monotonic() < end:
            await asyncio.sleep(0.02)


class _Handlers(grpc.GenericRpcHandler):
    """Every method on raw bytes: grpc.aio would tell the client the text of an exception."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The handler of any method; one that does not exist is refused by the wrapper with a reason."""
        path = str(details.method)
        if path.startswith(("/grpc.health.", "/grpc.reflection.")):
            return None

        async def unary(request: bytes, call: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
            found: dict[str, Any] = dict(call.invocation_metadata() or ())
            access = found.pop(ACCESS_KEY, b"")
            left = call.time_remaining()
            return await answer(call, self._server.handle(path, request, found, left, access=access))

        return grpc.unary_unary_rpc_method_handler(unary)


async def answer(call: grpc.aio.ServicerContext[Any, Any], result: Awaitable[bytes]) -> bytes:
    """The result of a call, or its failure as status, message and details."""
    try:
        return await result
    except Failure as failure:
        status = failure.status()
        call.set_trailing_metadata(((DETAILS_KEY, status.SerializeToString()),))
        await call.abort(failure.code, failure.message)
        raise  # abort raises; this is for the reader


def main(application: Application, arguments: Sequence[str] | None = None) -> None:
    """The command line of a process: ``serve`` (the default), ``migrate``, ``revise MESSAGE`` or ``reindex``."""
    parser = argparse.ArgumentParser(prog=f"python -m {application.name}")
    parser.add_argument("command", nargs="?", default="serve", choices=("serve", "migrate", "revise", "reindex"))
    parser.add_argument("message", nargs="?", default="", help="what a new migration does")
    parser.add_argument("--roles", help="serve, relay, consume, timers; all of them where left out")
    options = parser.parse_args(arguments)
    try:
        settings = Settings()  # type: ignore[call-arg]
        if options.roles:
            settings.roles = options.roles
        settings.role_set()
    except ValidationError as error:
        names = ", ".join(f"RAPPORT_{str(each['loc'][0]).upper()}" for each in error.errors())
        sys.exit(f"{application.name}: not set or not valid: {names}")
    except ValueError as error:
        sys.exit(f"{application.name}: {error}")
    if options.command != "serve":
        from chassis import migrate  # eight megabytes that a serving process never needs

        if options.command == "migrate":
            migrate.upgrade(settings, application.schema, application.migrations)
        elif options.command == "reindex":
            migrate.reindex(settings, application.schema)
        else:
            migrate.revise(settings, application.schema, application.migrations, options.message)
    else:
        telemetry.setup(application.name, log_level=settings.log_level)
        try:
            uvloop.run(_run(application, settings))
        except StartupError as error:
            sys.exit(f"{application.name} cannot start:\n{error}")


def platform_of(application: Application, settings: Settings) -> Platform:
    """What the services of a process stand on, from its settings."""
    signer = Signer(application.name, settings.signing_key_file)
    return Platform(
        kind=application.name,
        settings=settings,
        db=Database(settings, application.schema),
        channels=Channels(settings, signer),
        signer=signer,
        verifier=Verifier(application.name, settings.trust_file),
        sealer=Sealer(settings.token_key_file.read_text()),
    )


def run_beside(application: Application, work: Callable[[Platform], Awaitable[T]]) -> T:
    """The answer of ``work``, done once with a process's settings, while those that serve go on."""

    async def run() -> T:
        platform = platform_of(application, Settings())  # type: ignore[call-arg]
        try:
            return await work(platform)
        finally:
            await platform.channels.close()
            await platform.db.close()

    return asyncio.run(run())


async def _run(application: Application, settings: Settings) -> None:
    platform = platform_of(application, settings)
    services = [*application.services, Ledger, LedgerEntries, Search, Seals]
    process = Process(application, settings, platform, Server(platform, services))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    roles = settings.role_set()
    background = _Background(process)
    serving = Serving()
    background.start(roles)
    if "serve" in roles:
        serving = await (application.serve(process) if application.serve else GrpcServing(process).start())
    # What stands now stays: collections look at what came since, not at the whole contract again and again.
    gc.collect()
    gc.freeze()
    probes = await Probes(process, serving).start()
    log.info("ready", kind=application.name, roles=sorted(roles))
    stopped = asyncio.ensure_future(stop.wait())
    await asyncio.wait([stopped, *process.tasks], return_when=asyncio.FIRST_COMPLETED)
    failed = next((task for task in process.tasks if task.done() and not stop.is_set()), None)
    process.draining = True
    await serving.drain()
    await asyncio.sleep(settings.drain_s if failed is None else 0)
    await background.stop_consuming()
    await serving.stop()
    await background.stop()
    await probes.stop()
    await platform.channels.close()
    await platform.db.close()
    telemetry.shutdown()
    if failed is not None:
        failed.result()
        raise StartupError(f"{failed.get_name()} ended by itself")


class _Background:
    """The roles beside serving: relay, consumer, timers."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._relay: events.Relay | None = None
        self._consumer: events.Consumer | None = None

    def start(self, roles: frozenset[str]) -> None:
        platform, application = self._process.platform, self._process.application
        if "relay" in roles:
            self._relay = events.Relay(platform.db, platform.settings)
            platform.wake = self._relay.wake
            self._add("relay", self._relay.run())
        if "consume" in roles and application.reactions is not None:
            self._consumer = events.Consumer(
                application.name,
                platform.db,
                platform.settings,
                events.reactions_of(application.reactions),
                on_commit=platform.wake,
                gather_s=application.gather_s,
            )
            self._add("consumer", self._consumer.run())
        if "serve" in roles:
            self._add("revoked", events.Revoked(platform.settings.nats_url.get_secret_value(), platform.revoke).run())
        if "timers" in roles:
            for timer in (sweep_idempotency, sweep_spellings, seal_logs, *application.timers):
                self._add(getattr(timer, "__name__", "timer"), _kept_up(timer, platform))

    def _add(self, name: str, work: Any) -> None:
        self._process.tasks.append(asyncio.create_task(work, name=name))

    async def stop_consuming(self) -> None:
        if self._consumer is not None:
            await self._consumer.stop()

    async def stop(self) -> None:
        if self._relay is not None:
            await self._relay.stop()
        for task in self._process.tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*self._process.tasks, return_exceptions=True)


async def _kept_up(timer: Callable[[Platform], Awaitable[None]], platform: Platform) -> None:
    """Runs a timer for ever: what it could not do now is still due when it comes again, and calls go on meanwhile."""
    delay_s = _TIMER_RETRY_S
    while True:
        began = time.monotonic()
        try:
            return await timer(platform)
        except Exception as error:
            log.error("timer failed", timer=getattr(timer, "__name__", ""), exc_info=error)
        delay_s = min(delay_s * 2, 60.0) if time.monotonic() - began < delay_s else _TIMER_RETRY_S
        await asyncio.sleep(delay_s)


class Probes:
    """``/livez`` and ``/readyz`` on a port of their own, so that they do not share the limits of the calls."""

    def __init__(self, process: Process, serving: Serving) -> None:
        self._process = process
        self._serving = serving
        self._turned = time.monotonic()
        self._server: asyncio.Server | None = None

    async def start(self) -> Probes:
        """Listens."""
        host, port = hostport(self._process.settings.probe_listen)
        self._server = await asyncio.start_server(self._answer, host, port)
        self._process.tasks.append(asyncio.create_task(self._turn(), name="heartbeat"))
        return self

    async def stop(self) -> None:
        """Closes the port."""
        if self._server is not None:
            self._server.close()

    async def _turn(self) -> None:
        while True:
            self._turned = time.monotonic()
            await asyncio.sleep(1)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, ValueError):
            async with asyncio.timeout(5):
                request = (await reader.readline()).split()
                while (await reader.readline()).strip():
                    pass
                path = request[1].decode("latin-1") if len(request) > 1 else ""
                status, body = await self._status(path)
                head = f"HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {len(body)}\r\n"
                writer.write(f"{head}connection: close\r\n\r\n{body}".encode())
                await writer.drain()
        writer.close()

    async def _status(self, path: str) -> tuple[str, str]:
        if path == "/livez":
            alive = time.monotonic() - self._turned < _STALL_S
            return ("200 OK", "alive\n") if alive else ("503 Service Unavailable", "the event loop stalls\n")
        if path == "/readyz":
            problems = await self.problems()
            lines = "".join(f"{part}: {text}\n" for part, text in problems.items())
            return ("503 Service Unavailable", lines) if problems else ("200 OK", "ready\n")
        return "404 Not Found", "there are /livez and /readyz\n"

    async def problems(self) -> dict[str, str]:
        """What keeps this process from serving, by part. NATS is none of it: the ledger waits for it."""
        problems: dict[str, str] = {}
        if self._process.draining:
            problems["process"] = "draining"
        try:
            await self._process.platform.db.ping()
        except (Failure, TimeoutError) as error:
            problems["database"] = str(error) or "no answer"
        return problems | await self._serving.problems()
