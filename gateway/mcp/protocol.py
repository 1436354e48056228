"""What a message of each revision of the protocol carries, and how one is refused that does not.

Clients of two eras come to one address. Up to 2025-11-25 they shake hands by `initialize`. Since 2026-07-28 there is
nothing to shake: every request says in `_meta` which revision it is of, and headers repeat what proxies on the way go
by, which has to be the same (specification, 2026-07-28, "Per-request protocol fields" and "Streamable HTTP").
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from chassis.errors import Invalid, Reason

HANDSHAKE_VERSIONS: Final = ("2025-11-25", "2025-06-18", "2025-03-26")
STATELESS_VERSION: Final = "2026-07-28"
VERSIONS: Final = (STATELESS_VERSION, *HANDSHAKE_VERSIONS)

UNKNOWN_METHOD: Final = -32601
BAD_PARAMS: Final = -32602
_HEADER_MISMATCH: Final = -32020
_UNSUPPORTED_VERSION: Final = -32022

VERSION_HEADER: Final = "mcp-protocol-version"
_METHOD_HEADER: Final = "mcp-method"
_NAME_HEADER: Final = "mcp-name"
# What means something in a request of 2026-07-28, and must not come twice.
HEADERS: Final = (VERSION_HEADER, _METHOD_HEADER, _NAME_HEADER)

_NAMESPACE: Final = "io.modelcontextprotocol/"
_VERSION_KEY: Final = f"{_NAMESPACE}protocolVersion"
_ENVELOPE: Final = (_VERSION_KEY, f"{_NAMESPACE}clientCapabilities")
SERVER: Final = {"name": "rapport", "version": "1"}


class Refused(Exception):
    """An error of the protocol: its code, what it says, and the HTTP status that 2026-07-28 gives it."""

    def __init__(self, code: int, text: str, **data: Any) -> None:
        super().__init__(text)
        self.error = {"code": code, "message": text} | ({"data": data} if data else {})
        self.status = 404 if code == UNKNOWN_METHOD else 400


def message(body: bytes) -> dict[str, Any]:
    """The JSON-RPC request or notification in a body. Raises Invalid for what is none."""
    try:
        found = msgspec.json.decode(body)
    except msgspec.DecodeError:
        found = None
    if not isinstance(found, dict) or not isinstance(found.get("method"), str):
        raise Invalid(Reason.REASON_BODY_MALFORMED, "the body is one JSON-RPC 2.0 request or notification")
    return found


def params(message: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters of a message by name; none where it has none."""
    found = message.get("params")
    return found if isinstance(found, dict) else {}


def version_of(message: Mapping[str, Any], headers: Mapping[str, str]) -> str:
    """The revision that a message is of, one of VERSIONS. Raises Refused for another one, or where the message lacks
    what its revision asks for."""
    meta = params(message).get("_meta")
    said = meta if isinstance(meta, dict) else {}
    header, named = headers.get(VERSION_HEADER), said.get(_VERSION_KEY)
    if named is None:
        if header is None or header in HANDSHAKE_VERSIONS:
            return header or HANDSHAKE_VERSIONS[0]
        _check_spoken(header)
        if "id" not in message:
            return header
    _check_envelope(message, said, headers)
    _check_spoken(header)
    return STATELESS_VERSION


def _check_spoken(version: str | None) -> None:
    if version != STATELESS_VERSION:
        text = f"{' and '.join(VERSIONS)} are spoken here"
        raise Refused(_UNSUPPORTED_VERSION, text, supported=VERSIONS, requested=version)


def _check_envelope(message: Mapping[str, Any], meta: Mapping[str, Any], headers: Mapping[str, str]) -> None:
    if missing := [key for key in _ENVELOPE if key not in meta]:
        raise Refused(BAD_PARAMS, f"params._meta lacks {' and '.join(missing)}")
    said = {VERSION_HEADER: meta[_VERSION_KEY], _METHOD_HEADER: message["method"]}
    if message["method"] == "tools/call":
        said[_NAME_HEADER] = params(message).get("name")
    for header, value in said.items():
        if headers.get(header) != value:
            raise Refused(_HEADER_MISMATCH, f"the header {header} says another thing than the body, or is not there")


def result(version: str, members: Mapping[str, Any]) -> dict[str, Any]:
    """A result as the revision has it."""
    if version != STATELESS_VERSION:
        return dict(members)
    return {"resultType": "complete", **members, "_meta": {f"{_NAMESPACE}serverInfo": SERVER}}
