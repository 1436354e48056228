"""The real journey: real leads and customers through the documented commands, with the figures that must come out.

Undisturbed, and again while the broker dies, loses its store, or a service is killed: the same figures, nothing twice.
"""

from __future__ import annotations

import csv
import functools
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from deploy.local import control
from deploy.local.parts import CHECKOUT
from tests.running import Client, Running, until

DATA = os.environ.get("RAPPORT_SAMPLE_DATA", "")
pytestmark = [
    pytest.mark.skipif(
        not (Path(DATA) / "olist").is_dir(), reason="RAPPORT_SAMPLE_DATA names no folder with olist/ and crm_sales/"
    ),
    pytest.mark.timeout(600),
]
PATIENCE_S = 120.0
# The answers are whole reports and ledgers: asking too often would slow down what is waited for.
EVERY_S = 1.0

# Won, leads, the rate of the rest and what must be said of it, computed straight from the files.
ORIGINS = {
    "social": (75, 1350, "WORSE"),
    "email": (15, 493, "WORSE"),
    "other": (4, 150, "WORSE"),
    "display": (6, 118, "NOT_DIFFERENT"),
    "other_publicities": (3, 65, "NOT_DIFFERENT"),
    "referral": (24, 284, "NOT_DIFFERENT"),
    "direct_traffic": (56, 499, "NOT_DIFFERENT"),
    "organic_search": (271, 2296, "BETTER"),
    "paid_search": (195, 1586, "BETTER"),
    "unknown": (179, 1099, "BETTER"),
    None: (14, 60, "BETTER"),
}
COSTS = [("social", "80.7"), ("email", "39.3"), ("other", "12.0")]
# As the data's description rounds them.
ADJUSTED_P = {
    "display": "0.072", "other_publicities": "0.15", "referral": "0.27", "direct_traffic": "0.60",
    "organic_search": "0.028", "paid_search": "0.019", "other": "0.003", None: "0.003",
}  # fmt: skip


def documented(heading: str) -> list[str]:
    """The commands that the README shows under a heading."""
    section = (CHECKOUT / "README.md").read_text().split(f"{heading}\n", 1)[1].split("\n## ", 1)[0]
    blocks = re.findall(r"```console\n(.*?)```", section, re.DOTALL)
    text = "\n".join(blocks).replace("\\\n", " ")
    return [line[2:] for line in text.splitlines() if line.startswith("$ ")]


def environment(platform: Running, client: Client) -> dict[str, str]:
    return os.environ | {
        "RAPPORT_URL": client.url,
        "RAPPORT_API_KEY": client.key,
        "RAPPORT_TRACES_URL": platform.env["RAPPORT_TRACES_URL"],
        "RAPPORT_SAMPLE_DATA": DATA,
    }


