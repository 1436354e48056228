"""The OpenAPI 3.1 document, made from the contract: what it says of HTTP is what the gateway does."""

from __future__ import annotations

from typing import Any

import msgspec
from google.protobuf.descriptor import FieldDescriptor

from chassis.contract import Contract, Method
from chassis.query.page import MAX_SIZE
from chassis.service import DEFAULT_DEADLINE_S, MAX_DEADLINE_S
from chassis.standard import MAX_BATCH
from gateway import failures
from gateway.contract import Route, Routes
from gateway.examples import Examples
from gateway.identity.oauth import TOKEN_PATH
from gateway.schemas import Schema, Schemas
from gateway.transcode import BODY_LIMIT
from gateway.transcode.request import resource_field

_VERSION = "1.0.0"
_INTRODUCTION = f"""\
Rapport is an open CRM platform. Every call carries `Authorization: Bearer <API key>`.

JSON names are in snake_case. Unknown fields, parameters and enum names are refused, never ignored. Times are in UTC, \
64-bit integers are strings, money is exact. A change is safe to repeat with the header `Idempotency-Key` and \
conditional with `If-Match`. Every reply carries its trace in `x-trace-id`.

Limits: a page has at most {MAX_SIZE:,} records, a batch {MAX_BATCH:,} items, a body {BODY_LIMIT // 2**20} MiB, a call \
{DEFAULT_DEADLINE_S:g} s (at most {MAX_DEADLINE_S:g} s, by `x-server-timeout`). `ratelimit` and `ratelimit-policy` \
tell what is left of a caller's rate; 429 comes with `retry-after`. `GET /v1/limits` tells them all.

The same methods stand open over gRPC, with reflection and health.
"""
_ERROR: Schema = {
    "type": "object",
    "description": "What every failed call answers with.",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "status", "message", "details"],
            "properties": {
                "code": {"type": "integer", "description": "The HTTP status."},
                "status": {"type": "string", "description": "The code's name, as in google.rpc.Code."},
                "message": {
                    "type": "string",
                    "description": "What was wrong, where, and what would be right.",
                },
                "details": {
                    "type": "array",
                    "description": "google.rpc.ErrorInfo always, with a `reason` for programs; "
                    "google.rpc.BadRequest with the fields at fault; google.rpc.RetryInfo.",
                    "items": {
                        "type": "object",
                        "required": ["@type"],
                        "properties": {
                            "@type": {"type": "string"},
                            "reason": {"type": "string"},
                            "domain": {"type": "string"},
                            "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
                            "field_violations": {
                                "type": "array",
                                "items": {
                                    "type": "object",
                                    "properties": {
                                        "field": {"type": "string"},
                                        "description": {"type": "string"},
                                    },
                                },
                            },
                            "retry_delay": {"type": "string"},
                        },
                        "additionalProperties": True,
                    },
                },
            },
        }
    },
}
_IF_MATCH: Schema = {
    "name": "If-Match",
    "in": "header",
    "description": "Goes through only where the record still has this etag; 412 otherwise.",
    "schema": {"type": "string", "pattern": r'^(\*|"[^"\\]*")?$'},
}
_IDEMPOTENCY_KEY: Schema = {
    "name": "Idempotency-Key",
    "in": "header",
    "description": "A UUID that makes the call safe to repeat for 24 hours.",
    "schema": {"type": "string", "format": "uuid"},
}
_LAST_EVENT_ID: Schema = {
    "name": "Last-Event-ID",
    "in": "header",
    "description": "Goes on after the event that carried this id.",
    "schema": {"type": "string"},
}


def document(contract: Contract, routes: Routes, server_url: str) -> dict[str, Any]:
    """The whole document as a JSON value; ``server_url`` is where clients reach the gateway."""
    schemas = Schemas(contract)
    schemas.components["Error"] = _ERROR
    paths: dict[str, dict[str, Any]] = {}
    for route in sorted(routes.all, key=lambda each: (path_of(each), each.verb)):
        paths.setdefault(path_of(route), {})[route.verb.lower()] = _operation(contract, schemas, route)
    services = sorted({route.method.service for route in routes.all})
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Rapport",
            "version": _VERSION,
            "description": _INTRODUCTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": server_url}],
        "tags": [{"name": _tag(each), "description": contract.comment(each)} for each in services],
        "security": [{name: []} for name in _security(server_url)],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.components.items())),
            "securitySchemes": _security(server_url),
            "headers": failures.HEADERS,
            "parameters": {each["name"]: each for each in (_IF_MATCH, _IDEMPOTENCY_KEY, _LAST_EVENT_ID)},
            "examples": _examples(schemas, paths),
            "responses": failures.components(contract),
        },
    }


