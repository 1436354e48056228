"""Whatever is sent to an operation of the OpenAPI document, the answer is one that the document describes."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

import httpx2
import jsonschema
import pytest

from tests.contract.world import BODIES, World
from tests.reliability.conftest import Report
from tests.reliability.test_codec import ODD
from tests.reliability.texts import TEXTS
from tests.running import Client, Running

_DEPTH = 5
# How often a value of a request that is to be wrong is one that its schema does not allow.
_WRONG = 0.15


@dataclass(frozen=True)
class Operation:
    """A path and a verb of the document."""

    verb: str
    path: str
    said: dict[str, Any]

    @property
    def writes(self) -> bool:
        """Whether it emits events."""
        return "x-emits" in self.said


class Document:
    """The OpenAPI document, and requests made from it."""

    def __init__(self, said: dict[str, Any], known_ids: list[str], dice: random.Random) -> None:
        self.said, self.known_ids, self.dice = said, known_ids, dice
        self.operations = [
            Operation(verb, path, each)
            for path, verbs in said["paths"].items()
            for verb, each in verbs.items()
            if "text/event-stream" not in json.dumps(each["responses"])
        ]
        self._checks: dict[str, Any] = {}
        self._wrong = 0.0

    def request(self, operation: Operation) -> tuple[str, str, dict[str, str], bytes | None]:
        """Verb, URL, headers and body of a call."""
        self._wrong = self.dice.choice((0.0, _WRONG))
        path, query, headers = operation.path, list[tuple[str, str]](), dict[str, str]()
        for each in operation.said.get("parameters", []):
            if "$ref" in each:
                each = self.said["components"]["parameters"][each["$ref"].rpartition("/")[2]]
            if each["in"] == "path":
                path = path.replace(
                    f"{{{each['name']}}}", quote(self.text_of(each["schema"], each["name"]), safe="") or "x"
                )
            elif self.dice.random() < 0.3:
                given = self.text_of(each["schema"], each["name"])
                if each["in"] == "query":
                    query.append((each["name"], given))
                elif given.isascii() and given.isprintable():
                    headers[each["name"]] = given.strip()
        body = None
        if content := operation.said.get("requestBody", {}).get("content"):
            schema = content["application/json"]["schema"]
            body = json.dumps(self.value(schema)).encode()
            headers["Content-Type"] = "application/json"
        return operation.verb.upper(), path + (f"?{urlencode(query)}" if query else ""), headers, body

    def text_of(self, schema: dict[str, Any], name: str) -> str:
        """A value as a parameter carries it."""
        value = self.value(schema, 0, name)
        return value if isinstance(value, str) else json.dumps(value)

    def value(self, schema: dict[str, Any], depth: int = 0, name: str = "") -> Any:
        """A value that the schema mostly allows."""
        if "$ref" in schema:
            schema = self.said["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        if self.dice.random() < self._wrong:
            return self.dice.choice(ODD)
        if choices := schema.get("oneOf") or schema.get("anyOf"):
            return self.value(self.dice.choice(choices), depth, name)
        if "enum" in schema:
            return self.dice.choice(schema["enum"])
        kind = schema.get("type", "string")
        kind = self.dice.choice(kind) if isinstance(kind, list) else kind
        if kind == "object":
            return self._object(schema, depth)
        if kind == "array":
            return [self.value(schema.get("items", {}), depth + 1, name) for _ in range(self.dice.randrange(3))]
        if kind == "boolean":
            return self.dice.random() < 0.5
        if kind in ("integer", "number"):
            return self.dice.choice((0, 1, 2, 50, 1_000, 2**31 - 1, -1))
        return None if kind == "null" else self._string(schema, name)

    def _object(self, schema: dict[str, Any], depth: int) -> dict[str, Any]:
        given = {}
        for name, each in schema.get("properties", {}).items():
            needed = name in schema.get("required", ())
            if not each.get("readOnly") and depth < _DEPTH and self.dice.random() < (0.95 if needed else 0.3):
                given[name] = self.value(each, depth + 1, name)
        return given

    def _string(self, schema: dict[str, Any], name: str) -> str:
        if examples := schema.get("examples"):
            return str(self.dice.choice(examples))
        if name == "id" or name.endswith(("_id", "_ids", "ids")):
            return self.dice.choice(self.known_ids)
        match schema.get("format"):
            case "date-time":
                return self.dice.choice(("2026-01-02T03:04:05Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59.9Z"))
            case "uuid":
                return f"{self.dice.getrandbits(128):032x}"
        return self.dice.choice((*TEXTS, "EUR", "ana@acme.example", "12", "90s", "display_name", '"1"'))

    def violation(self, operation: Operation, answer: httpx2.Response) -> str:
        """What of an answer the document does not describe; empty where it describes all."""
        if answer.status_code >= 500:
            return f"{answer.status_code}"
        described = operation.said["responses"].get(str(answer.status_code), {})
        schema = described.get("content", {}).get("application/json", {}).get("schema")
        schema = schema or {"$ref": "#/components/schemas/Error"}
        key = json.dumps(schema)
        if key not in self._checks:
            self._checks[key] = jsonschema.Draft202012Validator(schema | {"components": self.said["components"]})
        try:
            error = next(self._checks[key].iter_errors(answer.json()), None)
        except ValueError:
            return "no JSON"
        return f"{error.json_path}: {error.message}" if error else ""


@dataclass
class Outcome:
    """What a run saw."""

    statuses: Counter[int] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)

    def note(self, operation: Operation, url: str, answer: httpx2.Response, problem: str) -> None:
        """Counts an answer and keeps what is wrong with it."""
        self.statuses[answer.status_code] += 1
        if problem:
            text = f"{operation.said['operationId']} {url[:150]}: {problem[:200]} {answer.text[:200]}"
            self.violations.append(text)


@pytest.mark.line(23, nightly=True)
def test_every_answer_is_one_that_the_document_describes(
    platform: Running, scale: Callable[[int, int], int], time_left: Callable[[], bool], seed: int, report: Report
) -> None:
    world = World(platform.tenant("REST fuzz"), "Fuzz")
    known = [world.id(prefix) for prefix in BODIES if prefix != "tenant"]
    document = Document(world.client.get("/openapi.json"), known, random.Random(seed))
    made = world.client.post("/v1/api_keys", {"display_name": "Reader", "scopes": ["contacts.read"]})
    reader = platform.client(made["secret"], world.client.tenant)
    nobody = Client(world.client.url, world.client.address, "", world.client.tenant)
    seen, rounds = Outcome(), 0
    while rounds < scale(3, 200) and time_left():
        rounds += 1
        for operation in document.operations:
            verb, url, headers, body = document.request(operation)
            answer = world.client.http.request(verb, url, headers=headers, content=body)
            seen.note(operation, url, answer, document.violation(operation, answer))
            refused = nobody.http.request(verb, url, headers=headers, content=body)
            seen.note(
                operation, url, refused, "" if refused.status_code in (400, 401, 404, 405) else "served to nobody"
            )
            less = reader.http.request(verb, url, headers=headers, content=body)
            unfit = operation.writes and less.is_success
            seen.note(operation, url, less, "a reader writes" if unfit else document.violation(operation, less))
    report(
        not seen.violations,
        operations=len(document.operations), cases=seen.statuses.total(), statuses=dict(sorted(seen.statuses.items())),
        violations=len(seen.violations), first=seen.violations[:4],
    )  # fmt: skip
