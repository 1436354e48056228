"""The API against a small model of itself: after any sequence of calls both say the same."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx2
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import seed as seeded
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from tests.reliability.conftest import Report
from tests.running import Client, Running

NAMES = st.sampled_from(("Ana", "Bo", "Çelik", "D'Arcy"))
# In one run of the machine, each with a seed of its own.
SEQUENCES = 10
ETAGS = st.sampled_from(("right", "stale", "none"))


@dataclass
class Lead:
    """What the model knows of a lead."""

    id: str
    name: str
    revision: int = 1
    status: str = "LEAD_STATUS_OPEN"
    deleted: bool = False
    deal: str = ""

    @property
    def etag(self) -> str:
        """As the platform writes it."""
        return f'"{self.revision}"'


class Leads(RuleBasedStateMachine):
    """Creates, changes, deletes, brings back, disqualifies and converts leads, with and without etags."""

    client: Client
    calls = 0
    leads = Bundle("leads")

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[str, Lead] = {}

    @initialize(target=leads, name=NAMES)
    def first(self, name: str) -> Lead:
        """There is always one."""
        return self.create(name)

    @rule(target=leads, name=NAMES)
    def more(self, name: str) -> Lead:
        """Another one; asked for twice with one request id, it is made once."""
        return self.create(name)

    def create(self, name: str) -> Lead:
        body, key = {"given_name": name}, {"request_id": str(uuid4())}
        made, again = (self.client.post("/v1/leads", body, **key) for _ in range(2))
        assert made == again
        lead = Lead(made["id"], name)
        self.known[lead.id] = lead
        return lead

    @rule(lead=leads, name=NAMES, sent=ETAGS)
    def update(self, lead: Lead, name: str, sent: str) -> None:
        """A change of the name."""
        changed = {"given_name": name} | self.etag(lead, sent)
        answer = self.client.http.patch(f"/v1/leads/{lead.id}", json=changed)
        if self.allowed(answer, lead, sent) and lead.name != name:
            lead.name = name
            lead.revision += 1

    @rule(lead=leads, sent=ETAGS)
    def delete(self, lead: Lead, sent: str) -> None:
        """A deletion."""
        answer = self.client.http.delete(f"/v1/leads/{lead.id}", params=self.etag(lead, sent))
        if self.allowed(answer, lead, sent):
            lead.deleted = True
            lead.revision += 1

    @rule(lead=leads, sent=ETAGS)
    def undelete(self, lead: Lead, sent: str) -> None:
        """A deletion taken back."""
        answer = self.act(lead, "undelete", sent)
        if sent == "stale":
            self.refused(answer, 409, "ETAG_MISMATCH")
        elif not lead.deleted:
            self.refused(answer, 400, "NOT_DELETED")
        else:
            assert answer.is_success, answer.text
            lead.deleted = False
            lead.revision += 1

    @rule(lead=leads, sent=ETAGS)
    def disqualify(self, lead: Lead, sent: str) -> None:
        """Only an open lead can be disqualified."""
        answer = self.act(lead, "disqualify", sent, reason="no budget")
        if self.allowed(answer, lead, sent, opened=True):
            lead.status = "LEAD_STATUS_DISQUALIFIED"
            lead.revision += 1

    @rule(lead=leads)
    def convert(self, lead: Lead) -> None:
        """A conversion; asked for again in the same words, it gives the same deal."""
        answer = self.act(lead, "convert", "none", deal={"display_name": "A deal"})
        if lead.deal:
            assert answer.json()["deal"]["id"] == lead.deal, answer.text
        elif self.allowed(answer, lead, "none", opened=True):
            lead.deal = answer.json()["deal"]["id"]
            lead.status = "LEAD_STATUS_CONVERTED"
            # It begins and it ends.
            lead.revision += 2

    def act(self, lead: Lead, verb: str, sent: str, **more: Any) -> httpx2.Response:
        """The answer of a method that is not a standard one."""
        return self.client.http.post(f"/v1/leads/{lead.id}:{verb}", json=more | self.etag(lead, sent))

    def etag(self, lead: Lead, sent: str) -> dict[str, str]:
        """The etag to send."""
        type(self).calls += 1
        return {} if sent == "none" else {"etag": lead.etag if sent == "right" else f'"{lead.revision + 7}"'}

    def allowed(self, answer: httpx2.Response, lead: Lead, sent: str, *, opened: bool = False) -> bool:
        """Whether the call is to be done; where it is not, it was refused for the right reason."""
        if sent == "stale":
            return self.refused(answer, 409, "ETAG_MISMATCH")
        if lead.deleted:
            return self.refused(answer, 400, "DELETED")
        if opened and lead.status != "LEAD_STATUS_OPEN":
            return self.refused(answer, 400, "STATE_INVALID")
        assert answer.is_success, answer.text
        return True

    def refused(self, answer: httpx2.Response, status: int, reason: str) -> bool:
        """Checks a refusal; it is no success."""
        assert answer.status_code == status, answer.text
        assert answer.json()["error"]["details"][0]["reason"] == reason
        return False

    @invariant()
    def both_say_the_same(self) -> None:
        """Every lead shows what the model says."""
        for lead in itertools.islice(reversed(self.known.values()), 3):
            shown = self.client.get(f"/v1/leads/{lead.id}")
            assert (shown["given_name"], shown["etag"], shown["status"]) == (lead.name, lead.etag, lead.status)
            assert ("delete_time" in shown) == lead.deleted

    def teardown(self) -> None:
        """The list shows what is not deleted, and each history is as long as its revisions."""
        listed = {each["id"] for each in self.client.get("/v1/leads", page_size=1_000)["leads"]}
        assert listed & self.known.keys() == {lead.id for lead in self.known.values() if not lead.deleted}
        for lead in itertools.islice(self.known.values(), 3):
            assert (
                len(self.client.get(f"/v1/leads/{lead.id}:listRevisions", page_size=100)["revisions"]) == lead.revision
            )


@pytest.mark.line(2, nightly=True)
def test_any_sequence_of_calls_agrees_with_the_model(
    platform: Running, scale: Callable[[int, int], int], time_left: Callable[[], bool], seed: int, report: Report
) -> None:
    wanted, steps = scale(10, 200), scale(20, 30)
    chosen = settings(
        max_examples=SEQUENCES,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    Leads.client, Leads.calls = platform.tenant("Model"), 0
    problem, done = "", 0
    while done < wanted and not problem and time_left():
        try:
            run_state_machine_as_test(seeded(seed + done)(Leads), settings=chosen)
        except AssertionError as error:
            problem = f"{error} {getattr(error, '__notes__', '')}"
        done += SEQUENCES
    report(not problem, sequences=done, steps=steps, calls=Leads.calls, problem=problem)
