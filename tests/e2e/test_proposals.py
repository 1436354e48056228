"""What an agent wants changed waits as a proposal: it shows what it would do, and is done once somebody accepts it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import subprocess
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import asyncpg
import httpx2
import pytest

from chassis import ids
from chassis.contract import load
from deploy.local import control
from gateway.proposals.methods import PROPOSE
from tests.e2e.test_agents import agent
from tests.e2e.test_audit_entries import logged
from tests.e2e.test_cli import command
from tests.running import Client, Running, until

SCOPES = ["contacts.*", "companies.*", "deals.*", "notes.*", "leads.*", "pipelines.*", "affiliations.*", "search.read"]


@pytest.fixture(scope="module")
def client(platform: Running) -> Client:
    return platform.tenant("Proposals")


def agent_of(platform: Running, client: Client, *, scopes: list[str] | None = None, **settings: Any) -> Client:
    """A new agent's client."""
    body = {"display_name": "Agent", "scopes": scopes or SCOPES, "agent": {"may_propose": True, **settings}}
    return platform.client(client.post("/v1/api_keys", body)["secret"], client.tenant)


def key_id(client: Client) -> str:
    found: str = client.get("/v1/me")["principal_id"]
    return found


def reason_of(answer: httpx2.Response) -> str:
    found: str = answer.json()["error"]["details"][0]["reason"]
    return found


def propose(client: Client, method: str, asked: dict[str, Any], **more: Any) -> dict[str, Any]:
    return client.post("/v1/proposals", {"method": method, "request": asked, **more})


def contact(client: Client, **fields: Any) -> dict[str, Any]:
    return client.post("/v1/contacts", {"given_name": "Ana", "family_name": "Silva", **fields})


