"""A bounded store of traces that speaks OTLP/HTTP, for one machine.

POST /v1/traces takes what every OpenTelemetry exporter sends; GET /traces/{trace_id} gives a trace's spans.
When the store is full the traces that have been quiet longest go first.
"""

import argparse
import gzip
import io
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
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


@dataclass
class Store:
    """Spans by trace, each kept as the JSON it is answered with."""

    keep_bytes: int = KEEP_BYTES
    spans_per_trace: int = SPANS_PER_TRACE
    size: int = 0
    traces: OrderedDict[str, list[bytes]] = field(default_factory=OrderedDict)

    def add(self, trace_id: str, span: bytes) -> None:
        """Keep a span; those past `spans_per_trace` of one trace are dropped."""
        if trace_id not in self.traces:
            self.traces[trace_id] = []
            self.size += TRACE_COST
        if len(self.traces[trace_id]) >= self.spans_per_trace:
            return
        self.traces[trace_id].append(span)
        self.traces.move_to_end(trace_id)
        self.size += len(span) + SPAN_COST
        while self.size > self.keep_bytes and len(self.traces) > 1:
            _, spans = self.traces.popitem(last=False)
            self.size -= TRACE_COST + sum(len(span) + SPAN_COST for span in spans)

    def get(self, trace_id: str) -> bytes | None:
        spans = self.traces.get(trace_id)
        return None if spans is None else b'{"trace_id":"%s","spans":[%s]}' % (trace_id.encode(), b",".join(spans))


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


def span_json(span: Span, service: str) -> bytes:
    return msgspec.json.encode(
        {
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
    )


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
                    store.add(span.trace_id.hex(), span_json(span, service))
        return Response(ExportTraceServiceResponse().SerializeToString(), media_type="application/x-protobuf")

    async def answer(request: Request) -> Response:
        trace = store.get(request.path_params["trace_id"])
        if trace is None:
            return Response(b'{"error":"no such trace here"}', 404, media_type="application/json")
        return Response(trace, media_type="application/json")

    async def live(_: Request) -> Response:
        return Response("ok\n")

    return Starlette(
        routes=[
            Route("/v1/traces", receive, methods=["POST"]),
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
