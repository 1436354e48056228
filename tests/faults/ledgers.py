"""The ledgers held against the rows, against themselves, and against what clients were told of their writes."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from importlib import import_module
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid5

import asyncpg
from crm.contacts.v1 import company_pb2
from crm.sales.v1 import lead_pb2

from chassis import contract, ids
from chassis.rows import Columns
from tests.faults.books import Books, Entry
from tests.faults.history import Op

if TYPE_CHECKING:
    from tests.faults.checks import Findings

_LINKS: Final = ("contact", "company", "affiliation")
# What is made without having been asked for by name: a tenant's first pipeline, and what a refused conversion undoes.
_UNASKED: Final = frozenset({"crm.sales.v1.Lead.restored"})
_DONE: Final = 3


@dataclass
class Written:
    """What the books hold of one request."""

    entries: list[tuple[str, str, int, list[str], bytes]] = field(default_factory=list)
    answers: int = 0


@dataclass(frozen=True)
class Conversion:
    """A row of sales' conversions."""

    tenant: UUID
    id: UUID
    lead: str
    step: int
    made: list[str]
    response: bytes | None


# ---- a ledger by itself ------------------------------------------------------------------------------------


async def check_numbers(books: Books, service: str, entries: list[Entry], found: Findings) -> None:
    """Positions are 1, 2, 3 … of all tenants together; no event and no place stands there twice."""
    positions = sorted(each.position for each in entries if each.position is not None)
    if positions != list(range(1, len(entries) + 1)):
        twice = [position for position, count in Counter(positions).items() if count > 1]
        missing = sorted(set(range(1, len(entries) + 1)) - set(positions))
        found.gaps.append(f"{service}: positions missing {missing[:5]}, twice {twice[:5]}, of {len(entries)}")
    last = (await books.rows(service, "SELECT last_position FROM relay"))[0][0]
    if last != len(entries):
        found.gaps.append(f"{service}: the relay says {last} positions, the ledger has {len(entries)} rows")
    found.doubled += [
        f"{service}: event {event} stands in the ledger {count} times"
        for event, count in Counter(each.event_id for each in entries).items()
        if count > 1
    ]


def check_chains(service: str, entries: list[Entry], found: Findings) -> None:
    """A record's revisions are 1, 2, 3 … in the order of their positions, and each begins where the last ended."""
    for (_, entity), chain in groupby(entries, key=lambda each: (each.tenant, each.entity)):
        rows = list(chain)
        revisions = [each.revision for each in rows]
        if revisions != list(range(1, len(rows) + 1)):
            found.gaps.append(f"{service}: {entity} has the revisions {revisions[:20]}")
        positions = [each.position for each in rows if each.position is not None]
        if positions != sorted(positions):
            found.out_of_order.append(f"{service}: {entity} has the positions {positions[:20]}")
        for earlier, later in pairwise(rows):
            if later.before != earlier.after and _message(later, later.before) != _message(earlier, earlier.after):
                found.lost_updates.append(
                    f"{service}: {entity} revision {later.revision} ({later.type.rpartition('.')[2]})"
                    f" does not begin where revision {earlier.revision} ended"
                )


def _message(entry: Entry, body: bytes) -> Any:
    return contract.load().message(entry.type.rpartition(".")[0]).FromString(body)


def check_increments(entries: list[Entry], found: Findings) -> None:
    """Each increment counts one on from what was there: two that read the same are one too few."""
    for each in entries:
        if each.type == "crm.contacts.v1.Company.updated" and "employee_count" in each.changed:
            before = company_pb2.Company.FromString(each.before).employee_count
            after = company_pb2.Company.FromString(each.after).employee_count
            if after != before + 1:
                found.lost_updates.append(f"{each.entity} revision {each.revision}: {before} became {after}")


# ---- a ledger and its rows ---------------------------------------------------------------------------------


async def check_rows(
    books: Books, service: str, entries: list[Entry], tenants: list[UUID], found: Findings
) -> None:  # fmt: skip
    """Each row is what its last ledger row says; neither is there without the other."""
    last = {(each.tenant, each.entity): each for each in entries}
    for resource in contract.load().resources.values():
        if resource.home != service:
            continue
        columns: Columns[Any] | None = None
        statement = f"SELECT * FROM {resource.plural} WHERE tenant_id = ANY($1)"
        async with books.open(service) as connection, connection.transaction():
            async for row in connection.cursor(statement, tenants, prefetch=1000):
                if columns is None:
                    columns = _columns(resource, row)
                entity = ids.encode(resource.prefix, row["id"])
                entry = last.pop((row["tenant_id"], entity), None)
                if entry is None:
                    found.half_done.append(f"{service}: {entity} has a row and no ledger row")
                elif row["revision"] != entry.revision:
                    found.half_done.append(
                        f"{service}: {entity} is at revision {row['revision']}, its ledger at {entry.revision}"
                    )
                elif not _is_kept(row, columns, entry.after, _class(resource)):
                    found.half_done.append(f"{service}: {entity} is not what its ledger says at {entry.revision}")
    found.half_done += [f"{service}: {entity} has ledger rows and no row" for _, entity in last]


