"""The tools: every reading method, and for an agent whose key may propose, every method that can be proposed.

Names, descriptions and schemas of arguments are the contract's.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, Final, NamedTuple

import msgspec

from chassis.context import Caller, Restraint
from chassis.contract import Method, load
from gateway.batch import BATCH
from gateway.proposals.methods import proposable
from gateway.schemas import Schema, Schemas
from gateway.transcode.scalars import snake

# The argument, beside those of its method, that a tool which proposes takes.
_WHY: Final = "proposal_reason"
_COMPONENTS: Final = re.compile(r"#/components/schemas/([\w.]+)")


class Tool(NamedTuple):
    """A method as agents see it."""

    method: Method
    told: dict[str, Any]
    # Calling it proposes a call of its method.
    proposes: bool = False


@lru_cache(maxsize=1)
def by_name() -> dict[str, Tool]:
    """Every method that is a tool, by the tool's name. Made when an agent first asks, which takes a while."""
    contract, found = load(), {}
    schemas = Schemas(contract)
    for method in contract.methods.values():
        if method.writes or method.internal or method.streams or method.path == BATCH:
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


def proposes(caller: Caller) -> bool:
    """Whether the caller's writes become proposals."""
    return caller.restraint is Restraint.PROPOSES


def has(caller: Caller, tool: Tool) -> bool:
    """Whether the tool is there for the caller."""
    return caller.may(tool.method.permission) and (not tool.proposes or proposes(caller))


def proposal(method: Method, arguments: dict[str, Any]) -> dict[str, Any]:
    """The request that proposes a call with these arguments."""
    asked = {name: value for name, value in arguments.items() if name != _WHY}
    why = {"reason": arguments[_WHY]} if _WHY in arguments else {}
    return {"proposal": {"method": method.name, "request": asked, **why}}


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
