"""Routes come from the contract alone: each method at its own path, and nothing else anywhere."""

from typing import Any

import pytest

from chassis.contract import load
from chassis.errors import Failure, Invalid, NotFound, Unimplemented
from gateway.contract import routes


def test_every_public_method_is_found_at_its_own_path() -> None:
    contract = load()
    public = {method.path for method in contract.methods.values() if not method.internal}
    found = {route.method.path for route in routes().all}
    assert found == public
    for route in routes().all:
        path = route.template
        for field in route.path_fields:
            path = path.replace(f"{{{field}}}", "thing_01h455vb4pex5vsknk084sn02q")
        hit, values = routes().find(route.verb, path)
        assert hit is route
        assert values == dict.fromkeys(route.path_fields, "thing_01h455vb4pex5vsknk084sn02q")


def test_internal_methods_have_no_path() -> None:
    assert not [route for route in routes().all if route.method.internal]
    with pytest.raises(NotFound):
        routes().find("POST", "/crm.internal.v1.LedgerService/ReadChanges")


@pytest.mark.parametrize(
    ("verb", "path"),
    [
        ("GET", "/"),
        ("GET", "/v1"),
        ("GET", "/v1/"),
        ("GET", "/v1/contacts/"),
        ("GET", "/v1//contacts"),
        ("GET", "/v1/contacts/a/b"),
        ("GET", "/v1/contacts/a:frobnicate"),
        ("GET", "/v1/contacts:frobnicate"),
        ("GET", "/V1/contacts"),
        ("GET", "/v2/contacts"),
        ("GET", "/v1/contacts/../contacts"),
    ],
)
def test_unknown_paths_are_not_found(verb: Any, path: Any) -> None:
    with pytest.raises(NotFound) as caught:
        routes().find(verb, path)
    assert caught.value.reason_name == "METHOD_UNKNOWN"


def test_a_near_miss_is_named() -> None:
    with pytest.raises(NotFound, match="did you mean /v1/contacts"):
        routes().find("GET", "/v1/contact")


@pytest.mark.parametrize(
    ("verb", "path", "allowed"),
    [
        ("PUT", "/v1/contacts", "GET, POST"),
        ("POST", "/v1/contacts/x", "DELETE, GET, PATCH"),
        ("GET", "/v1/deals/x:win", "POST"),
        ("TRACE", "/v1/deals", "GET, POST"),
    ],
)
def test_a_wrong_http_method_says_which_are_right(verb: Any, path: Any, allowed: Any) -> None:
    with pytest.raises(Unimplemented) as caught:
        routes().find(verb, path)
    assert caught.value.reason_name == "HTTP_METHOD_NOT_ALLOWED"
    assert caught.value.metadata == {"allow": allowed}


def test_path_values_are_decoded_once() -> None:
    _, values = routes().find("GET", "/v1/contacts/a%2Fb%2520c")
    assert values == {"id": "a/b%20c"}
    with pytest.raises(Invalid):
        routes().find("GET", "/v1/contacts/%ff")


def test_every_failure_is_one_of_ours() -> None:
    for path in ("\0", "/v1/\0", "/" * 5000, "/v1/" + "a" * 10000):
        with pytest.raises(Failure) as caught:
            routes().find("GET", path)
        assert len(caught.value.message) < 200
