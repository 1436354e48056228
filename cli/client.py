"""Calls to the gateway: JSON over HTTP, errors in one form, patience with a part that restarts."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, Self

import httpx2

from cli.problems import Problem, Refused, Unreachable
from cli.settings import Settings

# Nothing listens, the connection broke, or a proxy has nobody behind it: the same call may work in a moment.
PASSING_STATUSES = frozenset({429, 499, 502, 503, 504})
# An INTERNAL may be a process that died in the middle of the call; a real fault stays one.
MOST_INTERNAL_ANSWERS = 3
FIRST_DELAY_S, LONGEST_DELAY_S = 0.2, 5.0
PAGE_SIZE = 1000

Json = dict[str, Any]


class Interrupted(Problem):
    """The user asked to stop while a call was waiting for its next try."""

    exit_code = 130


class Client:
    """The platform as one caller sees it. May be used by several threads at once.

    `patience_s` is how long a call that cannot get through is tried again before it fails.
    """

    def __init__(self, settings: Settings, patience_s: float = 3.0) -> None:
        self.settings = settings
        self.patience_s = patience_s
        self.stopping = threading.Event()
        self._http = httpx2.Client(
            base_url=settings.url,
            headers={"authorization": f"Bearer {settings.api_key}", "user-agent": "rapport-cli"},
            timeout=httpx2.Timeout(60.0, connect=5.0),
            limits=httpx2.Limits(max_connections=16),
            trust_env=False,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str, params: Mapping[str, Any] | None = None) -> Json:
        """The answer to a read. Raises Refused or Unreachable."""
        return self._call("GET", path, params=params)

    def post(self, path: str, body: Json, params: Mapping[str, Any] | None = None) -> Json:
        """The answer to a write, which is repeated until it got through: let `body` carry a `request_id`.

        Raises Refused or Unreachable.
        """
        return self._call("POST", path, params=params, body=body)

    def patch(self, path: str, body: Json, params: Mapping[str, Any]) -> Json:
        """The answer to an update, which is repeated until it got through: let `params` carry a `request_id`.

        Raises Refused or Unreachable.
        """
        return self._call("PATCH", path, params=params, body=body)

    def pages(self, path: str, key: str, params: Mapping[str, Any], limit: int | None = None) -> Iterator[Json]:
        """Every record of a list, page by page; at most `limit`."""
        left, token = limit, ""
        while left is None or left > 0:
            size = PAGE_SIZE if left is None else min(left, PAGE_SIZE)
            page = self.get(path, {**params, "page_size": size, **({"page_token": token} if token else {})})
            records = page.get(key, [])
            yield from records
            token = page.get("next_page_token", "")
            if not token:
                return
            left = None if left is None else left - len(records)

    def stream(self, path: str, params: Mapping[str, Any], headers: Mapping[str, str]) -> Any:
        """An open stream of server-sent events, as a context manager around its response."""
        return self._http.stream(
            "GET",
            path,
            params=dict(params),
            headers={"accept": "text/event-stream", **headers},
            timeout=httpx2.Timeout(60.0, connect=5.0),
        )

    def _call(self, method: str, path: str, params: Mapping[str, Any] | None = None, body: Json | None = None) -> Json:
        content = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        headers = {} if content is None else {"content-type": "application/json"}
        deadline, delay, internal_answers = time.monotonic() + self.patience_s, FIRST_DELAY_S, 0
        while True:
            wait = 0.0
            failure: Problem
            try:
                response = self._http.request(method, path, params=dict(params or {}), content=content, headers=headers)
            except httpx2.InvalidURL as error:
                raise Problem(f"RAPPORT_URL is not an address: {self.settings.url} ({error})") from error
            except httpx2.UnsupportedProtocol as error:
                raise Problem(f"RAPPORT_URL must begin with http:// or https://, not {self.settings.url}") from error
            except httpx2.TransportError as error:
                failure = unreachable(self.settings.url, error)
            else:
                if response.is_success:
                    return answer(response)
                failure = refusal(response)
                internal_answers += response.status_code == 500
                if not passing(failure, internal_answers):
                    raise failure
                wait = retry_after_s(response)
            pause = max(wait, delay * random.uniform(0.5, 1.0))
            if time.monotonic() + pause > deadline:
                raise failure
            if self.stopping.wait(pause):
                raise Interrupted("interrupted")
            delay = min(delay * 2, LONGEST_DELAY_S)


def answer(response: httpx2.Response) -> Json:
    """The object in a successful response's body."""
    try:
        found = response.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Problem(f"{response.request.url} does not answer like Rapport: is RAPPORT_URL right?")
    return found


def passing(failure: Refused, internal_answers: int) -> bool:
    """Whether the same call may work in a moment."""
    if failure.http_status == 500:
        return internal_answers < MOST_INTERNAL_ANSWERS
    return failure.http_status in PASSING_STATUSES or failure.reason == "CONFLICT"


def unreachable(url: str, error: httpx2.TransportError) -> Unreachable:
    """What to tell of a connection that failed or broke."""
    if isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout):
        return Unreachable(f"nothing answers at {url}: start the platform with `make up`, or set RAPPORT_URL")
    if isinstance(error, httpx2.TimeoutException):
        return Unreachable(f"no answer from {url} within a minute")
    return Unreachable(f"the connection to {url} broke: {error or type(error).__name__}")


def refusal(response: httpx2.Response) -> Refused:
    """The error a response's body tells of; also of one that is not Rapport's."""
    try:
        response.read()
        refused = refused_by(response.json()["error"], response.status_code)
    except (ValueError, KeyError, TypeError, AttributeError):
        return Refused(response.status_code, "", f"{response.request.url} answered HTTP {response.status_code}")
    refused.trace_id = response.headers.get("x-trace-id", "")
    return refused


def refused_by(error: Json, http_status: int) -> Refused:
    """An error as the API writes it in JSON."""
    details = {str(detail.get("@type", "")).rpartition(".")[2]: detail for detail in error.get("details", [])}
    violations = details.get("BadRequest", {}).get("field_violations", [])
    return Refused(
        http_status=http_status,
        status=str(error.get("status", "")),
        message=str(error.get("message") or error.get("status")),
        reason=str(details.get("ErrorInfo", {}).get("reason", "")),
        violations=[(str(v.get("field", "")), str(v.get("description", ""))) for v in violations],
    )


def retry_after_s(response: httpx2.Response) -> float:
    """The wait a response asks for, in seconds; 0 where it asks for none."""
    try:
        return max(0.0, float(response.headers.get("retry-after", "0")))
    except ValueError:
        return 0.0