def _is_kept(row: asyncpg.Record, columns: Columns[Any], after: bytes, kind: Any) -> bool:
    """Whether a row's record, and every column made from it, is what the ledger says."""
    record = kind.FromString(after)
    if kind.FromString(row["record"]) != record:
        return False
    for name, wanted in columns.of(record).items():
        held = row[name]
        if isinstance(held, str) and not isinstance(wanted, str):
            held = json.loads(held)
        if held != wanted:
            return False
    return True


def _columns(resource: contract.ResourceType, row: asyncpg.Record) -> Columns[Any]:
    fields = resource.descriptor.fields_by_name
    transient = frozenset(name for name in fields if name != "etag" and name not in row.keys())  # noqa: SIM118
    return Columns(_class(resource), transient)


def _class(resource: contract.ResourceType) -> Any:
    """The generated class, as services know it: the columns' times belong to the same pool."""
    module = import_module(resource.descriptor.file.name.replace("/", ".").replace(".proto", "_pb2"))
    return getattr(module, resource.descriptor.name)


async def check_leaks(
    books: Books, service: str, tenants: list[UUID], canaries: list[str], found: Findings
) -> None:  # fmt: skip
    """No row of a tenant holds another one's canary."""
    tables = [resource.plural for resource in contract.load().resources.values() if resource.home == service]
    for table in [*tables, "ledger", "idempotency"]:
        body = {"ledger": "encode(after, 'escape')", "idempotency": "encode(response, 'escape')"}.get(table, "t::text")
        for tenant, canary in zip(tenants, canaries, strict=True):
            foreign = [each for each in tenants if each != tenant]
            count = (
                await books.rows(
                    service,
                    f"SELECT count(*) FROM {table} t WHERE tenant_id = ANY($1) AND position($2 in {body}) > 0",
                    foreign,
                    canary,
                )
            )[0][0]
            if count:
                found.leaks.append(f"{service}: {count} rows of {table} hold tenant {tenant}'s canary and are not its")


# ---- what was asked for and what was done --------------------------------------------------------------------


def note_written(
    service: str, entries: list[Entry], conversions: list[Conversion], written: dict[tuple[UUID, str], Written],
    found: Findings,
) -> None:  # fmt: skip
    """Sorts a ledger's rows by the request that made them."""
    derived = {str(uuid5(each.id, name)) for each in conversions for name in _LINKS} if service == "contacts" else set()
    undone = {made for each in conversions for made in each.made}
    for each in entries:
        if each.request_id in derived or each.type.startswith("crm.sales.v1.Pipeline."):
            continue
        if not each.request_id:
            if each.type not in _UNASKED and each.entity not in undone and not each.type.endswith(".deleted"):
                found.phantom.append(f"{service}: {each.type} of {each.entity} was made by no request")
            continue
        written[each.tenant, each.request_id].entries.append(
            (each.type, each.entity, each.revision, each.changed, each.after)
        )


async def note_answers(
    books: Books, service: str, tenants: list[UUID], written: dict[tuple[UUID, str], Written]
) -> None:  # fmt: skip
    """Counts the answers that are kept for each request."""
    for row in await books.rows(
        service, "SELECT tenant_id, request_id FROM idempotency WHERE tenant_id = ANY($1)", tenants
    ):
        written[row["tenant_id"], str(row["request_id"])].answers += 1


def check_operations(
    ops: list[Op], tenants: list[UUID], written: dict[tuple[UUID, str], Written], found: Findings
) -> None:
    """Each write was done once, whole, and as it was told; or, where nobody knows, once or not at all."""
    asked: set[tuple[UUID, str]] = set()
    for op in ops:
        if op.request_id:
            key = tenants[op.tenant], op.request_id
            asked.add(key)
            _check_operation(op, written.get(key) or Written(), found)
    for (_, request_id), done in written.items():
        if (_, request_id) not in asked and done.entries:
            what, entity, revision, _, _ = done.entries[0]
            found.phantom.append(f"{what} of {entity}, revision {revision}: nobody sent the request {request_id}")


