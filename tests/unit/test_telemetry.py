"""Spans and log lines say what happened, never to whom."""

import json
import logging
from collections.abc import Iterator
from uuid import UUID

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from chassis import context, telemetry
from chassis.errors import Precondition, Reason

SAMPLED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
UNSAMPLED = SAMPLED[:-2] + "00"
SECRET = "ada@example.com"


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    telemetry.setup("probe", exporter=exporter)
    yield exporter
    telemetry.shutdown()
    telemetry.setup("probe", log_level="CRITICAL")


def test_a_span_hangs_under_the_one_around_it_or_the_parent_it_is_given(spans: InMemorySpanExporter) -> None:
    with telemetry.span("outer", parent=SAMPLED), telemetry.span("inner"):
        assert telemetry.trace_id() == SAMPLED[3:35]
    telemetry.flush()
    inner, outer = spans.get_finished_spans()
    assert outer.parent is not None
    assert f"{outer.parent.span_id:016x}" == SAMPLED[36:52]
    assert inner.parent is not None
    assert inner.parent.span_id == outer.context.span_id


@pytest.mark.parametrize("parent", ["", "no traceparent", "00-" + "0" * 32 + "-00f067aa0ba902b7-01", None])
def test_without_a_usable_parent_a_trace_begins(spans: InMemorySpanExporter, parent: str | None) -> None:
    with telemetry.span("root", parent=parent):
        assert int(telemetry.trace_id(), 16) > 0
        assert telemetry.trace_id_of(telemetry.traceparent()) == telemetry.trace_id()
    telemetry.flush()
    [root] = spans.get_finished_spans()
    assert root.parent is None


def test_an_unsampled_trace_keeps_its_identity_and_records_nothing(spans: InMemorySpanExporter) -> None:
    with telemetry.span("outer", parent=UNSAMPLED), telemetry.span("inner"):
        assert telemetry.traceparent() == UNSAMPLED
    telemetry.flush()
    assert spans.get_finished_spans() == ()


def test_without_an_endpoint_calls_still_have_trace_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    telemetry.setup("probe", log_level="CRITICAL")
    with telemetry.span("root") as span:
        assert len(telemetry.trace_id()) == 32
        assert not span.is_recording()


def test_a_failed_span_tells_the_kind_of_error_and_not_its_message(spans: InMemorySpanExporter) -> None:
    with pytest.raises(ValueError, match=SECRET), telemetry.span("fails"):
        raise ValueError(SECRET)
    telemetry.flush()
    [failed] = spans.get_finished_spans()
    assert failed.attributes == {"error.type": "builtins.ValueError"}
    assert SECRET not in failed.to_json()


@pytest.mark.parametrize(
    ("statement", "name"),
    [
        ("SELECT a FROM deals JOIN stages ON a IS DISTINCT FROM b FOR UPDATE", "SELECT deals, stages"),
        (
            "WITH l AS (INSERT INTO ledger (a) VALUES (1)) UPDATE deals SET a = 1 RETURNING id",
            "UPDATE ledger, deals",
        ),
        ("WITH found AS (SELECT 1 FROM leads) SELECT * FROM found", "SELECT leads"),
        ("INSERT INTO t (a) VALUES ('FROM x') ON CONFLICT (a) DO UPDATE SET b = 1", "INSERT t, x"),
        ("SELECT extract(epoch FROM now())", "SELECT"),
    ],
)
def test_a_statement_is_told_by_its_kind_and_tables(statement: str, name: str) -> None:
    assert telemetry.statement_name(statement) == name


def test_a_line_carries_trace_tenant_and_error_but_no_driver_s_message(
    spans: InMemorySpanExporter, capsys: pytest.CaptureFixture[str]
) -> None:
    telemetry.setup("probe")
    tenant = UUID(int=7)
    call = context.Call(context.Caller(tenant, "user_1", frozenset()), "m", 0.0)
    with telemetry.span("root", parent=SAMPLED), context.enter(call):
        try:
            raise ValueError(SECRET)
        except ValueError:
            telemetry.logger().exception("it went wrong", tries=3)
    text = capsys.readouterr().err
    line = json.loads(text)
    assert SECRET not in text
    assert line["event"] == "it went wrong"
    assert line["tries"] == 3
    assert line["error"] == "builtins.ValueError"
    assert line["trace"] == SAMPLED[3:35]
    assert line["tenant"] == str(tenant)
    assert line["service"] == "probe"


def test_a_failure_of_ours_is_told_with_its_message(capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.setup("probe")
    failure = Precondition(Reason.REASON_DELETED, "the record is deleted")
    telemetry.logger().warning("refused", exc_info=failure)
    line = json.loads(capsys.readouterr().err)
    assert (line["error"], line["message"]) == ("DELETED", "the record is deleted")


def test_what_libraries_log_is_kept_without_what_they_fill_in(capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.setup("probe")
    logging.getLogger("asyncpg").warning("row %s\nmore: %s", SECRET, SECRET, exc_info=ValueError(SECRET))
    text = capsys.readouterr().err
    assert SECRET not in text
    assert json.loads(text)["event"] == "row %s"
