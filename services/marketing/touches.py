"""Touches: each time marketing reached a person."""

from __future__ import annotations

from crm.marketing.v1 import touch_pb2 as pb

from chassis.checks import fitting
from chassis.errors import Precondition, Reason
from chassis.resource import Resource
from chassis.service import Service
from chassis.work import Work
from services.marketing import tables
from services.marketing.campaigns import campaigns


async def prepare(work: Work, touch: pb.Touch, before: pb.Touch | None) -> None:
    """Names the touch where nobody did. Raises Precondition where there is no such campaign.

    Whether the person exists is not asked: contacts and leads live in other services.
    """
    if not touch.display_name:
        name = ", ".join(filter(None, (touch.channel, touch.source)))
        touch.display_name = fitting(touch, "display_name", name)
    if before is None or before.campaign_id != touch.campaign_id:
        await _check_campaign(work, touch.campaign_id)


async def _check_campaign(work: Work, campaign_id: str) -> None:
    if campaign_id and campaign_id not in await work.get_many(campaigns, [campaign_id]):
        message = f"there is no campaign '{campaign_id}'"
        raise Precondition(Reason.REASON_NOT_FOUND, f"campaign_id: {message}", violations=[("campaign_id", message)])


touches: Resource[pb.Touch] = Resource(pb.Touch, tables.touches, prepare=prepare, optimistic=True)


class Touches(Service, serves="crm.marketing.v1.TouchService"):
    """Each time marketing reached a person."""

    resource = touches
