"""Checks that logs are what was sealed: a piece at a time, from the first seal on, and holds no more than the piece."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, Protocol
from uuid import UUID

from crm.internal.v1 import seal_pb2 as pb
from crm.type.v1 import audit_pb2

from chassis.audit.statements import Statements, statements_of
from chassis.chain import ENTRY_BYTES, GENESIS, entries, entry_of, seal_hash
from chassis.db import Database, Tx
from chassis.rows import timestamp
from chassis.settings import Settings
from chassis.sql import Row

DEFAULT_ROWS: Final = 10_000
MAX_ROWS: Final = 50_000
# So many seals are looked at in one piece, however few rows they have.
_MOST_SEALS: Final = 2_000
# A row is sealed a while after it was made.
_SLACK: Final = dt.timedelta(days=1)
Kind = audit_pb2.AuditProblemKind


async def heads(db: Database, tenant: UUID) -> list[audit_pb2.AuditHead]:
    """The newest seal of each of a service's logs in a tenant."""
    found = []
    async with db.read(tenant) as tx:
        for log in db.schema.logs:
            head = audit_pb2.AuditHead(service=db.schema.name, log=log.name)
            for seal in await tx.rows(statements_of(db.schema, log).head):
                head.sequence, head.hash, head.position = seal.sequence, seal.hash.hex(), seal.last_position
                head.seal_time.CopyFrom(timestamp(seal.seal_time))
            found.append(head)
    return found


class Kept(Protocol):
    """Where logs are, and the settings that say for how long they are kept; a `chassis.service.Platform` is one."""

    @property
    def db(self) -> Database:
        """The database of the logs."""
        ...

    @property
    def settings(self) -> Settings:
        """The settings."""
        ...


async def check_logs(
    kept: Kept, tenant: UUID, checks: Sequence[pb.SealCheck], given: Iterable[audit_pb2.AuditHead], row_limit: int = 0
) -> list[pb.SealCheck]:
    """Carries each check on by a piece. Without any it begins one for each log.

    ``given`` are heads of any service that were exported earlier, ``row_limit`` says about how many rows a piece has.
    """
    db = kept.db
    known = {each.log: each for each in checks}
    limit = min(row_limit or DEFAULT_ROWS, MAX_ROWS)
    answer = []
    for log in db.schema.logs:
        check = pb.SealCheck(log=log.name)
        if log.name in known:
            check.CopyFrom(known[log.name])
        if not check.done:
            its = {each.sequence: each.hash for each in given if (each.service, each.log) == (db.schema.name, log.name)}
            days = float(getattr(kept.settings, log.kept_days)) if log.kept_days else None
            await _Piece(db, tenant, statements_of(db.schema, log), check, days).go(its, limit)
        answer.append(check)
    return answer


class _Wrong(Exception):
    """What is wrong with a log."""

    def __init__(self, kind: Kind.ValueType, message: str, *, sequence: int = 0, position: int = 0) -> None:
        self.problem = audit_pb2.AuditProblem(kind=kind, sequence=sequence, position=position, message=message)


