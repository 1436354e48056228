"""One user action is one trace, through the relay and NATS to the last effect."""

import asyncio
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from chassis import telemetry
from chassis.events import Arrival, Tail
from tests.integration.events.stage import Stage, until


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    telemetry.setup("probe", log_level="CRITICAL", exporter=exporter)
    yield exporter
    telemetry.shutdown()
    telemetry.setup("probe", log_level="CRITICAL")


async def test_the_relay_s_span_hangs_under_the_call_and_the_consumer_s_under_the_relay_s(
    stage: Stage, spans: InMemorySpanExporter
) -> None:
    await stage.topology()
    await stage.relay()
    await stage.consumer()
    with telemetry.span("a call") as call:
        await stage.commit()
        trace_id = telemetry.trace_id()
    await until(stage.total)
    telemetry.flush()
    of_trace = {
        span.name: span
        for span in spans.get_finished_spans()
        if span.context and f"{span.context.trace_id:032x}" == trace_id
    }
    published = of_trace["publish crm.sales.v1.Lead.updated"]
    consumed = of_trace["consume crm.sales.v1.Lead.updated"]
    assert published.parent is not None
    assert published.parent.span_id == call.get_span_context().span_id
    assert consumed.parent is not None
    assert consumed.parent.span_id == published.context.span_id
    written = of_trace["INSERT counts"]
    assert written.parent is not None
    assert written.parent.span_id == consumed.context.span_id
    assert not any("Lead 1" in str(span.attributes) for span in of_trace.values())


async def test_what_is_not_sampled_is_not_recorded_anywhere(stage: Stage, spans: InMemorySpanExporter) -> None:
    unsampled = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
    seen: list[Arrival] = []
    await stage.topology()
    await stage.relay()
    tail = Tail(stage.nats_url, seen.append)
    following = asyncio.create_task(tail.run())
    await until(lambda: tail.connected)
    with telemetry.span("a call", parent=unsampled):
        await stage.commit()
    await until(lambda: seen)
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    change = seen[0].open()
    assert change.trace_context == change.delivery_context == unsampled
    telemetry.flush()
    assert not any(
        span.context and span.context.trace_id == int(unsampled[3:35], 16) for span in spans.get_finished_spans()
    )
