"""Secrets and signatures of webhooks, by Standard Webhooks 1.0 (https://www.standardwebhooks.com)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Iterable
from uuid import UUID

from chassis.tokens import Sealer

_LEAD = "whsec_"
# The specification asks for 24 to 64 random bytes.
_BYTES = 32


def make_secret() -> str:
    """A new secret."""
    return _LEAD + base64.b64encode(os.urandom(_BYTES)).decode()


def seal(sealer: Sealer, tenant: UUID, endpoint: UUID, secret: str) -> str:
    """A secret as it is kept: it opens for its endpoint alone."""
    return sealer.encrypt(secret.encode(), _bound_to(tenant, endpoint))


def unseal(sealer: Sealer, tenant: UUID, endpoint: UUID, sealed: str) -> str:
    """The secret that was sealed. Raises ValueError where it is another endpoint's."""
    return sealer.decrypt(sealed, _bound_to(tenant, endpoint)).decode()


def _bound_to(tenant: UUID, endpoint: UUID) -> bytes:
    return b"webhook " + tenant.bytes + endpoint.bytes


def headers(message_id: str, timestamp: int, body: bytes, secrets: Iterable[str]) -> dict[str, str]:
    """The headers of a call: id, time in seconds since 1970, and a signature by each secret."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    return {
        "content-type": "application/json",
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(_signature(each, signed) for each in secrets),
    }


def _signature(secret: str, signed: bytes) -> str:
    key = base64.b64decode(secret.removeprefix(_LEAD))
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()
