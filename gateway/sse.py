"""A subscription as server-sent events (WHATWG HTML, section 9.2)."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec

from gateway import errors
from gateway.live.subscription import Ending, Subscription
from gateway.transcode import Transcoder

# How soon a client comes again after its stream ended, in milliseconds.
_RETRY_MS = 500


async def events(subscription: Subscription, codec: Transcoder) -> AsyncIterator[bytes]:
    """The lines of a stream.

    A change has no event name, a checkpoint is named ``checkpoint``. ``end`` comes last where the server ends the
    stream: its data holds the error and the replay id to go on from.
    """
    yield f"retry: {_RETRY_MS}\n\n".encode()
    try:
        async for response in subscription:
            name = b"" if response.HasField("event") else b"event: checkpoint\n"
            yield b"id: %b\n%bdata: %b\n\n" % (response.replay_id.encode(), name, codec.json(response))
    except Ending as ending:
        error = msgspec.json.decode(errors.body(ending.failure, errors.http_status(ending.failure)))
        data = msgspec.json.encode({"replay_id": ending.replay_id, **error})
        place = b"id: %b\n" % ending.replay_id.encode() if ending.replay_id else b""
        yield b"%bevent: end\ndata: %b\n\n" % (place, data)
