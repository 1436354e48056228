"""What happens to the broker and to what it carries: lost and damaged stores, events published again, poison."""

from __future__ import annotations

import asyncio
import random
import shutil
import uuid
from pathlib import Path
from typing import Any, Final

import nats
from crm.type.v1 import change_pb2

from chassis.events.broker import DEAD_LETTERS, POSITION, SOURCE, STREAM, TENANT
from tests.faults.inject import KILL_HEADER
from tests.faults.stand import Stand

ERROR: Final = "rapport-error"
_EVENT_ID: Final = "Nats-Msg-Id"
_REPLAYED: Final = 200


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
    return asyncio.run(_replay(stand, rng))


async def _replay(stand: Stand, rng: random.Random) -> int:
    client = await _connect(stand)
    try:
        jetstream = client.jetstream(timeout=5)
        last = (await jetstream.stream_info(STREAM)).state.last_seq
        found = [await jetstream.get_msg(STREAM, seq) for seq in range(max(1, last - _REPLAYED), last + 1)]
        for message in rng.sample(found, len(found)):
            headers = {name: value for name, value in (message.headers or {}).items() if name != _EVENT_ID}
            if KILL_HEADER not in headers and message.subject is not None:
                await jetstream.publish(message.subject, message.data or b"", stream=STREAM, headers=headers)
        return len(found)
    finally:
        await client.close()


def poison(stand: Stand, rng: random.Random, *, kill: bool = False) -> list[str]:
    """Publishes events that nobody can handle, of a tenant that does not exist; returns their ids.

    One is no event, one names a type nobody knows, one carries a record that is none. ``kill``: one that ends
    every process that takes it up.
    """
    tenant = uuid.UUID(int=rng.getrandbits(128), version=4)
    made = [_killer(tenant, rng)] if kill else [_blank(tenant, rng), _garbage(tenant, rng), _hollow(tenant, rng)]
    asyncio.run(_publish(stand, f"crm.sales.deal.updated.{tenant.hex}", made))
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


def _change(headers: dict[str, str], **more: Any) -> bytes:
    change = change_pb2.Change(event_id=headers["ce-id"], type="crm.sales.v1.Deal.updated", revision=2, **more)
    change.occur_time.GetCurrentTime()
    change.commit_time.GetCurrentTime()
    return bytes(change.SerializeToString())


def _blank(tenant: uuid.UUID, rng: random.Random) -> tuple[str, dict[str, str], bytes]:
    event_id = _headers(tenant, rng)["ce-id"]
    return "blank", {_EVENT_ID: event_id, "ce-id": event_id}, b"\xff\xff"


def _garbage(tenant: uuid.UUID, rng: random.Random) -> tuple[str, dict[str, str], bytes]:
    return "garbage", _headers(tenant, rng), rng.randbytes(100)


def _hollow(tenant: uuid.UUID, rng: random.Random) -> tuple[str, dict[str, str], bytes]:
    headers = _headers(tenant, rng)
    return "hollow", headers, _change(headers, entity_id="deal_nonsense", after=b"")


def _killer(tenant: uuid.UUID, rng: random.Random) -> tuple[str, dict[str, str], bytes]:
    headers = _headers(tenant, rng) | {KILL_HEADER: "1"}
    return "killer", headers, _change(headers, entity_id="deal_nonsense", after=b"")


def dead_letters(stand: Stand) -> list[dict[str, str]]:
    """What lies with the dead letters now: the event's id, the service that gave up, and the error."""
    return asyncio.run(_dead_letters(stand))


async def _dead_letters(stand: Stand) -> list[dict[str, str]]:
    client = await _connect(stand)
    try:
        jetstream = client.jetstream(timeout=5)
        state = (await jetstream.stream_info(DEAD_LETTERS)).state
        found = []
        for seq in range(state.first_seq, state.last_seq + 1):
            message = await jetstream.get_msg(DEAD_LETTERS, seq)
            headers = message.headers or {}
            service = (message.subject or "").split(".")[1]
            found.append({"event_id": headers.get("ce-id", ""), "service": service, "error": headers.get(ERROR, "")})
        return found
    finally:
        await client.close()


async def _connect(stand: Stand) -> Any:
    async def quiet(_: Exception) -> None:
        """Errors come from the calls as well."""

    return await nats.connect(stand.env["RAPPORT_NATS_URL"], connect_timeout=5, allow_reconnect=False, error_cb=quiet)
