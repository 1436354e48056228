"""The bytes of a body become a JSON value, or a fault that says where they are none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NoReturn

from chassis.errors import Exhausted, Invalid, Reason
from gateway.transcode.fault import Fault, shown
from gateway.transcode.scalars import json_object
from gateway.transcode.well_known import DEPTH_LIMIT

# The most a request may weigh, in bytes.
BODY_LIMIT = 4 * 1024 * 1024


def too_large() -> Exhausted:
    """The error for a body over the limit."""
    return Exhausted(
        Reason.REASON_TOO_LARGE, f"the body is larger than {BODY_LIMIT} bytes; split it into several calls"
    )


def check_headers(headers: Mapping[str, str]) -> None:
    """Raises where the headers say that the body is no plain JSON in UTF-8."""
    media, _, parameters = headers.get("content-type", "").partition(";")
    if media.strip().lower() != "application/json":
        got = f", not '{media.strip()[:60]}'" if media.strip().isprintable() and media.strip() else ""
        raise _unsupported(f"the body must come with 'Content-Type: application/json'{got}")
    for parameter in parameters.split(";"):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset" and value.strip().strip('"').lower() not in ("utf-8", "utf8"):
            raise _unsupported("JSON comes in UTF-8; leave the charset out")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise _unsupported("the body must not be compressed; leave Content-Encoding out")


def parse(body: bytes, root: str = "body") -> Any:
    """The JSON value of a body. Raises Invalid; ``root`` names it in the message."""
    try:
        return json.loads(body.decode(), object_pairs_hook=json_object, parse_constant=_not_finite)
    except UnicodeDecodeError as error:
        what = f"byte {error.start + 1} is not UTF-8"
    except json.JSONDecodeError as error:
        what = f"is no JSON at line {error.lineno}, column {error.colno}: {_said(error.msg)}"
    except RecursionError:
        what = f"is nested deeper than {DEPTH_LIMIT}"
    except Fault as fault:
        what = fault.what
    except ValueError:
        what = "has a number with thousands of digits"
    raise Invalid(Reason.REASON_BODY_MALFORMED, f"{root}: {what}")


def _said(message: str) -> str:
    return message[:1].lower() + message[1:]


def _not_finite(name: str) -> NoReturn:
    raise Fault(f"{shown(name)} is no JSON number")


def _unsupported(message: str) -> Invalid:
    return Invalid(Reason.REASON_MEDIA_TYPE_UNSUPPORTED, message)
