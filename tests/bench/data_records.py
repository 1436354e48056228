"""The invented records: each as the message that the platform would keep, by its number."""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from crm.activities.v1 import call_pb2, meeting_pb2, note_pb2, task_pb2
from crm.contacts.v1 import affiliation_pb2, company_pb2, contact_pb2, reach_pb2
from crm.marketing.v1 import campaign_pb2, touch_pb2
from crm.sales.v1 import deal_pb2, lead_pb2, product_pb2
from crm.type.v1 import common_pb2
from google.type.money_pb2 import Money

from chassis import ids
from chassis.resource import Resource
from chassis.rows import timestamp
from services.activities import calls, meetings, notes, tasks
from services.contacts.affiliations import affiliations
from services.contacts.companies import companies
from services.contacts.contacts import contacts
from services.marketing.campaigns import campaigns
from services.marketing.touches import touches
from services.sales.deals import deals
from services.sales.lead_records import leads
from services.sales.pipelines import first_pipeline
from services.sales.products import products
from tests.bench.data_people import (
    CURRENCIES,
    CURRENCY_WEIGHTS,
    SOURCE_WEIGHTS,
    SOURCES,
    WIN_RATES,
    World,
    ascii_of,
    zipf,
)

_TITLES: Final = ("Buyer", "Director", "Engineer", "Owner", "Assistant", "Head of Sales", "Analyst", "Chief Executive")
_PAGES: Final = ("/", "/pricing", "/demo", "/blog/start", "/webinar", "/compare")
_TOPICS: Final = ("Call back", "Send offer", "Prepare demo", "Check invoice", "Ask for reference", "Renew contract")
_OPEN_STAGES: Final = (46, 28, 17, 9)
_CONVERTED: Final = 0.22
_PRIORITIES: Final = task_pb2.TaskPriority.values()[1:]
_CHANNELS: Final = ("email", "search", "social", "event", "phone")

Made = tuple[Any, dt.datetime]


@dataclass(frozen=True)
class Kind:
    """A kind of record: where it lives, how many a block has, and how the one of a number looks.

    ``make`` answers the record without id, etag and times of its making, and when it happened.
    """

    service: str
    resource: Resource[Any]
    count: Callable[[World], int]
    make: Callable[[World, int, random.Random], Made]

    @property
    def prefix(self) -> str:
        return self.resource.kind.prefix


def _contact(world: World, number: int, chance: random.Random) -> Made:
    given, family = world.person(number)
    domain = world.domain(world.employer(number))
    shared = chance.random() < 0.02
    person = f"{ascii_of(given)}.{ascii_of(family)}.{number}.{world.mark}"
    address = f"info@{domain}" if shared else f"{person}@{domain}"
    contact = contact_pb2.Contact(
        display_name=f"{given} {family}", given_name=given, family_name=family,
        emails=[reach_pb2.EmailAddress(address=address, primary=True)],
        job_title=_pick(_TITLES, chance), source=_source(chance), owner_id=world.owner(chance),
    )  # fmt: skip
    if chance.random() < 0.4:
        contact.phones.add(number=f"+1202555{chance.randrange(10_000):04d}", primary=True)
    if chance.random() < 0.5:
        contact.external_ids.add(system="hubspot", id=f"{world.mark}-{number}")
    if chance.random() < 0.1:
        contact.tags.append("key account")
    return contact, world.now


def _company(world: World, number: int, chance: random.Random) -> Made:
    company = company_pb2.Company(
        display_name=world.firm(number), domain=world.domain(number),
        industry=world.firm(number).split()[1], employee_count=int(chance.paretovariate(0.9) * 3) % 500_000,
        owner_id=world.owner(chance),
        external_ids=[common_pb2.ExternalId(system="hubspot", id=f"{world.mark}-{number}")],
    )  # fmt: skip
    if number and chance.random() < 0.03:
        company.parent_company_id = world.id("company", zipf(chance.random(), number, 10))
    return company, world.now


def _affiliation(world: World, number: int, chance: random.Random) -> Made:
    role = _pick(_TITLES, chance)
    return affiliation_pb2.Affiliation(
        display_name=role, role=role, primary=True,
        contact_id=world.id("contact", number), company_id=world.id("company", world.employer(number)),
    ), world.now  # fmt: skip


def _product(world: World, number: int, chance: random.Random) -> Made:
    return product_pb2.Product(
        display_name=f"{world.firm(number)} kit {number}", sku=f"SKU-{world.mark}-{number}",
        unit_price=Money(currency_code="EUR", units=_amount(chance)), active=chance.random() < 0.9,
    ), world.now  # fmt: skip


@dataclass(frozen=True)
class _Opportunity:
    """What a lead and the deal it became share. The deal of a converted lead has its number."""

    source: int
    open_time: dt.datetime
    convert_time: dt.datetime | None
    contact: int


