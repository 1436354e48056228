"""An import from its options to its summary."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from zoneinfo import ZoneInfo

from cli.client import Client, Json
from cli.importing import mapping, stages, summary, targets
from cli.importing.deals import Deals, with_time
from cli.importing.directory import Directory
from cli.importing.drafts import Draft, draft
from cli.importing.options import DealOptions, Options
from cli.importing.progress import Progress
from cli.importing.reading import Row, Table, open_table
from cli.importing.references import References
from cli.importing.sending import Item, Sender
from cli.importing.tally import ErrorsFile, Tally
from cli.importing.values import Reading
from cli.problems import Problem, UsageProblem
from cli.resources import Resource
from cli.settings import load

# How long the first call may take to get through, and every later one: a service may be restarting.
FIRST_PATIENCE_S, PATIENCE_S = 5.0, 60.0
MOST_CHARACTERS_AT_ONCE = 500_000
# What finds a record again where a row has no external id.
_OTHER_KEYS = {
    "leads": ("email",),
    "contacts": ("emails",),
    "companies": ("domain",),
    "products": ("sku", "display_name"),
}


@dataclass
class Import:
    """One run over one file."""

    resource: Resource
    options: Options
    deal_options: DealOptions
    table: Table
    plan: mapping.Plan
    reading: Reading
    required: frozenset[str]
    client: Client
    tally: Tally
    references: References
    deals: Deals | None = None

    def run(self, progress: Progress) -> None:
        """Sends every row, a batch at a time, in the file's order."""
        sender = Sender(self.client, self.resource, self.tally, self.options.dry_run)
        for rows in self.batches():
            drafts = [draft(row, self.plan, self.reading) for row in rows]
            self.references.resolve(drafts)
            items = [item for each in drafts if (item := self.item(each)) is not None]
            if self.deal_options.convert_leads:
                sender.convert(items)
            else:
                sender.upsert(items)
                sender.link()
            self.tally.write_failed()
            self.tally.read += len(rows)
            progress.advance(len(rows))

    def batches(self) -> Iterator[list[Row]]:
        """The rows in portions, none with an external id twice: the later row must find the earlier's record.

        Long rows come in small portions, so that no process needs more memory for them.
        """
        key = next((f.source for f in self.plan.fillings if f.target.name == "external_id"), None)
        rows: list[Row] = []
        keys: set[str] = set()
        size = 0
        for row in self.table.rows():
            own = key.text(row.cells) if key is not None and not row.problem else ""
            full = len(rows) == self.options.batch or size > MOST_CHARACTERS_AT_ONCE
            if full or (own and own in keys):
                yield rows
                rows, keys, size = [], set(), 0
            rows.append(row)
            size += sum(map(len, row.cells))
            keys.add(own)
        if rows:
            yield rows

    def item(self, each: Draft) -> Item | None:
        """A draft as it is sent; None, and the row counted as failed, where it cannot be."""
        lead: Json | None = None
        try:
            if not each.problems:
                self.complete(each)
                if self.deals is None:
                    body = {self.resource.prefix: each.record, **with_time(each.beside.get("occur_time", ""))}
                elif self.deal_options.convert_leads:
                    lead = self.lead_of(each)
                    body = self.deals.conversion(each)
                else:
                    body = self.deals.item(each, self.tally)
                return Item(each.row, body, lead, each.beside.get("company_id", ""), each.beside.get("role", ""))
        except Problem as problem:
            each.problems.append(str(problem))
        self.tally.fail(each.row, "; ".join(each.problems))
        return None

    def complete(self, each: Draft) -> None:
        """Adds the external id and a deal's name; checks what every record needs. Raises Problem."""
        external_id = each.beside.get("external_id", "")
        if external_id:
            each.record["external_ids"] = [{"system": self.options.system, "id": external_id}]
        elif not self.deal_options.convert_leads and not any(map(each.record.get, other_keys(self.resource))):
            raise Problem("has no external id, so a second run would make it twice: map external_id")
        if self.plan.fills("company") and not any(name.filling.target.name == "company" for name in each.names):
            self.tally.remark(f"{self.resource.plural} without a company: imported without one")
        if self.deals is not None and not self.deal_options.convert_leads:
            said = {name.filling.target.name: name.text for name in each.names}
            parts = [said[word] for word in ("company", "product") if word in said]
            each.record.setdefault("display_name", (" — ".join(parts) or external_id)[:200])
        missing = sorted(name for name in self.required - each.record.keys() if not self.deal_options.convert_leads)
        if missing:
            raise Problem(f"has no {' and no '.join(missing)}")

    def lead_of(self, each: Draft) -> Json:
        """The lead a row converts. Raises Problem where there is none."""
        name = each.beside.get("lead", "")
        if not name:
            raise Problem("names no lead to convert")
        lead = self.references.directory.find("leads", name)
        if lead is None:
            self.tally.remark("unknown leads: import them first, with the same --system")
            raise Problem(f"unknown lead {name!r}")
        return lead


