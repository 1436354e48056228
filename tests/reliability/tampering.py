"""Ways to change a sealed ledger behind Rapport's back, as somebody with the database in his hands would."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import asyncpg
from crm.type.v1.audit_pb2 import AuditProblemKind as Kind

from chassis.chain import GENESIS, entries, seal_hash
from tests.integration.events.stage import SERVICE

Found = set[Any]


# Each column that is sealed, and another value for it.
EDITS = [
    ("event_id", "gen_random_uuid()"),
    ("entity_id", "entity_id || 'x'"),
    ("revision", "revision + 1"),
    ("type", "type || 'x'"),
    ("before", "before || '\\x00'"),
    ("after", "set_byte(after, 3, get_byte(after, 3) # 1)"),
    ("changed", "changed || ARRAY['amount']"),
    ("actor", "'user_other'"),
    ("cause_event_id", "gen_random_uuid()"),
    ("request_id", "gen_random_uuid()"),
    ("trace_context", "trace_context || '0'"),
    ("occur_time", "occur_time - interval '1 microsecond'"),
    ("commit_time", "commit_time + interval '1 microsecond'"),
]


class Tamperer:
    """Changes one tenant's ledger or seals, and puts everything back."""

    def __init__(self, connection: asyncpg.Connection[Any], tenant: UUID, chance: random.Random) -> None:
        self.db = connection
        self.tenant = tenant
        self.chance = chance
        self.edits = 0

    async def keep(self) -> None:
        """Keeps what is there now."""
        for table in ("ledger", "seals"):
            await self.db.execute(f"CREATE TABLE kept_{table} AS SELECT * FROM {table}")

    async def restore(self) -> None:
        """Puts back what was kept."""
        async with self.db.transaction():
            for table in ("ledger", "seals"):
                await self.db.execute(f"DELETE FROM {table}")
                await self.db.execute(f"INSERT INTO {table} OVERRIDING SYSTEM VALUE SELECT * FROM kept_{table}")

    async def positions(self) -> list[int]:
        """The tenant's sealed positions."""
        rows = await self.db.fetch(
            "SELECT position FROM ledger WHERE tenant_id = $1 AND position <="
            " (SELECT max(last_position) FROM seals WHERE tenant_id = $1) ORDER BY position",
            self.tenant,
        )
        return [row[0] for row in rows]

    async def one(self) -> int:
        """One of the positions."""
        return self.chance.choice(await self.positions())

    async def on_row(self, change: str, position: int, *values: Any) -> None:
        """Runs an UPDATE or DELETE on the tenant's row at a position."""
        await self.db.execute(f"{change} WHERE tenant_id = $1 AND position = $2", self.tenant, position, *values)

    async def seals(self) -> list[Any]:
        """The tenant's seals, in order."""
        return list(await self.db.fetch("SELECT * FROM seals WHERE tenant_id = $1 ORDER BY sequence", self.tenant))


async def edit(it: Tamperer) -> Found:
    """Another value in any column that is sealed."""
    column, value = EDITS[it.edits % len(EDITS)]
    it.edits += 1
    await it.on_row(f"UPDATE ledger SET {column} = {value}", await it.one())
    return {Kind.AUDIT_PROBLEM_KIND_ROW_CHANGED}


async def blank(it: Tamperer) -> Found:
    """A body taken away without the digest of what it was."""
    digest = it.chance.choice(["NULL", "sha256('another')"])
    await it.on_row(f"UPDATE ledger SET after = '', after_digest = {digest}", await it.one())
    return {Kind.AUDIT_PROBLEM_KIND_ROW_CHANGED}


async def hide(it: Tamperer) -> Found:
    """Another body behind the digest of the true one."""
    change = "UPDATE ledger SET after_digest = sha256(after), after = after || '\\x0a'"
    await it.on_row(change, await it.one())
    return {Kind.AUDIT_PROBLEM_KIND_ROW_CHANGED}


async def delete(it: Tamperer) -> Found:
    await it.on_row("DELETE FROM ledger", await it.one())
    return {Kind.AUDIT_PROBLEM_KIND_ROW_MISSING}


async def delete_end(it: Tamperer) -> Found:
    """The last rows gone, their seals still there."""
    await it.db.execute("DELETE FROM ledger WHERE tenant_id = $1 AND position >= $2", it.tenant, await it.one())
    return {Kind.AUDIT_PROBLEM_KIND_ROW_MISSING}


async def reorder(it: Tamperer) -> Found:
    """Two rows in each other's place."""
    one, other = it.chance.sample(await it.positions(), 2)
    await it.db.execute(
        "UPDATE ledger SET position = CASE position WHEN $2 THEN $3 ELSE $2 END"
        " WHERE tenant_id = $1 AND position IN ($2, $3)",
        it.tenant, one, other,
    )  # fmt: skip
    # In seals of their own, each only sees that the other's content is not what it was.
    return {Kind.AUDIT_PROBLEM_KIND_ROWS_REORDERED, Kind.AUDIT_PROBLEM_KIND_ROW_CHANGED}


