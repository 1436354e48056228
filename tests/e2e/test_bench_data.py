"""Invented records are like any others: they read, list, report, change, match and rebuild."""

from __future__ import annotations

from typing import Any

import pytest

from chassis import ids
from deploy.local import control
from tests.bench.data import Filled, check_room, fill
from tests.bench.data_people import Size
from tests.running import Client, Running, until

ROWS = 60
PROJECTIONS = ("timeline_entries", "entry_subject", "entity_subject")


@pytest.fixture(scope="module")
def filled(platform: Running) -> Filled:
    """A small tenant."""
    return fill(platform.env, ROWS)


@pytest.fixture
def client(platform: Running, filled: Filled) -> Client:
    """Its administrator."""
    return platform.client(filled.api_key, filled.tenant)


def test_every_record_is_what_its_ledger_says(client: Client, filled: Filled) -> None:
    for prefix in filled.samples:
        for path in filled.paths(prefix)[:: ROWS // 4]:
            record = client.get(path)
            (first,) = client.get(f"{path}:listRevisions")["revisions"]
            assert record == first[prefix], path


def test_lists_hold_as_many_as_were_asked_for(client: Client, filled: Filled) -> None:
    for plural in ("contacts", "companies", "deals", "leads", "affiliations"):
        listed = client.get(f"/v1/{plural}", page_size=1000, order_by="display_name")[plural]
        assert len(listed) == len({each["id"] for each in listed}) == ROWS


def test_reports_count_what_there_is(client: Client, filled: Filled) -> None:
    assert int(client.get("/v1/reports/pipeline")["total"]["deal_count"]) == ROWS
    funnel = client.get("/v1/reports/funnel", split_by="FUNNEL_SPLIT_SOURCE")
    assert int(funnel["total"]["entered"]) == ROWS
    assert sum(int(group["entered"]) for group in funnel["groups"]) == ROWS


def test_a_record_goes_on_from_its_first_revision(client: Client, filled: Filled) -> None:
    contact = filled.samples["contact"][-1]
    changed = client.patch(f"/v1/contacts/{contact}", {"job_title": "Chair"})
    assert changed["etag"] == '"2"'
    revisions = client.get(f"/v1/contacts/{contact}:listRevisions")["revisions"]
    assert [int(each["revision"]["revision"]) for each in revisions] == [2, 1]
    until(lambda: "contact.updated" in kinds_of(client, contact), "the change on the timeline")
    assert kinds_of(client, contact)[-1:] != ["contact.updated"]


def kinds_of(client: Client, subject: str) -> list[str]:
    entries: list[dict[str, Any]] = client.get(f"/v1/timeline/{subject}")["entries"]
    return [each["kind"] for each in entries]


def test_an_upsert_finds_it_by_its_key(client: Client, filled: Filled) -> None:
    company = client.get(filled.paths("company")[-1])
    item = {"company": {"external_ids": company["external_ids"], "industry": "Music"}}
    (result,) = client.post("/v1/companies:batchUpsert", {"requests": [item]})["results"]
    assert (result["outcome"], result["company"]["id"]) == ("OUTCOME_UPDATED", company["id"])
    until(lambda: "company.updated" in kinds_of(client, company["id"]), "the change on the timeline")


def test_the_timeline_is_what_a_rebuild_makes(platform: Running, filled: Filled) -> None:
    def projected() -> list[set[tuple[Any, ...]]]:
        tables = (platform.rows("activities", filled.tenant, f"SELECT * FROM {name}") for name in PROJECTIONS)
        return [{tuple(row.values()) for row in rows} for rows in tables]

    before = projected()
    assert control.rebuild(platform.state, "timeline") == 0
    assert control.rebuild(platform.state, "funnel") == 0
    for name, was, now in zip(PROJECTIONS, before, projected(), strict=True):
        assert not was ^ now, name
    assert all(before)


def test_too_many_people_for_the_disk_are_refused(platform: Running, tmp_path: Any) -> None:
    with pytest.raises(SystemExit, match="GB free"):
        check_room(Size.of(10_000_000), tmp_path)


def test_ids_are_typeids_of_their_kind(filled: Filled) -> None:
    assert all(ids.decode(each)[0] == prefix for prefix, several in filled.samples.items() for each in several)
