"""The command line against the running platform: files become records once, and what is in can be read."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.running import Client, Running, until

CHECKOUT = Path(__file__).resolve().parents[2]
Rapport = Callable[..., Any]

LEADS = """id,first contact,origin,page,company
l1,2018-02-01,social,p1,Acme
l2,2018-02-02,unknown,p1,Acme
l3,2018-02-03,,p2,
l4,2018-02-04,email,p2,
"""
DEALS = """id,rep,product,account,stage,opened,closed,value
d1,Ana Sá,GTX Pro,Acme,Won,2017-01-02,2017-03-01,1054
d2,Ana Sá,GTXPro,Acme,Lost,2017-01-02,2017-02-01,0
d3,Rui,GTX Pro,,Engaging,2017-01-05,,
d4,Rui,GTX Pro,Acme,Prospecting,,,
"""
PIPELINE = ("--pipeline", "Hardware", "--stages", "Prospecting,Engaging,Won:won,Lost:lost")
LEADS_MAP = ("--map", "external_id=id", "--map", "occur_time=first contact", "--map", "source=origin",
             "--map", "landing_page=page", "--map", "company_name=company", "--system", "shop",
             "--time-zone", "America/Sao_Paulo")  # fmt: skip
DEALS_MAP = ("--map", "external_id=id", "--map", "owner=rep", "--map", "company=account", "--map", "occur_time=opened",
             "--map", "close_time=closed", "--map", "amount=value", "--currency", "USD", "--system", "shop",
             "--create-owners", *PIPELINE)  # fmt: skip


def command(client: Client, platform: Running) -> tuple[list[str], dict[str, str]]:
    """How to start `rapport` as this client."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("RAPPORT_")}
    environment = {
        **inherited,
        "PYTHONPATH": f"{CHECKOUT}:{CHECKOUT / 'gen'}",
        "RAPPORT_URL": client.url,
        "RAPPORT_API_KEY": client.key,
        "RAPPORT_TRACES_URL": platform.env["RAPPORT_TRACES_URL"],
    }
    return [sys.executable, "-m", "cli"], environment


@pytest.fixture
def tenant(platform: Running, request: pytest.FixtureRequest) -> Client:
    """A tenant of the test's own."""
    return platform.tenant(request.node.name)


@pytest.fixture
def rapport(platform: Running, tenant: Client, tmp_path: Path) -> Rapport:
    """Runs a command as the tenant. Gives its output, parsed where it is JSON; fails where the exit code differs."""
    program, environment = command(tenant, platform)

    def run(*arguments: str, code: int = 0) -> Any:
        ended = subprocess.run(
            [*program, *arguments], capture_output=True, text=True, timeout=90, env=environment, cwd=tmp_path
        )
        assert ended.returncode == code, ended.stderr or ended.stdout
        assert "Traceback" not in ended.stderr
        if "--json" in arguments and code != 2:
            return json.loads(ended.stdout)
        return ended.stdout + ended.stderr

    return run


def counts(summary: dict[str, Any]) -> tuple[int, int, int, int]:
    return summary["created"], summary["updated"], summary["unchanged"], summary["failed"]


def test_the_same_file_again_changes_nothing(rapport: Rapport, tmp_path: Path, tenant: Client) -> None:
    (tmp_path / "leads.csv").write_text(LEADS)
    arguments = ("import", "leads", "leads.csv", *LEADS_MAP, "--json")
    assert counts(rapport(*arguments, "--dry-run")) == (4, 0, 0, 0)
    assert tenant.get("/v1/leads")["leads"] == []
    assert counts(rapport(*arguments)) == (4, 0, 0, 0)
    assert counts(rapport(*arguments)) == (0, 0, 4, 0)
    (tmp_path / "leads.csv").write_text(LEADS.replace("email", "referral"))
    assert counts(rapport(*arguments, "--batch", "1")) == (0, 1, 3, 0)
    found = rapport("list", "leads", "--order-by", "open_time", "--json")
    assert [lead.get("source") for lead in found] == ["social", "unknown", None, "referral"]
    assert found[0]["open_time"] == "2018-02-01T02:00:00Z"


