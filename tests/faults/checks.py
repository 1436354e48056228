"""What must hold once everything is healed and quiet, held against what the clients were told."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any, Final
from uuid import UUID

from tests.faults import broker, effects, ledgers, seals, tally
from tests.faults.books import Books, pools_at_rest, quiesce
from tests.faults.history import History, Op, read

SHOWN: Final = 5
SERVICES: Final = ("contacts", "sales", "activities", "marketing")
# Operations whose callers meant to lose patience.
_IMPATIENT: Final = frozenset({"storm"})


@dataclass
class Findings:
    """What does not hold, by what should; each entry is one example in words. Nothing found is all well."""

    # Acknowledged, and not there.
    lost: list[str] = field(default_factory=list)
    # Done more than once.
    doubled: list[str] = field(default_factory=list)
    # There, though it was refused or nobody asked for it.
    phantom: list[str] = field(default_factory=list)
    # A part of a change without the others.
    half_done: list[str] = field(default_factory=list)
    # Positions and revisions that are not 1, 2, 3 …
    gaps: list[str] = field(default_factory=list)
    # Positions of a record that are not in the order of its revisions.
    out_of_order: list[str] = field(default_factory=list)
    # A tenant's data in another one's answers or rows.
    leaks: list[str] = field(default_factory=list)
    # A projection that is not what the ledgers say, or not what its rebuild makes.
    projection_diffs: list[str] = field(default_factory=list)
    # A repeated request that was answered otherwise.
    mismatched_replays: list[str] = field(default_factory=list)
    # Database connections that nobody gave back.
    pool_leaks: list[str] = field(default_factory=list)
    # Rows that a scan skipped or repeated.
    paging: list[str] = field(default_factory=list)
    # An update that another one overwrote unseen.
    lost_updates: list[str] = field(default_factory=list)
    # A read that is older than what was acknowledged before it.
    stale_reads: list[str] = field(default_factory=list)
    # Events that nobody can handle and that are not with the dead letters.
    poison: list[str] = field(default_factory=list)
    # What goes on although nobody asks for anything.
    not_quiet: list[str] = field(default_factory=list)
    # Requests that failed although nothing was broken but restarted in order.
    noticed: list[str] = field(default_factory=list)
    # A ledger that is not what was sealed, or not sealed.
    seals: list[str] = field(default_factory=list)
    # How many messages the stream took beyond one for each change.
    republished: int = 0

    def broken(self) -> Iterator[tuple[str, list[str]]]:
        """The invariants that do not hold, with their examples."""
        for each in fields(self):
            examples = getattr(self, each.name)
            if isinstance(examples, list) and examples:
                yield each.name, examples


def check(stand: Any, history: History, *, gentle: bool = False, rebuild: bool = True) -> Findings:
    """Waits until the platform is quiet and checks everything.

    ``gentle`` says that nothing but orderly restarts was done to the platform, so that no request may have failed.
    """
    history.close()
    ops = read(history.path)
    books = Books(stand.running.state, stand.env["RAPPORT_NATS_URL"])
    tenants, canaries = [tenant for tenant, _ in history.tenants], [canary for _, canary in history.tenants]
    found = asyncio.run(_check(books, ops, tenants, canaries))
    found.seals += asyncio.run(seals.check(stand.env, tenants))
    broker.check_poison(stand, found)
    if gentle:
        found.noticed += [
            f"operation {op.number}: {op.kind}: {op.why}"
            for op in ops
            if op.outcome == "info" and op.why and op.kind not in _IMPATIENT
        ]
    if rebuild and not found.not_quiet:
        found.projection_diffs += effects.rebuilt_otherwise(stand.running.state, books)
    return found


async def _check(books: Books, ops: list[Op], tenants: list[UUID], canaries: list[str]) -> Findings:
    found = Findings()
    found.not_quiet += [f"{where}: {count}" for where, count in (await quiesce(books)).items()]
    _answers(ops, found)
    conversions = await ledgers.read_conversions(books, tenants)
    written: dict[tuple[UUID, str], ledgers.Written] = defaultdict(ledgers.Written)
    events: dict[UUID, effects.Event] = {}
    for service in (*SERVICES, "gateway"):
        entries = await books.ledger(service)
        await ledgers.check_numbers(books, service, entries, found)
        ledgers.check_chains(service, entries, found)
        effects.note(service, entries, events)
        if service == "gateway":
            continue
        mine = [each for each in entries if each.tenant in set(tenants)]
        ledgers.note_written(service, mine, conversions, written, found)
        ledgers.check_increments(mine, found)
        await ledgers.check_rows(books, service, mine, tenants, found)
        await ledgers.check_leaks(books, service, tenants, canaries, found)
        await ledgers.note_answers(books, service, tenants, written)
        if service == "sales":
            await effects.check_views(books, mine, tenants, found)
            ledgers.check_conversions(conversions, mine, found)
    await ledgers.check_converted(books, conversions, found)
    await effects.check_timeline(books, events, found)
    await tally.check(books, events, found)
    ledgers.check_operations(ops, tenants, written, found)
    found.republished = max(0, await books.messages() - len(events))
    found.pool_leaks += await pools_at_rest(books)
    return found


def _answers(ops: list[Op], found: Findings) -> None:
    """What was wrong with an answer when it came."""
    for op in ops:
        what = f"operation {op.number} ({op.kind} by client {op.client})"
        if op.more.get("leak"):
            found.leaks.append(f"{what}: {op.more['leak']}")
        if op.more.get("mismatch"):
            found.mismatched_replays.append(f"{what}: of operation {op.more.get('of', '')} {op.why}")
        if op.more.get("stale"):
            found.stale_reads.append(f"{what}: {op.entity} at {op.revision}, acknowledged was {op.more['stale']}")
        if op.more.get("missing"):
            found.lost.append(f"{what}: {op.entity} is not found, acknowledged was {op.more['missing']}")
        for name in ("skipped", "repeated"):
            if op.more.get(name):
                found.paging.append(f"{what}: {name} {', '.join(op.more[name])}")
