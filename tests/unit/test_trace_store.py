"""The laptop's trace store keeps whole traces, speaks OTLP, and never grows past its bound."""

import gzip
import json
import os

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from starlette.testclient import TestClient

from deploy.local import traces


def export(*trace_ids: bytes, service: str = "sales") -> bytes:
    request = ExportTraceServiceRequest()
    resource = request.resource_spans.add()
    resource.resource.attributes.add(key="service.name").value.string_value = service
    spans = resource.scope_spans.add().spans
    for trace_id in trace_ids:
        span = spans.add(trace_id=trace_id, span_id=os.urandom(8), name="Deal.won", kind=2)
        span.attributes.add(key="rpc.retries").value.int_value = 3
    return request.SerializeToString()


@pytest.fixture
def store() -> traces.Store:
    return traces.Store(keep_bytes=20_000)


@pytest.fixture
def client(store: traces.Store) -> TestClient:
    return TestClient(traces.application(store))


@pytest.mark.parametrize("packed", [False, True])
def test_a_trace_is_answered_with_the_spans_that_were_sent(client: TestClient, packed: bool) -> None:
    trace = os.urandom(16)
    for service in ("gateway", "sales"):
        body = export(trace, service=service)
        headers = {"content-encoding": "gzip"} if packed else {}
        assert client.post("/v1/traces", content=gzip.compress(body) if packed else body, headers=headers).is_success
    answer = client.get(f"/traces/{trace.hex()}").json()
    assert answer["trace_id"] == trace.hex()
    assert [span["service"] for span in answer["spans"]] == ["gateway", "sales"]
    assert answer["spans"][0]["kind"] == "SERVER"
    assert answer["spans"][0]["attributes"] == {"rpc.retries": 3}


def test_an_unknown_trace_is_not_found(client: TestClient) -> None:
    assert client.get("/traces/" + "0" * 32).status_code == 404


@pytest.mark.parametrize(
    ("body", "encoding"), [(b"\xff\xff", ""), (b"not gzip", "gzip"), (gzip.compress(bytes(20_000_000)), "gzip")]
)
def test_what_is_no_export_is_refused(client: TestClient, body: bytes, encoding: str) -> None:
    assert client.post("/v1/traces", content=body, headers={"content-encoding": encoding}).status_code == 400


def test_the_quietest_trace_makes_room(store: traces.Store, client: TestClient) -> None:
    busy, *others = (os.urandom(16) for _ in range(60))
    for number, trace_id in enumerate(others):
        client.post("/v1/traces", content=export(trace_id, *[busy] * (number % 6 == 0)))
    assert store.size <= store.keep_bytes
    assert len(json.loads(store.get(busy.hex()) or b"{}")["spans"]) == 10, "it was written to all the time"
    assert store.get(others[0].hex()) is None
    assert store.get(others[-1].hex()) is not None


def test_one_endless_trace_does_not_fill_the_store(store: traces.Store, client: TestClient) -> None:
    store.spans_per_trace = 5
    trace_id = os.urandom(16)
    client.post("/v1/traces", content=export(*[trace_id] * 9))
    assert len(store.traces[trace_id.hex()]) == 5