class _Piece:
    """A piece of the check of one log."""

    def __init__(self, db: Database, tenant: UUID, its: Statements, check: pb.SealCheck, days: float | None) -> None:
        self._db = db
        self._tenant = tenant
        self._its = its
        self._check = check
        self._previous = check.hash or GENESIS
        # Rows that were sealed before may be gone.
        self._expired = None if days is None else dt.datetime.now(dt.UTC) - dt.timedelta(days=days) + _SLACK

    async def go(self, given: Mapping[int, str], limit: int) -> None:
        """Checks as many seals as have about so many rows; at the end, what comes after them."""
        check, its = self._check, self._its
        # Read first: whatever is sealed later is none of it.
        async with self._db.worker() as connection:
            sealed = (await connection.rows(its.reach))[0].sealed
        async with self._db.read(self._tenant) as tx:
            try:
                if not check.sequence:
                    await self._compare_heads(tx, given)
                if not await self._compare_seals(tx, limit):
                    await self._look_beyond(tx, 0 if its.log.per_tenant else sealed)
                    check.done = True
            except _Wrong as wrong:
                check.problem.CopyFrom(wrong.problem)
                check.done = True

    async def _compare_heads(self, tx: Tx, given: Mapping[int, str]) -> None:
        """Whether the chain still has the seals that were its heads. That they follow from all before is seen later."""
        wanted = {sequence: text for sequence, text in given.items() if sequence}
        rows = await tx.rows(self._its.hashes, {"sequences": list(wanted)}) if wanted else []
        found = {row.sequence: row.hash.hex() for row in rows}
        for sequence, text in sorted(wanted.items()):
            if sequence not in found:
                message = f"seal {sequence}, of which a head was kept, is gone: the end was cut off"
                raise _Wrong(Kind.AUDIT_PROBLEM_KIND_CHAIN_TRUNCATED, message, sequence=sequence)
            if found[sequence] != text:
                message = f"seal {sequence} is not the one of which a head was kept: the chain was written anew"
                raise _Wrong(Kind.AUDIT_PROBLEM_KIND_CHAIN_REWRITTEN, message, sequence=sequence)

    async def _compare_seals(self, tx: Tx, limit: int) -> bool:
        """Compares the next seals with their rows; whether there were any."""
        check = self._check
        sizes = await tx.rows(self._its.sizes, {"after": check.sequence, "most": _MOST_SEALS})
        until, size = check.sequence, 0
        for each in sizes:
            if size and size + each.row_count > limit:
                break
            until, size = each.sequence, size + each.row_count
        if not sizes:
            return False
        seals = await tx.rows(self._its.seals, {"after": check.sequence, "until": until})
        between = {"after": check.position, "until": seals[-1].last_position}
        # What is more than the seals say is wrong; the first of it will do.
        rows = await tx.rows(self._its.piece, between | {"most": size + 1})
        start = 0
        for seal in seals:
            end = start
            while end < len(rows) and rows[end]["at_position"] <= seal.last_position:
                end += 1
            self._compare(seal, rows[start:end])
            start = end
        return True

    def _compare(self, seal: Row, rows: Sequence[Row]) -> None:
        """Compares a seal with the seal before and the rows that it covers, and notes that it holds."""
        check, its = self._check, self._its
        if seal.sequence != check.sequence + 1:
            message = f"seal {check.sequence + 1} is gone"
            raise _Wrong(Kind.AUDIT_PROBLEM_KIND_SEAL_MISSING, message, sequence=check.sequence + 1)
        if seal_hash(its.service, its.log.name, seal, self._previous) != seal.hash or not _consistent(seal, check):
            message = f"seal {seal.sequence}, or the one before it, was changed"
            raise _Wrong(Kind.AUDIT_PROBLEM_KIND_SEAL_CHANGED, message, sequence=seal.sequence)
        listed = self._unexpired(seal, rows)
        if b"".join([entry_of(row) for row in rows]) != listed:
            raise _difference(seal, listed, rows)
        check.sequence, check.position, check.hash = seal.sequence, seal.last_position, seal.hash
        check.seal_time.CopyFrom(timestamp(seal.seal_time))
        check.checked_rows += len(rows)
        check.redacted_rows += sum(1 for row in rows if row["redacted"])
        self._previous = seal.hash

    def _unexpired(self, seal: Row, rows: Sequence[Row]) -> bytes:
        """What a seal lists but for what has expired: the oldest rows, up to the first that is still there."""
        listed: bytes = seal.entries
        if self._expired is None or seal.seal_time >= self._expired or self._check.checked_rows:
            return listed
        first = rows[0]["at_position"] if rows else seal.last_position + 1
        gone = sum(1 for position, _ in entries(listed) if position < first)
        self._check.expired_rows += gone
        return listed[gone * ENTRY_BYTES :]

    async def _look_beyond(self, tx: Tx, sealed: int) -> None:
        """Looks at the rows without a seal. There must be none up to ``sealed``, the position all seals reach."""
        check, its = self._check, self._its
        tail = (await tx.rows(its.tail, {"after": check.position}))[0]
        if tail.count and tail.first <= sealed:
            message = (
                f"the row at position {tail.first} has no seal, though all up to {sealed} were sealed:"
                " it was inserted, or seals were cut off"
            )
            raise _Wrong(
                Kind.AUDIT_PROBLEM_KIND_CHAIN_TRUNCATED, message, sequence=check.sequence + 1, position=tail.first
            )
        if tail.count and not its.log.per_tenant and tail.last > (last := (await tx.rows(its.reach))[0].last):
            message = f"the row at position {tail.last} was inserted: no position beyond {last} was given yet"
            raise _Wrong(Kind.AUDIT_PROBLEM_KIND_ROW_INSERTED, message, position=tail.last)
        check.unsealed_rows = tail.count
        if tail.count:
            check.oldest_unsealed_time.CopyFrom(timestamp(tail.oldest))


def _consistent(seal: Row, check: pb.SealCheck) -> bool:
    """Whether what a seal says of its rows is what it lists, after the seal before."""
    listed = [position for position, _ in entries(seal.entries)]
    says = seal.row_count, seal.first_position, seal.last_position
    return bool(listed) and says == (len(listed), listed[0], listed[-1]) and listed[0] > check.position


def _difference(seal: Row, listed: bytes, rows: Sequence[Row]) -> _Wrong:
    """The first difference between what a seal has ``listed`` and the rows that are there."""
    sealed = dict(entries(listed))
    there: dict[int, bytes] = {}
    for row in rows:
        ((position, digest),) = entries(entry_of(row))
        if position in there:
            break
        there[position] = digest
    else:
        position = min(each for each in sealed.keys() | there.keys() if sealed.get(each) != there.get(each))
    kind, what = _kind(sealed, there, position, doubled=len(there) < len(rows))
    message = f"at position {position}, which seal {seal.sequence} covers, {what}"
    return _Wrong(kind, message, sequence=seal.sequence, position=position)


def _kind(
    sealed: Mapping[int, bytes], there: Mapping[int, bytes], position: int, *, doubled: bool
) -> tuple[Kind.ValueType, str]:
    if doubled:
        return Kind.AUDIT_PROBLEM_KIND_ROW_INSERTED, "there are two rows"
    apart = [each for each in sealed.keys() | there.keys() if sealed.get(each) != there.get(each)]
    gone, new = ({rows[each] for each in apart if each in rows} for rows in (sealed, there))
    if there.get(position) in gone or sealed.get(position) in new:
        return Kind.AUDIT_PROBLEM_KIND_ROWS_REORDERED, "rows were moved"
    if position not in there:
        return Kind.AUDIT_PROBLEM_KIND_ROW_MISSING, "the row is gone"
    if position not in sealed:
        return Kind.AUDIT_PROBLEM_KIND_ROW_INSERTED, "there was no row when it was sealed"
    return Kind.AUDIT_PROBLEM_KIND_ROW_CHANGED, "the row was changed"
