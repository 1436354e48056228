"""Which changes a subscriber or webhook asked for, and which of them it may see."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from functools import lru_cache
from typing import Protocol

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message

from chassis.change import Change, in_sight
from chassis.context import Caller, fields_for
from chassis.contract import descriptor_of, load
from chassis.errors import Invalid, invalid
from chassis.query import Filter
from chassis.work import changed_fields


class Asked(Protocol):
    """The fields of a message that choose changes: of a call, a kept subscription or a webhook endpoint."""

    @property
    def types(self) -> Iterable[str]: ...
    @property
    def entity_ids(self) -> Iterable[str]: ...
    @property
    def changed_fields(self) -> Iterable[str]: ...
    @property
    def filter(self) -> str: ...


class Wanted:
    """A filter of changes: by type, by record, by the fields that changed, and by what the record is then.

    What is empty filters nothing.
    """

    def __init__(self, asked: Asked) -> None:
        self._types = frozenset(asked.types)
        self._ids = frozenset(asked.entity_ids)
        self._fields = frozenset(asked.changed_fields)
        self._filter = asked.filter

    def resources(self) -> frozenset[str]:
        """The resources whose changes are asked for, by their messages' names; every one where none is named."""
        known = load().by_message
        named = frozenset(each if each in known else each.rpartition(".")[0] for each in self._types)
        return named or frozenset(known)

    def shows(self, record: Message, caller: Caller) -> bool:
        """Whether a record is among those asked for, as it is."""
        named = not self._ids or record.id in self._ids  # type: ignore[attr-defined]
        return named and self._fits(record, changed_fields(None, record) if self._filter else (), caller)

    def takes(self, change: Change, caller: Caller) -> bool:
        """Whether the change was asked for, as far as the caller may tell: a hidden field never changed."""
        if self._types and change.type not in self._types and change.resource not in self._types:
            return False
        if self._ids and change.entity_id not in self._ids:
            return False
        if self._fields:
            readable = fields_for(caller, load().by_message[change.resource].descriptor).readable
            if not any(each in readable for each in self._fields.intersection(change.changed)):
                return False
        return self._fits(change.after if change.after is not None else change.before, change.changed, caller)

    def _fits(self, record: Message | None, changed: Iterable[str], caller: Caller) -> bool:
        if not self._filter:
            return True
        if record is None:
            return False
        resource = descriptor_of(record)
        read = _filter(self._filter, resource, fields_for(caller, resource).filterable)
        return read is not None and read.takes(record, changed)


@lru_cache(maxsize=1024)
def _filter(text: str, resource: Descriptor, allowed: frozenset[str]) -> Filter | None:
    """A filter that was checked when it was opened; None where it names a field that may be read no more."""
    try:
        return Filter(text, resource, allowed)
    except Invalid:
        return None


def check_wanted(wanted: Asked, caller: Caller) -> None:
    """Raises Invalid for a type of event that does not exist, and for a field that no record of these types has.

    What a filter names, every one of the types must have. A field that the caller may not read is none.
    """
    resources = load().by_message
    known = {*load().event_types, *resources}
    asked = set()
    for index, each in enumerate(wanted.types):
        if each not in known:
            near = get_close_matches(each, known, 1)
            what = "is no type of event" + (f"; did you mean '{near[0]}'?" if near else "")
            raise invalid(f"types[{index}]", what)
        asked.add(each if each in resources else each.rpartition(".")[0])
    fields = {field for name in asked or resources for field in fields_for(caller, resources[name].descriptor).readable}
    for index, each in enumerate(wanted.changed_fields):
        if each not in fields:
            near = get_close_matches(each, fields, 1)
            what = "is no field of these records" + (f"; did you mean '{near[0]}'?" if near else "")
            raise invalid(f"changed_fields[{index}]", what)
    if wanted.filter.strip():
        for name in sorted(asked or resources):
            _check_filter(wanted.filter, resources[name].descriptor, caller)


def _check_filter(text: str, resource: Descriptor, caller: Caller) -> None:
    try:
        Filter(text, resource, fields_for(caller, resource).filterable)
    except Invalid as refused:
        refused.violations = [(place, f"{what} (of {resource.full_name})") for place, what in refused.violations]
        raise


def may_see(caller: Caller, change: Change) -> bool:
    """Whether a caller may read the record that changed, as it was or as it is now."""
    return in_sight(caller, change.resource, lambda: (change.before, change.after))
