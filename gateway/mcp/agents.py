"""Answers what agents ask. A call is authenticated, permitted, counted and traced like every other."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import msgspec

from chassis.context import Caller
from chassis.contract import load
from chassis.errors import Denied, Failure, Reason
from gateway import errors
from gateway.mcp import protocol, tools
from gateway.mcp.protocol import BAD_PARAMS, UNKNOWN_METHOD, Refused
from gateway.proposals.methods import PROPOSE
from gateway.proxy import Proxy
from gateway.transcode import Transcoder

PATH: Final = "/mcp"
_HERE: Final = ("localhost", "127.0.0.1", "::1")
_INSTRUCTIONS: Final = (
    "Rapport is a CRM: contacts, companies, leads, deals, activities, campaigns. Begin with `search`, or with a list"
    " and its `filter`. What the key may not do is not there."
)
_READS: Final = " Tools only read."
_PROPOSES: Final = (
    " Tools that change something change nothing by themselves: each makes a proposal, which a person or a rule"
    " accepts, and answers with what it would change."
    " `get_proposal` tells later what came of it, where the key may read that."
)
# What a key may do changes now and then, so nobody but its bearer keeps its tools, and not for long.
_KEPT: Final = {"ttlMs": 60_000, "cacheScope": "private"}


class Reply(NamedTuple):
    """An answer of HTTP; the body of one to a notification is empty."""

    status: int
    body: bytes


class Agents:
    """Answers what agents ask."""

    def __init__(self, proxy: Proxy, codec: Transcoder) -> None:
        self._proxy = proxy
        self._codec = codec

    async def answer(
        self, body: bytes, headers: Mapping[str, str], caller: Caller, timeout_s: float | None, request_id: str
    ) -> Reply:
        """The answer to a JSON-RPC message. Raises Invalid for what is no such message."""
        message = protocol.message(body)
        version = ""
        try:
            version = protocol.version_of(message, headers)
            if "id" not in message:
                return Reply(202, b"")
            result = await self._result(message, version, caller, timeout_s, request_id)
        except Refused as refused:
            # Before 2026-07-28 an error of the protocol came with 200.
            handshaken = version in protocol.HANDSHAKE_VERSIONS
            return _reply(200 if handshaken else refused.status, message, error=refused.error)
        return _reply(200, message, result=protocol.result(version, result))

    async def _result(
        self, message: dict[str, Any], version: str, caller: Caller, timeout_s: float | None, request_id: str
    ) -> dict[str, Any]:
        params, stateless = protocol.params(message), version == protocol.STATELESS_VERSION
        match message["method"]:
            case "initialize" if not stateless:
                wanted = params.get("protocolVersion")
                known = wanted in protocol.HANDSHAKE_VERSIONS
                return {
                    "protocolVersion": wanted if known else protocol.HANDSHAKE_VERSIONS[0],
                    "serverInfo": protocol.SERVER,
                    **_about(caller),
                }
            case "ping" if not stateless:
                return {}
            case "server/discover" if stateless:
                return {"supportedVersions": protocol.VERSIONS, **_about(caller), **_KEPT}
            case "tools/list":
                found = (await asyncio.to_thread(tools.by_name)).values()
                told = [each.told for each in found if tools.has(caller, each)]
                return {"tools": told} | (_KEPT if stateless else {})
            case "tools/call":
                return await self._call(params, caller, timeout_s, request_id)
        raise Refused(UNKNOWN_METHOD, f"there is no method '{message['method'][:100]}'")

    async def _call(
        self, params: dict[str, Any], caller: Caller, timeout_s: float | None, request_id: str
    ) -> dict[str, Any]:
        tool = (await asyncio.to_thread(tools.by_name)).get(str(params.get("name")))
        if tool is None or not tools.has(caller, tool):
            if tool is not None:
                self._proxy.refused(tool.method, caller, request_id)
            raise Refused(BAD_PARAMS, "there is no such tool; tools/list names those there are")
        method, arguments = tool.method, params.get("arguments") or {}
        try:
            if tool.proposes and isinstance(arguments, dict):
                method, arguments = load().methods[PROPOSE], tools.proposal(method, arguments)
            request = self._codec.message(method, arguments)
            answer = await self._proxy.unary(method, request, caller, timeout_s, request_id)
        except Failure as failure:
            # For the model to read, which may then do better: an error of the protocol would be the client's.
            text = errors.body(failure, errors.http_status(failure)).decode()
            return {"content": [{"type": "text", "text": text}], "isError": True}
        shown = self._codec.reply(method, answer).body
        return {"content": [{"type": "text", "text": shown.decode()}], "structuredContent": msgspec.Raw(shown)}


def check_origin(headers: Mapping[str, str], public_url: str) -> None:
    """Raises Denied where a browser sends what a page of somebody else's asks: its name may lead to our address."""
    origin = headers.get("origin")
    if origin is None or origin.rstrip("/") == public_url.rstrip("/"):
        return
    with contextlib.suppress(ValueError):
        if urlsplit(origin).hostname in _HERE:
            return
    raise Denied(Reason.REASON_PERMISSION_DENIED, "pages of other origins do not speak to agents' tools")


def _about(caller: Caller) -> dict[str, Any]:
    told = _INSTRUCTIONS + (_PROPOSES if tools.proposes(caller) else _READS)
    return {"capabilities": {"tools": {}}, "instructions": told}


def _reply(status: int, message: Mapping[str, Any], **said: Any) -> Reply:
    return Reply(status, msgspec.json.encode({"jsonrpc": "2.0", "id": message.get("id"), **said}))
