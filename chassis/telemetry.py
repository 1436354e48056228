"""Traces and logs of a process.

Nothing here may hold personal data. So a span's attributes and a log line's keys carry ids, names that the
code or the contract gives, counts and times; never a field's value, a statement's parameters, or the message
of an exception that a driver made, for that quotes the row it failed on. `_error` sees to it for exceptions
and `Lines` for what libraries log.

Ids exist whether or not anything is recorded: a reply and a ledger row can always name their trace. Whoever
begins a trace decides whether it is recorded; the others follow, and a span in an unrecorded trace costs next
to nothing.
"""

from __future__ import annotations

# Before the first tracer provider: in a forked child the provider's fork hook uses thread pools, whose own hook must
# have made their lock anew by then. Hooks run in the order in which they were registered.
import concurrent.futures.thread  # noqa: F401
import logging
import os
import re
import sys
from collections.abc import Mapping
from contextvars import ContextVar, Token
from functools import lru_cache
from types import TracebackType
from uuid import UUID, uuid4

import msgspec
import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NonRecordingSpan, Span, SpanContext, SpanKind, StatusCode, TraceFlags
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from chassis import context
from chassis.errors import Failure

Attributes = Mapping[str, str | int | float | bool]

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")  # W3C Trace Context, level 1
# Short, so that a trace can be looked at right after the call; OTEL_BSP_SCHEDULE_DELAY says otherwise.
_SCHEDULE_DELAY_MS = 500

_provider = TracerProvider(sampler=ALWAYS_OFF, resource=Resource.get_empty(), shutdown_on_exit=False)
_tracer = _provider.get_tracer("rapport")
# OpenTelemetry's own context is a mapping that is copied for each span; nothing here needs what else it holds.
_NOTHING = Context()
_current: ContextVar[Span] = ContextVar("rapport_span", default=trace.INVALID_SPAN)


def setup(service: str, *, log_level: str = "INFO", exporter: SpanExporter | None = None) -> None:
    """Gives the process its logs on stderr and its spans, both under the name ``service``.

    Spans go to the OTLP/HTTP endpoint that OTEL_EXPORTER_OTLP_ENDPOINT names, or to ``exporter``; without
    either none is recorded. OTEL_TRACES_SAMPLER, OTEL_TRACES_SAMPLER_ARG and the OTEL_BSP_… variables have
    their standard meanings. Call once, before the process serves; `shutdown` belongs to it.
    """
    global _provider, _tracer
    _setup_logs(service, log_level)
    if exporter is None and any(os.environ.get(name) for name in _ENDPOINTS):
        exporter = OTLPSpanExporter()
    resource = Resource.create({"service.name": service, "service.instance.id": str(uuid4())})
    if exporter is None:
        _provider = TracerProvider(sampler=ALWAYS_OFF, resource=resource, shutdown_on_exit=False)
    else:
        _provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        delay_ms = int(os.environ.get("OTEL_BSP_SCHEDULE_DELAY", _SCHEDULE_DELAY_MS))
        _provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=delay_ms))
    _tracer = _provider.get_tracer("rapport")


def flush(timeout_s: float = 5.0) -> None:
    """Sends the spans that have ended. Blocks: call it from a thread or when nothing is served any more."""
    _provider.force_flush(int(timeout_s * 1000))


def shutdown() -> None:
    """Sends what is left and ends the exporter's thread. Blocks for a few seconds where nobody listens."""
    _provider.shutdown()


