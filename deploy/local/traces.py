"""A bounded store of traces that speaks OTLP/HTTP, for one machine, with a page to look at them.

POST /v1/traces takes what every OpenTelemetry exporter sends; GET /traces/{trace_id} gives a trace's spans; GET /traces
lists the newest; / is the page. When the store is full the traces that have been quiet longest go first.
"""

import argparse
import gzip
import io
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

KEEP_BYTES = 24_000_000
SPANS_PER_TRACE = 10_000
SPAN_COST, TRACE_COST = 100, 400  # what a span and a trace take beside the JSON
MAX_BODY_BYTES = 16_000_000
MAX_LISTED = 500
PAGE_FOLDER = Path(__file__).parent / "pages"
PAGE_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; frame-ancestors 'none'"
PAGES = {
    "/": ("traces.html", "text/html"),
    "/traces.js": ("traces.js", "text/javascript"),
    "/traces.css": ("traces.css", "text/css"),
}


@dataclass
class Trace:
    """A trace as it is kept: its spans' JSON, and what the list tells of it."""

    spans: list[bytes] = field(default_factory=list)
    name: str = ""
    began: int = 0
    ended: int = 0
    failed: bool = False
    code: int = 0
    tenant: str = ""
    services: set[str] = field(default_factory=set)
    rooted: bool = False

    def add(self, span: Mapping[str, Any], text: bytes) -> None:
        """Takes in a span and its JSON. The trace is named after the span that began it."""
        self.spans.append(text)
        began, found = span["start_unix_nano"], span["attributes"]
        root = not span["parent_span_id"]
        if root or not self.name or (not self.rooted and began < self.began):
            self.name = span["name"]
            # A request that was refused is no fault: what failed below it may have been tried again.
            self.failed = span["status"] == "ERROR"
            self.code = int(found.get("http.response.status_code", 0))
        self.rooted = self.rooted or root
        self.began = min(self.began or began, began)
        self.ended = max(self.ended, span["end_unix_nano"])
        self.tenant = self.tenant or str(found.get("rapport.tenant", ""))
        self.services.add(span["service"])

    def told(self, trace_id: str) -> dict[str, Any]:
        """One line of the list; times are in nanoseconds since 1970, the duration in milliseconds."""
        return {
            "trace_id": trace_id,
            "name": self.name,
            "start_unix_nano": self.began,
            "duration_ms": round((self.ended - self.began) / 1e6, 3),
            "status": str(self.code) if self.code else "ERROR" if self.failed else "OK",
            "failed": self.failed,
            "tenant": self.tenant,
            "services": sorted(self.services),
            "spans": len(self.spans),
        }


@dataclass(frozen=True)
class Wanted:
    """Which traces a list is of; what is left empty is not asked for."""

    trace_id: str = ""
    method: str = ""
    tenant: str = ""
    status: str = ""
    min_ms: float = 0.0

    def fits(self, line: Mapping[str, Any]) -> bool:
        """Whether a line of the list is wanted. Texts are looked for anywhere, in any case; a tenant from its start."""
        failed = {"error": line["failed"], "ok": not line["failed"]}.get(self.status.lower())
        return (
            line["trace_id"].startswith(self.trace_id.strip().lower())
            and self.method.strip().lower() in line["name"].lower()
            and line["tenant"].startswith(self.tenant.strip().lower())
            and (not self.status or (line["status"] == self.status.upper() if failed is None else failed))
            and line["duration_ms"] >= self.min_ms
        )


@dataclass
class Store:
    """Traces by their ids, each span kept as the JSON it is answered with."""

    keep_bytes: int = KEEP_BYTES
    spans_per_trace: int = SPANS_PER_TRACE
    size: int = 0
    traces: OrderedDict[str, Trace] = field(default_factory=OrderedDict)

    def add(self, trace_id: str, span: Mapping[str, Any]) -> None:
        """Keep a span; those past `spans_per_trace` of one trace are dropped."""
        if trace_id not in self.traces:
            self.traces[trace_id] = Trace()
            self.size += TRACE_COST
        trace = self.traces[trace_id]
        if len(trace.spans) >= self.spans_per_trace:
            return
        text = msgspec.json.encode(span)
        trace.add(span, text)
        self.traces.move_to_end(trace_id)
        self.size += len(text) + SPAN_COST
        while self.size > self.keep_bytes and len(self.traces) > 1:
            _, gone = self.traces.popitem(last=False)
            self.size -= TRACE_COST + sum(len(text) + SPAN_COST for text in gone.spans)

    def get(self, trace_id: str) -> bytes | None:
        """A trace as JSON; None where there is none."""
        trace = self.traces.get(trace_id)
        if trace is None:
            return None
        return b'{"trace_id":"%s","spans":[%s]}' % (trace_id.encode(), b",".join(trace.spans))

    def list(self, wanted: Wanted, limit: int) -> list[dict[str, Any]]:
        """The traces that began last among those that are wanted, the newest first."""
        lines = (trace.told(trace_id) for trace_id, trace in self.traces.items())
        found = [line for line in lines if wanted.fits(line)]
        found.sort(key=lambda line: line["start_unix_nano"], reverse=True)
        return found[:limit]


