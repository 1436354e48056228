"""Invented leads and deals as sales would tell of them, and the funnel computed from them the plain way."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from crm.sales.v1 import deal_pb2, lead_pb2

from chassis import ids
from chassis.events import Change
from chassis.rows import moment, timestamp
from tests.integration.marketing.stage import Marketing

SAO_PAULO = ZoneInfo("America/Sao_Paulo")
BEGIN = datetime(2018, 1, 1, tzinfo=UTC)
# How often each source brings a customer. Unset, empty and unknown are three sources.
SOURCES: dict[str | None, float] = {None: 0.5, "": 0.2, "unknown": 0.45, "social": 0.05, "email": 0.3, "rare": 0.0}


@dataclass
class Story:
    """What became of the leads in the end, and every event on the way."""

    leads: list[lead_pb2.Lead] = field(default_factory=list)
    deals: list[deal_pb2.Deal] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)


def lead(**fields: Any) -> lead_pb2.Lead:
    """An open lead, first in contact at `BEGIN` unless said otherwise."""
    made = lead_pb2.Lead(id=ids.new("lead"), status=lead_pb2.LEAD_STATUS_OPEN, open_time=timestamp(BEGIN))
    made.MergeFrom(lead_pb2.Lead(**fields))
    return made


def won(of: lead_pb2.Lead, when: datetime) -> deal_pb2.Deal:
    """A deal that came of a lead and was won."""
    made = deal_pb2.Deal(id=ids.new("deal"), lead_id=of.id, state=deal_pb2.DEAL_STATE_WON)
    made.close_time.CopyFrom(timestamp(when))
    return made


def convert(of: lead_pb2.Lead, when: datetime) -> None:
    of.status = lead_pb2.LEAD_STATUS_CONVERTED
    of.convert_time.CopyFrom(timestamp(when))


def tell(marketing: Marketing, count: int, chance: random.Random) -> Story:
    """A story of so many leads."""
    story = Story()
    campaigns = [None, *(ids.new("campaign") for _ in range(3))]
    owners = [None, *(ids.new("user") for _ in range(2))]
    for _ in range(count):
        source = chance.choices(list(SOURCES), weights=[3, 3, 8, 12, 8, 1])[0]
        started = BEGIN + timedelta(hours=chance.randint(0, 24 * 120), seconds=chance.randint(0, 3599))
        one = lead(
            landing_page=chance.choice([None, "/", "/prices", "/about"]),
            campaign_id=chance.choice(campaigns),
            owner_id=chance.choice(owners),
            open_time=timestamp(started),
        )
        _live(marketing, story, one, source, started, chance)
    return story


def _live(
    marketing: Marketing, story: Story, one: lead_pb2.Lead, source: str | None, started: datetime, chance: random.Random
) -> None:
    revisions = [_copy(one)]
    if source is not None:
        one.source = source
        revisions.append(_copy(one))
    if chance.random() < SOURCES[source] * 1.4:
        # Now and then somebody writes down that it was converted before it began.
        converted = started + timedelta(minutes=chance.randint(-1500, 40_000))
        convert(one, converted)
        revisions.append(_copy(one))
        _close_deals(marketing, story, one, converted, chance)
    if chance.random() < 0.05:
        one.delete_time.CopyFrom(timestamp(started))
        revisions.append(_copy(one))
        if chance.random() < 0.5:
            one.ClearField("delete_time")
            revisions.append(_copy(one))
    story.leads.append(one)
    story.changes += [marketing.change(each, number) for number, each in enumerate(revisions, 1)]


def _close_deals(
    marketing: Marketing, story: Story, one: lead_pb2.Lead, converted: datetime, chance: random.Random
) -> None:
    for _ in range(chance.choice([0, 1, 1, 1, 2])):
        deal = won(one, converted + timedelta(minutes=chance.randint(-100, 90_000)))
        revisions = [_copy(deal)]
        fate = chance.random()
        if fate < 0.15:
            deal.state = deal_pb2.DEAL_STATE_LOST
        elif fate < 0.25:
            deal.state = deal_pb2.DEAL_STATE_OPEN
            deal.ClearField("close_time")
        elif fate < 0.3:
            deal.delete_time.CopyFrom(timestamp(converted))
        revisions.append(_copy(deal))
        story.deals.append(deal)
        story.changes += [marketing.change(each, number) for number, each in enumerate(revisions, 1)]


def _copy(record: Any) -> Any:
    copy = type(record)()
    copy.CopyFrom(record)
    return copy


@dataclass
class Figures:
    """What a group of leads comes to."""

    entered: int
    converted: int
    won: int
    converted_won: int
    durations: dict[str, list[timedelta]]


def figures(leads: Iterable[lead_pb2.Lead], deals: Iterable[deal_pb2.Deal]) -> Figures:
    """Counted one by one."""
    leads = [each for each in leads if not each.HasField("delete_time")]
    wins: dict[str, datetime] = {}
    for deal in deals:
        if deal.state == deal_pb2.DEAL_STATE_WON and not deal.HasField("delete_time"):
            closed = moment(deal.close_time)
            wins[deal.lead_id] = min(closed, wins.get(deal.lead_id, closed))
    converted = [each for each in leads if each.status == lead_pb2.LEAD_STATUS_CONVERTED]
    winners = [each for each in leads if each.id in wins]
    return Figures(
        entered=len(leads),
        converted=len(converted),
        won=len(winners),
        converted_won=sum(each.id in wins for each in converted),
        durations={
            "lead to converted": [moment(each.convert_time) - moment(each.open_time) for each in converted],
            "converted to won": [wins[each.id] - moment(each.convert_time) for each in winners],
            "lead to won": [wins[each.id] - moment(each.open_time) for each in winners],
        },
    )


def groups(leads: Iterable[lead_pb2.Lead], key: Callable[[lead_pb2.Lead], str | None]) -> dict[str | None, Any]:
    """The leads by what they have in common; deleted ones make no group."""
    found: dict[str | None, list[lead_pb2.Lead]] = {}
    for each in leads:
        if not each.HasField("delete_time"):
            found.setdefault(key(each), []).append(each)
    return found


def month(of: lead_pb2.Lead) -> str:
    """The month of first contact in São Paulo."""
    return moment(of.open_time).astimezone(SAO_PAULO).strftime("%Y-%m")


def quantile(values: list[timedelta], fraction: float) -> timedelta:
    """Between the two nearest values, in proportion."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * fraction
    low = ordered[int(place)]
    high = ordered[min(int(place) + 1, len(ordered) - 1)]
    return low + (high - low) * (place - int(place))