def test_a_failed_row_is_corrected_in_its_own_file(rapport: Rapport, tmp_path: Path, tenant: Client) -> None:
    (tmp_path / "leads.csv").write_text("id,mail,source\n1,ana@example.com,web\n2,nonsense,web\n3,rui@example.com\n")
    arguments = ("--map", "external_id=id", "--map", "email=mail", "--system", "shop", "--json")
    first = rapport("import", "leads", "leads.csv", *arguments, code=1)
    assert counts(first) == (1, 0, 0, 2)
    failed = tmp_path / "leads.csv.errors.csv"
    lines = failed.read_text().splitlines()
    assert lines[0] == "_error,_line,id,mail,source"
    assert [line.split(",")[-3:] for line in lines[1:2]] == [["2", "nonsense", "web"]]
    assert "has 2 cells where the header has 3" in lines[2]
    assert "email" in lines[1]
    failed.write_text(
        failed.read_text().replace("nonsense,web", "zo@example.com,web").replace("rui@example.com", "rui@example.com,")
    )
    assert counts(rapport("import", "leads", failed.name, *arguments)) == (2, 0, 0, 0)
    assert counts(rapport("import", "leads", failed.name, *arguments)) == (0, 0, 2, 0)
    assert len(tenant.get("/v1/leads")["leads"]) == 3


@pytest.mark.parametrize(
    "content",
    [
        b"id,source\n1,S\xe3o\n2,Jo\xc3\xa3o\n",
        b"id,id\n1,2\n",
        b'id,source\n1,web\n2,"open\n',
        b"",
        b"id,source\n1,\x00\n",
    ],
    ids=["broken encoding", "duplicate headers", "open quote", "empty", "NUL"],
)
def test_a_file_that_cannot_be_read_to_its_end_writes_nothing(
    rapport: Rapport, tmp_path: Path, tenant: Client, content: bytes
) -> None:
    (tmp_path / "leads.csv").write_bytes(content)
    said = rapport("import", "leads", "leads.csv", "--map", "external_id=id", code=1)
    assert said.startswith("rapport: leads.csv")
    assert tenant.get("/v1/leads")["leads"] == []


def test_deals_come_in_with_stages_owners_and_quirks_told(rapport: Rapport, tmp_path: Path, tenant: Client) -> None:
    (tmp_path / "companies.csv").write_text("name\nAcme\n")
    (tmp_path / "products.csv").write_text("name,price\nGTX Pro,4821\n")
    (tmp_path / "deals.csv").write_text(DEALS)
    named = ("--map", "external_id=name", "--map", "display_name=name", "--system", "shop")
    rapport("import", "companies", "companies.csv", *named)
    rapport("import", "products", "products.csv", *named, "--map", "unit_price=price", "--currency", "USD")
    first = rapport("import", "deals", "deals.csv", *DEALS_MAP, "--json", code=1)
    assert counts(first) == (3, 0, 0, 1)
    assert first["unknown"] == {"product": {"GTXPro": 1}}
    assert first["made"] == {"users": 2}
    assert {remark["text"].partition(":")[0]: remark["rows"] for remark in first["remarks"]} == {
        "deals without a company": 1,
        "deals without an opening time": 1,
    }
    again = ("import", "deals", "deals.csv", *DEALS_MAP, "--value", "product:GTXPro=GTX Pro", "--json")
    assert counts(rapport(*again)) == (1, 0, 3, 0)
    assert counts(rapport(*again)) == (0, 0, 4, 0)
    report = rapport("pipeline", "--pipeline", "Hardware", "--json")
    stages = {group["stage_display_name"]: int(group["deal_count"]) for group in report["groups"]}
    assert stages == {"Prospecting": 1, "Engaging": 1, "Won": 1, "Lost": 1}
    assert report["total"]["win_rate"] == 0.5
    assert report["total"]["amounts"][0]["won_amount"]["units"] in ("1054", 1054)
    assert "Ana Sá" in rapport("pipeline", "--pipeline", "Hardware", "--by", "owner")
    assert "Acme — GTX Pro" in rapport("list", "deals")
    assert "has other stages" in rapport("import", "deals", "deals.csv", *DEALS_MAP[:-1], "A,B:won,C:lost", code=1)
    won = tenant.get("/v1/deals", filter="state = DEAL_STATE_WON")["deals"]
    assert [(deal["open_time"], deal["close_time"]) for deal in won] == [
        ("2017-01-02T00:00:00Z", "2017-03-01T00:00:00Z")
    ]


