"""A search finds what its caller may see: its owners' records, by the fields that are not hidden from it."""

from __future__ import annotations

from chassis import contract
from tests.integration.access.restricted import ALL, HIDDEN, NONE, OWN, TEAM, House, Restricted

SEARCH = "/crm.internal.v1.SearchService/Search"


def found(who: Restricted, query: str) -> set[str]:
    """The ids of what a search in contacts finds."""
    return {each["id"] for each in who.call(SEARCH, {"query": query}, home="contacts")["results"]}


def test_records_of_other_owners_are_not_found(house: House) -> None:
    kind = contract.load().resources["contact"]
    owners = {"mine": house.me, "team": house.mate, "other": house.stranger, "nobody": ""}
    made = {name: house.make(kind, owner, display_name="Quentin Querulous")["id"] for name, owner in owners.items()}
    for query in ("quentin", "querulous quentin", "quentni querulous"):
        assert found(house.who(ALL), query) == set(made.values())
        assert found(house.who(TEAM), query) == {made["mine"], made["team"]}
        assert found(house.who(OWN), query) == {made["mine"]}
        assert found(house.who(NONE), query) == set()
    house.world.client.patch(f"/v1/contacts/{made['other']}", {"owner_id": house.me})
    assert found(house.who(OWN), "quentin") == {made["mine"], made["other"]}


def test_a_hidden_field_finds_nothing_and_is_not_shown(house: House) -> None:
    kind = contract.load().resources["contact"]
    made = house.make(kind, house.me, display_name="Hidden Hester", emails=[{"address": "secret.hester@x.example"}])
    blind = house.who(ALL, ("contact", "emails", HIDDEN))
    assert found(house.who(ALL), "secret.hester@x.ex") == {made["id"]}
    assert found(blind, "secret.hester@x.ex") == set()
    (seen,) = blind.call(SEARCH, {"query": "hester"}, home="contacts")["results"]
    assert not [fact for fact in seen["facts"] if "secret" in fact["value"]]
