"""The OpenAPI document is valid, whole, and says what the contract says."""

import ast
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from chassis.contract import Contract, load
from gateway import failures
from gateway.contract import published, routes
from gateway.openapi import encoded, path_of

ROOT = Path(__file__).parents[2]


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
    parameters = {each.get("name"): each for each in document()["paths"]["/v1/contacts"]["get"]["parameters"]}
    assert parameters["page_size"]["schema"] == {"type": "integer", "format": "int32", "minimum": 0}


@pytest.mark.parametrize(
    ("path", "verb", "good", "bad"),
    [
        ("/v1/deals", "post", {"display_name": "Acme"}, {}),
        ("/v1/deals/{id}", "patch", {"display_name": None}, {"display_name": 7}),
        ("/v1/contacts:batchCreate", "post", {"requests": [{"contact": {}}]}, {"requests": []}),
        ("/v1/leads", "post", {"owner_id": ""}, {"owner_id": "contact_01h455vb4pex5vsknk084sn02q"}),
        ("/v1/leads", "post", {"owner_id": "user_01h455vb4pex5vsknk084sn02q"}, {"owner_id": "user_1"}),
        ("/v1/contacts/{id}:revert", "post", {"revision": "1"}, {"revision": "1", "as_of": "2026-03-01T09:30:00Z"}),
        (
            "/v1/batch",
            "post",
            {"calls": [{"method": "GET", "path": "/v1/me"}]},
            {"calls": [{"method": "GET", "path": "me"}]},
        ),
    ],
)
def test_bodies_are_told_apart(path: str, verb: str, good: object, bad: object) -> None:
    schema = document()["paths"][path][verb]["requestBody"]["content"]["application/json"]["schema"]
    check = Draft202012Validator({**schema, "components": document()["components"]})
    assert check.is_valid(good)
    assert not check.is_valid(bad)


def test_what_a_batch_says_once_is_no_field_of_its_items() -> None:
    schemas = document()["components"]["schemas"]
    assert {"request_id", "validate_only"} <= set(schemas["BatchDeleteContactsRequest"]["properties"])
    assert not {"request_id", "validate_only"} & set(schemas["DeleteContactRequest"]["properties"])


def test_masks_have_examples_with_fields_of_their_own_records() -> None:
    parameters = {
        (operation["operationId"], each["name"]): each["schema"]["examples"][0]
        for operation in operations()
        for each in operation["parameters"]
        if each.get("name") in ("read_mask", "update_mask")
    }
    assert parameters["ListApiKeys", "read_mask"] == "id,update_time"
    assert parameters["UpdateTouch", "update_mask"] in document()["components"]["schemas"]["Touch"]["properties"]


@cache
def bodies_and_replies() -> list[tuple[str, dict[str, Any], object]]:
    found = []
    for operation in operations():
        for part in (operation.get("requestBody"), operation["responses"]["200"]):
            for content in part["content"].values() if part else ():
                name = content["examples"]["default"]["$ref"].rpartition("/")[2]
                example = document()["components"]["examples"][name]["value"]
                found.append((operation["operationId"], content["schema"], example))
    return found


def test_every_body_and_every_reply_has_an_example_that_fits_it() -> None:
    assert len(bodies_and_replies()) >= len(operations())
    for name, schema, example in bodies_and_replies():
        check = Draft202012Validator({**schema, "components": document()["components"]})
        assert not [f"{name}: {each.json_path}: {each.message}" for each in check.iter_errors(example)]


def test_every_operation_tells_the_errors_it_can_answer_with() -> None:
    responses = document()["components"]["responses"]
    for operation in operations():
        told = set(operation["responses"])
        assert told >= {"400", "401", "403", "429", "503", "504"}
        assert {"$ref": "#/components/parameters/If-Match"} not in operation["parameters"] or "412" in told
    check = Draft202012Validator({"$ref": "#/components/schemas/Error", "components": document()["components"]})
    for name, response in responses.items():
        assert {"ratelimit", "ratelimit-policy"} <= set(response["headers"])
        assert name == "Error" or check.is_valid(response["content"]["application/json"]["example"])
    assert "retry-after" in responses["Exhausted"]["headers"]


def test_generators_of_grpc_clients_get_every_public_method_and_all_it_needs() -> None:
    image = published(load())
    given = Contract(image)  # fails where a file is missing
    assert {each.path for each in given.methods.values()} == {each.method.path for each in routes().all}
    assert b"crm.internal" not in image


def test_it_stays_small_enough_to_be_loaded_by_a_page() -> None:
    assert len(encoded(load(), routes(), "http://127.0.0.1:8080")) < 2_000_000


def test_every_reason_that_the_code_gives_is_told_of() -> None:
    given = {
        node.attr.removeprefix("REASON_")
        for tree in ("chassis", "gateway", "services")
        for path in (ROOT / tree).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and node.attr.startswith("REASON_")
    }
    assert len(given) > 30
    assert given - failures.reasons() == failures.UNTOLD