def differences(proposal: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {each["field"]: (each.get("before"), each.get("after")) for each in proposal["changes"]}


def accepted_by(client: Client, revision: dict[str, Any]) -> tuple[str, str]:
    """The proposal that a change was, and who accepted it, as an auditor finds both from the change alone."""
    (change,) = logged(client, f'id = "{revision["event_id"]}"', 1)
    assert (change["principal"], change["cause_event_id"]) == (revision["actor"], revision["cause_event_id"])
    (accepted,) = logged(client, f'id = "{change["cause_event_id"]}"', 1)
    assert accepted["type"] == "crm.gateway.v1.Proposal.accepted"
    return accepted["record_id"], accepted["principal"]


def test_an_agent_proposes_and_a_person_accepts(platform: Running, client: Client) -> None:
    bot, ana = agent_of(platform, client), contact(client)
    asked = {"contact": {"id": ana["id"], "family_name": "Souza"}, "proposal_reason": "she married"}
    tools, (made, refused) = agent(
        client, bot.key, ("update_contact", asked), ("update_contact", {"contact": {"id": ana["id"], "emails": 5}})
    )
    assert not tools["update_contact"].annotations.read_only_hint
    assert tools["delete_contact"].annotations.destructive_hint
    assert "create_api_key" not in tools
    proposal = made.structured_content
    assert proposal["state"] == "PROPOSAL_STATE_PENDING"
    assert differences(proposal) == {"family_name": ("Silva", "Souza")}
    assert refused.is_error
    assert client.get(f"/v1/contacts/{ana['id']}") == ana

    shown = client.get(f"/v1/proposals/{proposal['id']}")
    assert (shown["changes"], shown["reason"]) == (proposal["changes"], "she married")
    assert shown["request"]["contact"] == {"id": ana["id"], "family_name": "Souza", "etag": ana["etag"]}
    listed = client.get("/v1/proposals", filter=f'state = "PROPOSAL_STATE_PENDING" AND proposer_id = "{key_id(bot)}"')
    assert [each["id"] for each in listed["proposals"]] == [proposal["id"]]

    path = f"/v1/proposals/{proposal['id']}:accept"
    done = client.post(path, {"comment": "yes", "request_id": str(uuid.uuid4())})
    assert (done["state"], done["decider_id"]) == ("PROPOSAL_STATE_APPLIED", key_id(client))
    assert client.get(f"/v1/contacts/{ana['id']}")["family_name"] == "Souza"
    (last, _) = client.get(f"/v1/contacts/{ana['id']}:listRevisions")["revisions"]
    assert last["revision"]["actor"] == key_id(bot)
    assert last["revision"]["trace_id"] == done["trace_id"]
    assert accepted_by(client, last["revision"]) == (proposal["id"], key_id(client))
    again = client.http.post(path, json={})
    assert (again.status_code, reason_of(again)) == (400, "STATE_INVALID")
    states = [
        each["revision"]["type"].rpartition(".")[2] for each in client.get(f"{path[:-7]}:listRevisions")["revisions"]
    ]
    assert states == ["applied", "accepted", "created"]


def test_what_a_proposed_conversion_makes_in_another_service_says_who_accepted_it(
    platform: Running, client: Client
) -> None:
    bot = agent_of(platform, client, scopes=["*"])
    lead = client.post("/v1/leads", {"given_name": "Eva", "email": "eva@proposed.example"})
    waiting = propose(bot, "ConvertLead", {"id": lead["id"], "skip_deal": True})
    assert client.post(f"/v1/proposals/{waiting['id']}:accept", {})["state"] == "PROPOSAL_STATE_APPLIED"
    made = client.get(f"/v1/leads/{lead['id']}")["converted_contact_id"]
    (last,) = client.get(f"/v1/contacts/{made}:listRevisions")["revisions"]
    assert accepted_by(client, last["revision"]) == (waiting["id"], key_id(client))


def test_what_is_rejected_or_has_no_effect_is_not_done(platform: Running, client: Client) -> None:
    bot, ana = agent_of(platform, client), contact(client)
    waiting = propose(bot, "DeleteContact", {"id": ana["id"]})
    assert list(differences(waiting)) == ["delete_time"]
    rejected = client.post(f"/v1/proposals/{waiting['id']}:reject", {"comment": "keep her"})
    assert (rejected["state"], rejected["decision_comment"]) == ("PROPOSAL_STATE_REJECTED", "keep her")
    assert reason_of(client.http.post(f"/v1/proposals/{waiting['id']}:accept", json={})) == "STATE_INVALID"
    assert "delete_time" not in client.get(f"/v1/contacts/{ana['id']}")

    def refusal(method: str, asked: dict[str, Any]) -> str:
        return reason_of(bot.http.post("/v1/proposals", json={"method": method, "request": asked}))

    same = {"contact": {"id": ana["id"], "family_name": "Silva"}}
    assert refusal("UpdateContact", same) == "STATE_INVALID"
    assert refusal("UpdateContact", {"contact": {"id": ana["id"], "given_name": "x" * 300}}) == "FIELD_INVALID"
    assert refusal("DeleteContact", {"id": ana["id"], "etag": '"7"'}) == "ETAG_MISMATCH"
    assert refusal("CreateCampaign", {"campaign": {"display_name": "Not its to make"}}) == "PERMISSION_DENIED"
    for method in ("CreateApiKey", "BatchDeleteContacts", "GetContact", "Nothing"):
        assert refusal(method, {}) == "FIELD_INVALID"
    assert [
        each["method"] for each in client.get("/v1/proposals", filter=f'proposer_id = "{key_id(bot)}"')["proposals"]
    ] == ["DeleteContact"]


def test_an_agent_that_acts_for_a_user_has_the_users_rights_and_its_own_name(platform: Running, client: Client) -> None:
    role = {"display_name": "Own", "permissions": ["contacts.*"], "default_visibility": "VISIBILITY_OWN"}
    person = {"display_name": "Rui", "email": "rui@agents.example", "role_ids": [client.post("/v1/roles", role)["id"]]}
    user = client.post("/v1/users", person)["id"]
    key = {"display_name": "Rui's", "scopes": ["*"], "user_id": user, "agent": {"may_propose": True}}
    made = client.post("/v1/api_keys", key)
    bot = platform.client(made["secret"], client.tenant)
    assert key_id(bot) == made["id"]
    theirs, his = contact(client), contact(client, owner_id=user)
    body = {"method": "DeleteContact", "request": {"id": theirs["id"]}}
    assert bot.http.post("/v1/proposals", json=body).status_code == 404
    waiting = propose(bot, "UpdateContact", {"contact": {"id": his["id"], "family_name": "Souza"}})
    assert client.post(f"/v1/proposals/{waiting['id']}:accept", {})["state"] == "PROPOSAL_STATE_APPLIED"
    assert client.get(f"/v1/contacts/{his['id']}:listRevisions")["revisions"][0]["revision"]["actor"] == made["id"]
    waiting = propose(bot, "UpdateContact", {"contact": {"id": his["id"], "family_name": "Santos"}})
    client.post(f"/v1/users/{user}:suspend", {})
    failed = client.post(f"/v1/proposals/{waiting['id']}:accept", {})
    assert (failed["state"], failed["failure"].partition(":")[0]) == ("PROPOSAL_STATE_FAILED", "PERMISSION_DENIED")


def test_a_record_that_changed_since_is_left_alone(platform: Running, client: Client) -> None:
    bot, ana = agent_of(platform, client), contact(client)
    waiting = propose(bot, "UpdateContact", {"contact": {"id": ana["id"], "family_name": "Souza"}})
    client.patch(f"/v1/contacts/{ana['id']}", {"family_name": "Santos"})
    failed = client.post(f"/v1/proposals/{waiting['id']}:accept", {})
    assert (failed["state"], failed["failure"].partition(":")[0]) == ("PROPOSAL_STATE_FAILED", "ETAG_MISMATCH")
    assert client.get(f"/v1/contacts/{ana['id']}")["family_name"] == "Santos"


def test_an_agent_writes_nothing_by_itself_on_any_way(platform: Running, client: Client) -> None:
    bot = agent_of(platform, client, scopes=["*"])
    tried = 0
    for method in load().methods.values():
        if not method.writes or method.path == PROPOSE:
            continue
        assert method.http is not None
        path, verb = re.sub(r"\{[^}]*\}", "x", method.http.template), method.http.verb.upper()
        answer = bot.http.request(verb, path, json=None if verb == "DELETE" else {})
        assert (answer.status_code, reason_of(answer)) == (403, "PROPOSAL_REQUIRED"), f"{method.path}: {answer.text}"
        with pytest.raises(Exception, match="PERMISSION_DENIED"):
            bot.grpc(method.path, {})
        tried += 1
    assert tried > 100
    write = {"method": "POST", "path": "/v1/contacts", "body": {"given_name": "Eva"}}
    (reply,) = bot.post("/v1/batch", {"calls": [write]})["replies"]
    assert reply["status"] == 403
    only_reads = agent_of(platform, client, may_propose=False)
    assert reason_of(only_reads.http.post("/v1/proposals", json={"method": "CreateContact"})) == "PERMISSION_DENIED"
    tools, _ = agent(client, only_reads.key)
    assert "get_contact" in tools
    assert "update_contact" not in tools


def test_a_rule_accepts_what_it_names_and_no_more(platform: Running, client: Client) -> None:
    rules = [{"method": "UpdateContact", "fields": ["tags"]}, {"method": "CreateNote"}]
    bot, ana = agent_of(platform, client, accept=rules), contact(client)
    tagged = propose(bot, "UpdateContact", {"contact": {"id": ana["id"], "tags": ["vip"]}})
    assert tagged["state"] == "PROPOSAL_STATE_APPLIED"
    assert "decider_id" not in tagged
    assert client.get(f"/v1/contacts/{ana['id']}")["tags"] == ["vip"]
    last = client.get(f"/v1/contacts/{ana['id']}:listRevisions")["revisions"][0]
    assert accepted_by(client, last["revision"]) == (tagged["id"], key_id(bot))
    both = propose(bot, "UpdateContact", {"contact": {"id": ana["id"], "tags": [], "family_name": "Souza"}})
    assert both["state"] == "PROPOSAL_STATE_PENDING"
    noted = propose(bot, "CreateNote", {"note": {"body": "called", "related_ids": [ana["id"]]}})
    assert noted["entity_ids"][0].startswith("note_")
    beyond = {"display_name": "x", "scopes": ["notes.read"], "agent": {"accept": [{"method": "CreateNote"}]}}
    narrow = {"display_name": "n", "scopes": ["api_keys.*", "notes.read"]}
    maker = platform.client(client.post("/v1/api_keys", narrow)["secret"], client.tenant)
    answer = maker.http.post("/v1/api_keys", json=beyond)
    assert (answer.status_code, reason_of(answer)) == (403, "PERMISSION_DENIED")
    beyond["agent"] = {"accept": [{"method": "DeleteEverything"}]}
    assert reason_of(client.http.post("/v1/api_keys", json=beyond)) == "FIELD_INVALID"


def test_the_budget_of_a_day_holds_when_everything_comes_at_once(platform: Running, client: Client) -> None:
    bot, ana = agent_of(platform, client, daily_budget=5), contact(client)

    def ask(number: int) -> httpx2.Response:
        asked = {"contact": {"id": ana["id"], "family_name": f"Silva {number}"}}
        body = {"method": "UpdateContact", "request": asked, "reason": "again"}
        return httpx2.post(f"{bot.url}/v1/proposals", json=body, headers=bot.http.headers, timeout=30)

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(ask, range(12)))
    assert sorted(each.status_code for each in answers) == [200] * 5 + [429] * 7
    refused = next(each for each in answers if each.status_code == 429)
    assert reason_of(refused) == "BUDGET_EXHAUSTED"
    assert refused.json()["error"]["details"][0]["metadata"]["reset_time"].endswith("T00:00:00Z")


