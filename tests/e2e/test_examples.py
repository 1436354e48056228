"""The bodies that OpenAPI shows, and `/docs` lets one try, are taken as they are."""

from __future__ import annotations

import re
from typing import Any

from tests.running import Running

# What no example can know: ids of the tenant's other records, what its key may not do, the request of the method that a
# proposal names, and that a pipeline has a stage of each kind.
_UNKNOWN = re.compile(
    "there is no (such )?[a-z_ ]+( '|$)|needs the permission|tier: there is no such field|a stage of each kind"
)


def test_what_is_shown_for_making_a_record_makes_one(platform: Running) -> None:
    client = platform.tenant("Examples")
    document: dict[str, Any] = client.get("/openapi.json")
    refused, made = [], 0
    for path, verbs in document["paths"].items():
        operation = verbs.get("post", {"operationId": ""})
        if not operation["operationId"].startswith("Create") or "{" in path:
            continue
        shown = operation["requestBody"]["content"]["application/json"]["examples"]["default"]["$ref"]
        answer = client.http.post(path, json=document["components"]["examples"][shown.rpartition("/")[2]]["value"])
        made += answer.is_success
        if not answer.is_success and not _UNKNOWN.search(answer.json()["error"]["message"]):
            refused.append(f"{operation['operationId']}: {answer.text[:300]}")
    assert not refused
    assert made >= 10