def _check_operation(op: Op, done: Written, found: Findings) -> None:
    what = f"operation {op.number} ({op.kind} {op.entity}, {op.outcome} {op.why})"
    count = len(done.entries)
    begun = op.kind == "convert" and count == 1 and op.outcome != "ok"  # refused in contacts, and taken back
    if op.outcome == "ok" and count < op.rows:
        found.lost.append(f"{what}: {count} of {op.rows} ledger rows")
    elif count > op.rows:
        found.doubled.append(f"{what}: {count} ledger rows instead of {op.rows}: {[each[:3] for each in done.entries]}")
    elif op.outcome == "fail" and count and not begun:
        found.phantom.append(f"{what}: it was refused, and yet has {count} ledger rows")
    elif count not in (0, op.rows) and not begun:
        found.half_done.append(f"{what}: {count} of {op.rows} ledger rows")
    if (done.answers != 0) != (count != 0) and not begun:
        found.half_done.append(f"{what}: {count} ledger rows and {done.answers} kept answers")
    _check_content(op, done, what, found)


def _check_content(op: Op, done: Written, what: str, found: Findings) -> None:
    places = [(entity, revision) for _, entity, revision, _, _ in done.entries]
    told = op.outcome == "ok" and op.revision and op.kind != "convert"
    if told and places and (op.entity, op.revision) not in places:
        found.lost.append(f"{what}: the ledger has no revision {op.revision} by this request")
    for _, entity, _, changed, after in done.entries:
        if op.value and op.value.encode() not in after:
            found.lost.append(f"{what}: {entity} does not hold {op.value!r}")
        if (name := op.more.get("field")) and changed != [name]:
            found.lost_updates.append(f"{what}: it was to write {name} and wrote {changed}")


# ---- conversions -------------------------------------------------------------------------------------------


async def read_conversions(books: Books, tenants: list[UUID]) -> list[Conversion]:
    """Every conversion of these tenants."""
    statement = "SELECT tenant_id, id, lead_id, step, made, response FROM conversions WHERE tenant_id = ANY($1)"
    return [
        Conversion(
            row["tenant_id"], row["id"], ids.encode("lead", row["lead_id"]), row["step"], row["made"], row["response"]
        )
        for row in await books.rows("sales", statement, tenants)
    ]


def check_conversions(conversions: list[Conversion], entries: list[Entry], found: Findings) -> None:
    """Each conversion is done, and its lead says so; no lead is half converted or converted without one."""
    done = {(each.tenant, each.lead): each for each in conversions}
    last = {(each.tenant, each.entity): each for each in entries if each.entity.startswith("lead_")}
    for key, entry in last.items():
        lead = lead_pb2.Lead.FromString(entry.after)
        conversion = done.get(key)
        if lead.status == lead_pb2.LEAD_STATUS_CONVERTING:
            found.half_done.append(f"sales: {entry.entity} is still being converted")
        elif (lead.status == lead_pb2.LEAD_STATUS_CONVERTED) != (conversion is not None):
            found.half_done.append(f"sales: {entry.entity} and its conversion do not agree on how far it came")
        elif conversion is not None and conversion.step != _DONE:
            found.half_done.append(f"sales: the conversion of {entry.entity} stands at step {conversion.step}")


async def check_converted(books: Books, conversions: list[Conversion], found: Findings) -> None:
    """What a conversion says it made is there: contact, company, their link, and one deal."""
    contacts = {row[0] for row in await books.rows("contacts", "SELECT id FROM contacts")}
    companies = {row[0] for row in await books.rows("contacts", "SELECT id FROM companies")}
    links = {
        (row[0], row[1]) for row in await books.rows("contacts", "SELECT contact_id, company_id FROM affiliations")
    }
    deals = Counter(row[0] for row in await books.rows("sales", "SELECT lead_id FROM deals WHERE lead_id IS NOT NULL"))
    for each in conversions:
        if each.response is None:
            continue
        answer = lead_pb2.ConvertLeadResponse.FromString(each.response)
        contact, company = ids.decode(answer.contact_id)[1], ids.decode(answer.company_id)[1]
        made = {
            "contact": contact in contacts,
            "company": company in companies,
            "link": (contact, company) in links,
            "deal": deals[ids.decode(each.lead)[1]] == 1,
        }
        if missing := [name for name, there in made.items() if not there]:
            found.half_done.append(f"the conversion of {each.lead} lacks its {', '.join(missing)}")