def test_what_a_viewer_may_not_read_is_not_in_the_proposal(platform: Running, client: Client) -> None:
    hidden = {"resource": "contact", "field": "phones", "access": "FIELD_ACCESS_HIDDEN"}
    role = {
        "display_name": "Clerk", "permissions": ["contacts.*", "proposals.*"], "default_visibility": "VISIBILITY_ALL",
        "field_rules": [hidden],
    }  # fmt: skip
    own = {"display_name": "Own", "permissions": ["contacts.*", "proposals.*"], "default_visibility": "VISIBILITY_OWN"}

    def with_role(body: dict[str, Any]) -> Client:
        made = client.post("/v1/roles", body)["id"]
        account = client.post("/v1/service_accounts", {"display_name": "x", "role_ids": [made]})["id"]
        key = {"display_name": "x", "scopes": ["*"], "service_account_id": account}
        return platform.client(client.post("/v1/api_keys", key)["secret"], client.tenant)

    bot, ana = agent_of(platform, client), contact(client)
    asked = {"id": ana["id"], "family_name": "Souza", "phones": [{"number": "+5511987654321"}]}
    path = f"/v1/proposals/{propose(bot, 'UpdateContact', {'contact': asked})['id']}"
    clerk, stranger = with_role(role), with_role(own)
    assert [each["field"] for each in clerk.get(path)["changes"]] == ["family_name"]
    assert "987654321" not in json.dumps(clerk.get(path))
    assert reason_of(clerk.http.post(f"{path}:accept", json={})) == "FIELD_UNKNOWN"
    assert stranger.get(path)["changes"] == []
    assert "request" not in stranger.get(path)
    assert reason_of(stranger.http.post(f"{path}:accept", json={})) == "NOT_FOUND"
    assert client.get(path)["state"] == "PROPOSAL_STATE_PENDING"
    elsewhere = platform.tenant("Elsewhere")
    assert elsewhere.http.get(path).status_code == elsewhere.http.post(f"{path}:accept", json={}).status_code == 404


