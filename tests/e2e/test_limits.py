"""A client sees in every answer what it may still ask for, and may read all of its limits."""

from __future__ import annotations

import re

import httpx2

from tests.running import Running

_POLICY = re.compile(r'"principal";q=\d+;w=\d+, "tenant";q=\d+;w=\d+')
_RATION = re.compile(r'"(principal|tenant)";r=\d+;t=\d+')


def test_every_answer_tells_what_is_left_good_or_bad(platform: Running) -> None:
    client = platform.tenant("Limits")
    for path, status in (("/v1/contacts", 200), ("/v1/contacts/contact_nothing", 400), ("/v1/tenants/x", 400)):
        answer = httpx2.get(client.url + path, headers={"authorization": f"Bearer {client.key}"})
        assert answer.status_code == status
        assert _POLICY.fullmatch(answer.headers["ratelimit-policy"])
        assert _RATION.fullmatch(answer.headers["ratelimit"])


def test_a_caller_reads_its_own_limits_whatever_else_it_may(platform: Running) -> None:
    client = platform.tenant("Limits of a key")
    key = client.post("/v1/api_keys", {"display_name": "narrow", "scopes": ["deals.read"]})["secret"]
    answer = httpx2.get(f"{client.url}/v1/limits", headers={"authorization": f"Bearer {key}"})
    assert answer.status_code == 200
    told = answer.json()
    assert [each["name"] for each in told["rate_limits"]] == ["principal", "tenant"]
    assert all(0 < each["remaining"] <= each["burst"] for each in map(_whole, told["rate_limits"]))
    assert int(told["max_request_bytes"]) == 4 * 1024 * 1024
    assert told["max_page_size"] == told["max_batch_size"] == 1_000
    assert (told["default_deadline"], told["max_deadline"]) == ("10s", "30s")


def _whole(limit: dict[str, str]) -> dict[str, int]:
    return {"remaining": int(limit["remaining"]), "burst": int(limit["burst"])}
