"""Records are found by what they are called and how they are reached, by whom they belong to, as soon as written."""

from __future__ import annotations

from typing import Any

import pytest

from tests.running import Client, Running


@pytest.fixture(scope="module")
def client(platform: Running) -> Client:
    """A tenant with a few people, a company and deals."""
    made = platform.tenant("Search")
    for given, family in (("Ana", "Silva"), ("Ana Paula", "Silva"), ("Silvana", "Anastácio"), ("Zoë", "O'Brien")):
        made.post("/v1/contacts", {"given_name": given, "family_name": family})
    made.post(
        "/v1/contacts",
        {
            "display_name": "João Gonçalves",
            "emails": [{"address": "joao.goncalves@acme.example"}],
            "phones": [{"number": "+55 11 98765-4321"}],
            "external_ids": [{"system": "olist", "id": "OL-77123"}],
        },
    )
    made.post("/v1/companies", {"display_name": "Acme Brasil Ltda", "domain": "acme.example"})
    made.post("/v1/deals", {"display_name": "Acme renewal", "amount": {"currency_code": "EUR", "units": "1200"}})
    return made


def found(client: Client, query: str, **more: Any) -> list[str]:
    """The titles of what a query finds, the best first."""
    answer = client.get("/v1/search", query=query, **more)
    assert not answer["missing"], answer
    return [each["title"] for each in answer["results"]]


@pytest.mark.parametrize(
    "query",
    [
        "João Gonçalves", "goncalves joao", "JOAO", "gonç", "joao.goncalves@acme", "JOAO.GONCALVES@ACME.EXAMPLE",
        "+55 11 98765-4321", "5511987", "(11) 98765", "011 98765", "ol-77123", "OL-77",
        "Gonçavles", "goncalvs joao", "Jaoo", "gonzalves",
    ],
)  # fmt: skip
def test_a_person_is_found_by_name_address_number_and_foreign_id_and_with_typing_errors(
    client: Client, query: str
) -> None:
    assert found(client, query)[0] == "João Gonçalves"


def test_what_is_called_just_so_comes_before_what_begins_so_and_that_before_what_has_the_words(client: Client) -> None:
    assert found(client, "ana silva") == ["Ana Silva", "Ana Paula Silva", "Silvana Anastácio"]
    assert found(client, "obrien") == found(client, "o'brien") == ["Zoë O'Brien"]


def test_of_equal_results_the_last_changed_comes_first(client: Client) -> None:
    made = [client.post("/v1/contacts", {"display_name": "Equal Twin"})["id"] for _ in range(3)]
    client.patch(f"/v1/contacts/{made[0]}", {"job_title": "changed last"})
    results = client.get("/v1/search", query="equal twin")["results"]
    assert [each["id"] for each in results] == [made[0], made[2], made[1]]


def test_beginnings_of_several_words_follow_where_the_very_words_do_not_fill_the_answer(client: Client) -> None:
    for name in ("Berta Querfeld", "Bertal Querfeldt", "Berta Querfeld"):
        client.post("/v1/contacts", {"display_name": name})
    very, beginning = "Berta Querfeld", "Bertal Querfeldt"
    assert found(client, "berta querfeld", page_size=2) == [very, very]
    assert found(client, "berta querfeld", page_size=3) == [very, very, beginning]
    assert found(client, "ber quer", page_size=3) == [very, beginning, very]


def test_a_result_says_what_matched_and_what_the_record_is(client: Client) -> None:
    company, deal = client.get("/v1/search", query="acme", types=["company", "deal"])["results"]
    assert {company["type"], deal["type"]} == {"company", "deal"}
    deal = next(each for each in (company, deal) if each["type"] == "deal")
    assert (deal["field"], deal["snippet"]) == ("display_name", "Acme renewal")
    assert {"field": "amount", "value": "1200.00 EUR"} in deal["facts"]
    (contact,) = client.get("/v1/search", query="ol-77")["results"]
    assert (contact["field"], contact["snippet"]) == ("external_ids.id", "OL-77123")
    assert {"field": "emails.address", "value": "joao.goncalves@acme.example"} in contact["facts"]


def test_types_narrow_and_an_unknown_type_is_refused(client: Client) -> None:
    assert found(client, "acme", types="company") == ["Acme Brasil Ltda"]
    refused = client.http.get("/v1/search", params={"query": "acme", "types": "invoice"})
    assert refused.status_code == 400
    assert "types[0]" in refused.text


def test_the_index_follows_every_write(client: Client) -> None:
    made = client.post("/v1/contacts", {"display_name": "Wilhelmina Vogelsang"})
    path = f"/v1/contacts/{made['id']}"
    assert found(client, "vogelsang") == ["Wilhelmina Vogelsang"]
    client.patch(path, {"display_name": "Wilhelmina Nachtigall"})
    assert found(client, "vogelsang") == []
    assert found(client, "nachtigal wilhelmina") == ["Wilhelmina Nachtigall"]
    client.http.delete(path).raise_for_status()
    assert found(client, "nachtigall") == []
    client.post(f"{path}:undelete", {})
    assert found(client, "nachtigall") == ["Wilhelmina Nachtigall"]
    requests = [{"contact": {"display_name": f"Batch Member {number}"}} for number in range(30)]
    client.post("/v1/contacts:batchCreate", {"requests": requests})
    assert len(found(client, "batch member", page_size=100)) == 30
    assert found(client, "member btach 17") == ["Batch Member 17"]


def test_another_tenant_finds_nothing_of_it(platform: Running, client: Client) -> None:
    other = platform.tenant("Search elsewhere")
    for query in ("ana silva", "joao.goncalves@acme.example", "gonçavles", "5511987654321"):
        assert found(other, query) == []
    other.post("/v1/contacts", {"display_name": "Ana Silva"})
    assert found(other, "ana silva") == ["Ana Silva"]


def test_only_kinds_that_the_caller_may_read_are_found(platform: Running, client: Client) -> None:
    def with_scopes(*scopes: str) -> Client:
        key = client.post("/v1/api_keys", {"display_name": "narrow", "scopes": list(scopes)})
        return platform.client(key["secret"], client.tenant)

    narrow = with_scopes("search.read", "deals.read")
    assert found(narrow, "acme") == ["Acme renewal"]
    assert found(narrow, "acme", types="contact") == []
    assert with_scopes("deals.read").http.get("/v1/search", params={"query": "acme"}).status_code == 403


@pytest.mark.parametrize("query", ["", " ", "%", "'; drop", "\u0301", "a" * 200, "((((", "+", "日本", "_", "\\"])
def test_any_text_is_a_query(client: Client, query: str) -> None:
    answer = client.http.get("/v1/search", params={"query": query})
    assert answer.status_code == (400 if query == "" else 200), answer.text