def test_an_accepted_change_is_made_once_although_the_gateways_die_half_way(platform: Running, client: Client) -> None:
    bot = agent_of(platform, client)
    waiting = propose(bot, "CreateContact", {"contact": {"given_name": "Once", "tags": ["once"]}})
    asyncio.run(_accept_and_die(platform, client, bot, waiting["id"]))
    again = platform.client(client.key, client.tenant)
    path = f"/v1/proposals/{waiting['id']}"
    done = until(lambda: _settled(again.get(path)), "a timer goes on with it")
    assert done["state"] == "PROPOSAL_STATE_APPLIED"
    assert [each["id"] for each in again.get("/v1/contacts", filter='tags:"once"')["contacts"]] == done["entity_ids"]


def _settled(proposal: dict[str, Any]) -> dict[str, Any] | None:
    return None if proposal["state"] == "PROPOSAL_STATE_ACCEPTED" else proposal


async def _accept_and_die(platform: Running, client: Client, bot: Client, proposal: str) -> None:
    """Accepts a proposal, and kills the gateways when its change is made and they could not write that down."""
    uuid_of, principal = ids.decode(proposal)[1], await asyncio.to_thread(key_id, bot)
    async with _undone(platform, client, "gateway") as gateway:
        async with _undone(platform, client, "contacts") as contacts:
            # The change has its own request id, which another transaction holds now: it waits for that one's end.
            await contacts.execute(
                "INSERT INTO idempotency (tenant_id, principal_id, method, request_id, digest, response, expire_time)"
                " VALUES ($1, $2, '/crm.contacts.v1.ContactService/CreateContact', $3, '', '', now())",
                client.tenant, principal, uuid_of,
            )  # fmt: skip
            accepting = asyncio.create_task(asyncio.to_thread(_accept, client, proposal))
            await asyncio.to_thread(until, lambda: _state(platform, client, uuid_of) == 2, "it is accepted")
            await gateway.execute("SELECT FROM proposals WHERE id = $1 FOR UPDATE", uuid_of)
        await asyncio.to_thread(until, lambda: _made_once(platform, client), "its change is made")
        for part in ("gateway-1", "gateway-2"):
            control.kill(platform.state, part, signal.SIGKILL)
        await accepting
    await asyncio.to_thread(control.wait_ready, platform.state)


