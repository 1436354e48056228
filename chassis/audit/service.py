"""What every service lets the gateway ask of its seals."""

from __future__ import annotations

from crm.internal.v1 import seal_pb2 as pb

from chassis.audit.check import check_logs, heads
from chassis.context import Call
from chassis.service import Service, saga


class Seals(Service, serves="crm.internal.v1.SealService"):
    """Checks this service's logs against their seals."""

    @saga
    async def CheckSeals(self, request: pb.CheckSealsRequest, call: Call) -> pb.CheckSealsResponse:
        """Carries the check of each log on by a piece."""
        tenant = call.caller.tenant
        checks = await check_logs(self.platform, tenant, request.checks, request.heads, request.row_limit)
        return pb.CheckSealsResponse(checks=checks)

    @saga
    async def ListHeads(self, _request: pb.ListHeadsRequest, call: Call) -> pb.ListHeadsResponse:
        """Lists the newest seal of each log."""
        return pb.ListHeadsResponse(heads=await heads(self.platform.db, call.caller.tenant))
