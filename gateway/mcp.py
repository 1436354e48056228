"""Agents' way in: the Model Context Protocol over streamable HTTP, its tools made from the contract.

Every reading method is a tool; nothing here writes. A call is authenticated, permitted, counted and traced like every
other. Without sessions: each request stands by itself, on any gateway (https://modelcontextprotocol.io/specification,
2025-06-18, "Streamable HTTP" and "Tools").
"""

from __future__ import annotations

import asyncio
import re
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec

from chassis.context import Caller
from chassis.contract import Method, load
from chassis.errors import Failure, Invalid, Reason
from gateway import errors
from gateway.proxy import Proxy
from gateway.schemas import Schema, Schemas
from gateway.transcode import Transcoder
from gateway.transcode.scalars import snake

PATH: Final = "/mcp"
_VERSIONS: Final = ("2025-06-18", "2025-03-26")
_INSTRUCTIONS: Final = (
    "Rapport is a CRM: contacts, companies, leads, deals, activities, campaigns. Begin with `search`, or with a list"
    " and its `filter`. Tools only read; what the key may not read is not there."
)
_UNKNOWN_METHOD, _BAD_PARAMS = -32601, -32602
_COMPONENTS: Final = re.compile(r"#/components/schemas/([\w.]+)")


class Tool(NamedTuple):
    """A method as agents see it."""

    method: Method
    told: dict[str, Any]


class Agents:
    """Answers what agents ask."""

    def __init__(self, proxy: Proxy, codec: Transcoder) -> None:
        self._proxy = proxy
        self._codec = codec

    async def answer(self, body: bytes, caller: Caller, timeout_s: float | None, request_id: str) -> bytes | None:
        """The answer to a JSON-RPC message; None to a notification. Raises Invalid for what is no such message."""
        try:
            message = msgspec.json.decode(body)
        except msgspec.DecodeError:
            message = None
        if not isinstance(message, dict) or not isinstance(message.get("method"), str):
            raise Invalid(Reason.REASON_BODY_MALFORMED, "the body is one JSON-RPC 2.0 request or notification")
        if "id" not in message:
            return None
        params = message.get("params")
        said = await self._said(
            message["method"], params if isinstance(params, dict) else {}, caller, timeout_s, request_id
        )
        return msgspec.json.encode({"jsonrpc": "2.0", "id": message["id"], **said})

    async def _said(
        self, method: str, params: dict[str, Any], caller: Caller, timeout_s: float | None, request_id: str
    ) -> dict[str, Any]:
        match method:
            case "initialize":
                wanted = params.get("protocolVersion")
                return _result(
                    protocolVersion=wanted if wanted in _VERSIONS else _VERSIONS[0],
                    capabilities={"tools": {}},
                    serverInfo={"name": "rapport", "version": "1"},
                    instructions=_INSTRUCTIONS,
                )
            case "ping":
                return _result()
            case "tools/list":
                tools = await asyncio.to_thread(_tools)
                return _result(tools=[each.told for each in tools.values() if caller.may(each.method.permission)])
            case "tools/call":
                return await self._call(params, caller, timeout_s, request_id)
        return {"error": {"code": _UNKNOWN_METHOD, "message": f"there is no method '{method[:100]}'"}}

    async def _call(
        self, params: dict[str, Any], caller: Caller, timeout_s: float | None, request_id: str
    ) -> dict[str, Any]:
        tool = (await asyncio.to_thread(_tools)).get(str(params.get("name")))
        if tool is None or not caller.may(tool.method.permission):
            return {
                "error": {"code": _BAD_PARAMS, "message": "there is no such tool; tools/list names those there are"}
            }
        try:
            request = self._codec.message(tool.method, params.get("arguments") or {})
            answer = await self._proxy.unary(tool.method, request, caller, timeout_s, request_id)
        except Failure as failure:
            # For the model to read, which may then do better: an error of the protocol would be the client's.
            text = errors.body(failure, errors.http_status(failure)).decode()
            return _result(content=[{"type": "text", "text": text}], isError=True)
        shown = self._codec.reply(tool.method, answer).body
        return _result(content=[{"type": "text", "text": shown.decode()}], structuredContent=msgspec.Raw(shown))


@lru_cache(maxsize=1)
def _tools() -> dict[str, Tool]:
    """Every reading method, by its tool's name. Made when an agent first asks, which takes a while."""
    contract, found = load(), {}
    schemas = Schemas(contract)
    for method in contract.methods.values():
        # GET alone: a method that makes a token or keeps a place emits nothing, and is no reading.
        if method.writes or method.streams or method.http is None or method.http.verb != "get":
            continue
        name = snake(method.name).lower()
        told = {
            "name": name,
            "description": contract.comment(method.descriptor.full_name),
            "inputSchema": _whole(schemas, method),
            "annotations": {"readOnlyHint": True, "openWorldHint": False},
        }
        found[name] = Tool(method, told)
    return found


def _result(**members: Any) -> dict[str, Any]:
    return {"result": members}


def _whole(schemas: Schemas, method: Method) -> Schema:
    """The schema of a method's request, with all that it refers to inside."""
    (name,) = _named(schemas.message(method.descriptor.input_type))
    wanted, inside = {name}, {}
    while wanted:
        each = wanted.pop()
        inside[each] = schemas.components[each]
        wanted |= _named(inside[each]) - inside.keys()
    whole = {**inside.pop(name), "additionalProperties": False} | ({"$defs": inside} if inside else {})
    found: Schema = msgspec.json.decode(_COMPONENTS.sub(r"#/$defs/\1", msgspec.json.encode(whole).decode()))
    return found


def _named(schema: Schema) -> set[str]:
    return set(_COMPONENTS.findall(msgspec.json.encode(schema).decode()))
