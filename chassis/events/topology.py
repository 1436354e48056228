"""Streams and consumers, made from the declarations in code by one step that can be run again at any time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Mapping

import nats
import nats.errors
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy, DiscardPolicy, StorageType, StreamConfig
from nats.js.errors import NotFoundError

from chassis.events.broker import DEAD_LETTER_SUBJECTS, DEAD_LETTERS, STREAM, SUBJECTS
from chassis.events.reactions import Reaction, filters

MAX_AGE_S = 7 * 24 * 3600
ACK_WAIT_S = 30
# Both streams together stay under a laptop server's limit, for JetStream reserves what they may grow to.
MAX_BYTES = 2 * 1024**3
DEAD_LETTERS_MAX_BYTES = 256 * 1024**2


async def apply_topology(
    nats_url: str,
    consumers: Mapping[str, Iterable[Reaction]],
    *,
    replicas: int = 1,
    max_bytes: int = MAX_BYTES,
    wait_s: float = 0.0,
) -> list[str]:
    """Makes the streams, and for each service with reactions the durable consumer of its name, or changes them
    to what is declared. Returns the names of what there is then.

    Waits up to ``wait_s`` for a server that is still starting; then raises nats' errors where it cannot be
    reached or refuses.
    """
    limit = time.monotonic() + wait_s
    while True:
        try:
            return await _apply(nats_url, consumers, replicas, max_bytes)
        except (nats.errors.Error, OSError, TimeoutError):
            if time.monotonic() >= limit:
                raise
        await asyncio.sleep(0.3)


async def _apply(
    nats_url: str, consumers: Mapping[str, Iterable[Reaction]], replicas: int, max_bytes: int
) -> list[str]:
    client = await nats.connect(nats_url, connect_timeout=5, allow_reconnect=False, error_cb=_quiet)
    try:
        jetstream = client.jetstream(timeout=10)
        await _stream(jetstream, _events(replicas, max_bytes))
        await _stream(jetstream, _dead_letters(replicas))
        names = [STREAM, DEAD_LETTERS]
        for service, reactions in consumers.items():
            if subjects := filters(reactions):
                await jetstream.add_consumer(STREAM, _consumer(service, subjects))
                names.append(service)
        return names
    finally:
        await client.close()


async def _quiet(_: Exception) -> None:
    """Errors come from the calls as well; nats-py would log them a second time."""


async def _stream(jetstream: JetStreamContext, config: StreamConfig) -> None:
    try:
        await jetstream.update_stream(config)
    except NotFoundError:
        await jetstream.add_stream(config)


def _events(replicas: int, max_bytes: int) -> StreamConfig:
    return StreamConfig(
        name=STREAM,
        description="Every committed change; a fast road, the ledgers are the memory",
        subjects=[SUBJECTS],
        storage=StorageType.FILE,
        discard=DiscardPolicy.OLD,
        max_age=MAX_AGE_S,
        max_bytes=max_bytes,
        duplicate_window=120,
        num_replicas=replicas,
        allow_direct=True,
    )


def _dead_letters(replicas: int) -> StreamConfig:
    return StreamConfig(
        name=DEAD_LETTERS,
        description="Events that a service could not handle, with the reason",
        subjects=[DEAD_LETTER_SUBJECTS],
        storage=StorageType.FILE,
        discard=DiscardPolicy.OLD,
        max_age=4 * MAX_AGE_S,
        max_bytes=DEAD_LETTERS_MAX_BYTES,
        duplicate_window=120,
        num_replicas=replicas,
        allow_direct=True,
    )


def _consumer(service: str, subjects: list[str]) -> ConsumerConfig:
    return ConsumerConfig(
        durable_name=service,
        filter_subjects=subjects,
        deliver_policy=DeliverPolicy.ALL,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=ACK_WAIT_S,
        max_deliver=-1,  # the consumer counts and writes dead letters itself, before its handlers run
        max_ack_pending=1000,
        max_waiting=64,
    )
