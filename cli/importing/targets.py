"""What a column can fill: the fields of a resource as its contract declares them, and a few words more."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from typing import Any

from crm.type.v1 import options_pb2
from google.api import field_behavior_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from cli.resources import BY_PREFIX, Resource


class Kind(StrEnum):
    """How a cell's text is read."""

    TEXT = "text"
    TAGS = "texts, split at ; or ,"
    INTEGER = "whole number"
    NUMBER = "number"
    FLAG = "yes or no"
    MONEY = "amount of money"
    DECIMAL = "exact number"
    DATE = "date"
    TIME = "time"


@dataclass(frozen=True, slots=True)
class Step:
    """One field on the way into a record. A repeated one takes one element a column."""

    name: str
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Target:
    """A place that a column can fill.

    `name` is what the user writes. `path` leads into the record, and is empty for what goes beside it.
    `lookup` is the collection in which the text is a name to be found; the field then takes the id.
    """

    name: str
    kind: Kind = Kind.TEXT
    path: tuple[Step, ...] = ()
    lookup: str = ""


# Filled from options, or by the server.
_NOT_FROM_COLUMNS = {"id", "etag", "external_ids", "pipeline_id", "stage_id"}
_SCALARS = {
    FieldDescriptor.TYPE_STRING: Kind.TEXT,
    FieldDescriptor.TYPE_INT32: Kind.INTEGER,
    FieldDescriptor.TYPE_INT64: Kind.INTEGER,
    FieldDescriptor.TYPE_DOUBLE: Kind.NUMBER,
    FieldDescriptor.TYPE_BOOL: Kind.FLAG,
}
_MESSAGES = {
    "google.type.Money": Kind.MONEY,
    "google.type.Decimal": Kind.DECIMAL,
    "google.type.Date": Kind.DATE,
    "google.protobuf.Timestamp": Kind.TIME,
}
_BESIDE = (Target("external_id"), Target("occur_time", Kind.TIME), Target("currency"))
_BESIDE_DEALS = (Target("stage"), Target("close_time", Kind.TIME), Target("loss_reason"), Target("lead"))
_BESIDE_CONTACTS = (Target("company", lookup="companies"), Target("role"))
CUSTOM = "custom"


@dataclass(frozen=True, slots=True)
class Targets:
    """All targets of a resource by name, and the fields every record needs."""

    by_name: dict[str, Target]
    required: frozenset[str]

    def find(self, name: str) -> Target | None:
        """The target of that name; any name under `custom.` is one."""
        if name.startswith(f"{CUSTOM}.") and name.count(".") == 1:
            return Target(name, path=(Step(CUSTOM), Step(name.removeprefix(f"{CUSTOM}."))))
        return self.by_name.get(name)


def of(resource: Resource) -> Targets:
    """The targets of a resource that can be imported."""
    module = import_module(f"crm.{resource.service}.v1.{resource.prefix}_pb2")
    message: Descriptor = getattr(module, resource.prefix.capitalize()).DESCRIPTOR
    found = fields(message)
    beside = _BESIDE + {"deals": _BESIDE_DEALS, "contacts": _BESIDE_CONTACTS}.get(resource.plural, ())
    by_name = {target.name: target for target in (*found, *beside)}
    began = message.GetOptions().Extensions[options_pb2.resource].occur_field
    if began:
        by_name.setdefault(began, by_name["occur_time"])
    if "line_items.product" in by_name:
        item = by_name["line_items.product"]
        by_name["product"] = Target("product", path=item.path, lookup=item.lookup)
    return Targets(by_name, frozenset(field.name for field in message.fields if behaves(field, "REQUIRED")))


def behaves(field: FieldDescriptor, behavior: str) -> bool:
    """Whether the contract says so of a field, for example OUTPUT_ONLY."""
    declared = field.GetOptions().Extensions[field_behavior_pb2.field_behavior]
    return field_behavior_pb2.FieldBehavior.Value(behavior) in declared


def fields(message: Descriptor, prefix: str = "", path: tuple[Step, ...] = ()) -> list[Target]:
    """The targets in a message, those of nested messages with dots in their names."""
    found: list[Target] = []
    for field in message.fields:
        if behaves(field, "OUTPUT_ONLY") or field.name in _NOT_FROM_COLUMNS:
            continue
        step = Step(field.name, field.is_repeated)
        name, here = f"{prefix}{field.name}", (*path, step)
        if field.message_type is None:
            found += scalar(field, name, here)
        elif kind := _MESSAGES.get(field.message_type.full_name):
            found.append(Target(name, kind, here))
        elif not field.message_type.full_name.startswith("google.protobuf."):
            found += fields(field.message_type, f"{name}.", here)
    return found


def scalar(field: FieldDescriptor, name: str, path: tuple[Step, ...]) -> list[Target]:
    """The targets of a plain field: itself, and for an id also the name of what it points at."""
    kind = _SCALARS.get(field.type)
    if kind is None:
        return []
    if field.is_repeated:
        return [Target(name, Kind.TAGS if name == "tags" else kind, path)]
    targets = [Target(name, kind, path)]
    refs: Any = field.GetOptions().Extensions[options_pb2.ref]
    if name.endswith("_id") and len(refs) == 1 and refs[0] in BY_PREFIX:
        targets.append(Target(name.removesuffix("_id"), Kind.TEXT, path, BY_PREFIX[refs[0]].plural))
    return targets
