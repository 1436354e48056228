"""Leads: people who may become customers."""

from __future__ import annotations

from crm.sales.v1 import lead_pb2 as pb

from chassis.context import Call
from chassis.errors import Precondition, Reason
from chassis.rows import timestamp
from chassis.service import Service, saga
from chassis.work import Work
from services.sales.conversions import convert
from services.sales.lead_records import leads


class Leads(Service, serves="crm.sales.v1.LeadService"):
    """People who may become customers."""

    resource = leads

    async def DisqualifyLead(self, request: pb.DisqualifyLeadRequest, work: Work) -> pb.Lead:
        """Says that a lead will not become a customer."""
        lead = await work.lock(leads, request.id, request.etag)
        if lead.before.status != pb.LEAD_STATUS_OPEN:
            status = pb.LeadStatus.Name(lead.before.status).removeprefix("LEAD_STATUS_").lower()
            raise Precondition(Reason.REASON_STATE_INVALID, f"only an open lead can be disqualified; it is {status}")
        happened = await work.happened(leads, request.occur_time)
        lead.after.status = pb.LEAD_STATUS_DISQUALIFIED
        lead.after.disqualify_time.CopyFrom(timestamp(happened))
        lead.after.disqualify_reason = request.reason
        return await work.update(lead, "disqualified", occur_time=happened)

    @saga
    async def ConvertLead(self, request: pb.ConvertLeadRequest, call: Call) -> pb.ConvertLeadResponse:
        """Turns a lead into a contact, a company where it names one, and a deal."""
        return await convert(self.platform, request, call)
