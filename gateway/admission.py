"""The gateway's door: calls in excess are turned away before anything is spent on them.

Parsing, authenticating and tracing a request costs as much as a tenth of serving it, so that at ten times the capacity
it would take everything. A whole request that has come in one piece is refused by a look at its bytes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Sized
from uuid import UUID

from chassis.gate import Gate
from gateway import errors

_READS = b"GET "
_VERBS = (b"GET /v1/", b"POST /v1/", b"PATCH /v1/", b"PUT /v1/", b"DELETE /v1/")
_KNOWN_LIMIT = 10_000


class Admission:
    """Both doors' places. Tenants are told apart by their credentials, once those have been checked."""

    def __init__(self, limit: int) -> None:
        self.gate = Gate(limit)
        # A process about to stop answers in full, so that clients learn that it closes.
        self.draining = False
        # Streams last, and hold no place.
        self.streams = 0
        # By the digest of the credential: a dump of this process is no bunch of keys.
        self._tenants: dict[bytes, UUID] = {}
        failure = self.gate.refusal()
        body = errors.body(failure, 429)
        lines = [f"{name}: {value}" for name, value in errors.headers(failure).items()]
        head = ["HTTP/1.1 429 Too Many Requests", "content-type: application/json", "cache-control: no-store", *lines]
        self._refusal = "\r\n".join([*head, f"content-length: {len(body)}", "", ""]).encode() + body

    def learn(self, authorization: str, tenant: UUID) -> None:
        """Takes in whose credential it is."""
        credential = _digest(authorization)
        if self._tenants.get(credential) != tenant:
            if len(self._tenants) >= _KNOWN_LIMIT:
                self._tenants.clear()
            self._tenants[credential] = tenant

    def closed(self, authorization: str, coming: int = 0, *, reads: bool) -> bool:
        """Whether a call with this credential would be refused; see Gate.closed."""
        tenant: Hashable = self._tenants.get(_digest(authorization))
        return self.gate.closed(tenant, coming, reads=reads)

    def refusal(self, data: bytes, under_way: Sized) -> bytes | None:
        """The answer to a request that is to be turned away; None where it is let in, or is not here as a whole."""
        coming = len(under_way) - self.streams
        if coming < self.gate.limit or self.draining or not data.startswith(_VERBS):
            return None
        head_end = data.find(b"\r\n\r\n")
        head = data[: head_end + 2]
        lower = head.lower()
        if b"\r\ntransfer-encoding:" in lower or b"\r\nexpect:" in lower or b"\r\nconnection:" in lower:
            return None
        length = _value(head, lower, b"content-length") or "0"
        if head_end < 0 or not length.isdigit() or len(data) != head_end + 4 + int(length):
            return None
        # Reads cost nobody anything but a repetition: they are turned away first.
        reads = data.startswith(_READS)
        return self._refusal if self.closed(_value(head, lower, b"authorization"), coming, reads=reads) else None


def _digest(authorization: str) -> bytes:
    return hashlib.blake2b(authorization.encode("latin-1", "replace"), digest_size=16).digest()


def _value(head: bytes, lower: bytes, name: bytes) -> str:
    at = lower.find(b"\r\n" + name + b":")
    if at < 0:
        return ""
    start = at + len(name) + 3
    return head[start : head.find(b"\r\n", start)].strip().decode("latin-1")