@contextlib.asynccontextmanager
async def _undone(platform: Running, client: Client, service: str) -> AsyncIterator[Any]:
    """A transaction in a service's database that is rolled back in the end."""
    connection = await asyncpg.connect(platform.env[f"RAPPORT_{service.upper()}_DATABASE_URL"])
    transaction = connection.transaction()
    await transaction.start()
    try:
        await connection.execute("SELECT enter_tenant($1)", client.tenant)
        yield connection
    finally:
        await transaction.rollback()
        await connection.close()


def _made_once(platform: Running, client: Client) -> bool:
    statement = "SELECT count(*) AS n FROM contacts WHERE given_name = 'Once'"
    return bool(platform.rows("contacts", client.tenant, statement)[0]["n"] == 1)


def _accept(client: Client, proposal: str) -> None:
    headers = {"authorization": f"Bearer {client.key}"}
    with contextlib.suppress(httpx2.TransportError):
        httpx2.post(f"{client.url}/v1/proposals/{proposal}:accept", json={}, headers=headers, timeout=30)


def _state(platform: Running, client: Client, proposal: uuid.UUID) -> int:
    found: int = platform.rows("gateway", client.tenant, "SELECT state FROM proposals WHERE id = $1", proposal)[0][
        "state"
    ]
    return found


