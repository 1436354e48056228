"""Agents' way in: the Model Context Protocol over streamable HTTP, its tools made from the contract.

Every reading method is a tool. For an agent whose key may propose, so is every method that can be proposed, and calling
it makes a proposal. A call is authenticated, permitted, counted and traced like every other. Without sessions: each
request stands by itself, on any gateway (https://modelcontextprotocol.io/specification, 2025-11-25, "Streamable HTTP"
and "Tools").
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

import msgspec

from chassis.context import Caller, Restraint
from chassis.contract import Method, load
from chassis.errors import Denied, Failure, Invalid, Reason
from gateway import errors
from gateway.proposals.methods import PROPOSE, proposable, reads
from gateway.proxy import Proxy
from gateway.schemas import Schema, Schemas
from gateway.transcode import Transcoder
from gateway.transcode.scalars import snake

PATH: Final = "/mcp"
_HERE: Final = ("localhost", "127.0.0.1", "::1")
_VERSIONS: Final = ("2025-11-25", "2025-06-18", "2025-03-26")
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
# The argument, beside those of its method, that a tool which proposes takes.
_WHY: Final = "proposal_reason"
_UNKNOWN_METHOD, _BAD_PARAMS = -32601, -32602
_COMPONENTS: Final = re.compile(r"#/components/schemas/([\w.]+)")


class Tool(NamedTuple):
    """A method as agents see it."""

    method: Method
    told: dict[str, Any]
    # Calling it proposes a call of its method.
    proposes: bool = False


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
                    instructions=_INSTRUCTIONS + (_PROPOSES if _proposes(caller) else _READS),
                )
            case "ping":
                return _result()
            case "tools/list":
                tools = await asyncio.to_thread(_tools)
                return _result(tools=[each.told for each in tools.values() if _has(caller, each)])
            case "tools/call":
                return await self._call(params, caller, timeout_s, request_id)
        return {"error": {"code": _UNKNOWN_METHOD, "message": f"there is no method '{method[:100]}'"}}

    async def _call(
        self, params: dict[str, Any], caller: Caller, timeout_s: float | None, request_id: str
    ) -> dict[str, Any]:
        tool = (await asyncio.to_thread(_tools)).get(str(params.get("name")))
        if tool is None or not _has(caller, tool):
            if tool is not None:
                self._proxy.refused(tool.method, caller, request_id)
            return {
                "error": {"code": _BAD_PARAMS, "message": "there is no such tool; tools/list names those there are"}
            }
        method, arguments = tool.method, params.get("arguments") or {}
        try:
            if tool.proposes and isinstance(arguments, dict):
                method, arguments = load().methods[PROPOSE], _proposal(method, arguments)
            request = self._codec.message(method, arguments)
            answer = await self._proxy.unary(method, request, caller, timeout_s, request_id)
        except Failure as failure:
            # For the model to read, which may then do better: an error of the protocol would be the client's.
            text = errors.body(failure, errors.http_status(failure)).decode()
            return _result(content=[{"type": "text", "text": text}], isError=True)
        shown = self._codec.reply(method, answer).body
        return _result(content=[{"type": "text", "text": shown.decode()}], structuredContent=msgspec.Raw(shown))


def check_headers(headers: Mapping[str, str], public_url: str) -> None:
    """Raises Invalid for a version of the protocol that is not spoken here, and Denied where a browser sends what a
    page of somebody else's asks: its name may lead to our address."""
    if headers.get("mcp-protocol-version", _VERSIONS[0]) not in _VERSIONS:
        raise Invalid(Reason.REASON_FIELD_INVALID, f"mcp-protocol-version: {' and '.join(_VERSIONS)} are spoken here")
    origin = headers.get("origin")
    if origin is None or origin.rstrip("/") == public_url.rstrip("/"):
        return
    with contextlib.suppress(ValueError):
        if urlsplit(origin).hostname in _HERE:
            return
    raise Denied(Reason.REASON_PERMISSION_DENIED, "pages of other origins do not speak to agents' tools")


@lru_cache(maxsize=1)
def _tools() -> dict[str, Tool]:
    """Every method that is a tool, by the tool's name. Made when an agent first asks, which takes a while."""
    contract, found = load(), {}
    schemas = Schemas(contract)
    for method in contract.methods.values():
        if method.streams or not reads(method):
            continue
        name = snake(method.name).lower()
        told = {
            "name": name,
            "description": contract.comment(method.descriptor.full_name),
            "inputSchema": _whole(schemas, method),
            "annotations": {"readOnlyHint": True, "openWorldHint": False},
        }
        found[name] = Tool(method, told)
    for method in proposable().values():
        name = snake(method.name).lower()
        found[name] = Tool(method, _told_to_propose(schemas, method, name), proposes=True)
    return found


def _told_to_propose(schemas: Schemas, method: Method, name: str) -> dict[str, Any]:
    schema = _whole(schemas, method)
    for each in ("request_id", "validate_only"):
        del schema["properties"][each]
    schema["properties"][_WHY] = {
        "type": "string",
        "maxLength": 2000,
        "description": "Why this is proposed, for the person who decides.",
    }
    meant = load().comment(method.descriptor.full_name)
    return {
        "name": name,
        "description": f"Proposes this, and changes nothing by itself: {meant} The answer is the proposal: its id and"
        " state, and what it would change, field by field.",
        "inputSchema": schema,
        "annotations": {
            "readOnlyHint": False,
            "destructiveHint": method.http is not None and method.http.verb == "delete",
            "idempotentHint": False,
            "openWorldHint": False,
        },
    }


def _proposes(caller: Caller) -> bool:
    return caller.restraint is Restraint.PROPOSES


def _has(caller: Caller, tool: Tool) -> bool:
    return caller.may(tool.method.permission) and (not tool.proposes or _proposes(caller))


def _proposal(method: Method, arguments: dict[str, Any]) -> dict[str, Any]:
    """The request that proposes a call with these arguments."""
    asked = {name: value for name, value in arguments.items() if name != _WHY}
    why = {"reason": arguments[_WHY]} if _WHY in arguments else {}
    return {"proposal": {"method": method.name, "request": asked, **why}}


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
