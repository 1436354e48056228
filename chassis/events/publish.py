"""Publishing to the stream: many messages at once, and what the stream said to each."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from typing import Final, NamedTuple

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import Header

from chassis import telemetry
from chassis.events.broker import STREAM, Broker
from chassis.events.envelope import Envelope

ACK_TIMEOUT_S: Final = 2.0
log = telemetry.logger()


class Ack(NamedTuple):
    """Where the stream keeps a message, and whether it had it already."""

    seq: int
    duplicate: bool


class Publisher:
    """Publishes batches, one after the other, over one inbox. nats-py's own way costs a lock and a timer a message."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._client: Client | None = None
        self._inbox = ""
        self._batch = 0
        self._acks: list[Ack | None] = []
        self._missing = 0
        self._settled = asyncio.Event()

    async def publish(self, envelopes: Sequence[Envelope]) -> list[Ack | None]:
        """What the stream acknowledged within two seconds; None for what it refused or did not answer.

        Order is kept. A message without an acknowledgement may be in the stream all the same.
        """
        self._batch += 1
        self._acks, self._missing = [None] * len(envelopes), len(envelopes)
        self._settled.clear()
        try:
            inbox = f"{await self._listen()}.{self._batch}"
            for index, (subject, headers, body) in enumerate(envelopes):
                headers[Header.EXPECTED_STREAM] = STREAM
                await self._broker.client.publish(subject, body, reply=f"{inbox}.{index}", headers=headers)
        except (nats.errors.Error, OSError) as error:
            log.warning("publishing stopped", exc_info=error)
            return self._acks
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(ACK_TIMEOUT_S):
                await self._settled.wait()
        return self._acks

    async def _listen(self) -> str:
        """The inbox for acknowledgements; a connection that was made anew needs one of its own."""
        client = self._broker.client
        if client is not self._client:
            self._inbox = client.new_inbox()
            await client.subscribe(f"{self._inbox}.>", cb=self._heard)
            self._client = client
        return self._inbox

    async def _heard(self, message: Msg) -> None:
        batch, _, index = message.subject[len(self._inbox) + 1 :].partition(".")
        if int(batch) != self._batch:
            return
        # An empty answer says that no stream listens.
        answer = json.loads(message.data) if message.data else {"error": {}}
        if "error" in answer:
            log.warning("the stream refused an event", code=answer["error"].get("err_code", 0))
        else:
            self._acks[int(index)] = Ack(answer["seq"], answer.get("duplicate", False))
        self._missing -= 1
        if not self._missing:
            self._settled.set()
