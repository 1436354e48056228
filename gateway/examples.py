"""Example values that fit a JSON Schema of the contract: by a field's name where it tells, else by type and rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Schema = dict[str, Any]

_DEPTH = 3
_ID = "01h455vb4pex5vsknk084sn02q"
_UUID = "018b0c5e-6d2a-7b1c-9e4f-2a7d5c3b1e90"
_TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
# What a text of this name holds; a name that ends in one of these with an underscore before counts as well.
_TEXTS = {
    "id": f"contact_{_ID}",
    "display_name": "Acme renewal",
    "given_name": "Ana",
    "family_name": "Lima",
    "name": "acme",
    "title": "Call about the renewal",
    "job_title": "Head of purchasing",
    "language": "pt",
    "subject": "Your renewal",
    "description": "Forty seats for a year",
    "body": "They want 40 seats and decide with finance.",
    "text": "Forty seats for a year",
    "email": "ana@acme.example",
    "address": "ana@acme.example",
    "number": "+351210000000",
    "phone": "+351210000000",
    "domain": "acme.example",
    "url": "https://acme.example/",
    "uri": "https://acme.example/",
    "website": "https://acme.example/",
    "currency_code": "EUR",
    "currency": "EUR",
    "region_code": "PT",
    "country": "PT",
    "language_code": "pt",
    "time_zone": "Europe/Lisbon",
    "city": "Lisboa",
    "locality": "Lisboa",
    "postal_code": "1100-048",
    "industry": "software",
    "role": "Head of procurement",
    "source": "referral",
    "system": "erp",
    "tag": "key_account",
    "filter": "display_name = \"Acme\"",
    "order_by": "create_time desc",
    "etag": "\"3\"",
    "page_token": "eyJhZnRlciI6WzUwXX0.c2lnbmVk",
    "request_id": _UUID,
    "event_id": _UUID,
    "trace_id": _TRACE,
    "trace": _TRACE,
    "type": "crm.sales.v1.Deal.won",
    "field": "display_name",
    "actor": f"user_{_ID}",
    "sku": "SEAT-40",
    "reason": "They chose another vendor",
    "message": "display_name: must not be empty",
    "query": "acme",
    "path": "/v1/contacts",
    "scope": "contacts.read",
    "permission": "contacts.read",
    "issuer": "https://login.acme.example/",
    "value": "2.5",
    "method": "UpdateContact",
    "service": "sales",
    "resource": "deal",
}  # fmt: skip
_FORMATS = {
    "date-time": "2026-03-01T09:30:00Z",
    "uuid": _UUID,
    "email": "ana@acme.example",
    "uri": "https://acme.example/",
    "hostname": "acme.example",
    "ipv4": "192.0.2.7",
    "ipv6": "2001:db8::7",
    "int64": "1200",
    "uint64": "1200",
}
_NUMBERS = {"page_size": 50, "year": 2026, "month": 3, "day": 1, "nanos": 0, "probability": 0.4, "rate": 0.37}


class Examples:
    """Makes examples of schemas whose references lead into ``components``; the same schema has always the same."""

    def __init__(self, components: Mapping[str, Schema]) -> None:
        self._components = components

    def of(self, schema: Schema, name: str = "", *, sent: bool = False, depth: int = 0) -> Any:
        """A value that fits; ``name`` is the field's, and what is ``sent`` leaves out what only the server sets."""
        if "$ref" in schema:
            return self.of(self._components[schema["$ref"].rpartition("/")[2]], name, sent=sent, depth=depth)
        if "allOf" in schema:
            merged: Schema = {}
            for part in schema["allOf"]:
                merged |= self._resolved(part)
            return self.of(merged, name, sent=sent, depth=depth)
        if "anyOf" in schema:
            return self.of(schema["anyOf"][0], name, sent=sent, depth=depth)
        if "examples" in schema:
            return schema["examples"][0]
        if "enum" in schema:
            return schema["enum"][min(1, len(schema["enum"]) - 1)]
        kind = schema.get("type")
        if kind == "array":
            return self._list(schema, name, sent, depth)
        if kind == "object":
            # A tenant defines its own fields; none exists at first.
            return {} if name == "custom" and sent else self._object(schema, sent, depth)
        if kind == "boolean":
            return name not in ("validate_only", "show_deleted", "atomic")
        return _text(schema, name) if kind == "string" else _number(schema, name)

    def _resolved(self, schema: Schema) -> Schema:
        return self._components[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema

    def _list(self, schema: Schema, name: str, sent: bool, depth: int) -> list[Any]:
        least = schema.get("minItems", 0)
        if depth >= _DEPTH and not least:
            return []
        one = self.of(schema["items"], name.removesuffix("s"), sent=sent, depth=depth)
        return [one] * max(1, least)

    def _object(self, schema: Schema, sent: bool, depth: int) -> dict[str, Any]:
        shown: dict[str, Schema] = schema.get("properties", {})
        required = schema.get("required", [])
        if not shown:
            values = schema.get("additionalProperties")
            return {"tier": self.of(values, "tier", sent=sent, depth=depth + 1) if isinstance(values, dict) else "gold"}
        found: dict[str, Any] = {}
        exclusive = [set(each["required"]) for each in schema.get("not", {}).get("anyOf", ())]
        for name, field in shown.items():
            left_out = any(pair <= {name, *found} for pair in exclusive)
            left_out |= depth >= _DEPTH or (sent and (field.get("readOnly") or name in _NOT_SENT))
            left_out &= not field.get("minLength")
            if left_out and name not in required:
                continue
            value = self.of(field, name, sent=sent, depth=depth + 1)
            if value != {} or name in required or not sent:
                found[name] = value
        return found


# What a body may carry but rarely does: a first call shows none of them.
_NOT_SENT = (
    "id", "etag", "request_id", "validate_only", "occur_time", "update_mask", "allow_missing", "page_token",
    "expire_time", "service_account_id",
)  # fmt: skip


def _text(schema: Schema, name: str) -> str:
    if "contentEncoding" in schema:
        return "UmFwcG9ydA=="
    if schema.get("pattern") == "^[A-Z]{2}$":
        return "PT"
    value = _FORMATS.get(schema.get("format", "")) or _named(name)
    while len(value) < schema.get("minLength", 0):
        value += value or "a"
    return value[: schema.get("maxLength", len(value))]


def _named(name: str) -> str:
    parts = name.split("_")
    endings = ("_".join(parts[start:]) for start in range(len(parts)))
    return next((_TEXTS[each] for each in endings if each in _TEXTS), name.replace("_", " "))


def _number(schema: Schema, name: str) -> float | int | None:
    if "type" not in schema:
        return None
    value = _NUMBERS.get(name, 2)
    if "exclusiveMinimum" in schema:
        value = max(value, schema["exclusiveMinimum"] + 1)
    value = min(max(value, schema.get("minimum", value)), schema.get("maximum", value))
    if "exclusiveMaximum" in schema and value >= schema["exclusiveMaximum"]:
        value = (schema.get("minimum", 0) + schema["exclusiveMaximum"]) / 2
    return int(value) if schema["type"] == "integer" else value