class span:
    """A span around a ``with`` block, which gets it. An exception that leaves the block marks it as failed.

    ``parent`` is the traceparent of the span it belongs under, for example from a header; text that is none
    begins a new trace. Without ``parent`` it belongs under the current span.
    """

    __slots__ = ("_attributes", "_kind", "_name", "_parent", "_span", "_token")

    def __init__(
        self,
        name: str,
        *,
        kind: SpanKind = SpanKind.INTERNAL,
        parent: str | None = None,
        attributes: Attributes | None = None,
    ) -> None:
        self._name = name
        self._kind = kind
        self._parent = parent
        self._attributes = attributes
        self._token: Token[Span] | None = None

    def __enter__(self) -> Span:
        self._span = start(self._name, kind=self._kind, parent=self._parent, attributes=self._attributes)
        if self._span is not _current.get():
            self._token = _current.set(self._span)
        return self._span

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if self._token is None:
            return
        _current.reset(self._token)
        if error is not None:
            fail(self._span, error)
        self._span.end()


def start(
    name: str,
    *,
    kind: SpanKind = SpanKind.INTERNAL,
    parent: str | None = None,
    attributes: Attributes | None = None,
) -> Span:
    """Like `span`, but not made the current one, for work that overlaps other work. The caller ends it."""
    current = _current.get()
    if parent is None:
        above = current.get_span_context()
    else:
        above = _read(parent)
        current = NonRecordingSpan(above)
    if above.is_valid and not above.trace_flags.sampled:
        return current  # the trace is not recorded: everything in it keeps the identity of the span above
    return _tracer.start_span(
        name,
        context=trace.set_span_in_context(current, _NOTHING),
        kind=kind,
        attributes=attributes,
        record_exception=False,
    )


def fail(span: Span, error: BaseException) -> None:
    """Marks a span as failed, by the kind of ``error`` alone."""
    if span.is_recording():
        name = error_name(error)
        span.set_attribute("error.type", name)
        span.set_status(StatusCode.ERROR, name)


def note_tenant(tenant: UUID) -> None:
    """Says on the current span whose call it is, where it is recorded: an id, and no personal data."""
    span = _current.get()
    if span.is_recording():
        span.set_attribute("rapport.tenant", str(tenant))


def traceparent(span: Span | None = None) -> str:
    """The W3C traceparent of ``span``, or of the current span; empty outside of any."""
    found = (span or _current.get()).get_span_context()
    if not found.is_valid:
        return ""
    return f"00-{found.trace_id:032x}-{found.span_id:016x}-{found.trace_flags:02x}"


def trace_id() -> str:
    """The current trace's id, 32 hexadecimal digits; empty outside of any span."""
    found = _current.get().get_span_context()
    return f"{found.trace_id:032x}" if found.is_valid else ""


def trace_id_of(traceparent: str) -> str:
    """The trace id in a traceparent; empty where the text is none."""
    match = _TRACEPARENT.fullmatch(traceparent)
    return match[1] if match else ""


def is_recorded(traceparent: str) -> bool:
    """Whether spans under a traceparent are recorded, or may be: only one that says no is not."""
    match = _TRACEPARENT.fullmatch(traceparent)
    return match is None or bool(int(match[3], 16) & TraceFlags.SAMPLED)


def _read(text: str) -> SpanContext:
    match = _TRACEPARENT.fullmatch(text)
    if match is None:
        return trace.INVALID_SPAN_CONTEXT
    ids = int(match[1], 16), int(match[2], 16)
    return SpanContext(*ids, is_remote=True, trace_flags=TraceFlags(int(match[3], 16)))


# ---- SQL ---------------------------------------------------------------------------------------------------

_VERB = re.compile(r"\b(SELECT|INSERT|UPDATE|DELETE|COPY|BEGIN|COMMIT|ROLLBACK|SET|LOCK|TRUNCATE)\b", re.IGNORECASE)
_WRITE = re.compile(r"\b(INSERT\s+INTO|(?<!FOR )(?<!DO )UPDATE|DELETE\s+FROM)\b", re.IGNORECASE)
_TABLE = re.compile(
    r"(?:(?<!DISTINCT )\b(?:FROM|JOIN)\s+(?=\"?\w++\"?(?!\s*\())|\bINTO\s+|(?<!FOR )(?<!DO )\bUPDATE\s+)"
    r"(?:ONLY\s+)?\"?([a-z_][a-z0-9_]*)",
    re.IGNORECASE,
)
_CTE = re.compile(r"(?:\bWITH(?:\s+RECURSIVE)?|,)\s+\"?([a-z_][a-z0-9_]*)\"?\s*(?:\([^()]*\))?\s+AS\b", re.IGNORECASE)


