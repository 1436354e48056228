"""What one client does: each operation is invoked, written down, done, and written down again with what came of it."""

from __future__ import annotations

import asyncio
import hashlib
import json
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final
from uuid import UUID

from crm.activities.v1 import note_pb2, task_pb2, timeline_pb2
from crm.contacts.v1 import company_pb2, contact_pb2
from crm.sales.v1 import deal_pb2, lead_pb2, pipeline_pb2
from google.protobuf.field_mask_pb2 import FieldMask
from google.type.money_pb2 import Money

from tests.faults.client import Leak, Refused, Rest, Unknown
from tests.faults.history import History
from tests.faults.model import COMPANIES, DOMAINS, INDUSTRIES, Answered, Tenant, id_and_revision

WRITE_S: Final = 6.0
READ_S: Final = 5.0
_TRIES: Final = 20
_HOT: Final = 3
_SERVICES: Final = {
    "contact": "/crm.contacts.v1.ContactService/{}Contact",
    "company": "/crm.contacts.v1.CompanyService/{}Company",
    "lead": "/crm.sales.v1.LeadService/{}Lead",
    "deal": "/crm.sales.v1.DealService/{}Deal",
    "note": "/crm.activities.v1.NoteService/{}Note",
    "task": "/crm.activities.v1.TaskService/{}Task",
}
_MODULES: Final[dict[str, Any]] = {
    "contact": contact_pb2,
    "company": company_pb2,
    "lead": lead_pb2,
    "deal": deal_pb2,
    "note": note_pb2,
    "task": task_pb2,
}
# Each client owns some of a contact's fields: what one writes must leave the others' alone.
_FIELDS: Final = ("job_title", "description", "source")


def _class(kind: str, name: str = "{}") -> Any:
    return getattr(_MODULES[kind], name.format(kind.capitalize()))


def _path(kind: str, verb: str) -> str:
    return _SERVICES[kind].format(verb)


def digest(answer: bytes) -> str:
    """What two answers of the same bytes have in common."""
    return hashlib.sha256(answer).hexdigest()[:16]


# Full, raced by another, or a process whose clock has just jumped and that takes every token for an old one.
_AT_THE_DOOR: Final = frozenset({"RESOURCE_EXHAUSTED", "ABORTED", "UNAUTHENTICATED"})


