"""A request message, as JSON, sent over REST by its method's HTTP mapping."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import quote

import httpx2

from chassis.contract import Method
from tests.running import Client

_VARIABLE = re.compile(r"\{([a-z_.]+)\}")


def send(client: Client, method: Method, request: dict[str, Any]) -> httpx2.Response:
    """The answer to the request over REST: what the path and the body do not take goes into the query."""
    assert method.http is not None
    left = json.loads(json.dumps(request))
    path = _VARIABLE.sub(lambda match: _take(left, match[1]), method.http.template)
    body: Any = None
    if method.http.body == "*":
        body, left = left, {}
    elif method.http.body:
        body = left.pop(method.http.body, {})
    # In ASCII, so that half of a surrogate pair can be said too.
    sent: dict[str, Any] = (
        {} if body is None else {"content": json.dumps(body), "headers": {"Content-Type": "application/json"}}
    )
    return client.http.request(method.http.verb.upper(), path, params=_query(left), **sent)


def _take(request: dict[str, Any], field: str) -> str:
    *parents, last = field.split(".")
    for parent in parents:
        request = request[parent]
    return quote(str(request.pop(last)), safe="")


def _query(left: dict[str, Any]) -> Any:
    return [
        (name, _text(each)) for name, value in left.items() for each in (value if isinstance(value, list) else [value])
    ]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return json.dumps(value) if isinstance(value, dict) else str(value)
