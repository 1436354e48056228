"""Who calls, for which tenant, until when, and which fields they may touch. Set in one place per call."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import lru_cache
from uuid import UUID

from google.protobuf.descriptor import Descriptor

from chassis.access import Access, owned_prefix


class Restraint(Enum):
    """How a caller is held back whatever its scopes say."""

    NONE = 0
    # It only reads.
    READS = 1
    # It reads, and proposes what it wants changed.
    PROPOSES = 2


@dataclass(frozen=True)
class Caller:
    """Who a call is made for.

    ``principal`` is a user's or API key's id or ``service:<name>``; ``issuer`` is the kind of process that vouches
    for it; ``act`` is the service that calls on the principal's behalf, empty for a direct call. ``credential`` is
    the id of what the principal came in with, where that can be revoked by itself. ``access`` narrows what it sees
    of what its scopes open; None for a caller that sees all of it. ``restraint`` is how the gateway
    holds it back whatever its scopes. ``cause`` is the event that its call answers, such as the one that accepted it.
    """

    tenant: UUID
    principal: str
    scopes: frozenset[str]
    issuer: str = ""
    act: str = ""
    credential: str = ""
    access: Access | None = None
    restraint: Restraint = Restraint.NONE
    cause: UUID | None = None

    def may(self, permission: str) -> bool:
        """Whether a scope grants ``permission``: itself, ``deals.*``, or ``*`` (which leaves out ``platform.…``).

        ``self.…`` is what concerns the caller alone, and everybody's.
        """
        area = permission.partition(".")[0]
        if permission in self.scopes or f"{area}.*" in self.scopes or area == "self":
            return True
        return "*" in self.scopes and area not in ("platform", "internal")


@dataclass(slots=True)
class Call:
    """A call being served. ``deadline`` is on time.monotonic()'s clock, in seconds."""

    caller: Caller
    method: str
    deadline: float
    request_id: str = ""
    cause_event_id: UUID | None = field(default=None)

    def remaining_s(self) -> float:
        """Seconds left before the caller gives up; never negative."""
        return max(0.0, self.deadline - time.monotonic())


_current: ContextVar[Call | None] = ContextVar("rapport_call", default=None)


def new_request_id() -> str:
    """The name of a call that came without one, 16 hexadecimal digits: a secret of nobody's, so it may cost nothing."""
    return f"{random.getrandbits(64):016x}"


def current() -> Call:
    """The call being served. Raises LookupError outside of one."""
    call = _current.get()
    if call is None:
        raise LookupError("no call is being served here")
    return call


def current_or_none() -> Call | None:
    """The call being served, or None outside of one."""
    return _current.get()


class enter:
    """Makes ``call`` the current one for the ``with`` block and for the tasks started in it."""

    __slots__ = ("_call", "_token")

    def __init__(self, call: Call) -> None:
        self._call = call

    def __enter__(self) -> Call:
        self._token = _current.set(self._call)
        return self._call

    def __exit__(self, *_: object) -> None:
        _current.reset(self._token)


@contextmanager
def unrestricted() -> Iterator[None]:
    """Lets the block see every record and field: for what a service must know or keep right whoever calls."""
    call = _current.get()
    if call is None or call.caller.access is None:
        yield
        return
    with enter(replace(call, caller=replace(call.caller, access=None))):
        yield


def owners(resource: Descriptor) -> list[UUID] | None:
    """The users whose records of ``resource`` the current caller may see; None where it may see every record."""
    call = _current.get()
    return None if call is None else owners_for(call.caller, resource)


def owners_for(caller: Caller, resource: Descriptor) -> list[UUID] | None:
    """The users whose records of ``resource`` this caller may see; None where it may see every record."""
    if caller.access is None or not (prefix := owned_prefix(resource)):
        return None
    return caller.access.owners(prefix)


@dataclass(frozen=True)
class Fields:
    """The names of a resource's fields that a caller may read, write, and filter or order by."""

    readable: frozenset[str]
    writable: frozenset[str]
    filterable: frozenset[str]


def fields(resource: Descriptor) -> Fields:
    """What the current caller may do with each field of ``resource``.

    The only way from a field's name to SQL, JSON or an event, so that a rule about a field holds everywhere.
    """
    call = _current.get()
    return _declared(resource, None) if call is None else fields_for(call.caller, resource)


def fields_for(caller: Caller, resource: Descriptor) -> Fields:
    """What this caller may do with each field of ``resource``.

    A service that acts for a user uses every field: the user's rules hold where the user comes in and gets answered.
    """
    access = caller.access
    return _declared(resource, None if access is None or not access.has_field_rules or caller.act else access)


@lru_cache(maxsize=4096)
def _declared(resource: Descriptor, access: Access | None) -> Fields:
    names = frozenset(each.name for each in resource.fields)
    if access is None:
        return Fields(readable=names, writable=names, filterable=names)
    hidden, fixed = access.rules(resource)
    return Fields(readable=names - hidden, writable=names - hidden - fixed, filterable=names - hidden)
