"""The laptop's trace store keeps whole traces, speaks OTLP, and never grows past its bound."""

import gzip
import json
import os

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Status
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
    assert len(store.traces[trace_id.hex()].spans) == 5


def call(name: str, took_ms: int, *, code: int = 0, tenant: str = "", failed: bool = False, at: int = 1) -> bytes:
    """An export of one request: its root in the gateway, and a span below it in a service."""
    request = ExportTraceServiceRequest()
    trace, root = os.urandom(16), os.urandom(8)
    for service, parent, title in (("sales", root, "crm.sales.v1.DealService/WinDeal"), ("gateway", b"", name)):
        resource = request.resource_spans.add()
        resource.resource.attributes.add(key="service.name").value.string_value = service
        span = resource.scope_spans.add().spans.add(
            trace_id=trace, span_id=root if not parent else os.urandom(8), parent_span_id=parent, name=title,
            start_time_unix_nano=at * 10**9, end_time_unix_nano=at * 10**9 + took_ms * 10**6,
        )  # fmt: skip
        if not parent:
            span.attributes.add(key="http.response.status_code").value.int_value = code
            span.attributes.add(key="rapport.tenant").value.string_value = tenant
            span.status.code = Status.STATUS_CODE_ERROR if failed else Status.STATUS_CODE_UNSET
    return request.SerializeToString()


def test_recent_calls_are_listed_newest_first_and_found_by_method_tenant_status_and_time(client: TestClient) -> None:
    for body in (
        call("GET /v1/deals", 3, code=200, tenant="aaaa-1", at=1),
        call("POST /v1/deals/{id}:win", 40, code=409, tenant="aaaa-1", failed=True, at=2),
        call("GET /v1/contacts", 5, code=200, tenant="bbbb-2", at=3),
    ):
        assert client.post("/v1/traces", content=body).is_success

    def found(**query: str) -> list[str]:
        return [line["name"] for line in client.get("/traces", params=query).json()["traces"]]

    assert found() == ["GET /v1/contacts", "POST /v1/deals/{id}:win", "GET /v1/deals"]
    assert found(method="DEALS") == ["POST /v1/deals/{id}:win", "GET /v1/deals"]
    assert found(tenant="bbbb") == ["GET /v1/contacts"]
    assert found(status="error") == found(status="409") == found(min_ms="10") == ["POST /v1/deals/{id}:win"]
    assert found(status="ok", limit="1") == ["GET /v1/contacts"]
    line = client.get("/traces", params={"status": "409"}).json()["traces"][0]
    assert (line["spans"], line["services"], line["duration_ms"]) == (2, ["gateway", "sales"], 40)
    assert found(trace_id=line["trace_id"]) == ["POST /v1/deals/{id}:win"]
    assert client.get("/traces", params={"min_ms": "long"}).status_code == 400


def test_the_page_comes_whole_from_here(client: TestClient) -> None:
    for path in ("/", "/traces.js", "/traces.css"):
        answer = client.get(path)
        assert answer.is_success
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "http" not in answer.text.replace("https://www.w3.org", "").replace("http.response.status_code", "")
