"""Starts the parts in order, keeps each running, and stops them in order."""

import asyncio
import os
import shutil
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.local import children, keys, ports, postgres
from deploy.local.nursery import Nursery, forked
from deploy.local.parts import CHECKOUT, KINDS, MAY_CALL, SERVICES, Part, Plan, module

READY_TIMEOUT_S = 120.0
FIRST_DELAY_S, LONGEST_DELAY_S = 0.2, 10.0
DEATHS_BEFORE_FIRST_READY = 3
STEADY_S = 10.0  # a part that lived this long starts again without a growing delay
STOP_TIMEOUT_S = 20.0
TOPOLOGY_ATTEMPTS = 5
STOP_ORDER = (("gateway",), SERVICES, ("traces", "nats"), ("postgres",))


@dataclass
class Kept:
    """A part and the process that now plays it."""

    part: Part
    process: children.Process | None = None
    started: float = 0.0
    restarts: int = 0
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    was_ready: bool = False

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None


class Supervisor:
    """Runs one stack in one state directory until it is told to stop."""

    def __init__(self, plan: Plan, say: Callable[[str], None] = print) -> None:
        self.plan = plan
        self.state = plan.state
        self.say = say
        self.kept: dict[str, Kept] = {}
        self.nursery = Nursery(self.state.log("nursery"), plan.common_env())
        self.tasks: set[asyncio.Task[None]] = set()
        self.http = ports.listen(plan.http_port)
        self.http.set_inheritable(True)
        self.stopping = False
        self.log_starts = {path.stem: path.stat().st_size for path in (self.state.root / "logs").glob("*.log")}

    async def start(self) -> None:
        """Start everything; returns when every part is ready. Raises FailedToStart naming the part."""
        keys.make(self.state, MAY_CALL)
        postgres.init(self.plan.install, self.state.password("postgres"))
        await self._together(self._bring_up(part) for part in self.plan.infrastructure())
        await postgres.create_databases(self.plan.superuser_dsn, KINDS, self.plan.role_passwords())
        await self._together([self._topology(), *(self._migrate(kind) for kind in KINDS)])
        fd = self.http.fileno()
        await self._together(self._bring_up(part) for kind in KINDS for part in self.plan.replicas_of(kind, fd))
        self.state.write_env(self.plan.client_env())

    async def _together(self, steps: Iterable[Awaitable[None]]) -> None:
        """Run steps side by side; the first that fails ends the others."""
        tasks = [asyncio.ensure_future(step) for step in steps]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _bring_up(self, part: Part) -> None:
        kept = self.kept[part.name] = Kept(part)
        began = time.monotonic()
        keeper = self._in_background(self._keep(kept))
        ready = self._in_background(_until(kept.ready))
        await asyncio.wait({keeper, ready}, timeout=READY_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        if keeper.done():
            keeper.result()  # raises what ended it
        if not ready.done():
            raise self._failure(part.name, f"is not ready after {READY_TIMEOUT_S:.0f} s{self._unready(part)}")
        self.say(f"  {part.name:<14} 127.0.0.1:{part.port:<6} ready in {time.monotonic() - began:.1f} s")

    def _log(self, what: str) -> None:
        self.say(f"  {time.strftime('%H:%M:%S')} {what}")

    def _in_background(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def _failure(self, name: str, what: str) -> children.FailedToStart:
        log = self.state.log(name)
        return children.FailedToStart(
            f"{name} {what}; the end of {log}:\n{children.last_lines(log, self.log_starts.get(name, 0))}"
        )

    def _unready(self, part: Part) -> str:
        if part.probe_port is None:
            return ""
        return f" and says: {ports.get(part.probe_port, '/readyz')[1]}"

    async def _migrate(self, kind: str) -> None:
        began = time.monotonic()
        command = [sys.executable, "-m", module(kind), "migrate"]
        if await self._run_once(f"{kind}-migrate", command, self.plan.migrate_env(kind)) != 0:
            raise self._failure(f"{kind}-migrate", "failed")
        self.say(f"  {kind:<14} migrated in {time.monotonic() - began:.1f} s")

    async def _topology(self) -> None:
        """Make the event streams and consumers; again whenever NATS starts, for it may have lost them."""
        for attempt in range(TOPOLOGY_ATTEMPTS):
            if await self._run_once("topology", [sys.executable, "-m", "deploy.topology"], self._topology_env()) == 0:
                self.say("  topology       streams and consumers in place")
                return
            await asyncio.sleep(FIRST_DELAY_S * 2**attempt)
        raise self._failure("topology", "failed")

    async def _topology_again(self, nats: children.Process) -> None:
        """NATS came back, perhaps empty: ready once the topology stands, however many tries that takes."""
        while nats.poll() is None:
            try:
                return await self._topology()
            except children.FailedToStart as error:
                self._log(str(error))

    def _topology_env(self) -> dict[str, str]:
        return self.plan.platform_env() | {"OTEL_SERVICE_NAME": "topology"}

    async def _spawn(
        self, command: Sequence[str | Path], log: Path, *, env: Mapping[str, str] | None,
        pass_fds: Sequence[int] = (), when_orphaned: signal.Signals = signal.SIGTERM, user: int | None = None,
    ) -> children.Process:  # fmt: skip
        """Starts a process: forked from what Python processes share, where it can be."""
        if env is not None and forked(command):
            words = [str(word) for word in command]
            return await self.nursery.bear(words, log, env=env, pass_fds=pass_fds, when_orphaned=when_orphaned)
        cwd = CHECKOUT if env else None
        return children.spawn(command, log, env=env, cwd=cwd, pass_fds=pass_fds, when_orphaned=when_orphaned, user=user)

    async def _run_once(self, name: str, command: list[str], env: dict[str, str]) -> int:
        process = await self._spawn(command, self.state.log(name), env=env)
        try:
            while (code := process.poll()) is None:
                await asyncio.sleep(0.02)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        return code

    async def _keep(self, kept: Kept) -> None:
        """Run a part, again and again, until the stack stops."""
        delay, deaths = FIRST_DELAY_S, 0
        while not self.stopping:
            if await self._held(kept):
                continue
            await self._live_once(kept)
            if self.stopping:
                return
            lived = time.monotonic() - kept.started
            code = kept.process.returncode if kept.process else None
            if not kept.was_ready:
                deaths += 1
                if deaths >= DEATHS_BEFORE_FIRST_READY:
                    raise self._failure(kept.part.name, f"ended with {_ending(code)}")
            delay = FIRST_DELAY_S if lived > STEADY_S else min(delay * 2, LONGEST_DELAY_S)
            self._log(f"{kept.part.name} ended ({_ending(code)}) after {lived:.0f} s; starting it again")
            await asyncio.sleep(delay)

    async def _live_once(self, kept: Kept) -> None:
        """One life of a part: start it, see it become ready, wait for its end."""
        part = kept.part
        if part.kind == "nats":
            self._wipe_when_asked()
        if part.kind == "postgres":
            postgres.forget_dead_server(self.plan.install.data)
        kept.process = await self._spawn(
            part.command,
            self.state.log(part.name),
            env=part.env or None,
            pass_fds=part.pass_fds,
            when_orphaned=part.orphan_signal,
            user=part.user,
        )
        kept.restarts += kept.started > 0
        kept.started = time.monotonic()
        self._record()
        became_ready = self._in_background(self._watch(kept, kept.process))
        while kept.alive():
            await asyncio.sleep(0.05)
        became_ready.cancel()
        kept.ready.clear()
        self._record()

    async def _watch(self, kept: Kept, process: children.Process) -> None:
        while not await asyncio.to_thread(self._is_ready, kept.part):
            await asyncio.sleep(0.05)
        if process.poll() is not None:
            return
        if kept.part.kind == "nats" and kept.was_ready:
            await self._topology_again(process)
        kept.was_ready = True
        kept.ready.set()
        self._record()

    def _is_ready(self, part: Part) -> bool:
        if part.kind == "postgres":
            return postgres.accepts(self.plan.install, part.port)
        if part.probe_port is None:
            return ports.accepts(part.port)
        return ports.get(part.probe_port, "/readyz")[0] == 200

    async def _held(self, kept: Kept) -> bool:
        if not self.state.hold(kept.part.name).exists():
            return False
        await asyncio.sleep(0.05)
        return True

    def _wipe_when_asked(self) -> None:
        marker = self.state.root / "nats" / "wipe"
        if marker.exists():
            shutil.rmtree(self.state.root / "nats" / "jetstream", ignore_errors=True)
            marker.unlink()

    def _record(self) -> None:
        """Write down what runs, for the other commands."""
        entries: dict[str, dict[str, Any]] = {
            "supervisor": {"pid": os.getpid(), "kind": "supervisor", "parts": list(self.kept)}
        }
        for name, kept in self.kept.items():
            if kept.process is not None and kept.alive():
                entries[name] = {
                    "pid": kept.process.pid,
                    "kind": kept.part.kind,
                    "port": kept.part.port,
                    "probe_port": kept.part.probe_port,
                    "ready": kept.ready.is_set(),
                    "restarts": kept.restarts,
                }
        self.state.record(entries)

    async def stop(self) -> None:
        """Stop every part: the gateway first, PostgreSQL last, and after it what a plan has beside these."""
        self.stopping = True
        known = {kind for kinds in STOP_ORDER for kind in kinds}
        others = tuple(kept.part.kind for kept in self.kept.values() if kept.part.kind not in known)
        for kinds in (*STOP_ORDER, others):
            group = [kept for kept in self.kept.values() if kept.part.kind in kinds]
            await asyncio.gather(*(self._stop_part(kept) for kept in group))
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.nursery.end()
        self.http.close()
        self.state.env_file.unlink(missing_ok=True)
        self.state.processes_file.unlink(missing_ok=True)

    async def _stop_part(self, kept: Kept) -> None:
        if kept.process is None or not kept.alive():
            return
        kept.process.send_signal(kept.part.stop_signal)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        while kept.alive():
            if time.monotonic() > deadline:
                self._log(f"{kept.part.name} does not stop; killing it")
                kept.process.kill()
                kept.process.wait()
            await asyncio.sleep(0.02)

    def kill(self) -> None:
        """End every part at once."""
        for kept in self.kept.values():
            if kept.process is not None and kept.alive():
                kept.process.kill()


async def _until(event: asyncio.Event) -> None:
    await event.wait()


def _ending(code: int | None) -> str:
    return f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
