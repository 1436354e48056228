"""Campaigns: the planned efforts to bring in leads."""

from __future__ import annotations

from crm.marketing.v1 import campaign_pb2 as pb

from chassis.errors import Reason, invalid
from chassis.resource import Resource
from chassis.rows import moment
from chassis.service import Service
from chassis.work import Work
from services.marketing import tables


async def prepare(_work: Work, campaign: pb.Campaign, _before: pb.Campaign | None) -> None:
    """Raises Invalid where a campaign would end before it begins."""
    if not campaign.HasField("start_time") or not campaign.HasField("end_time"):
        return
    if moment(campaign.end_time) < moment(campaign.start_time):
        raise invalid("end_time", "it lies before start_time", Reason.REASON_TIME_INVALID)


campaigns: Resource[pb.Campaign] = Resource(pb.Campaign, tables.campaigns, prepare=prepare, optimistic=True)


class Campaigns(Service, serves="crm.marketing.v1.CampaignService"):
    """Planned efforts to bring in leads."""

    resource = campaigns