def test_rows_convert_their_leads_and_the_history_reads_in_order(rapport: Rapport, tmp_path: Path) -> None:
    (tmp_path / "leads.csv").write_text(LEADS)
    (tmp_path / "won.csv").write_text("lead,when,who,worth\nl1,2018-02-26 19:58:54,Ana,0.0\nl9,2018-02-27,Ana,5\n")
    rapport("import", "leads", "leads.csv", *LEADS_MAP)
    arguments = (
        "import", "deals", "won.csv", "--system", "shop", "--time-zone", "America/Sao_Paulo", "--currency", "BRL",
        "--map", "lead=lead", "--map", "external_id=lead", "--map", "occur_time=when", "--map", "owner=who",
        "--map", "amount=worth", "--won", "--convert-leads", "--create-owners", "--json",
    )  # fmt: skip
    assert counts(rapport(*arguments, code=1)) == (1, 0, 0, 1)
    assert counts(rapport(*arguments, code=1)) == (0, 0, 1, 1)
    (deal,) = rapport("list", "deals", "--json")
    assert (deal["state"], deal["close_time"]) == ("DEAL_STATE_WON", "2018-02-26T22:58:54Z")
    assert (deal["amount"]["currency_code"], int(deal["amount"].get("units", 0))) == ("BRL", 0)
    lead_id = deal["lead_id"]

    def whole() -> list[dict[str, Any]] | None:
        entries: list[dict[str, Any]] = rapport("timeline", lead_id, "--ascending", "--json")
        kinds = {entry["kind"] for entry in entries}
        return entries if {"lead.created", "lead.converted", "deal.won"} <= kinds else None

    entries = until(whole, "the whole timeline")
    kinds = [entry["kind"] for entry in entries]
    assert kinds.index("lead.created") < kinds.index("lead.converted") < kinds.index("deal.won")
    assert len({entry["event_id"] for entry in entries}) == len(entries)
    assert "deal.won" in rapport("timeline", lead_id, "--kind", "deal.won")
    converted = next(entry for entry in entries if entry["kind"] == "lead.converted")
    trace = rapport("trace", converted["trace_id"], "--json")
    assert {"gateway", "sales", "contacts"} <= {span["service"] for span in trace["spans"]}
    assert "sales" in rapport("trace", converted["trace_id"])
    funnel = until(
        lambda: (
            (found := rapport("funnel", "--by", "source", "--json"))["total"].get("converted") in ("1", 1) and found
        ),
        "the funnel with its customer",
    )
    assert {group.get("key") for group in funnel["groups"]} == {"social", "unknown", "email", None}
    assert "(empty)" in rapport("funnel", "--by", "source")


def test_contacts_are_linked_to_their_companies(rapport: Rapport, tmp_path: Path, tenant: Client) -> None:
    (tmp_path / "companies.csv").write_text("name\nAcme\n")
    (tmp_path / "people.csv").write_text(
        "mail,tel,org,job\nana@example.com,+351912345678,Acme,buyer\nrui@example.com,,,\n"
    )
    rapport("import", "companies", "companies.csv", "--map", "external_id=name", "--map", "display_name=name")
    arguments = ("import", "contacts", "people.csv", "--map", "emails.address=mail", "--map", "phones.number=tel",
                 "--map", "company=org", "--map", "role=job", "--json")  # fmt: skip
    assert counts(rapport(*arguments)) == (2, 0, 0, 0)
    assert counts(rapport(*arguments)) == (0, 0, 2, 0)
    (link,) = tenant.get("/v1/affiliations")["affiliations"]
    assert link["role"] == "buyer"


