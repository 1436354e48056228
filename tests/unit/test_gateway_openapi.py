"""The OpenAPI document is valid, whole, and says what the contract says."""

import json
from functools import cache
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from chassis.contract import load
from gateway.contract import routes
from gateway.openapi import encoded, path_of


@cache
def document() -> dict[str, Any]:
    whole: dict[str, Any] = json.loads(encoded(load(), routes(), "http://127.0.0.1:8080"))
    return whole


def operations() -> list[dict[str, Any]]:
    return [operation for verbs in document()["paths"].values() for operation in verbs.values()]


def test_it_is_valid_openapi() -> None:
    assert document()["openapi"].startswith("3.1")
    assert not list(OpenAPIV31SpecValidator(document()).iter_errors())


def test_every_route_is_in_it() -> None:
    for route in routes().all:
        operation = document()["paths"][path_of(route)][route.verb.lower()]
        assert operation["operationId"] == route.method.name
        assert operation["x-permission"] == route.method.permission
        assert operation["responses"]["default"] == {"$ref": "#/components/responses/Error"}
    assert len(operations()) == len(routes().all)


def test_everything_is_explained() -> None:
    assert not [each["operationId"] for each in operations() if not each["summary"]]
    schemas = document()["components"]["schemas"]
    assert not [name for name, schema in schemas.items() if not schema.get("description")]
    bare = [
        f"{name}.{field}"
        for name, schema in schemas.items()
        if not name.endswith("Patch") and name != "Error"
        for field, shown in schema.get("properties", {}).items()
        if not shown.get("description")
    ]
    assert not bare


def test_no_component_is_unused() -> None:
    text = json.dumps(document())
    unused = [name for name in document()["components"]["schemas"] if f'"#/components/schemas/{name}"' not in text]
    assert not unused


def test_limits_and_what_only_the_server_sets_are_told() -> None:
    contact = document()["components"]["schemas"]["Contact"]["properties"]
    assert contact["id"]["readOnly"]
    assert contact["given_name"]["maxLength"] == 200
    assert contact["emails"]["maxItems"] == 50
    parameters = {each["name"]: each for each in document()["paths"]["/v1/contacts"]["get"]["parameters"]}
    assert parameters["page_size"]["schema"] == {"type": "integer", "format": "int32", "minimum": 0}


@pytest.mark.parametrize(
    ("path", "verb", "good", "bad"),
    [
        ("/v1/deals", "post", {"display_name": "Acme"}, {}),
        ("/v1/deals/{id}", "patch", {"display_name": None}, {"display_name": 7}),
        ("/v1/contacts:batchCreate", "post", {"requests": [{"contact": {}}]}, {"requests": []}),
    ],
)
def test_bodies_are_told_apart(path: str, verb: str, good: object, bad: object) -> None:
    schema = document()["paths"][path][verb]["requestBody"]["content"]["application/json"]["schema"]
    check = Draft202012Validator({**schema, "components": document()["components"]})
    assert check.is_valid(good)
    assert not check.is_valid(bad)
