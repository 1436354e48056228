"""The checks of `make faults` against books that were falsified on purpose: one that cannot fail proves nothing."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from crm.contacts.v1 import company_pb2, contact_pb2

from tests.faults import checks, ledgers
from tests.faults.books import Entry
from tests.faults.checks import Findings
from tests.faults.history import History, Op, read

TENANT = uuid4()
REQUEST = "8f6c3f0e-5a39-4f4f-8f0e-0d4b5f6a7b8c"


def company(count: int) -> bytes:
    return company_pb2.Company(id="company_x", employee_count=count).SerializeToString()


def chain() -> list[Entry]:
    """A company that was made and counted on twice."""
    verbs = ("created", "updated", "updated")
    return [
        Entry(
            tenant=TENANT, event_id=uuid4(), entity="company_x", revision=number + 1,
            type=f"crm.contacts.v1.Company.{verb}", before=company(number) if number else b"",
            after=company(number + 1), changed=["employee_count"], actor="key", request_id=REQUEST,
            position=number + 1,
        )
        for number, verb in enumerate(verbs)
    ]  # fmt: skip


def broken(found: Findings) -> set[str]:
    return {name for name, _ in found.broken()}


def check_chain(entries: list[Entry]) -> set[str]:
    found = Findings()
    ledgers.check_chains("contacts", entries, found)
    ledgers.check_increments(entries, found)
    return broken(found)


def test_a_whole_chain_is_whole() -> None:
    assert check_chain(chain()) == set()


def test_a_revision_that_is_missing_is_a_gap() -> None:
    first, _, last = chain()
    assert "gaps" in check_chain([first, last])


def test_positions_against_the_order_of_revisions_are_found() -> None:
    first, second, last = chain()
    assert check_chain([first, replace(second, position=3), replace(last, position=2)]) == {"out_of_order"}


def test_an_update_of_what_was_read_too_early_is_a_lost_update() -> None:
    first, second, last = chain()
    assert check_chain([first, second, replace(last, before=first.after, after=second.after)]) == {"lost_updates"}


def check_write(op: Op, *, entries: int, answers: int, after: bytes = b"mine", changed: str = "source") -> set[str]:
    found = Findings()
    rows = [("crm.contacts.v1.Contact.updated", "contact_x", 7 + index, [changed], after) for index in range(entries)]
    ledgers.check_operations([op], [TENANT], {(TENANT, REQUEST): ledgers.Written(rows, answers)}, found)
    return broken(found)


def write(outcome: str, **more: Any) -> Op:
    op = Op(
        number=1, kind="write field", tenant=0, client=3, at=0.0, request_id=REQUEST, value="mine", rows=1,
        entity="contact_x", outcome=outcome, revision=7, more={"field": "source"},
    )  # fmt: skip
    return replace(op, **more)


@pytest.mark.parametrize(
    ("op", "books", "wrong"),
    [
        (write("ok"), {"entries": 1, "answers": 1}, set()),
        (write("info"), {"entries": 1, "answers": 1}, set()),
        (write("info"), {"entries": 0, "answers": 0}, set()),
        (write("fail"), {"entries": 0, "answers": 0}, set()),
        (write("ok"), {"entries": 0, "answers": 0}, {"lost"}),
        (write("ok", revision=6), {"entries": 1, "answers": 1}, {"lost"}),
        (write("ok"), {"entries": 1, "answers": 1, "after": b"another's"}, {"lost"}),
        (write("ok"), {"entries": 2, "answers": 1}, {"doubled"}),
        (write("info"), {"entries": 2, "answers": 1}, {"doubled"}),
        (write("fail"), {"entries": 1, "answers": 1}, {"phantom"}),
        (write("info"), {"entries": 1, "answers": 0}, {"half_done"}),
        (write("info"), {"entries": 0, "answers": 1}, {"half_done"}),
        (write("info", rows=3), {"entries": 2, "answers": 1}, {"half_done"}),
        (write("ok"), {"entries": 1, "answers": 1, "changed": "job_title"}, {"lost_updates"}),
        (write("ok", request_id=""), {"entries": 1, "answers": 1}, {"phantom"}),
    ],
)
def test_what_a_client_was_told_is_held_against_the_books(op: Op, books: dict[str, Any], wrong: set[str]) -> None:
    assert check_write(op, **books) == wrong


@pytest.mark.parametrize(
    ("seen", "wrong"),
    [
        ({"leak": "zq1zq"}, "leaks"),
        ({"mismatch": True}, "mismatched_replays"),
        ({"stale": 4}, "stale_reads"),
        ({"missing": 4}, "lost"),
        ({"skipped": ["company_x"]}, "paging"),
        ({"repeated": ["company_x"]}, "paging"),
    ],
)
def test_a_wrong_answer_is_found_in_the_history(tmp_path: Path, seen: dict[str, Any], wrong: str) -> None:
    history = History(tmp_path / "history.jsonl")
    history.tenant(UUID(int=1), "zq1zq")
    history.ok(history.invoke("get", 0, 1), id="company_x", revision=3)
    history.ok(history.invoke("get", 0, 1), id="company_x", revision=3, **seen)
    history.invoke("get", 0, 1)  # its answer never came
    history.close()
    found = Findings()
    ops = read(history.path)
    checks._answers(ops, found)
    assert broken(found) == {wrong}
    assert [op.outcome for op in ops] == ["ok", "ok", "info"]


def test_what_no_request_made_is_a_phantom() -> None:
    written: dict[tuple[UUID, str], ledgers.Written] = {}
    found = Findings()
    contact = contact_pb2.Contact(display_name="whose?").SerializeToString()
    nobodys = replace(chain()[0], request_id="", type="crm.contacts.v1.Contact.created", after=contact)
    ledgers.note_written("contacts", [nobodys], [], written, found)
    assert broken(found) == {"phantom"}
