"""Errors as HTTP shows them: the status code, and one JSON body for everything that can go wrong."""

from __future__ import annotations

from typing import Any

import msgspec

from chassis import telemetry
from chassis.context import new_request_id
from chassis.errors import DOMAIN, Failure, Internal, Reason

# google/rpc/code.proto, which says the HTTP status of each code; 499 is a client that went away.
_BY_CODE = {
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DATA_LOSS": 500,
    "UNAUTHENTICATED": 401,
}
# Where HTTP knows better than the code.
_BY_REASON = {
    Reason.REASON_HTTP_METHOD_NOT_ALLOWED: 405,
    Reason.REASON_TOO_LARGE: 413,
    Reason.REASON_MEDIA_TYPE_UNSUPPORTED: 415,
}
log = telemetry.logger()

_TYPE = "type.googleapis.com/google.rpc."


def http_status(failure: Failure, *, if_match: bool = False) -> int:
    """The HTTP status of a failure; 412 for a failed precondition that came in the header (``if_match``)."""
    if if_match and failure.reason == Reason.REASON_ETAG_MISMATCH:
        return 412
    return _BY_REASON.get(failure.reason) or _BY_CODE.get(failure.code.name, 500)


def body(failure: Failure, http_code: int) -> bytes:
    """The JSON body that tells of a failure."""
    info = {"reason": failure.reason_name, "domain": DOMAIN, "metadata": failure.metadata}
    details: list[dict[str, Any]] = [{"@type": f"{_TYPE}ErrorInfo", **info}]
    if failure.violations:
        named = [{"field": field, "description": text} for field, text in failure.violations]
        details.append({"@type": f"{_TYPE}BadRequest", "field_violations": named})
    if failure.retry_s is not None:
        details.append({"@type": f"{_TYPE}RetryInfo", "retry_delay": f"{failure.retry_s:.3f}s"})
    error = {"code": http_code, "status": failure.code.name, "message": failure.message, "details": details}
    return msgspec.json.encode({"error": error})


def headers(failure: Failure) -> dict[str, str]:
    """The headers that go with a failure: Allow, Retry-After, WWW-Authenticate."""
    found: dict[str, str] = {}
    if "allow" in failure.metadata:
        found["allow"] = failure.metadata["allow"]
    if failure.retry_s is not None:
        found["retry-after"] = str(max(1, round(failure.retry_s)))
    if failure.code.name == "UNAUTHENTICATED":
        found["www-authenticate"] = 'Bearer realm="rapport"'
    return found


def internal(error: Exception, request_id: str = "") -> Internal:
    """The failure that stands for a fault of ours, which is logged."""
    request_id = request_id or new_request_id()
    log.error("call failed", request_id=request_id, exc_info=error)
    text = "an internal error; the request id finds it in our logs"
    return Internal(Reason.REASON_INTERNAL, text, metadata={"request_id": request_id})
