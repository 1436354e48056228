"""Which changes a subscriber or webhook asked for, and which of them it may see."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from chassis.change import Change
from chassis.context import Caller, fields_for, owners_for
from chassis.contract import load
from chassis.errors import invalid
from chassis.rows import uuid_of


class Wanted:
    """A filter of changes: by type, by record, and by the fields that changed. What is empty filters nothing."""

    def __init__(self, types: Iterable[str], entity_ids: Iterable[str], changed_fields: Iterable[str]) -> None:
        self._types = frozenset(types)
        self._ids = frozenset(entity_ids)
        self._fields = frozenset(changed_fields)

    def resources(self) -> frozenset[str]:
        """The resources whose changes are asked for, by their messages' names; every one where none is named."""
        known = load().by_message
        named = frozenset(each if each in known else each.rpartition(".")[0] for each in self._types)
        return named or frozenset(known)

    def shows(self, entity_id: str) -> bool:
        """Whether a record is among those asked for."""
        return not self._ids or entity_id in self._ids

    def takes(self, change: Change, caller: Caller) -> bool:
        """Whether the change was asked for, as far as the caller may tell: a hidden field never changed."""
        if self._types and change.type not in self._types and change.resource not in self._types:
            return False
        if not self.shows(change.entity_id):
            return False
        if not self._fields:
            return True
        readable = fields_for(caller, load().by_message[change.resource].descriptor).readable
        return any(each in readable for each in self._fields.intersection(change.changed))


def check_wanted(types: Iterable[str], changed_fields: Iterable[str], caller: Caller) -> None:
    """Raises Invalid for a type of event that does not exist, and for a field that no record of these types has.

    A field that the caller may not read is none.
    """
    resources = load().by_message
    known = {*load().event_types, *resources}
    asked = set()
    for index, each in enumerate(types):
        if each not in known:
            near = get_close_matches(each, known, 1)
            what = "is no type of event" + (f"; did you mean '{near[0]}'?" if near else "")
            raise invalid(f"types[{index}]", what)
        asked.add(each if each in resources else each.rpartition(".")[0])
    fields = {field for name in asked or resources for field in fields_for(caller, resources[name].descriptor).readable}
    for index, each in enumerate(changed_fields):
        if each not in fields:
            near = get_close_matches(each, fields, 1)
            what = "is no field of these records" + (f"; did you mean '{near[0]}'?" if near else "")
            raise invalid(f"changed_fields[{index}]", what)


def may_see(caller: Caller, change: Change) -> bool:
    """Whether a caller may read the record that changed, as it was or as it is now."""
    resource = load().by_message.get(change.resource)
    if resource is None or not caller.may(load().read_permission(resource)):
        return False
    owners = owners_for(caller, resource.descriptor)
    if owners is None:
        return True
    held = {each.owner_id for each in (change.before, change.after) if each is not None and each.owner_id}
    return any(uuid_of(each) in owners for each in held)