def _examples(schemas: Schemas, paths: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """An example of every body and reply, which refers to it; one that several show stands here once."""
    examples, found = Examples(schemas.components), {}
    for operation in (each for verbs in paths.values() for each in verbs.values()):
        shown = [(operation["responses"]["200"], "Reply", False), (operation.get("requestBody"), "Body", True)]
        for part, suffix, sent in shown:
            for content in part["content"].values() if part else ():
                reference = content["schema"].get("$ref", "").rpartition("/")[2]
                name = f"{reference or operation['operationId']}{suffix}"
                if name not in found:
                    found[name] = {"value": examples.of(content["schema"], sent=sent)}
                content["examples"] = {"default": {"$ref": f"#/components/examples/{name}"}}
    return dict(sorted(found.items()))


def _security(server_url: str) -> dict[str, Schema]:
    return {
        "api_key": {"type": "http", "scheme": "bearer", "description": "An API key, `rap_…`."},
        "client_credentials": {
            "type": "oauth2",
            "description": "A token for 15 minutes; the client is an API key: its id and its secret.",
            "flows": {"clientCredentials": {"tokenUrl": f"{server_url}{TOKEN_PATH}", "scopes": {}}},
        },
        "identity_provider": {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "JWT",
            "description": "A token of an identity provider that the tenant named at `/v1/identity_providers`.",
        },
    }


def encoded(contract: Contract, routes: Routes, server_url: str) -> bytes:
    """The document as JSON text."""
    return msgspec.json.encode(document(contract, routes, server_url))


def path_of(route: Route) -> str:
    """A route's path with parameters by their last name: OpenAPI wants one name for one place."""
    path = route.template
    for field in route.path_fields:
        path = path.replace(f"{{{field}}}", f"{{{field.rpartition('.')[2]}}}")
    return path


def _tag(service: str) -> str:
    return service.rpartition(".")[2].removesuffix("Service")


def _operation(contract: Contract, schemas: Schemas, route: Route) -> dict[str, Any]:
    method = route.method
    comment = contract.comment(f"{method.service}.{method.name}")
    operation: dict[str, Any] = {
        "operationId": method.name,
        "tags": [_tag(method.service)],
        "summary": comment.partition(". ")[0].rstrip("."),
        "description": "\n\n".join([comment, *_facts(method)]),
        "parameters": _parameters(schemas, route),
        "responses": _answers(schemas, route),
        "x-permission": method.permission,
    }
    if method.emits:
        operation["x-emits"] = list(method.emits)
    if route.body:
        content = {"application/json": {"schema": _body(schemas, route)}}
        operation["requestBody"] = {"required": route.body != "*", "content": content}
    return operation


def _facts(method: Method) -> list[str]:
    facts = [f"Needs the permission `{method.permission}`."]
    if method.emits:
        facts.append(f"Emits {', '.join(f'`{each}`' for each in method.emits)}.")
    return facts


def _body(schemas: Schemas, route: Route) -> Schema:
    request = route.method.descriptor.input_type
    if route.body != "*":
        resource = request.fields_by_name[route.body].message_type
        if resource is None:
            raise ValueError(f"{route.method.path}: the body fills '{route.body}', which holds no message")
        return schemas.patch(resource) if route.verb == "PATCH" else schemas.creation(resource)
    return schemas.rest(request, route.path_fields)


def _parameters(schemas: Schemas, route: Route) -> list[Schema]:
    request = route.method.descriptor.input_type
    found: list[Schema] = []
    for path in route.path_fields:
        descriptor, field = request, None
        for step in path.split("."):
            field = descriptor.fields_by_name[step]
            descriptor = field.message_type or descriptor
        if field is not None:
            found.append(_parameter(schemas, field, "path"))
    if route.body != "*":
        bound = {each.partition(".")[0] for each in route.path_fields} | {route.body}
        found += [_parameter(schemas, each, "query") for each in request.fields if each.name not in bound]
    if route.method.writes:
        if "request_id" in request.fields_by_name:
            found.append(_shared(_IDEMPOTENCY_KEY))
        if _conditional(route):
            found.append(_shared(_IF_MATCH))
    if route.method.streams:
        found.append(_shared(_LAST_EVENT_ID))
    return found


def _shared(parameter: Schema) -> Schema:
    return {"$ref": f"#/components/parameters/{parameter['name']}"}


def _conditional(route: Route) -> bool:
    request = route.method.descriptor.input_type
    named = "etag" in request.fields_by_name or (route.verb == "PATCH" and resource_field(request) is not None)
    return route.method.writes and named


def _answers(schemas: Schemas, route: Route) -> dict[str, Any]:
    method = route.method
    finds = bool(route.path_fields or method.emits)
    failed = failures.answers(method, finds=finds, conditional=_conditional(route), body=bool(route.body))
    default = {"$ref": "#/components/responses/Error"}
    return {"200": _answer(schemas, method), **failed, "default": default}


def _parameter(schemas: Schemas, field: FieldDescriptor, place: str) -> Schema:
    schema = schemas.field(field)
    schema.pop("readOnly", None)
    parameter: Schema = {"name": field.name, "in": place, "description": schema.pop("description", "")}
    if place == "path":
        parameter["required"] = True
    if schema.get("type") == "array":
        parameter |= {"style": "form", "explode": True}
    return parameter | {"schema": schema}


def _answer(schemas: Schemas, method: Method) -> dict[str, Any]:
    reply = method.descriptor.output_type
    headers = {each: failures.header(each) for each in ("x-trace-id", "ratelimit", "ratelimit-policy")}
    if "etag" in reply.fields_by_name:
        headers["ETag"] = failures.header("etag")
    schema = schemas.message(reply)
    if method.streams:
        text = "Server-sent events. The `data` of each is this object, its `id` the replay id."
        return {"description": text, "headers": headers, "content": {"text/event-stream": {"schema": schema}}}
    return {"description": "Done.", "headers": headers, "content": {"application/json": {"schema": schema}}}