@lru_cache(maxsize=2048)
def statement_name(statement: str) -> str:
    """What a statement does and to which tables, for example ``UPDATE deals, ledger``. Never a value."""
    verb = (_WRITE.findall(statement) or _VERB.findall(statement)[:1] or ["SQL"])[-1]  # CTEs come first
    named = set(_CTE.findall(statement))
    tables = dict.fromkeys(table for table in _TABLE.findall(statement) if table not in named)
    return f"{verb.split()[0].upper()} {', '.join(tables)}".rstrip()


@lru_cache(maxsize=2048)
def sql_attributes(name: str) -> Attributes:
    """The attributes of the span of the statement that `statement_name` named so."""
    verb, _, tables = name.partition(" ")
    return {"db.system.name": "postgresql", "db.operation.name": verb, "db.collection.name": tables}


def recording() -> bool:
    """Whether what happens now is being recorded."""
    return _current.get().is_recording()


# ---- logs --------------------------------------------------------------------------------------------------


def logger() -> FilteringBoundLogger:
    """The process's log: one JSON line an event, with service, trace and tenant.

    The event is a fixed English phrase; what varies comes as keywords and is nothing personal.
    """
    log: FilteringBoundLogger = structlog.get_logger()
    return log


def _setup_logs(service: str, level: str) -> None:
    least = logging.getLevelNamesMapping().get(level.upper(), logging.INFO)

    def enrich(_: WrappedLogger, __: str, line: EventDict) -> EventDict:
        line["service"] = service
        if trace := trace_id():
            line["trace"] = trace
        if call := context.current_or_none():
            line["tenant"] = str(call.caller.tenant)
        return line

    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            enrich,
            _error,
            structlog.processors.JSONRenderer(serializer=_json),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(least),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),  # as it is then: it may be redirected
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(level=max(least, logging.WARNING), handlers=[Lines()], force=True)


def _json(line: EventDict, **_: object) -> str:
    return msgspec.json.encode(line, enc_hook=str).decode()


def _error(_: WrappedLogger, __: str, line: EventDict) -> EventDict:
    """Tells an exception by its kind, SQLSTATE and place; by its message only where it is one of ours."""
    error = line.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()[1]
    if isinstance(error, tuple):
        error = error[1]
    if isinstance(error, BaseException):
        line["error"] = error_name(error)
        if isinstance(error, Failure):
            line["message"] = error.message
        if state := getattr(error, "sqlstate", None) or getattr(getattr(error, "orig", None), "sqlstate", None):
            line["sqlstate"] = state
        line["where"] = _where(error.__traceback__)
    return line


def error_name(error: BaseException) -> str:
    """What kind of error it is: a failure's reason, else the exception's class. Never its message."""
    return error.reason_name if isinstance(error, Failure) else f"{type(error).__module__}.{type(error).__qualname__}"


def _where(traceback: TracebackType | None) -> list[str]:
    frames = []
    while traceback is not None:
        code = traceback.tb_frame.f_code
        frames.append(f"{code.co_filename}:{traceback.tb_lineno} {code.co_qualname}")
        traceback = traceback.tb_next
    return frames[-12:]


class Lines(logging.Handler):
    """Writes what libraries log as lines like ours.

    Only the first line of the text as their code holds it: what they fill in may be a row or an exception's
    message.
    """

    def emit(self, record: logging.LogRecord) -> None:
        line = str(record.msg).partition("\n")[0]
        structlog.get_logger().log(record.levelno, line, logger=record.name, exc_info=record.exc_info)
