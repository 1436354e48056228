"""One user action is one trace: from the HTTP request through the services and NATS to the last effect."""

from __future__ import annotations

import json
import os
import subprocess
from typing import Any

from deploy.local.parts import CHECKOUT
from tests.running import Client, Running, until


def rapport(platform: Running, client: Client, *words: str) -> str:
    """What the command line prints."""
    env = os.environ | {
        "RAPPORT_URL": client.url, "RAPPORT_API_KEY": client.key,
        "RAPPORT_TRACES_URL": platform.env["RAPPORT_TRACES_URL"],
    }  # fmt: skip
    done = subprocess.run(
        [CHECKOUT / "bin" / "rapport", *words], check=True, cwd=CHECKOUT, env=env, capture_output=True, text=True
    )
    return done.stdout


def test_one_conversion_is_one_tree(platform: Running) -> None:
    client = platform.tenant("Trace")
    lead = client.post("/v1/leads", {"given_name": "Ana", "email": "ana@trace.example", "company_name": "Trace Inc"})
    answer = client.http.post(f"/v1/leads/{lead['id']}:convert", json={})
    assert answer.is_success, answer.text
    trace_id = answer.headers["x-trace-id"]

    def complete() -> list[dict[str, Any]]:
        spans: list[dict[str, Any]] = json.loads(rapport(platform, client, "trace", trace_id, "--json"))["spans"]
        reactions = {(span["service"], span["kind"]) for span in spans}
        return spans if {("activities", "CONSUMER"), ("marketing", "CONSUMER")} <= reactions else []

    spans = until(complete, "the consumers' spans are in the trace")
    by_id = {span["span_id"]: span for span in spans}
    roots = [span for span in spans if span["parent_span_id"] not in by_id]
    assert [(root["service"], root["parent_span_id"] or None) for root in roots] == [("gateway", None)]

    def above(span: dict[str, Any]) -> list[str]:
        chain = []
        while span["parent_span_id"]:
            span = by_id[span["parent_span_id"]]
            chain.append(f"{span['service']}/{span['kind']}")
        return chain

    def one(service: str, kind: str, name: str) -> dict[str, Any]:
        return next(
            span for span in spans if (span["service"], span["kind"]) == (service, kind) and name in span["name"]
        )

    assert above(one("contacts", "SERVER", "BatchUpsertContacts"))[:2] == ["sales/CLIENT", "sales/SERVER"]
    assert above(one("sales", "SERVER", "ConvertLead"))[0].startswith("gateway/")
    sql = [span for span in spans if "db.system" in span["attributes"] or "db.system.name" in span["attributes"]]
    assert {span["service"] for span in sql} >= {"sales", "contacts"}
    for service in ("activities", "marketing"):
        consumer = next(span for span in spans if (span["service"], span["kind"]) == (service, "CONSUMER"))
        chain = above(consumer)
        assert chain[0].endswith("/PRODUCER")
        assert "sales/SERVER" in chain or "contacts/SERVER" in chain
        assert chain[-1].startswith("gateway/")
    drawn = rapport(platform, client, "trace", trace_id)
    assert "ConvertLead" in drawn
    assert "ms" in drawn


def test_every_reply_and_timeline_entry_carries_its_trace(platform: Running) -> None:
    client = platform.tenant("Carried")
    answer = client.http.post("/v1/leads", json={"given_name": "Bo"})
    lead, trace_id = answer.json()["id"], answer.headers["x-trace-id"]
    entries = until(lambda: client.get(f"/v1/timeline/{lead}")["entries"], "the timeline knows the lead")
    assert [entry["trace_id"] for entry in entries] == [trace_id]
    assert client.http.get("/v1/nothing").headers["x-trace-id"]


def test_no_personal_text_stands_in_a_log_or_a_span(platform: Running) -> None:
    client = platform.tenant("Quiet")
    planted = "Xylographia"
    contact = {"given_name": planted, "emails": [{"address": f"{planted}@quiet.example"}]}
    made = client.post("/v1/contacts", contact)
    client.http.get("/v1/contacts", params={"filter": f'display_name = "{planted}"'})
    client.http.get("/v1/contacts", params={"filter": f'display_name ~ "{planted}"'})
    client.http.post("/v1/contacts", json={"emails": [{"address": f"{planted} at nowhere"}]})
    client.http.patch(f"/v1/contacts/{made['id']}", json={"family_name": planted, "etag": '"9"'})
    until(lambda: client.get(f"/v1/timeline/{made['id']}")["entries"], "its consumers are done")
    for log in (platform.state.root / "logs").iterdir():
        assert planted.lower() not in log.read_text(errors="replace").lower(), log.name
