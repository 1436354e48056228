"""What happens to the broker and to what it carries: lost and damaged stores, events published again, poison."""

from __future__ import annotations

import asyncio
import random
import shutil
import time
import uuid
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import nats
import nats.errors
from crm.type.v1 import change_pb2

from chassis import ids
from chassis.events.broker import DEAD_LETTERS, POSITION, SOURCE, STREAM, TENANT
from tests.faults.inject import CRASHES, KILLS
from tests.faults.stand import Stand

if TYPE_CHECKING:
    from tests.faults.checks import Findings

ERROR: Final = "rapport-error"
_EVENT_ID: Final = "Nats-Msg-Id"
_REPLAYED: Final = 200
_PATIENCE_S: Final = 15.0

T = TypeVar("T")


def wipe(stand: Stand) -> None:
    """The broker forgets everything, its streams and consumers too."""
    with stand.store_of_stopped_broker() as store:
        _empty(store)


def roll_back(stand: Stand, copy: Path) -> None:
    """The broker comes back as it was when the copy was made."""
    with stand.store_of_stopped_broker() as store:
        _empty(store)
        shutil.copytree(copy, store, dirs_exist_ok=True)
    shutil.rmtree(copy, ignore_errors=True)


def damage(stand: Stand, rng: random.Random) -> None:
    """Each block of messages has a bit flipped or loses its end, as a disk does that lies."""
    with stand.store_of_stopped_broker() as store:
        for block in sorted(store.rglob("*.blk")):
            content = bytearray(block.read_bytes())
            if not content:
                continue
            if rng.random() < 0.5:
                content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
            else:
                del content[rng.randrange(len(content)) :]
            block.write_bytes(content)


def _empty(store: Path) -> None:
    for each in store.iterdir():
        shutil.rmtree(each) if each.is_dir() else each.unlink()


def replay(stand: Stand, rng: random.Random) -> int:
    """Publishes some of the last events once more, in any order, so that no window of the broker's knows them."""
    return _patiently(lambda: _replay(stand, rng))


async def _replay(stand: Stand, rng: random.Random) -> int:
    client = await _connect(stand)
    try:
        jetstream = client.jetstream(timeout=5)
        last = (await jetstream.stream_info(STREAM)).state.last_seq
        found = [await jetstream.get_msg(STREAM, seq) for seq in range(max(1, last - _REPLAYED), last + 1)]
        for message in rng.sample(found, len(found)):
            headers = {name: value for name, value in (message.headers or {}).items() if name != _EVENT_ID}
            if message.subject is not None and KILLS.encode() not in (message.data or b""):
                await jetstream.publish(message.subject, message.data or b"", stream=STREAM, headers=headers)
        return len(found)
    finally:
        await client.close()


def poison(stand: Stand, rng: random.Random, *, kill: bool = False) -> list[str]:
    """Publishes events that nobody can handle, of a tenant that does not exist; returns their ids.

    One is no event, one's body is none, and one makes every reaction fail. ``kill``: one that ends every process
    that handles it, until it has been delivered too often, which takes minutes.
    """
    tenant = uuid.UUID(int=rng.getrandbits(128), version=4)
    made = [_blank(tenant, rng), _garbage(tenant, rng), _marked(tenant, rng, "crash", CRASHES)]
    if kill:
        made = [_marked(tenant, rng, "kill", KILLS)]
    _patiently(lambda: _publish(stand, f"crm.sales.deal.updated.{tenant.hex}", made))
    stand.poisoned += [{"event_id": headers["ce-id"], "kind": kind} for kind, headers, _ in made]
    return [headers["ce-id"] for _, headers, _ in made]


async def _publish(stand: Stand, subject: str, made: list[tuple[str, dict[str, str], bytes]]) -> None:
    client = await _connect(stand)
    try:
        for _, headers, body in made:
            await client.jetstream(timeout=5).publish(subject, body, stream=STREAM, headers=headers)
    finally:
        await client.close()


def _headers(tenant: uuid.UUID, rng: random.Random) -> dict[str, str]:
    event_id = str(uuid.UUID(int=rng.getrandbits(128), version=4))
    return {_EVENT_ID: event_id, "ce-id": event_id, TENANT: str(tenant), POSITION: "1", SOURCE: "sales"}


def _blank(tenant: uuid.UUID, rng: random.Random) -> tuple[str, dict[str, str], bytes]:
    event_id = _headers(tenant, rng)["ce-id"]
    return "blank", {_EVENT_ID: event_id, "ce-id": event_id}, b"\xff\xff"


def _garbage(tenant: uuid.UUID, rng: random.Random) -> tuple[str, dict[str, str], bytes]:
    return "garbage", _headers(tenant, rng), rng.randbytes(100)


def _marked(tenant: uuid.UUID, rng: random.Random, kind: str, actor: str) -> tuple[str, dict[str, str], bytes]:
    headers = _headers(tenant, rng)
    change = change_pb2.Change(event_id=headers["ce-id"], type="crm.sales.v1.Deal.updated", revision=2, actor=actor)
    change.entity_id = ids.encode("deal", uuid.UUID(int=rng.getrandbits(128), version=4))
    change.occur_time.GetCurrentTime()
    change.commit_time.GetCurrentTime()
    return kind, headers, change.SerializeToString()


@dataclass(frozen=True)
class Letter:
    """A message, and who gave it up where it is a dead letter."""

    event_id: str
    service: str = ""
    error: str = ""


def dead_letters(stand: Stand) -> list[Letter]:
    """What lies with the dead letters now."""
    return asyncio.run(_letters(stand, DEAD_LETTERS))


def check_poison(stand: Stand, found: Findings) -> None:
    """Every poisoned event that the stream still has lies with the dead letters of who gets every event.

    Damage may take either of the two, and then nothing can be said.
    """
    if not stand.poisoned or stand.faults["damage"]:
        return
    kept = {each.event_id for each in asyncio.run(_letters(stand, STREAM))}
    buried = {each.event_id for each in dead_letters(stand) if each.service == "activities"}
    found.poison += [
        f"event {each['event_id']} ({each['kind']})"
        for each in stand.poisoned
        if each["event_id"] in kept and each["event_id"] not in buried
    ]


async def _letters(stand: Stand, stream: str) -> list[Letter]:
    client = await _connect(stand)
    try:
        found = []
        subscription = await client.jetstream(timeout=5).subscribe(
            f"{stream.lower()}.>", stream=stream, ordered_consumer=True
        )
        left = (await client.jetstream(timeout=5).stream_info(stream)).state.messages
        for _ in range(left):
            message = await subscription.next_msg(timeout=5)
            headers = message.headers or {}
            service = message.subject.split(".")[1]
            found.append(Letter(headers.get("ce-id", ""), service, headers.get(ERROR, "")))
        return found
    finally:
        await client.close()


def _patiently(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Does what needs the broker, which another fault may have just now."""
    end = time.monotonic() + _PATIENCE_S
    while True:
        try:
            return asyncio.run(work())
        except (nats.errors.Error, OSError, TimeoutError):
            if time.monotonic() > end:
                raise
        time.sleep(0.3)


async def _connect(stand: Stand) -> Any:
    async def quiet(_: Exception) -> None:
        """Errors come from the calls as well."""

    return await nats.connect(stand.env["RAPPORT_NATS_URL"], connect_timeout=5, allow_reconnect=False, error_cb=quiet)
