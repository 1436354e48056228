"""What an API key looks like, and what is kept of one."""

from __future__ import annotations

import hashlib
import secrets
from typing import NamedTuple

LEAD = "rap_"
_LETTERS = "abcdefghijkmnpqrstuvwxyz23456789"
_PREFIX_LENGTH = 8


class NewKey(NamedTuple):
    """A fresh key: the whole secret, shown once, and the beginning that is kept to tell keys apart."""

    secret: str
    prefix: str


def make() -> NewKey:
    """A key with 256 random bits, as ``rap_<prefix>_<secret>``."""
    prefix = LEAD + "".join(secrets.choice(_LETTERS) for _ in range(_PREFIX_LENGTH))
    return NewKey(f"{prefix}_{secrets.token_urlsafe(32)}", prefix)


def prefix_of(secret: str) -> str:
    """The beginning of a key that may be shown."""
    return secret[: len(LEAD) + _PREFIX_LENGTH]


def digest(secret: str) -> bytes:
    """What is kept of a key: its SHA-256. A slow hash would add nothing to 256 random bits."""
    return hashlib.sha256(secret.encode()).digest()