def test_an_interrupted_import_goes_on_where_it_was(
    rapport: Rapport, tmp_path: Path, tenant: Client, platform: Running
) -> None:
    # A shell's background job hands SIGINT down ignored; the program is started as from a terminal.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    rows = 2_000
    (tmp_path / "leads.csv").write_text("id,source\n" + "".join(f"{number},web\n" for number in range(rows)))
    program, environment = command(tenant, platform)
    arguments = ("import", "leads", "leads.csv", "--map", "external_id=id", "--batch", "50", "--json")
    with subprocess.Popen(
        [*program, *arguments], env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as running:
        until(lambda: tenant.get("/v1/leads", page_size=1)["leads"], "the first leads")
        running.send_signal(signal.SIGINT)
        output, _ = running.communicate(timeout=60)
    assert running.returncode == 130
    stopped = json.loads(output)
    assert stopped["interrupted"]
    assert 0 < stopped["created"] < rows
    rest = rapport(*arguments)
    assert rest["created"] + rest["unchanged"] == rows
    assert rest["unchanged"] >= stopped["created"]
    assert len(rapport("list", "leads", "--all", "--json")) == rows


def test_200_mb_of_rows_grow_no_process(tmp_path: Path, tenant: Client, platform: Running) -> None:
    rows, description = 20_000, "wide rows " * 999
    with (tmp_path / "leads.csv").open("w") as file:
        file.write("id,description\n")
        file.writelines(f"{number},{description}\n" for number in range(rows))
    assert (tmp_path / "leads.csv").stat().st_size > 190_000_000
    parts = json.loads(platform.state.processes_file.read_text())
    watched = {name: psutil.Process(part["pid"]) for name, part in parts.items() if name != "postgres"}
    before = {name: process.memory_info().rss for name, process in watched.items()}
    program, environment = command(tenant, platform)
    arguments = ("import", "leads", "leads.csv", "--map", "external_id=id", "--dry-run", "--json")
    with subprocess.Popen(
        [*program, *arguments], env=environment, cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as running:
        ours = psutil.Process(running.pid)
        watched["rapport"], before["rapport"] = ours, 0
        most = dict(before)
        while running.poll() is None:
            for name, process in watched.items():
                with contextlib.suppress(psutil.NoSuchProcess):
                    most[name] = max(most[name], process.memory_info().rss)
                    # What the command needs to start is not growth: its first rows are read after that.
                    if name == "rapport" and not before[name] and process.cpu_times().user > 0.5:
                        before[name] = process.memory_info().rss
            time.sleep(0.02)
        output = running.stdout.read() if running.stdout else ""
    assert counts(json.loads(output)) == (rows, 0, 0, 0)
    grown = {name: (most[name] - before[name]) // 1_000_000 for name in watched}
    assert max(grown.values()) < 50, grown


def test_records_are_made_and_shown(rapport: Rapport, tenant: Client) -> None:
    made = rapport("create", "companies", "display_name=Acme", "domain=acme.example", "--json")
    assert "acme.example" in rapport("get", made["id"])
    assert rapport("get", made["id"], "--json")["id"] == made["id"]
    assert "there is no" in rapport("get", "company_01h455vb4pex5vsknk084sn02q", code=1)
    assert "did you mean" in rapport("list", "companies", "--filter", 'domian = "x"', code=1)
    assert "no companies match" in rapport("list", "companies", "--filter", 'domain = "other.example"')
    assert rapport("token", "sales").count(".") == 2
    event = rapport(
        "events",
        "tail",
        "--since",
        "2020-01-01T00:00:00Z",
        "--type",
        "crm.contacts.v1.Company",
        "--limit",
        "1",
        "--json",
    )
    assert (event["type"], event["entity_id"]) == ("crm.contacts.v1.Company.created", made["id"])


def test_a_record_is_changed_by_its_words_and_only_as_it_was_seen(rapport: Rapport, tenant: Client) -> None:
    made = rapport("create", "companies", "display_name=Acme", "domain=acme-2.example", "employee_count=3", "--json")
    changed = rapport("update", made["id"], "display_name=Acme Ltd", 'tags=["vip"]', "--json")
    assert (changed["display_name"], changed["tags"], changed["domain"]) == ("Acme Ltd", ["vip"], "acme-2.example")
    cleared = rapport("update", made["id"], "industry=Music", "--clear", "employee_count", "--etag", "2", "--json")
    assert (cleared["industry"], cleared.get("employee_count"), cleared["etag"]) == ("Music", None, '"3"')
    assert "etag" in rapport("update", made["id"], "industry=Other", "--etag", made["etag"], code=1)
    assert "it cannot be set and cleared" in rapport("update", made["id"], "tags=[]", "--clear", "tags", code=2)
    assert "did you mean" in rapport("update", made["id"], "idustry=x", code=1)
    assert "field=value" in rapport("update", made["id"], code=2)


def test_an_administrator_gives_a_role_and_its_user_is_told_of_it(
    platform: Running, tenant: Client, rapport: Rapport, tmp_path: Path
) -> None:
    hidden = json.dumps([{"resource": "deal", "field": "amount", "access": "FIELD_ACCESS_HIDDEN"}])
    role = rapport(
        "create", "role", "display_name=Seller", 'permissions=["deals.read"]', "default_visibility=VISIBILITY_OWN",
        f"field_rules={hidden}", "--json",
    )  # fmt: skip
    account = rapport("create", "service_account", "display_name=Sync", f'role_ids=["{role["id"]}"]', "--json")
    made = rapport("create", "api_key", "display_name=Sync", 'scopes=["*"]', f"service_account_id={account['id']}")
    secret = next(word for word in made.split() if word.startswith("rap_") and word.count("_") > 1)
    start, environment = command(platform.client(secret, tenant.tenant), platform)
    told = subprocess.run(
        [*start, "whoami"], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout
    assert account["id"] in told
    assert "permissions: deals.read" in told
    assert "deal.amount: hidden" in told
    assert secret not in rapport("list", "api_keys")
    assert "suspended" in rapport("suspend", account["id"])
    assert "suspended already" in rapport("suspend", account["id"], code=1)
    assert rapport("reactivate", account["id"], "--json")["state"] == "SERVICE_ACCOUNT_STATE_ACTIVE"
    assert "does not come in" in rapport("suspend", role["id"], code=2)
