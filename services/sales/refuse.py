"""Failures of sales that name the field they are about."""

from __future__ import annotations

from chassis.errors import Invalid, Precondition, Reason


def invalid(field: str, message: str, reason: Reason.ValueType = Reason.REASON_FIELD_INVALID) -> Invalid:
    """What is wrong with a field, whatever the state of the records."""
    return Invalid(reason, f"{field}: {message}", violations=[(field, message)])


def not_now(field: str, message: str, reason: Reason.ValueType) -> Precondition:
    """What the state of the records does not allow."""
    return Precondition(reason, f"{field}: {message}", violations=[(field, message)])