def plain(value: AnyValue) -> Any:
    """An OTLP attribute value as JSON holds it."""
    match value.WhichOneof("value"):
        case "array_value":
            return [plain(item) for item in value.array_value.values]
        case "kvlist_value":
            return attributes(value.kvlist_value.values)
        case None:
            return None
        case "bytes_value":
            return value.bytes_value.hex()
        case kind:
            return getattr(value, kind)


def attributes(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {pair.key: plain(pair.value) for pair in pairs}


def told(span: Span, service: str) -> dict[str, Any]:
    """A span as JSON shows it."""
    return {
        "span_id": span.span_id.hex(),
        "parent_span_id": span.parent_span_id.hex(),
        "name": span.name,
        "service": service,
        "kind": Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        "start_unix_nano": span.start_time_unix_nano,
        "end_unix_nano": span.end_time_unix_nano,
        "status": Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"),
        "status_message": span.status.message,
        "attributes": attributes(span.attributes),
        "links": [{"trace_id": link.trace_id.hex(), "span_id": link.span_id.hex()} for link in span.links],
    }


def unpacked(body: bytes, encoding: str) -> bytes:
    """The body without its compression. Raises ValueError when it is too large or not what it says."""
    if encoding == "gzip":
        try:
            body = gzip.GzipFile(fileobj=io.BytesIO(body)).read(MAX_BODY_BYTES + 1)
        except (OSError, EOFError) as error:
            raise ValueError(str(error)) from error
    if len(body) > MAX_BODY_BYTES:
        raise ValueError(f"more than {MAX_BODY_BYTES} bytes")
    return body


def asked(query: Mapping[str, str]) -> tuple[Wanted, int]:
    """What a query asks for, and how many. Raises ValueError for a number that is none."""
    trace_id, method, tenant, status = (query.get(name, "") for name in ("trace_id", "method", "tenant", "status"))
    limit = min(max(int(query.get("limit") or 100), 1), MAX_LISTED)
    return Wanted(trace_id, method, tenant, status, float(query.get("min_ms") or 0)), limit


async def page(request: Request) -> Response:
    """The page, or what belongs to it."""
    name, media = PAGES[request.url.path]
    headers = {"content-security-policy": PAGE_POLICY, "x-content-type-options": "nosniff"}
    return Response((PAGE_FOLDER / name).read_bytes(), media_type=media, headers=headers)


async def live(_: Request) -> Response:
    """The store is up."""
    return Response("ok\n")


def application(store: Store) -> Starlette:
    async def receive(request: Request) -> Response:
        export = ExportTraceServiceRequest()
        try:
            export.ParseFromString(unpacked(await request.body(), request.headers.get("content-encoding", "")))
        except Exception as error:  # a protobuf parser's error has no public class
            return Response(f"not an OTLP trace export: {error}\n", 400)
        for resource in export.resource_spans:
            service = str(attributes(resource.resource.attributes).get("service.name", ""))
            for scope in resource.scope_spans:
                for span in scope.spans:
                    store.add(span.trace_id.hex(), told(span, service))
        return Response(ExportTraceServiceResponse().SerializeToString(), media_type="application/x-protobuf")

    async def answer(request: Request) -> Response:
        trace = store.get(request.path_params["trace_id"])
        if trace is None:
            return Response(b'{"error":"no such trace here"}', 404, media_type="application/json")
        return Response(trace, media_type="application/json")

    async def newest(request: Request) -> Response:
        try:
            wanted, limit = asked(request.query_params)
        except ValueError:
            return Response(b'{"error":"limit and min_ms are numbers"}', 400, media_type="application/json")
        return Response(msgspec.json.encode({"traces": store.list(wanted, limit)}), media_type="application/json")

    return Starlette(
        routes=[
            Route("/v1/traces", receive, methods=["POST"]),
            *(Route(path, page) for path in PAGES),
            Route("/traces", newest),
            Route("/traces/{trace_id:str}", answer),
            Route("/readyz", live),
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="deploy.local.traces", description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    uvicorn.run(
        application(Store()),
        host="127.0.0.1",
        port=parser.parse_args().port,
        log_level="warning",
        timeout_graceful_shutdown=2,
    )


if __name__ == "__main__":
    main()
