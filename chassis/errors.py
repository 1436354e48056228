"""Domain errors and the google.rpc.Status that a client sees. Errors are raised where they are known."""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from typing import ClassVar

import grpc
from crm.type.v1 import reason_pb2
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

Reason = reason_pb2.Reason
DOMAIN = "rapport"
DETAILS_KEY = "grpc-status-details-bin"

Violation = tuple[str, str]


class Failure(Exception):
    """A call that cannot be done, said so that the caller can act on it.

    ``message`` says what was wrong, where, and what would be right; it holds no personal data.
    ``violations`` are pairs of field path and description. ``retry_s`` hints when to try again, in seconds.
    """

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN

    def __init__(
        self,
        reason: Reason.ValueType,
        message: str,
        *,
        metadata: Mapping[str, str] | None = None,
        violations: Sequence[Violation] = (),
        retry_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})
        self.violations = list(violations)
        self.retry_s = retry_s

    def __str__(self) -> str:
        return self.message

    @property
    def reason_name(self) -> str:
        """The reason as clients read it, for example ``ETAG_MISMATCH``."""
        return Reason.Name(self.reason).removeprefix("REASON_")

    def within(self, place: str, fields: Container[str]) -> None:
        """Puts ``place`` before the paths that begin with one of ``fields``: where in the request the record stood."""
        for index, (path, text) in enumerate(self.violations):
            if re.split(r"[.\[]", path, maxsplit=1)[0] in fields:
                self.violations[index] = (f"{place}.{path}", text)
                if self.message.startswith(path):
                    self.message = f"{place}.{self.message}"

    def status(self) -> status_pb2.Status:
        """The error as a client gets it: ErrorInfo always, BadRequest and RetryInfo where they apply."""
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        info = error_details_pb2.ErrorInfo(reason=self.reason_name, domain=DOMAIN, metadata=self.metadata)
        status.details.add().Pack(info)
        if self.violations:
            bad = error_details_pb2.BadRequest()
            for field, description in self.violations:
                bad.field_violations.add(field=field, description=description)
            status.details.add().Pack(bad)
        if self.retry_s is not None:
            delay = duration_pb2.Duration()
            delay.FromMilliseconds(int(self.retry_s * 1000))
            status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
        return status


class Cancelled(Failure):
    """The caller gave up."""

    code = grpc.StatusCode.CANCELLED


class Invalid(Failure):
    """The request is wrong whatever the state of the system."""

    code = grpc.StatusCode.INVALID_ARGUMENT


class DeadlineExceeded(Failure):
    """The time the caller gave was not enough."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class NotFound(Failure):
    """There is no such record, or it is another tenant's."""

    code = grpc.StatusCode.NOT_FOUND


class AlreadyExists(Failure):
    """A record holds this key already."""

    code = grpc.StatusCode.ALREADY_EXISTS


class Denied(Failure):
    """The caller may not do this."""

    code = grpc.StatusCode.PERMISSION_DENIED


class Exhausted(Failure):
    """A limit is reached; try again later."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class Precondition(Failure):
    """The state of the record does not allow this."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class Aborted(Failure):
    """Another writer was faster; read again and retry."""

    code = grpc.StatusCode.ABORTED


class OutOfRange(Failure):
    """What was asked for is not kept any more."""

    code = grpc.StatusCode.OUT_OF_RANGE


class Unimplemented(Failure):
    """There is no such method."""

    code = grpc.StatusCode.UNIMPLEMENTED


class Internal(Failure):
    """A fault of ours. The cause stays in the logs."""

    code = grpc.StatusCode.INTERNAL


class Unavailable(Failure):
    """A part that is needed cannot be reached; the call may be tried again."""

    code = grpc.StatusCode.UNAVAILABLE


class Unauthenticated(Failure):
    """No valid credential came with the call."""

    code = grpc.StatusCode.UNAUTHENTICATED


def invalid(field: str, message: str, reason: Reason.ValueType = Reason.REASON_FIELD_INVALID) -> Invalid:
    """What is wrong with a field, whatever the state of the records. ``message`` reads on after the field's name."""
    return Invalid(reason, f"{field}: {message}", violations=[(field, message)])


def not_now(field: str, message: str, reason: Reason.ValueType) -> Precondition:
    """What is wrong with a field as the records stand."""
    return Precondition(reason, f"{field}: {message}", violations=[(field, message)])


_BY_CODE: dict[int, type[Failure]] = {
    kind.code.value[0]: kind
    for kind in (
        Cancelled,
        Invalid,
        DeadlineExceeded,
        NotFound,
        AlreadyExists,
        Denied,
        Exhausted,
        Precondition,
        Aborted,
        OutOfRange,
        Unimplemented,
        Internal,
        Unavailable,
        Unauthenticated,
    )
}

_REASON_OF_CODE = {
    Cancelled: Reason.REASON_CANCELLED,
    Invalid: Reason.REASON_FIELD_INVALID,
    DeadlineExceeded: Reason.REASON_DEADLINE_EXCEEDED,
    NotFound: Reason.REASON_NOT_FOUND,
    Denied: Reason.REASON_PERMISSION_DENIED,
    Exhausted: Reason.REASON_OVERLOADED,
    Unimplemented: Reason.REASON_METHOD_UNKNOWN,
    Unavailable: Reason.REASON_UNAVAILABLE,
    Unauthenticated: Reason.REASON_UNAUTHENTICATED,
}


def from_status(status: status_pb2.Status) -> Failure:
    """The failure that a status tells of, for example one that came from another service."""
    kind = _BY_CODE.get(status.code, Internal)
    failure = kind(_REASON_OF_CODE.get(kind, Reason.REASON_INTERNAL), status.message)
    for detail in status.details:
        _read_detail(failure, detail)
    return failure


def _read_detail(failure: Failure, detail: any_pb2.Any) -> None:
    info, bad, retry = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.RetryInfo(),
    )
    if detail.Unpack(info):
        name = f"REASON_{info.reason}"
        failure.reason = Reason.Value(name) if name in Reason.keys() else failure.reason  # noqa: SIM118
        failure.metadata = dict(info.metadata)
    elif detail.Unpack(bad):
        failure.violations = [(each.field, each.description) for each in bad.field_violations]
    elif detail.Unpack(retry):
        failure.retry_s = retry.retry_delay.ToMilliseconds() / 1000


def from_rpc_error(error: grpc.aio.AioRpcError) -> Failure:
    """The failure that a gRPC call ended with; the status details are used where they came along."""
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            return from_status(status_pb2.Status.FromString(value))
    code, text = error.code().value
    if error.code() in (
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
    ):
        return from_status(status_pb2.Status(code=code, message=f"the service did not answer: {text}"))
    return from_status(status_pb2.Status(code=code, message=error.details() or text))