def _opportunity(world: World, number: int) -> _Opportunity:
    chance = world.chance("opportunity", number)
    source = chance.choices(range(len(SOURCES)), SOURCE_WEIGHTS)[0]
    open_time = world.past(chance).replace(microsecond=0)
    converted = chance.random() < _CONVERTED
    convert_time = world.later(open_time, chance, 9) if converted else None
    return _Opportunity(source, open_time, convert_time, world.customer(chance))


def _lead(world: World, number: int, chance: random.Random) -> Made:
    story = _opportunity(world, number)
    given, family = world.person(story.contact)
    lead = lead_pb2.Lead(
        display_name=f"{given} {family}", given_name=given, family_name=family,
        company_name=world.firm(world.employer(story.contact)),
        email=f"{ascii_of(given)}.{number}.{world.mark}@mail.example",
        source=SOURCES[story.source], landing_page=_pick(_PAGES, chance), owner_id=world.owner(chance),
        campaign_id=_campaign_of(world, chance), status=lead_pb2.LEAD_STATUS_OPEN,
        open_time=timestamp(story.open_time),
    )  # fmt: skip
    if story.convert_time is not None:
        lead.status = lead_pb2.LEAD_STATUS_CONVERTED
        lead.convert_time.CopyFrom(timestamp(story.convert_time))
        lead.converted_contact_id = world.id("contact", story.contact)
        lead.converted_company_id = world.id("company", world.employer(story.contact))
        lead.converted_deal_id = world.id("deal", number)
    elif chance.random() < 0.5:
        lead.status = lead_pb2.LEAD_STATUS_DISQUALIFIED
        lead.disqualify_reason = "no budget"
        lead.disqualify_time.CopyFrom(timestamp(world.later(story.open_time, chance, 20)))
    return lead, story.open_time


def _deal(world: World, number: int, chance: random.Random) -> Made:
    story = _opportunity(world, number)
    if story.convert_time is not None:
        contact, open_time, win_rate = story.contact, story.convert_time, WIN_RATES[story.source]
    else:
        contact, open_time, win_rate = world.customer(chance), world.past(chance).replace(microsecond=0), 0.3
    company = world.employer(contact)
    deal = deal_pb2.Deal(
        display_name=f"{world.firm(company)} {number % 100}", state=deal_pb2.DEAL_STATE_OPEN,
        amount=Money(currency_code=chance.choices(CURRENCIES, CURRENCY_WEIGHTS)[0], units=_amount(chance)),
        company_id=world.id("company", company), contact_id=world.id("contact", contact),
        lead_id=world.id("lead", number) if story.convert_time is not None else "",
        open_time=timestamp(open_time), source=_source(chance), owner_id=world.owner(chance),
    )  # fmt: skip
    close_time = open_time + dt.timedelta(days=45 * chance.lognormvariate(0, 0.8))
    _place(world, deal, chance, win_rate, open_time, close_time.replace(microsecond=0))
    return deal, open_time


def _place(
    world: World, deal: Any, chance: random.Random, win_rate: float, open_time: dt.datetime, close_time: dt.datetime
) -> None:
    """Puts a deal into a stage of the tenant's first pipeline; one whose time has come is won or lost."""
    pipeline = first_pipeline(world.tenant)
    deal.pipeline_id = pipeline.id
    first = pipeline.stages[0].id
    if close_time < world.now:
        won = chance.random() < win_rate
        stage = pipeline.stages[4 if won else 5]
        deal.state = deal_pb2.DEAL_STATE_WON if won else deal_pb2.DEAL_STATE_LOST
        deal.loss_reason = "" if won else "price"
        deal.close_time.CopyFrom(timestamp(close_time))
        moved = close_time
    else:
        stage = pipeline.stages[chance.choices(range(4), _OPEN_STAGES)[0]]
        moved = open_time + (world.now - open_time) / 2
        deal.expected_close_date.year, deal.expected_close_date.month = close_time.year, close_time.month
        deal.expected_close_date.day = close_time.day
    deal.stage_id = stage.id
    stay = deal.stage_history.add(stage_id=first, enter_time=timestamp(open_time))
    if stage.id != first:
        stay.exit_time.CopyFrom(timestamp(moved))
        stay.duration.FromTimedelta(moved - open_time)
        deal.stage_history.add(stage_id=stage.id, enter_time=timestamp(moved))


def _related(world: World, chance: random.Random) -> dict[str, Any]:
    """With whom an activity was, and whose it is."""
    related = [world.id("contact", world.customer(chance))]
    if chance.random() < 0.3:
        related.append(world.id("deal", world.customer(chance)))
    return {"related_ids": related, "owner_id": world.owner(chance)}