def run(resource: Resource, file: Path, options: Options, deal_options: DealOptions | None = None) -> int:
    """Runs an import and prints its summary. The exit code: 0 all rows in, 1 some failed, 130 interrupted.

    Raises Problem, before anything is written, where file, options or platform do not allow it.
    """
    started = time.monotonic()
    options.check(file)
    deal_options = deal_options or DealOptions()
    table = open_table(file, encoding=options.encoding, delimiter=options.delimiter, sheet=options.sheet)
    known = targets.of(resource)
    plan = mapping.plan(known, table.header, options.map, options.value, not options.currency)
    check_plan(plan, resource, deal_options)
    reading = Reading(ZoneInfo(options.time_zone), options.currency, options.decimal, options.date_format)
    errors = options.errors_path(file)
    tally = Tally(ErrorsFile(errors, table.header) if errors else None)
    outcome: Problem | KeyboardInterrupt | None = None
    with Client(load(), FIRST_PATIENCE_S) as client:
        client.get(resource.path, {"page_size": 1})  # says at once when nothing answers or the key is wrong
        client.patience_s = PATIENCE_S
        references = References(
            Directory(client, options.system),
            tally,
            creates(options, deal_options),
            deal_options.convert_leads,
            options.dry_run,
        )
        deals = deals_of(resource, client, options, deal_options)
        importing = Import(
            resource, options, deal_options, table, plan, reading, known.required, client, tally, references, deals
        )
        with Progress(f"importing {resource.plural}", table.row_count) as progress, sigterm_interrupts():
            try:
                importing.run(progress)
            except (Problem, KeyboardInterrupt) as error:
                outcome = error
    tally.write_failed()
    written = tally.errors.close() if tally.errors else False
    summary.show(
        tally,
        table,
        plan,
        errors=errors if written else None,
        seconds=time.monotonic() - started,
        interrupted=outcome is not None,
        dry_run=options.dry_run,
        json=options.json,
    )
    if isinstance(outcome, KeyboardInterrupt):
        return 130
    if outcome is not None:
        raise outcome
    return 1 if tally.failed else 0


def creates(options: Options, deal_options: DealOptions) -> frozenset[str]:
    """The collections in which unknown names become records."""
    asked = {"users": options.create_owners, "products": deal_options.create_products}
    return frozenset(collection for collection, wanted in asked.items() if wanted)


def deals_of(resource: Resource, client: Client, options: Options, deal_options: DealOptions) -> Deals | None:
    """How rows become deals; None where they become something else."""
    if resource.plural != "deals":
        return None
    pipeline = stages.choose(client, deal_options.pipeline, deal_options.stages, options.dry_run)
    return Deals(pipeline, options.system, deal_options.won)


def other_keys(resource: Resource) -> tuple[str, ...]:
    """The fields that find a record again where a row has no external id."""
    return _OTHER_KEYS.get(resource.plural, ())


def check_plan(plan: mapping.Plan, resource: Resource, options: DealOptions) -> None:
    """Raises UsageProblem where what is mapped cannot make records."""
    if not plan.fillings:
        raise UsageProblem(f"no column is mapped: use --map field=column; the file has {', '.join(plan.unmapped)}")
    other = other_keys(resource)
    finds_again = plan.fills("external_id") or any(
        f.target.path and f.target.path[0].name in other for f in plan.fillings
    )
    if not finds_again and not options.convert_leads:
        also = f" (or map {' or '.join(other)})" if other else ""
        raise UsageProblem(
            f"nothing finds a record again, a second run would double it: use --map external_id=column{also}"
        )
    if options.convert_leads and not plan.fills("lead"):
        raise UsageProblem("--convert-leads needs --map lead=column, the column with the lead's external id")
    if plan.fills("lead") and not options.convert_leads:
        raise UsageProblem("lead is mapped: a deal gets its lead by --convert-leads")


@contextmanager
def sigterm_interrupts() -> Iterator[None]:
    """Lets SIGTERM end a run as Ctrl-C does, with a summary."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
