"""A credential that is taken away works nowhere within a second; keys that are replaced cost no call."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Callable

import grpc
import pytest

from deploy.local import control, keys
from deploy.local.parts import KINDS
from deploy.local.state import write_private
from tests.reliability.test_tokens import outcome
from tests.running import Running, until

_LIST = {
    "contacts": "/crm.contacts.v1.ContactService/ListContacts",
    "sales": "/crm.sales.v1.DealService/ListDeals",
    "activities": "/crm.activities.v1.TaskService/ListTasks",
    "marketing": "/crm.marketing.v1.CampaignService/ListCampaigns",
}


def test_a_token_ends_at_every_service_when_its_key_is_deleted(platform: Running) -> None:
    owner = platform.tenant("Revocation")
    made, other = (
        owner.post("/v1/api_keys", {"display_name": name, "scopes": ["*"]}) for name in ("to be deleted", "to stay")
    )
    holder, stays = (owner.__class__(owner.url, owner.address, key["secret"], owner.tenant) for key in (made, other))
    tokens = {home: holder.post("/v1/tokens", {"audience": home})["token"] for home in _LIST}
    kept = {home: stays.post("/v1/tokens", {"audience": home})["token"] for home in _LIST}
    doors = [
        (home, address) for home in _LIST for address in platform.env[f"RAPPORT_{home.upper()}_ADDRESS"].split(",")
    ]
    for home, address in doors:
        assert outcome(address, _LIST[home], f"Bearer {tokens[home]}") is grpc.StatusCode.OK

    owner.http.delete(f"/v1/api_keys/{made['id']}").raise_for_status()
    for home, address in doors:
        until(
            lambda home=home, address=address: (  # type: ignore[misc]
                outcome(address, _LIST[home], f"Bearer {tokens[home]}") is grpc.StatusCode.UNAUTHENTICATED
            ),
            f"{home} at {address} refuses the token",
            patience_s=10,
        )
        assert outcome(address, _LIST[home], f"Bearer {kept[home]}") is grpc.StatusCode.OK
    until(lambda: holder.http.get("/v1/deals").status_code == 401, "the gateway refuses the key", patience_s=10)


def test_a_deleted_user_takes_its_keys_and_tokens_along(platform: Running) -> None:
    owner = platform.tenant("Revocation")
    everything = next(each for each in owner.get("/v1/roles")["roles"] if each["permissions"] == ["*"])["id"]
    user = owner.post("/v1/users", {"display_name": "Leaver", "role_ids": [everything]})
    owner.post("/v1/users", {"display_name": "Administrator", "role_ids": [everything]})
    key = owner.post("/v1/api_keys", {"display_name": "Leaver's", "scopes": ["*"], "user_id": user["id"]})
    holder = owner.__class__(owner.url, owner.address, key["secret"], owner.tenant)
    token = holder.post("/v1/tokens", {"audience": "sales"})["token"]
    addresses = platform.env["RAPPORT_SALES_ADDRESS"].split(",")
    assert {outcome(each, _LIST["sales"], f"Bearer {token}") for each in addresses} == {grpc.StatusCode.OK}

    owner.http.delete(f"/v1/users/{user['id']}").raise_for_status()
    until(
        lambda: (
            {outcome(each, _LIST["sales"], f"Bearer {token}") for each in addresses}
            == {grpc.StatusCode.UNAUTHENTICATED}
        ),
        "every replica refuses the token",
        patience_s=10,
    )
    until(lambda: holder.http.get("/v1/deals").status_code == 401, "the gateway refuses the key", patience_s=10)
    owner.post(f"/v1/users/{user['id']}:undelete", {})
    until(lambda: holder.http.get("/v1/deals").status_code == 200, "the user is back", patience_s=10)


def test_revocations_are_heard_again_after_the_broker_was_away(platform: Running) -> None:
    owner = platform.tenant("Revocation")
    control.restart(platform.state, "nats", signal.SIGKILL)
    key = owner.post("/v1/api_keys", {"display_name": "Late", "scopes": ["*"]})
    holder = owner.__class__(owner.url, owner.address, key["secret"], owner.tenant)
    token = holder.post("/v1/tokens", {"audience": "sales"})["token"]
    owner.http.delete(f"/v1/api_keys/{key['id']}").raise_for_status()
    for address in platform.env["RAPPORT_SALES_ADDRESS"].split(","):
        until(
            lambda address=address: (  # type: ignore[misc]
                outcome(address, _LIST["sales"], f"Bearer {token}") is grpc.StatusCode.UNAUTHENTICATED
            ),
            "the replica refuses the token before its minute is over",
            patience_s=20,
        )


def test_new_signing_keys_cost_no_call(platform: Running) -> None:
    owner = platform.operator()
    contact = owner.post("/v1/contacts", {"display_name": "Rotation"})["id"]

    def convert() -> int:
        """Sales asks contacts on the way."""
        lead = owner.http.post("/v1/leads", json={"display_name": "Rotation"})
        return owner.http.post(f"/v1/leads/{lead.json()['id']}:convert", json={}).status_code

    calls: tuple[Callable[[], int], ...] = (
        lambda: owner.http.get("/v1/deals").status_code,
        lambda: owner.http.get(f"/v1/contacts/{contact}").status_code,
        lambda: owner.http.get("/v1/campaigns").status_code,
        convert,
    )
    answers: list[int] = []
    over = threading.Event()

    def go_on() -> None:
        while not over.is_set():
            answers.extend(call() for call in calls)
            time.sleep(0.05)

    caller = threading.Thread(target=go_on)
    file = platform.state.key("trust.json")
    before = json.loads(file.read_text())
    caller.start()
    try:
        keys.rotate(platform.state, KINDS, settle_s=1.5, life_s=1)
        done = len(answers)
        until(lambda: len(answers) > done + 20 * len(calls), "calls go on with the new keys alone")
    finally:
        over.set()
        caller.join()
    after = json.loads(file.read_text())
    assert all(len(after[kind]["public_keys"]) == 1 for kind in KINDS)
    assert not any(after[kind]["public_keys"][0] in before[kind]["public_keys"] for kind in KINDS)
    failed = [code for code in answers if code >= 300]
    assert not failed, f"{len(failed)} of {len(answers)} calls failed: {sorted(set(failed))}"


@pytest.mark.parametrize("broken", ["{", "[]", '{"gateway": {"public_keys": ["x"], "may_call": []}}'])
def test_a_damaged_trust_file_changes_nothing(platform: Running, broken: str) -> None:
    file = platform.state.key("trust.json")
    good = file.read_text()
    owner = platform.operator()
    write_private(file, broken)
    try:
        end = time.monotonic() + 1.2
        while time.monotonic() < end:
            assert owner.http.get("/v1/deals").status_code == 200
            time.sleep(0.05)
    finally:
        write_private(file, good)
