"""The statements of sealing and checking one log."""

from __future__ import annotations

from functools import cache
from typing import Any, Final

from sqlalchemy import Select, Uuid, bindparam, func, insert, literal, select, true
from sqlalchemy.dialects.postgresql import ARRAY

from chassis.chain import Log
from chassis.db import Schema

# So many rows are sealed in one transaction, and so many has a seal at most.
AT_ONCE: Final = 5_000
# Rows without a seal are counted so far.
MOST_UNSEALED: Final = 100_000


class Statements:
    """What is asked of one log and its seals. Those with ``tenant`` see one, the others all."""

    def __init__(self, schema: Schema, log: Log) -> None:
        self.service = schema.name
        self.log = log
        seals, table = schema.seals, log.table
        its_seals = seals.c.log == log.name, seals.c.tenant_id == bindparam("tenant")
        of_all = seals.c.log == log.name
        sealed = func.coalesce(select(func.max(seals.c.last_position)).where(of_all).scalar_subquery(), 0)
        last = literal(0) if log.per_tenant else select(schema.relay.c.last_position).scalar_subquery()
        # How far the log is sealed, and how far it goes; for a log that counts over all tenants.
        self.reach = select(sealed.label("sealed"), last.label("last"))
        self.newest = (
            select(seals.c.seal_time, func.clock_timestamp().label("now"))
            .where(of_all)
            .order_by(seals.c.last_position.desc())
            .limit(1)
        )
        self.add = insert(seals).values(
            {each.name: bindparam(each.name) for each in seals.c if each.name != "log"} | {"log": log.name}
        )
        beyond = table.c.position > bindparam("after"), table.c.position <= bindparam("until")
        self.stretch = select(*log.selected()).where(*beyond).order_by(table.c.position)
        mine = table.c.tenant_id == bindparam("tenant")
        self.piece = select(*log.selected()).where(mine, *beyond).order_by(table.c.position).limit(bindparam("most"))
        self.next_tenant = (
            select(table.c.tenant_id)
            .where(table.c.tenant_id > bindparam("before"))
            .order_by(table.c.tenant_id)
            .limit(1)
        )
        self.tail = self._tail()
        wanted = func.unnest(bindparam("tenants", type_=ARRAY(Uuid))).table_valued("tenant").render_derived("wanted")
        last_seal = (
            select(seals.c.tenant_id, seals.c.sequence, seals.c.last_position, seals.c.hash)
            .where(of_all, seals.c.tenant_id == wanted.c.tenant)
            .order_by(seals.c.sequence.desc())
            .limit(1)
            .lateral("last_seal")
        )
        self.last_seals = select(last_seal).select_from(wanted.join(last_seal, true()))
        self.head = select(seals).where(*its_seals).order_by(seals.c.sequence.desc()).limit(1)
        self.hashes = select(seals.c.sequence, seals.c.hash).where(
            *its_seals, seals.c.sequence == func.any(bindparam("sequences"))
        )
        after = seals.c.sequence > bindparam("after")
        self.sizes = (
            select(seals.c.sequence, seals.c.row_count)
            .where(*its_seals, after)
            .order_by(seals.c.sequence)
            .limit(bindparam("most"))
        )
        self.seals = (
            select(seals).where(*its_seals, after, seals.c.sequence <= bindparam("until")).order_by(seals.c.sequence)
        )

    def _tail(self) -> Select[Any, Any, Any, Any]:
        """How many rows stand after a position, with the first and last of them and the time of the first."""
        table = self.log.table
        rows = (
            select(table.c.position, table.c[self.log.time].label("time"))
            .where(table.c.tenant_id == bindparam("tenant"), table.c.position > bindparam("after"))
            .order_by(table.c.position)
            .limit(MOST_UNSEALED)
            .subquery()
        )
        columns = rows.c
        return select(
            func.count().label("count"),
            func.min(columns.position).label("first"),
            func.max(columns.position).label("last"),
            func.min(columns.time).label("oldest"),
        )


@cache
def statements_of(schema: Schema, log: Log) -> Statements:
    """The statements for a log, made once."""
    return Statements(schema, log)