class Person:
    """One client of a tenant, with its own dice."""

    def __init__(
        self, number: int, tenant: Tenant, tenants: list[Tenant], rng: random.Random, history: History
    ) -> None:
        self.number, self.tenant, self.rng, self.history = number, tenant, rng, history
        self._others = [each for each in tenants if each is not tenant]
        self._written = 0

    # ---- how an operation is done --------------------------------------------------------------------------

    def _value(self) -> str:
        self._written += 1
        return f"{self.tenant.canary} {self.number}.{self._written}"

    def _request_id(self) -> str:
        return str(UUID(int=self.rng.getrandbits(128), version=4))

    async def _write(
        self, kind: str, path: str, request: Any, answer: Any, *, value: str = "", rows: int = 1, entity: str = "",
        **more: Any,
    ) -> Any:  # fmt: skip
        """Does a keyed write over gRPC; the answer's message, or None where it was not acknowledged."""
        request.request_id = self._request_id()
        body = request.SerializeToString()
        op = self.history.invoke(
            kind, self.tenant.number, self.number, request_id=request.request_id, value=value, rows=rows,
            entity=entity, more=more,
        )  # fmt: skip
        got = await self._settle(op, self.tenant.client.grpc(path, body, WRITE_S), answer.FromString)
        if got is None:
            return None
        self.tenant.answered.append(Answered(op, kind, digest(got[0]), path, body))
        return got[1]

    @contextmanager
    def _noted(self, op: int, refused: Callable[[Refused], None] | None = None) -> Iterator[None]:
        """Ends a block whose call had no answer, or another tenant's, and notes it; ``refused`` notes a refusal."""
        try:
            yield
        except Refused as error:
            if refused is not None:
                refused(error)
            else:
                self.history.fail(op, str(error))
        except Unknown as error:
            self.history.info(op, str(error)[:160])
        except Leak as error:
            self.history.ok(op, leak=str(error))

    async def _settle(self, op: int, call: Any, parse: Any) -> tuple[bytes, Any] | None:
        with self._noted(op):
            answer = await call
            got = parse(answer)
            record = getattr(got, "lead", got) if not isinstance(got, dict) else got
            seen: dict[str, Any] = {"digest": digest(answer)}
            if isinstance(record, dict) or "etag" in record.DESCRIPTOR.fields_by_name:
                name, revision = id_and_revision(record)
                self.tenant.saw(name, revision)
                seen |= {"id": name, "revision": revision}
            self.history.ok(op, **seen)
            return answer, got
        return None

    async def _create(self, kind: str, **fields: Any) -> str:
        request = _class(kind, "Create{}Request")()
        value = self._value()
        record = getattr(request, kind)
        record.CopyFrom(_class(kind)(**fields))
        setattr(record, "title" if kind in ("note", "task") else "display_name", value)
        made = await self._write(f"create {kind}", _path(kind, "Create"), request, _class(kind), value=value)
        if made is None:
            return ""
        self.tenant.made(kind, made.id)
        return str(made.id)

    # ---- writes --------------------------------------------------------------------------------------------

    async def create_contact(self) -> None:
        """A contact, by gRPC or by REST."""
        if self.rng.random() < 0.5:
            await self._create("contact", job_title="buyer", language="en")
            return
        value = self._value()
        request_id = self._request_id()
        call = Rest("POST", "/v1/contacts", {"display_name": value}, {"request_id": request_id})
        op = self.history.invoke(
            "create contact", self.tenant.number, self.number, request_id=request_id, value=value, rows=1,
            more={"rest": True},
        )  # fmt: skip
        got = await self._settle(op, self.tenant.client.rest(call, WRITE_S), json.loads)
        if got is not None:
            self.tenant.made("contact", got[1]["id"])
            self.tenant.answered.append(Answered(op, "create contact", digest(got[0]), rest=call))

    async def create_company(self) -> None:
        """A company, while there are not too many to list."""
        if len(self.tenant.companies) >= COMPANIES:
            await self.create_contact()
        else:
            await self._create("company", industry=self.rng.choice(INDUSTRIES))

    async def create_lead(self) -> None:
        """A lead, of one of a few companies."""
        number = self.rng.randrange(DOMAINS)
        await self._create(
            "lead",
            company_name=f"{self.tenant.canary} {number}",
            company_domain=f"d{number}.example.com",
            source=self.rng.choice(("web", "fair", "")),
        )

    async def create_deal(self) -> None:
        """A deal of somebody known."""
        amount = Money(currency_code="EUR", units=self.rng.randrange(1, 10_000), nanos=500_000_000)
        links = {f"{kind}_id": self.tenant.some(kind, self.rng) for kind in ("contact", "company")}
        await self._create("deal", amount=amount, **{name: value for name, value in links.items() if value})

    async def create_note(self) -> None:
        """A note on a deal and on a contact."""
        about = {self.tenant.some("deal", self.rng), self.tenant.some("contact", self.rng)} - {""}
        await self._create("note", body="met", related_ids=sorted(about))

    async def create_task(self) -> None:
        """A task about a deal."""
        about = self.tenant.some("deal", self.rng)
        await self._create("task", related_ids=[about] if about else [])

    async def increment(self) -> None:
        """Reads a hot company and writes its counter plus one, with the etag it read."""
        company = self.rng.choice(self.tenant.hot["company"])
        found = await self._get("company", company)
        if found is None:
            return
        value = self._value()
        request = company_pb2.UpdateCompanyRequest(update_mask=FieldMask(paths=["employee_count", "description"]))
        request.company.id, request.company.etag = company, found.etag
        request.company.employee_count, request.company.description = found.employee_count + 1, value
        await self._write(
            "increment", _path("company", "Update"), request, company_pb2.Company, value=value, entity=company
        )

    async def write_field(self) -> None:
        """Writes one field of a contact without an etag."""
        contact = self.tenant.some("contact", self.rng)
        if not contact:
            return
        value, name = self._value(), _FIELDS[self.number % len(_FIELDS)]
        request = contact_pb2.UpdateContactRequest(update_mask=FieldMask(paths=[name]))
        request.contact.id = contact
        setattr(request.contact, name, value)
        await self._write(
            "write field", _path("contact", "Update"), request, contact_pb2.Contact, value=value, entity=contact,
            field=name,
        )  # fmt: skip

    async def move(self) -> None:
        """Moves a deal to another stage."""
        deal = self.tenant.some("deal", self.rng)
        if deal:
            request = deal_pb2.MoveDealRequest(id=deal, stage_id=self.rng.choice(self.tenant.stages))
            await self._write("move", _path("deal", "Move"), request, deal_pb2.Deal, entity=deal)

    async def close(self) -> None:
        """Wins or loses a deal."""
        if not self.tenant.open_deals:
            return
        deal = self.tenant.open_deals.popleft()
        if self.rng.random() < 0.5:
            await self._write("win", _path("deal", "Win"), deal_pb2.WinDealRequest(id=deal), deal_pb2.Deal, entity=deal)
        else:
            lose = deal_pb2.LoseDealRequest(id=deal, loss_reason=self._value())
            await self._write("lose", _path("deal", "Lose"), lose, deal_pb2.Deal, entity=deal, value=lose.loss_reason)

    async def reopen(self) -> None:
        """Opens a deal again, where it is closed."""
        deal = self.tenant.some("deal", self.rng)
        if deal:
            request = deal_pb2.ReopenDealRequest(id=deal)
            if await self._write("reopen", _path("deal", "Reopen"), request, deal_pb2.Deal, entity=deal) is not None:
                self.tenant.open_deals.append(deal)

    async def convert(self) -> None:
        """Converts a lead: a contact, a company and a deal, in two services."""
        if not self.tenant.open_leads:
            return
        lead = self.tenant.open_leads.popleft()
        request = lead_pb2.ConvertLeadRequest(id=lead)
        rows = 3
        if self.rng.random() < 0.3:
            request.close.won.SetInParent()
            rows = 4
        await self._write(
            "convert", _path("lead", "Convert"), request, lead_pb2.ConvertLeadResponse, rows=rows, entity=lead
        )

    async def upsert(self) -> None:
        """Some contacts by external ids: a few that everybody writes to, and one that is new."""
        value = self._value()
        request = contact_pb2.BatchUpsertContactsRequest(atomic=True)
        for name in [*(f"hot-{self.rng.randrange(4)}" for _ in range(2)), value]:
            item = request.requests.add()
            item.contact.display_name = value
            item.contact.external_ids.add(system="faults", id=name)
        distinct = len({each.contact.external_ids[0].id for each in request.requests})
        path = "/crm.contacts.v1.ContactService/BatchUpsertContacts"
        await self._write("upsert", path, request, contact_pb2.BatchUpsertContactsResponse, value=value, rows=distinct)

    async def delete(self) -> None:
        """Deletes a note that is not needed."""
        notes = self.tenant.recent["note"]
        if notes:
            request = note_pb2.DeleteNoteRequest(id=self.rng.choice(notes))
            await self._write("delete note", _path("note", "Delete"), request, note_pb2.Note, entity=request.id)

    async def replay(self) -> None:
        """Asks once more for what was answered, and compares the answers."""
        if not self.tenant.answered:
            return
        first = self.rng.choice(self.tenant.answered)
        op = self.history.invoke("replay", self.tenant.number, self.number, more={"of": first.number})
        client = self.tenant.client
        call = client.rest(first.rest, WRITE_S) if first.rest else client.grpc(first.path, first.request, WRITE_S)
        try:
            same = digest(await call) == first.digest
        except Refused as error:
            # Refused at the door it says nothing of the first answer.
            self.history.fail(op, str(error), mismatch=error.code not in _AT_THE_DOOR)
        except (Unknown, Leak) as error:
            self.history.info(op, str(error)[:160])
        else:
            self.history.ok(op, mismatch=not same)

    async def race(self) -> None:
        """The same creation from several clients at once: it is done once, and all get one answer."""
        value = self._value()
        request = contact_pb2.CreateContactRequest(request_id=self._request_id())
        request.contact.display_name = value
        body = request.SerializeToString()
        op = self.history.invoke(
            "race", self.tenant.number, self.number, request_id=request.request_id, value=value, rows=1
        )
        path = _path("contact", "Create")
        calls = [self.tenant.client.grpc(path, body, WRITE_S) for _ in range(self.rng.randrange(2, 5))]
        results = await asyncio.gather(*calls, return_exceptions=True)
        answers = {digest(each): each for each in results if isinstance(each, bytes)}
        if not answers:
            self.history.info(op, str(results[0])[:160])
            return
        made = contact_pb2.Contact.FromString(next(iter(answers.values())))
        name, revision = id_and_revision(made)
        self.tenant.saw(name, revision)
        self.tenant.made("contact", name)
        self.history.ok(op, id=name, revision=revision, digest=next(iter(answers)), mismatch=len(answers) > 1)

    async def storm(self) -> None:
        """Creations whose callers lose patience: by a deadline that is too short, or by hanging up."""
        await asyncio.gather(*(self._impatient(self.rng.random() < 0.5) for _ in range(10)))

    async def _impatient(self, hangs_up: bool) -> None:
        value = self._value()
        request = contact_pb2.CreateContactRequest(request_id=self._request_id())
        request.contact.display_name = value
        op = self.history.invoke(
            "storm", self.tenant.number, self.number, request_id=request.request_id, value=value, rows=1
        )
        patience_s = self.rng.uniform(0.001, 0.06)
        call = self.tenant.client.grpc(
            _path("contact", "Create"), request.SerializeToString(), WRITE_S if hangs_up else patience_s, attempts=1
        )
        settled = asyncio.create_task(self._settle(op, call, contact_pb2.Contact.FromString))
        if hangs_up:
            await asyncio.wait({settled}, timeout=patience_s)
            if not settled.done():
                settled.cancel()
                self.history.info(op, "the caller hung up")
        await asyncio.gather(settled, return_exceptions=True)

    # ---- reads ---------------------------------------------------------------------------------------------

    async def get(self) -> None:
        """Reads a record; it must be at least as new as what was acknowledged before."""
        kind = self.rng.choice(("contact", "company", "deal", "lead", "note"))
        if record := self.tenant.some(kind, self.rng):
            await self._get(kind, record)

    async def _get(self, kind: str, record: str) -> Any:
        known = self.tenant.acknowledged.get(record, 0)
        op = self.history.invoke("get", self.tenant.number, self.number, entity=record)
        client = self.tenant.client

        def refused(error: Refused) -> None:
            self.history.fail(op, str(error), **({"missing": known} if error.code == "NOT_FOUND" else {}))

        with self._noted(op, refused):
            if kind == "contact" and self.rng.random() < 0.4:
                found = json.loads(await client.rest(Rest("GET", f"/v1/contacts/{record}"), READ_S))
            else:
                request = _class(kind, "Get{}Request")(id=record).SerializeToString()
                found = _class(kind).FromString(await client.grpc(_path(kind, "Get"), request, READ_S))
            name, revision = id_and_revision(found)
            self.history.ok(op, id=name, revision=revision, **({"stale": known} if revision < known else {}))
            return found
        return None

    async def timeline(self) -> None:
        """Reads the first page of a hot record's timeline."""
        record = self.tenant.some(self.rng.choice(("contact", "company", "deal")), self.rng)
        request = timeline_pb2.ListTimelineRequest(subject_id=record, page_size=20)
        op = self.history.invoke("timeline", self.tenant.number, self.number, entity=record)
        path = "/crm.activities.v1.TimelineService/ListTimeline"
        call = self.tenant.client.grpc(path, request.SerializeToString(), READ_S)
        await self._settle(op, call, timeline_pb2.ListTimelineResponse.FromString)

    async def scan(self) -> None:
        """Lists the companies to the end while others write: what was there throughout stands there once."""
        there = list(self.tenant.companies)
        order = self.rng.choice(("", "industry", "display_name", "industry desc"))
        op = self.history.invoke("scan", self.tenant.number, self.number, more={"order": order})
        request = company_pb2.ListCompaniesRequest(page_size=5, order_by=order)
        request.read_mask.paths.extend(["id", "display_name", "industry"])
        path = "/crm.contacts.v1.CompanyService/ListCompanies"
        seen: list[str] = []
        with self._noted(op):
            while True:
                answer = await self.tenant.client.grpc(path, request.SerializeToString(), READ_S)
                page = company_pb2.ListCompaniesResponse.FromString(answer)
                seen += [each.id for each in page.companies]
                request.page_token = page.next_page_token
                if not page.next_page_token:
                    break
            skipped = sorted(set(there) - set(seen))
            repeated = sorted({each for each in seen if seen.count(each) > 1}) if len(set(seen)) < len(seen) else []
            self.history.ok(op, skipped=skipped[:5], repeated=repeated[:5])

    async def peek(self) -> None:
        """Asks for another tenant's record, to read it or to write to it: there is no such record."""
        other = self.rng.choice(self._others)
        record = other.some("contact", self.rng)
        if not record:
            return
        op = self.history.invoke("peek", self.tenant.number, self.number, entity=record)
        if self.rng.random() < 0.5:
            path, body = _path("contact", "Get"), contact_pb2.GetContactRequest(id=record).SerializeToString()
        else:
            request = contact_pb2.UpdateContactRequest(update_mask=FieldMask(paths=["job_title"]))
            request.contact.id, request.contact.job_title = record, self.tenant.canary
            path, body = _path("contact", "Update"), request.SerializeToString()

        def refused(error: Refused) -> None:
            if error.code == "NOT_FOUND":
                self.history.ok(op)
            else:
                self.history.fail(op, str(error))

        with self._noted(op, refused):
            await self.tenant.client.grpc(path, body, READ_S)
            self.history.ok(op, leak=f"{path} answered for another tenant's record")


async def prepare(tenant: Tenant, history: History, seed: int) -> None:
    """Makes a tenant's hot records, and learns its stages."""
    first = Person(1_000 + tenant.number, tenant, [tenant], random.Random(f"{seed}/hot/{tenant.number}"), history)
    await first.create_deal()
    answer = await tenant.client.grpc("/crm.sales.v1.PipelineService/ListPipelines", b"", 30.0)
    pipeline = pipeline_pb2.ListPipelinesResponse.FromString(answer).pipelines[0]
    tenant.stages = [each.id for each in pipeline.stages if each.kind == pipeline_pb2.STAGE_KIND_OPEN]
    for _ in range(_HOT):
        for kind in ("contact", "company", "deal"):
            fields = {"industry": INDUSTRIES[0]} if kind == "company" else {}
            for _ in range(_TRIES):
                if made := await first._create(kind, **fields):
                    tenant.hot[kind].append(made)
                    break
            else:
                raise RuntimeError(f"a hot {kind} could not be made; the platform is not well before the first fault")