def test_everything_that_an_agent_did_is_taken_back_in_one_call(platform: Running, client: Client) -> None:
    methods = ["CreateContact", "UpdateContact", "DeleteContact", "CreateNote", "DisqualifyLead", "UpdateLead"]
    bot = agent_of(platform, client, accept=[{"method": each} for each in methods])
    changed, gone, fought, between = (contact(client) for _ in range(4))
    lost, both = (client.post("/v1/leads", {"given_name": "Eva"}) for _ in range(2))

    def does(method: str, asked: dict[str, Any]) -> str:
        done = propose(bot, method, asked)
        assert done["state"] == "PROPOSAL_STATE_APPLIED", done
        entity: str = done["entity_ids"][0]
        return entity

    made = does("CreateContact", {"contact": {"given_name": "Eva"}})
    note = does("CreateNote", {"note": {"body": "called", "related_ids": [made]}})
    for name in ("Souza", "Santos"):
        does("UpdateContact", {"contact": {"id": changed["id"], "family_name": name}})
    does("UpdateContact", {"contact": {"id": gone["id"], "tags": ["old"]}})
    does("DeleteContact", {"id": gone["id"]})
    does("UpdateContact", {"contact": {"id": fought["id"], "family_name": "Souza"}})
    client.patch(f"/v1/contacts/{fought['id']}", {"given_name": "Eva"})
    does("UpdateContact", {"contact": {"id": between["id"], "family_name": "Souza"}})
    client.patch(f"/v1/contacts/{between['id']}", {"given_name": "Eva"})
    does("UpdateContact", {"contact": {"id": between["id"], "family_name": "Santos"}})
    does("DisqualifyLead", {"id": lost["id"], "reason": "no budget"})
    does("UpdateLead", {"lead": {"id": both["id"], "tags": ["cold"]}})
    does("DisqualifyLead", {"id": both["id"], "reason": "no budget"})

    path, asked = f"/v1/agents/{key_id(bot)}:revert", f'method : RevertAgent AND record_id = "{key_id(bot)}"'
    foreseen = client.post(path, {"validate_only": True})
    assert client.get(f"/v1/contacts/{changed['id']}")["family_name"] == "Santos"
    report = client.post(path, {})
    found = {each["entity_id"]: each for each in report["reversals"]}
    assert foreseen["reversals"][0]["entity_id"] == report["reversals"][0]["entity_id"] == both["id"]
    assert {each: told["outcome"].removeprefix("REVERSAL_OUTCOME_") for each, told in found.items()} == {
        made: "REVERTED", note: "REVERTED", changed["id"]: "REVERTED", gone["id"]: "REVERTED",
        fought["id"]: "SKIPPED", between["id"]: "SKIPPED", lost["id"]: "SKIPPED", both["id"]: "PARTLY_REVERTED",
    }  # fmt: skip
    assert found[changed["id"]]["change_count"] == 2
    assert "status" in found[both["id"]]["left_fields"]
    assert "verbs of its own" in found[lost["id"]]["reason"]
    assert report["complete"]
    assert [each["kind"] for each in logged(client, asked, 2)] == ["AUDIT_KIND_WRITE", "AUDIT_KIND_READ"]
    assert client.get(f"/v1/contacts/{changed['id']}")["family_name"] == "Silva"
    back = client.get(f"/v1/contacts/{gone['id']}")
    assert ("delete_time" in back, back["tags"]) == (False, [])
    assert "delete_time" in client.get(f"/v1/contacts/{made}")
    assert client.get(f"/v1/contacts/{fought['id']}")["family_name"] == "Souza"

    again = client.post(path, {})
    assert again["unchanged_count"] == 5
    assert {each["entity_id"] for each in again["reversals"]} == {fought["id"], between["id"], lost["id"]}
    assert client.post(path, {"start_time": "2125-01-01T00:00:00Z"})["reversals"] == []
    assert platform.tenant("Elsewhere").http.post(path, json={}).status_code == 404
    assert reason_of(bot.http.post(path, json={})) == "PROPOSAL_REQUIRED"


def test_the_command_line_shows_and_decides(platform: Running, client: Client) -> None:
    bot, ana = agent_of(platform, client), contact(client)
    waiting = propose(
        bot, "UpdateContact", {"contact": {"id": ana["id"], "family_name": "Souza"}}, reason="she married"
    )

    def rapport(*arguments: str) -> str:
        start, environment = command(client, platform)
        ran = subprocess.run([*start, *arguments], env=environment, capture_output=True, text=True, timeout=60)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    assert waiting["id"] in rapport("proposals", "list", "--agent", key_id(bot))
    shown = rapport("proposals", "show", waiting["id"])
    assert "why: she married" in shown
    assert re.search(r"family_name\s+Silva\s+→\s+Souza", shown)
    assert rapport("proposals", "accept", waiting["id"], "--comment", "yes").endswith(": applied\n")
    assert "1 would go back" in rapport("agents", "revert", key_id(bot), "--dry-run")
    assert "1 went back, 0 skipped" in rapport("agents", "revert", key_id(bot))
    assert client.get(f"/v1/contacts/{ana['id']}")["family_name"] == "Silva"
