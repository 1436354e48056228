"""The bytes that are hashed are those that docs/audit.md describes, computed here by other means."""

from __future__ import annotations

import datetime as dt
import struct
from hashlib import sha256
from uuid import UUID

from chassis.chain import GENESIS, content, entries, entry_of, seal_hash
from chassis.db import Schema

TENANT = UUID("0193aaaa-0000-7000-8000-000000000001")
AT = dt.datetime(2026, 11, 25, 12, 0, 0, 5, dt.UTC)
MICROSECONDS = 1_795_608_000_000_005


def value(raw: bytes) -> bytes:
    return b"\x01" + struct.pack(">I", len(raw)) + raw


def test_a_row_is_its_values_with_their_lengths() -> None:
    row = (TENANT, "ä", 7, ["a", "bc"], None, AT, b"\xff")
    said = (
        value(TENANT.bytes)
        + value("ä".encode())
        + value(struct.pack(">q", 7))
        + value(value(b"a") + value(b"bc"))
        + b"\x00"
        + value(struct.pack(">q", MICROSECONDS))
        + value(b"\xff")
    )
    assert content(row) == said
    entry = entry_of((TENANT, 12, False, *row))
    assert entry == struct.pack(">q", 12) + sha256(said).digest()
    assert entries(entry * 2) == [(12, sha256(said).digest())] * 2


def test_all_of_a_ledger_is_sealed_but_what_is_filled_later() -> None:
    schema = Schema("probe")
    (log,) = schema.logs
    later = {"position", "stream_seq", "before_digest", "after_digest"}
    # Its number in the order of insertion: the entry has the place that was given for good.
    assert {each.name for each in schema.ledger.c} == {*log.columns, *later, "id"}


def test_no_two_rows_share_their_bytes() -> None:
    rows = [("ab", "c"), ("a", "bc"), ("abc", None), (None, "abc"), ("abc", ""), (["abc"], ""), ([], "abc")]
    assert len({content(row) for row in rows}) == len(rows)


def test_a_seal_holds_the_one_before() -> None:
    entry = struct.pack(">q", 12) + bytes(32)
    seal = {
        "tenant_id": TENANT, "sequence": 1, "first_position": 12, "last_position": 12, "row_count": 1,
        "seal_time": AT, "entries": entry,
    }  # fmt: skip
    integers = [value(struct.pack(">q", each)) for each in (1, 12, 12, 1, MICROSECONDS)]
    named = [value(b"rapport-seal-1"), value(b"sales"), value(b"ledger"), value(TENANT.bytes)]
    hashed = b"".join([*named, *integers, value(sha256(entry).digest()), value(bytes(32))])
    assert seal_hash("sales", "ledger", seal, GENESIS) == sha256(hashed).digest()
    assert seal_hash("sales", "ledger", seal, sha256(hashed).digest()) != sha256(hashed).digest()