async def move(it: Tamperer) -> Found:
    """A row at a position that another tenant has, or far away."""
    target = it.chance.choice([await foreign(it), 10**9])
    await it.on_row("UPDATE ledger SET position = $3", await it.one(), target)
    return {
        Kind.AUDIT_PROBLEM_KIND_ROWS_REORDERED,
        Kind.AUDIT_PROBLEM_KIND_ROW_MISSING,
        Kind.AUDIT_PROBLEM_KIND_ROW_INSERTED,
    }


async def give_away(it: Tamperer) -> Found:
    """A row that is another tenant's now."""
    await it.on_row("UPDATE ledger SET tenant_id = $3", await it.one(), uuid4())
    return {Kind.AUDIT_PROBLEM_KIND_ROW_MISSING}


async def foreign(it: Tamperer) -> int:
    """A position between the tenant's own that is not its own."""
    own = await it.positions()
    return it.chance.choice(sorted(set(range(own[0], own[-1])) - set(own)))


async def insert(it: Tamperer) -> Found:
    """A row that never was: at a position of its own, or at one that there is."""
    position = it.chance.choice([await it.one(), await foreign(it), 10**9])
    await it.db.execute(
        "INSERT INTO ledger (tenant_id, event_id, entity_id, revision, type, before, after, changed, actor,"
        " trace_context, occur_time, commit_time, position)"
        " SELECT tenant_id, gen_random_uuid(), entity_id, revision + 1, type, after, after, changed, actor,"
        " trace_context, occur_time, commit_time, $3 FROM ledger WHERE tenant_id = $1 AND position = $2",
        it.tenant, await it.one(), position,
    )  # fmt: skip
    return {Kind.AUDIT_PROBLEM_KIND_ROW_INSERTED}


async def edit_seal(it: Tamperer) -> Found:
    """Another value in any column of a seal."""
    change = it.chance.choice(
        [
            "first_position = first_position + 1",
            "last_position = last_position - 1",
            "row_count = row_count + 1",
            "seal_time = seal_time - interval '1 hour'",
            "entries = set_byte(entries, 20, get_byte(entries, 20) # 1)",
            "hash = sha256(hash)",
        ]
    )
    sequence = it.chance.choice(await it.seals())["sequence"]
    await it.db.execute(f"UPDATE seals SET {change} WHERE tenant_id = $1 AND sequence = $2", it.tenant, sequence)
    return {Kind.AUDIT_PROBLEM_KIND_SEAL_CHANGED, Kind.AUDIT_PROBLEM_KIND_CHAIN_REWRITTEN}


async def delete_seal(it: Tamperer) -> Found:
    """A seal gone from between the others."""
    sequence = it.chance.choice((await it.seals())[:-1])["sequence"]
    await it.db.execute("DELETE FROM seals WHERE tenant_id = $1 AND sequence = $2", it.tenant, sequence)
    return {Kind.AUDIT_PROBLEM_KIND_SEAL_MISSING}


async def truncate(it: Tamperer) -> Found:
    """The end gone, rows and seals."""
    first = it.chance.choice(await it.seals())
    for table, column in (("ledger", "position"), ("seals", "last_position")):
        await it.db.execute(
            f"DELETE FROM {table} WHERE tenant_id = $1 AND {column} >= $2",
            it.tenant, first["first_position"],
        )  # fmt: skip
    return {Kind.AUDIT_PROBLEM_KIND_CHAIN_TRUNCATED}


async def unseal(it: Tamperer) -> Found:
    """The last seals gone, the rows still there."""
    first = it.chance.choice(await it.seals())["sequence"]
    await it.db.execute("DELETE FROM seals WHERE tenant_id = $1 AND sequence >= $2", it.tenant, first)
    return {Kind.AUDIT_PROBLEM_KIND_CHAIN_TRUNCATED}


async def rewrite(it: Tamperer) -> Found:
    """A row gone and every seal from there on made anew, as the sealer would have."""
    position = await it.one()
    await it.on_row("DELETE FROM ledger", position)
    previous = GENESIS
    for each in await it.seals():
        seal = dict(each)
        left = [(at, digest) for at, digest in entries(seal["entries"]) if at != position]
        if len(left) < seal["row_count"] and left:
            seal["first_position"], seal["last_position"], seal["row_count"] = left[0][0], left[-1][0], len(left)
            seal["entries"] = b"".join(at.to_bytes(8, "big") + digest for at, digest in left)
        previous = seal_hash(SERVICE, "ledger", seal, previous)
        await it.db.execute(
            "UPDATE seals SET first_position = $3, last_position = $4, row_count = $5, entries = $6, hash = $7"
            " WHERE tenant_id = $1 AND sequence = $2",
            it.tenant, seal["sequence"], seal["first_position"], seal["last_position"], seal["row_count"],
            seal["entries"], previous,
        )  # fmt: skip
    return {Kind.AUDIT_PROBLEM_KIND_CHAIN_REWRITTEN}


MUTATIONS: list[Callable[[Tamperer], Awaitable[Found]]] = [
    edit, blank, hide, delete, delete_end, reorder, move, give_away, insert, edit_seal, delete_seal, truncate, unseal,
    rewrite,
]  # fmt: skip