def start(platform: Running, client: Client, command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", "-c", command], cwd=CHECKOUT, env=environment(platform, client), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def finish(running: subprocess.Popen[str]) -> str:
    output, _ = running.communicate(timeout=400)
    assert running.returncode == 0, output
    return output


def run(platform: Running, client: Client, command: str) -> str:
    return finish(start(platform, client, command))


def leads(heading: str) -> list[str]:
    return [each for each in documented(heading) if " import " in each and "olist" in each]


def pipeline(heading: str) -> list[str]:
    return [each for each in documented(heading) if " import " in each and "crm_sales" in each]


HEADING = "## With real data"


def entries_match_ledgers(platform: Running, client: Client) -> bool:
    """Whether the timeline holds each change of the tenant exactly once."""
    events: list[str] = []
    for service in ("contacts", "sales", "marketing", "activities", "gateway"):
        rows = platform.rows(
            service, client.tenant,
            "SELECT event_id::text AS id FROM ledger WHERE type !~ '^crm[.]gateway[.]v1[.](Tenant|ApiKey)[.]'",
        )  # fmt: skip
        events += [row["id"] for row in rows]
    shown = platform.rows(
        "activities", client.tenant,
        "SELECT event_id::text AS id FROM timeline_entries"
        " WHERE type !~ '^crm[.]gateway[.]v1[.](Tenant|ApiKey)[.]'",
    )  # fmt: skip
    return sorted(events) == sorted(row["id"] for row in shown)


def check_funnel(report: dict[str, Any]) -> None:
    """The funnel by origin is the one that was computed straight from the files."""
    total = report["total"]
    assert (int(total["entered"]), int(total["converted"])) == (8000, 842)
    found = {
        group.get("key"): (
            int(group["converted"]),
            int(group["entered"]),
            group["verdict"].removeprefix("FUNNEL_VERDICT_"),
        )
        for group in report["groups"]
    }
    assert found == ORIGINS
    assert {group["test"] for group in report["groups"]} == {"FUNNEL_TEST_TWO_PROPORTION_Z"}
    bottlenecks = [(each.get("key"), f"{each['lost_conversions']:.1f}") for each in report["bottlenecks"]]
    assert bottlenecks == COSTS
    found_p = {group.get("key"): group["adjusted_p_value"] for group in report["groups"]}
    for key, shown in ADJUSTED_P.items():
        assert f"{found_p[key]:.{len(shown) - 2}f}" == shown, key
    whole = next(step for step in total["steps"] if step["kind"].endswith("LEAD_TO_WON"))
    assert float(whole["median_duration"].rstrip("s")) / 86_400 == pytest.approx(14.72, abs=0.005)
    assert int(whole["negative_count"]) == 1


def check_pipeline(platform: Running, client: Client) -> None:
    """The pipeline's figures are those of the files, to the cent."""
    report = json.loads(run(platform, client, "bin/rapport pipeline --pipeline Hardware --json"))
    by_stage = {group["stage_display_name"]: int(group["deal_count"]) for group in report["groups"]}
    assert by_stage == {"Prospecting": 500, "Engaging": 1589, "Won": 4238, "Lost": 2473}
    total = report["total"]
    assert f"{100 * total['win_rate']:.2f}" == "63.15"
    (amounts,) = total["amounts"]
    won = amounts["won_amount"]
    assert Decimal(won["units"]) + Decimal(won.get("nanos", 0)) / 10**9 == Decimal(10_005_534)


def funnel_when_complete(client: Client) -> dict[str, Any]:
    def complete() -> dict[str, Any] | None:
        report = client.get("/v1/reports/funnel", split_by="FUNNEL_SPLIT_SOURCE")
        counts = (int(report["total"]["entered"]), int(report["total"]["converted"]))
        return report if counts == (8000, 842) else None

    found: dict[str, Any] = until(complete, "8,000 leads and 842 wins count in the funnel", PATIENCE_S, EVERY_S)
    return found


def rows_in(platform: Running, client: Client, table: str) -> int:
    return int(platform.rows("sales", client.tenant, f"SELECT count(*) AS n FROM {table}")[0]["n"])


def _has(platform: Running, client: Client, table: str, count: int) -> bool:
    return rows_in(platform, client, table) >= count


def kill_nats(platform: Running) -> None:
    control.restart(platform.state, "nats", signal.SIGKILL)


def wipe_nats(platform: Running) -> None:
    control.wipe_nats(platform.state)


def kill_sales(platform: Running) -> None:
    control.kill(platform.state, "sales")


def import_disturbed(platform: Running, client: Client, command: str, disturb: Callable[[Running], None]) -> None:
    """Runs an import and disturbs the platform when a good part of it is in."""
    running = start(platform, client, command)
    table, enough = ("deals", 200) if "closed_deals" in command else ("leads", 2000)
    if "sales_pipeline" in command:
        table, enough = "deals", 2000
    until(functools.partial(_has, platform, client, table, enough), "the import is under way", every_s=0.2)
    disturb(platform)
    finish(running)


@pytest.mark.parametrize(
    "disturb",
    [
        pytest.param(wipe_nats, marks=pytest.mark.line(45)),
        pytest.param(kill_nats, marks=pytest.mark.line(45, nightly=True)),
    ],
)
def test_a_broker_that_fails_in_the_middle_changes_no_figure(
    platform: Running, disturb: Callable[[Running], None]
) -> None:
    client = platform.tenant("Disturbed pipeline")
    *before, deals = pipeline(HEADING)
    for command in before:
        run(platform, client, command)
    import_disturbed(platform, client, deals, disturb)
    check_pipeline(platform, client)
    assert rows_in(platform, client, "deals") == 8800
    until(lambda: entries_match_ledgers(platform, client), "the timeline holds each change once", PATIENCE_S, EVERY_S)
    control.wait_ready(platform.state)


@pytest.mark.line(45, nightly=True)
def test_a_service_that_is_killed_in_the_middle_changes_no_figure(platform: Running) -> None:
    client = platform.tenant("Disturbed leads")
    for command in leads(HEADING):
        import_disturbed(platform, client, command, kill_sales)
    check_funnel(funnel_when_complete(client))
    assert rows_in(platform, client, "leads") == 8000
    assert rows_in(platform, client, "deals") == 842
    until(lambda: entries_match_ledgers(platform, client), "the timeline holds each change once", PATIENCE_S, EVERY_S)
    control.wait_ready(platform.state)


@pytest.fixture(scope="module")
def imported(platform: Running) -> tuple[Running, Client]:
    """A tenant into which every command of the README was run, in its order."""
    client = platform.tenant("Journey")
    for command in documented(HEADING):
        if " import " in command:
            run(platform, client, command)
    return platform, client


def test_the_funnel_shows_where_marketing_wins_and_loses(imported: tuple[Running, Client]) -> None:
    platform, client = imported
    check_funnel(funnel_when_complete(client))
    shown = run(platform, client, "bin/rapport funnel --by source")
    assert "(empty)" in shown
    assert shown.index("80.7") < shown.index("39.3") < shown.index("12.0")


def test_the_pipeline_is_the_files_to_the_cent(imported: tuple[Running, Client]) -> None:
    check_pipeline(*imported)


def test_landing_pages_with_few_leads_are_tested_exactly(imported: tuple[Running, Client]) -> None:
    _, client = imported
    funnel_when_complete(client)
    report = client.get("/v1/reports/funnel", split_by="FUNNEL_SPLIT_LANDING_PAGE")
    tests = [group["test"] for group in report["groups"]]
    assert len(tests) == 495
    assert tests.count("FUNNEL_TEST_FISHER_EXACT") == 468


def test_every_change_shows_once_on_the_timeline(imported: tuple[Running, Client]) -> None:
    platform, client = imported
    until(lambda: entries_match_ledgers(platform, client), "the timeline holds each change once", PATIENCE_S, EVERY_S)


def test_a_won_leads_timeline_reads_in_the_order_of_its_times(imported: tuple[Running, Client]) -> None:
    platform, client = imported
    until(lambda: entries_match_ledgers(platform, client), "the timeline is complete", PATIENCE_S, EVERY_S)
    wins = {row["mql_id"]: row["won_date"] for row in _csv("olist/closed_deals.csv")}
    firsts = {row["mql_id"]: row["first_contact_date"] for row in _csv("olist/marketing_qualified_leads.csv")}
    (early,) = (each for each, won in wins.items() if won[:10] < firsts[each])
    for key in [early, *list(wins)[:20]]:
        (lead,) = client.get("/v1/leads", filter=f'external_ids.id = "{key}"')["leads"]
        page = client.get(f"/v1/timeline/{lead['id']}", ascending="true")
        times = [entry["occur_time"] for entry in page["entries"]]
        assert times == sorted(times)
        steps = [entry["kind"] for entry in page["entries"]]
        wanted = [each for each in steps if each in ("lead.created", "lead.converted", "deal.won")]
        if key == early:
            assert sorted(wanted) == ["deal.won", "lead.converted", "lead.created"]
            assert wanted[-1] == "lead.created"
        else:
            assert wanted == ["lead.created", "lead.converted", "deal.won"]


def _csv(name: str) -> list[dict[str, str]]:
    with (Path(DATA) / name).open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_same_import_again_makes_nothing_new(imported: tuple[Running, Client]) -> None:
    platform, client = imported
    count = "SELECT count(*) AS n FROM ledger"
    before = {each: platform.rows(each, client.tenant, count) for each in ("contacts", "sales", "gateway")}
    for command in (leads(HEADING)[0], pipeline(HEADING)[-1]):
        assert " 0 created, 0 updated," in run(platform, client, command)
    assert {each: platform.rows(each, client.tenant, count) for each in before} == before
