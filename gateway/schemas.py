"""JSON Schemas of messages and enums, from the contract: comments, limits, what is required and what is read-only."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection
from itertools import combinations
from typing import Any

from buf.validate import validate_pb2
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from chassis.contract import Contract, is_output_only, is_required, refs
from gateway.transcode.reader import submessage

Schema = dict[str, Any]
_F = FieldDescriptor

_ANY_MASK = ["display_name,tags"]
_WELL_KNOWN: dict[str, Schema] = {
    "google.protobuf.Timestamp": {
        "type": "string",
        "format": "date-time",
        "examples": ["2026-03-01T09:30:00Z"],
    },
    "google.protobuf.Duration": {
        "type": "string",
        "pattern": r"^-?[0-9]{1,12}(\.[0-9]{1,9})?s$",
        "examples": ["90s"],
    },
    "google.protobuf.FieldMask": {
        "type": "string",
        "description": "Field names in snake_case with commas between them.",
        "examples": _ANY_MASK,
    },
    "google.protobuf.Struct": {"type": "object", "additionalProperties": True},
    "google.protobuf.Value": {},
    "google.protobuf.ListValue": {"type": "array", "items": {}},
    "google.protobuf.Any": {
        "type": "object",
        "properties": {"@type": {"type": "string"}},
        "required": ["@type"],
        "additionalProperties": True,
    },
}
_SCALARS: dict[int, Schema] = {
    _F.CPPTYPE_INT32: {"type": "integer", "format": "int32"},
    _F.CPPTYPE_UINT32: {"type": "integer", "minimum": 0, "maximum": 2**32 - 1},
    _F.CPPTYPE_INT64: {"type": "string", "format": "int64", "pattern": "^-?[0-9]{1,19}$"},
    _F.CPPTYPE_UINT64: {"type": "string", "format": "uint64", "pattern": "^[0-9]{1,20}$"},
    _F.CPPTYPE_DOUBLE: {"type": "number", "format": "double"},
    _F.CPPTYPE_FLOAT: {"type": "number", "format": "float"},
    _F.CPPTYPE_BOOL: {"type": "boolean"},
}
_STRING_FORMATS = {
    "email": "email",
    "uuid": "uuid",
    "uri": "uri",
    "hostname": "hostname",
    "ipv4": "ipv4",
    "ipv6": "ipv6",
}
# Of an id after its prefix: a UUID in Crockford's base 32, in small letters.
_ID = "[0-7][0-9a-hjkmnp-tv-z]{25}"
# What a batch says once; its items cannot.
_SAID_BY_BATCH = ("request_id", "validate_only")
_BOUNDS = {"gte": "minimum", "gt": "exclusiveMinimum", "lte": "maximum", "lt": "exclusiveMaximum"}


class Schemas:
    """The components that schemas refer to, collected as they are asked for."""

    def __init__(self, contract: Contract) -> None:
        self._contract = contract
        self.components: dict[str, Schema] = {}
        declared = [
            name
            for file in contract.files.file
            for name in (*(each.name for each in file.message_type), *(each.name for each in file.enum_type))
        ]
        self._shared = {name for name, count in Counter(declared).items() if count > 1}

    def message(self, descriptor: Descriptor, without: Collection[str] = ()) -> Schema:
        """The schema of a message: a reference, or the JSON form of a well-known type.

        ``without`` are fields left out; a message is shown without the same ones wherever it stands.
        """
        if descriptor.full_name in _WELL_KNOWN:
            return dict(_WELL_KNOWN[descriptor.full_name])
        name = self._name(descriptor.full_name)
        if name not in self.components:
            self.components[name] = {}
            self.components[name] = self._object(descriptor, without)
        return _reference(name)

    def rest(self, descriptor: Descriptor, bound: Collection[str]) -> Schema:
        """The schema of the body that fills a request but for the ``bound`` fields."""
        if not bound:
            return self.message(descriptor)
        return self._object(descriptor, bound)

    def patch(self, descriptor: Descriptor) -> Schema:
        """The schema of the body that changes a record: what can be written, each of it also null."""
        name = f"{self._name(descriptor.full_name)}Patch"
        if name not in self.components:
            shown = {each.name: self.field(each) for each in descriptor.fields if not is_output_only(each)}
            self.components[name] = {
                "type": "object",
                "description": f"Fields of a {_last(descriptor.full_name)} to change. Null clears a field.",
                "properties": {field: {"anyOf": [schema, {"type": "null"}]} for field, schema in shown.items()},
            }
        return _reference(name)

    def creation(self, descriptor: Descriptor) -> Schema:
        """The schema of the body that makes a record: the record, with what it cannot be without."""
        required = [each.name for each in descriptor.fields if is_required(each)]
        return {"allOf": [self.message(descriptor), {"required": required}]} if required else self.message(descriptor)

    def enum(self, descriptor: EnumDescriptor) -> Schema:
        """The schema of an enum: its names, with what each means."""
        name = self._name(descriptor.full_name)
        if name not in self.components:
            meanings = [
                f"- `{each.name}`: {self._contract.comment(f'{descriptor.full_name}.{each.name}')}"
                for each in descriptor.values
            ]
            self.components[name] = {
                "type": "string",
                "enum": [each.name for each in descriptor.values],
                "description": "\n".join([self._contract.comment(descriptor.full_name), "", *meanings]),
            }
        return _reference(name)

    def field(self, field: FieldDescriptor) -> Schema:
        """The schema of a field, with its comment and rules."""
        rules = field.GetOptions().Extensions[validate_pb2.field]
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            values = submessage(field).fields_by_name["value"]
            schema: Schema = {"type": "object", "additionalProperties": self._one(values, rules.map.values)}
        elif field.is_repeated:
            item = field.message_type if field.name == "requests" else None
            items = self.message(item, _SAID_BY_BATCH) if item is not None else self._one(field, rules.repeated.items)
            schema = {"type": "array", "items": items}
            _add_list_rules(schema, rules.repeated)
        else:
            schema = self._one(field, rules)
        if "$ref" in schema:
            # Beside a reference only some tools read a description; OpenAPI 3.1 lets them.
            schema = {"allOf": [schema]} if is_output_only(field) else schema
        described = self._contract.comment(field.full_name)
        if described:
            schema["description"] = described
        if is_output_only(field):
            schema["readOnly"] = True
        return schema

    def _object(self, descriptor: Descriptor, without: Collection[str] = ()) -> Schema:
        shown = [each for each in descriptor.fields if each.name not in without]
        schema: Schema = {
            "type": "object",
            "description": self._contract.comment(descriptor.full_name),
            "properties": {each.name: self.field(each) for each in shown},
        }
        required = [each.name for each in shown if is_required(each) and not _is_record(descriptor)]
        if required:
            schema["required"] = required
        exclusive = [
            {"required": [one.name, other.name]}
            for choice in descriptor.oneofs
            for one, other in combinations(choice.fields, 2)
            if one in shown and other in shown
        ]
        if exclusive:
            schema["not"] = {"anyOf": exclusive}
        return schema

    def _one(self, field: FieldDescriptor, rules: validate_pb2.FieldRules) -> Schema:
        if field.message_type is not None:
            schema = self.message(field.message_type)
            return schema | {"examples": [_mask(field)]} if schema.get("examples") == _ANY_MASK else schema
        if field.enum_type is not None:
            refused = set(rules.enum.not_in)
            names = [each.name for each in field.enum_type.values if each.number not in refused]
            return {"allOf": [self.enum(field.enum_type)], "enum": names} if refused else self.enum(field.enum_type)
        if field.type == _F.TYPE_BYTES:
            return {"type": "string", "contentEncoding": "base64"}
        if field.type == _F.TYPE_STRING:
            return _string(field, rules.string)
        schema = dict(_SCALARS[field.cpp_type])
        kind = rules.WhichOneof("type")
        if kind and schema["type"] in ("integer", "number"):
            for rule, value in getattr(rules, kind).ListFields():
                if rule.name in _BOUNDS:
                    schema[_BOUNDS[rule.name]] = value
        return schema

    def _name(self, full_name: str) -> str:
        short = _last(full_name)
        return full_name if short in self._shared else short


def _string(field: FieldDescriptor, rules: validate_pb2.StringRules) -> Schema:
    schema: Schema = {"type": "string"}
    for rule, value in rules.ListFields():
        if rule.name == "min_len":
            schema["minLength"] = value
        elif rule.name == "max_len":
            schema["maxLength"] = value
        elif rule.name == "len":
            schema["minLength"] = schema["maxLength"] = value
        elif rule.name == "pattern":
            schema["pattern"] = value
        elif rule.name == "prefix":
            schema["pattern"] = f"^{re.escape(value)}"
        elif rule.name == "in":
            schema["enum"] = list(value)
        elif rule.name in _STRING_FORMATS and value:
            schema["format"] = _STRING_FORMATS[rule.name]
    _add_id_rules(schema, refs(field))
    return schema


def _add_id_rules(schema: Schema, pointed_at: Collection[str]) -> None:
    prefixes = [each for each in pointed_at if each != "*"]
    if pointed_at:
        # Empty where it is not set.
        schema["pattern"] = f"^(({'|'.join(prefixes) or '[a-z_]+'})_{_ID})?$"
    if prefixes:
        schema["examples"] = [f"{prefixes[0]}_01h455vb4pex5vsknk084sn02q"]


def _mask(field: FieldDescriptor) -> str:
    """Field names that a mask of a request may hold."""
    if field.name == "read_mask":
        return "id,update_time"
    request = field.containing_type
    records = [each.message_type for each in request.fields if each.message_type is not None] if request else []
    written = [
        each.name for record in records if _is_record(record) for each in record.fields if not is_output_only(each)
    ]
    return written[0] if written else _ANY_MASK[0]


def _add_list_rules(schema: Schema, rules: validate_pb2.RepeatedRules) -> None:
    if rules.min_items:
        schema["minItems"] = rules.min_items
    if rules.HasField("max_items"):
        schema["maxItems"] = rules.max_items
    if rules.unique:
        schema["uniqueItems"] = True


def _is_record(descriptor: Descriptor) -> bool:
    # What a record cannot be without is asked of the body that makes it, not of one that changes it.
    return "etag" in descriptor.fields_by_name


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _last(full_name: str) -> str:
    return full_name.rpartition(".")[2]
