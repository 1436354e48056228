"""How OpenAPI tells of a failed call: the answers that can come, with their reasons, and the headers of the limits."""

from __future__ import annotations

from typing import Any

from chassis.contract import Contract, Method
from chassis.errors import Reason

Schema = dict[str, Any]

# The answers of errors.http_status, by the name of their component: status, code, and the reasons that come with it.
_ANSWERS: dict[str, tuple[int, str, tuple[str, ...]]] = {
    "Invalid": (400, "INVALID_ARGUMENT", (
        "FIELD_INVALID", "FIELD_REQUIRED", "FIELD_UNKNOWN", "BODY_MALFORMED", "ID_INVALID", "PAGE_TOKEN_INVALID",
        "FILTER_INVALID", "FILTER_UNKNOWN_FIELD", "ORDER_INVALID", "REQUEST_ID_REUSED", "CUSTOM_FIELD_UNKNOWN",
        "TIME_INVALID", "REPLAY_ID_INVALID", "DELETED", "NOT_DELETED", "STATE_INVALID", "STAGE_INVALID", "IN_USE",
        "CONVERSION_CONFLICT",
    )),
    "Unauthenticated": (401, "UNAUTHENTICATED", ("UNAUTHENTICATED",)),
    "Denied": (403, "PERMISSION_DENIED", ("PERMISSION_DENIED", "PROPOSAL_REQUIRED")),
    "NotFound": (404, "NOT_FOUND", ("NOT_FOUND", "METHOD_UNKNOWN")),
    "Conflict": (409, "ABORTED", (
        "ETAG_MISMATCH", "CONFLICT", "KEY_TAKEN", "AMBIGUOUS_KEY", "BATCH_ABORTED",
    )),
    "Mismatch": (412, "ABORTED", ("ETAG_MISMATCH",)),
    "TooLarge": (413, "RESOURCE_EXHAUSTED", ("TOO_LARGE",)),
    "Unsupported": (415, "INVALID_ARGUMENT", ("MEDIA_TYPE_UNSUPPORTED",)),
    "Exhausted": (429, "RESOURCE_EXHAUSTED", ("RATE_LIMITED", "OVERLOADED", "BUDGET_EXHAUSTED")),
    "Internal": (500, "INTERNAL", ("INTERNAL",)),
    "Unavailable": (503, "UNAVAILABLE", ("UNAVAILABLE",)),
    "DeadlineExceeded": (504, "DEADLINE_EXCEEDED", ("DEADLINE_EXCEEDED",)),
}  # fmt: skip
# What no method of the document answers: it is said of a path's other verbs, and to who is gone already.
UNTOLD: frozenset[str] = frozenset({"HTTP_METHOD_NOT_ALLOWED", "CANCELLED"})
HEADERS: dict[str, Schema] = {
    "x-trace-id": {
        "description": "The trace of this call, 32 hexadecimal digits.",
        "schema": {"type": "string"},
    },
    "etag": {"description": "The record's etag; goes into If-Match.", "schema": {"type": "string"}},
    "ratelimit": {
        "description": "What is left (`r`) in the bucket that has least, and the seconds until it is full (`t`).",
        "schema": {"type": "string", "examples": ['"principal";r=9999;t=1']},
    },
    "ratelimit-policy": {
        "description": "What each bucket holds (`q`) and the seconds in which it fills (`w`).",
        "schema": {"type": "string", "examples": ['"principal";q=10000;w=2, "tenant";q=20000;w=2']},
    },
    "retry-after": {
        "description": "The seconds to wait; then the same call may be sent again.",
        "schema": {"type": "integer", "minimum": 1},
    },
}


def header(name: str) -> Schema:
    """The reference to a header that many answers carry."""
    return {"$ref": f"#/components/headers/{name}"}


def answers(method: Method, *, finds: bool, conditional: bool, body: bool) -> dict[str, Schema]:
    """The failed answers of a method by status: what ``finds`` a record, is ``conditional`` by If-Match, has a body."""
    left_out = set() if finds else {"NotFound"}
    if not method.emits:
        left_out.add("Conflict")
    if not conditional:
        left_out.add("Mismatch")
    if not body:
        left_out |= {"TooLarge", "Unsupported"}
    return {
        str(status): {"$ref": f"#/components/responses/{name}"}
        for name, (status, _, _) in _ANSWERS.items()
        if name not in left_out
    }


def reasons() -> frozenset[str]:
    """The reasons that are told of, without their prefix."""
    return frozenset(each for _, _, several in _ANSWERS.values() for each in several)


def components(contract: Contract) -> dict[str, Schema]:
    """The answers themselves, each with its reasons as the contract explains them, and one example."""
    found = {"Error": _answer("The call failed.", None)}
    for name, (status, code, reasons) in _ANSWERS.items():
        meanings = {each: contract.comment(f"crm.type.v1.Reason.REASON_{each}") for each in reasons}
        if missing := [each for each in reasons if f"REASON_{each}" not in Reason.keys()]:  # noqa: SIM118 - no mapping
            raise ValueError(f"no such reasons: {', '.join(missing)}")
        text = "\n".join(["By `reason`:", "", *(f"- `{each}`: {meaning}" for each, meaning in meanings.items())])
        info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": reasons[0], "domain": "rapport",
                "metadata": {}}  # fmt: skip
        error = {"code": status, "status": code, "message": meanings[reasons[0]], "details": [info]}
        found[name] = _answer(text, {"error": error})
        if name in ("Exhausted", "Unavailable"):
            found[name]["headers"]["retry-after"] = header("retry-after")
    return found


def _answer(text: str, example: Schema | None) -> Schema:
    content: Schema = {"schema": {"$ref": "#/components/schemas/Error"}}
    if example is not None:
        content["example"] = example
    return {
        "description": text,
        "headers": {each: header(each) for each in ("x-trace-id", "ratelimit", "ratelimit-policy")},
        "content": {"application/json": content},
    }