def _task(world: World, _number: int, chance: random.Random) -> Made:
    due = world.past(chance) + dt.timedelta(days=14)
    task = task_pb2.Task(
        title=_pick(_TOPICS, chance), status=task_pb2.TASK_STATUS_OPEN, due_time=timestamp(due),
        priority=chance.choices(_PRIORITIES, (30, 50, 15, 5))[0], **_related(world, chance),
    )  # fmt: skip
    if due < world.now and chance.random() < 0.9:
        task.status = task_pb2.TASK_STATUS_COMPLETED
        task.complete_time.CopyFrom(timestamp(due))
    return task, world.now


def _note(world: World, number: int, chance: random.Random) -> Made:
    at = world.past(chance)
    body = f"{_pick(_TOPICS, chance)}: they asked about {world.firm(number)}. " * chance.randrange(1, 5)
    return note_pb2.Note(title="Note", body=body, note_time=timestamp(at), **_related(world, chance)), at


def _call(world: World, _number: int, chance: random.Random) -> Made:
    at = world.past(chance)
    call = call_pb2.Call(
        title=_pick(_TOPICS, chance), direction=chance.choice(call_pb2.CallDirection.values()[1:]),
        outcome=chance.choice(call_pb2.CallOutcome.values()[1:]),
        call_time=timestamp(at), **_related(world, chance),
    )  # fmt: skip
    call.duration.seconds = int(chance.expovariate(1 / 240))
    return call, at


def _meeting(world: World, _number: int, chance: random.Random) -> Made:
    start = world.past(chance)
    return meeting_pb2.Meeting(
        title=_pick(_TOPICS, chance), start_time=timestamp(start), end_time=timestamp(start + dt.timedelta(hours=1)),
        status=meeting_pb2.MEETING_STATUS_SCHEDULED, **_related(world, chance),
    ), world.now  # fmt: skip


def _campaign(world: World, number: int, chance: random.Random) -> Made:
    start = world.past(chance)
    return campaign_pb2.Campaign(
        display_name=f"{_pick(_TOPICS, chance)} {number}", status=campaign_pb2.CAMPAIGN_STATUS_ACTIVE,
        kind=chance.choice(campaign_pb2.CampaignKind.values()[1:]), start_time=timestamp(start),
        utm_campaign=f"c{number}",
    ), world.now  # fmt: skip


def _touch(world: World, _number: int, chance: random.Random) -> Made:
    at = world.past(chance)
    kind = "lead" if chance.random() < 0.6 else "contact"
    subject = world.id(kind, world.customer(chance))
    channel, source = _pick(_CHANNELS, chance), _source(chance)
    return touch_pb2.Touch(
        display_name=f"{channel}, {source}", subject_id=subject, channel=channel, source=source,
        campaign_id=_campaign_of(world, chance), landing_page=_pick(_PAGES, chance), touch_time=timestamp(at),
    ), at  # fmt: skip


def _pick(words: tuple[str, ...], chance: random.Random) -> str:
    return words[zipf(chance.random(), len(words), 2)]


def _source(chance: random.Random) -> str:
    return chance.choices(SOURCES, SOURCE_WEIGHTS)[0]


def _campaign_of(world: World, chance: random.Random) -> str:
    return world.id("campaign", -zipf(chance.random(), world.size.campaigns, 3) - 1)


def _amount(chance: random.Random) -> int:
    """Pareto: a fifth of the deals bring most of the money."""
    return min(5_000_000, int(400 * chance.paretovariate(1.16)))


def _share(part: float) -> Callable[[World], int]:
    return lambda world: max(1, int(world.size.each * part)) if world.block < world.size.blocks else 0


KINDS: Final = (
    Kind("contacts", contacts, lambda world: world.size.each, _contact),
    Kind("contacts", companies, _share(1), _company),
    Kind("contacts", affiliations, _share(1), _affiliation),
    Kind("sales", products, _share(0.05), _product),
    Kind("sales", leads, _share(1), _lead),
    Kind("sales", deals, _share(1), _deal),
    Kind("activities", tasks.tasks, _share(0.4), _task),
    Kind("activities", notes.notes, _share(0.25), _note),
    Kind("activities", calls.calls, _share(0.25), _call),
    Kind("activities", meetings.meetings, _share(0.1), _meeting),
    Kind("marketing", campaigns, lambda world: 0 if world.block else world.size.campaigns, _campaign),
    Kind("marketing", touches, _share(0.25), _touch),
)


def record(kind: Kind, world: World, number: int) -> Made:
    """The whole record as it stands at revision 1, and when it happened."""
    made_at = world.made_at(number)
    message, happened = kind.make(world, number, world.chance(kind.prefix, number))
    message.id = ids.encode(kind.prefix, world.uuid(kind.prefix, number))
    message.etag = '"1"'
    message.create_time.CopyFrom(timestamp(made_at))
    message.update_time.CopyFrom(timestamp(made_at))
    return message, made_at if happened is world.now else happened
