"""Whether the logs of all services are what was sealed: every service is asked at once, for a piece after the other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Final

from crm.gateway.v1 import audit_seals_pb2 as pb
from crm.internal.v1 import seal_pb2 as internal
from crm.type.v1.audit_pb2 import AuditHead
from google.protobuf.message import DecodeError

from chassis.audit import check_logs, heads
from chassis.clients import HOP_MARGIN_S, service_caller
from chassis.context import Call
from chassis.errors import Failure, Reason, invalid
from chassis.service import Service, saga
from chassis.settings import KINDS

_CHECK: Final = "/crm.internal.v1.SealService/CheckSeals"
_HEADS: Final = "/crm.internal.v1.SealService/ListHeads"
# No piece is begun after this share of a call's time, nor after so many seconds.
_SHARE: Final = 0.3
_LONGEST_S: Final = 3.0
# A service that does not list its heads by then is named as missing.
_PATIENCE_S: Final = 5.0


class AuditSeals(Service, serves="crm.gateway.v1.AuditSealService"):
    """Verifies the tenant's logs against their seals."""

    @saga
    async def VerifyAudit(self, request: pb.VerifyAuditRequest, call: Call) -> pb.VerifyAuditResponse:
        """Carries the check of every service on for a few seconds; what no service says is never taken for verified.

        Raises Invalid for a page token that is another tenant's or damaged, and for heads of what there is not.
        """
        _check_heads(request.heads)
        progress = self._progress(request.page_token, call)
        end = time.monotonic() + min(_LONGEST_S, _SHARE * call.remaining_s())
        await asyncio.gather(*(self._carry_on(each, request.heads, call, end) for each in progress.services))
        _check_logs(request.heads, progress)
        response = pb.VerifyAuditResponse(logs=[each for it in progress.services for each in _told(it)])
        states = {each.state for each in response.logs}
        response.state = next(each for each in _WORST_FIRST if each in states)
        if not all(_is_done(each) for each in progress.services):
            response.next_page_token = self.platform.sealer.encrypt(progress.SerializeToString(), _bound_to(call))
        return response

    @saga
    async def ListAuditHeads(self, _request: pb.ListAuditHeadsRequest, call: Call) -> pb.ListAuditHeadsResponse:
        """Lists the heads of the services that answer, and the others by name."""
        answers = await asyncio.gather(*(self._heads(kind, call) for kind in KINDS))
        response = pb.ListAuditHeadsResponse()
        for kind, found in zip(KINDS, answers, strict=True):
            if found is None:
                response.missing.append(kind)
            else:
                response.heads.extend(found)
        return response

    def _progress(self, page_token: str, call: Call) -> internal.AuditProgress:
        if not page_token:
            return internal.AuditProgress(services=[internal.ServiceProgress(service=kind) for kind in KINDS])
        try:
            return internal.AuditProgress.FromString(self.platform.sealer.decrypt(page_token, _bound_to(call)))
        except (ValueError, DecodeError) as error:
            message = "it is damaged, or of another check; begin without one"
            raise invalid("page_token", message, Reason.REASON_PAGE_TOKEN_INVALID) from error

    async def _carry_on(
        self, progress: internal.ServiceProgress, given: Sequence[AuditHead], call: Call, end: float
    ) -> None:
        """Has a service check piece after piece until all is checked or the time is over."""
        while not _is_done(progress):
            try:
                checks = await self._piece(progress, given, call)
            except Failure as failure:
                progress.missing = f"{progress.service} could not be asked: {failure.message}"
                return
            del progress.checks[:]
            progress.checks.extend(checks)
            if time.monotonic() >= end:
                return

    async def _piece(
        self, progress: internal.ServiceProgress, given: Sequence[AuditHead], call: Call
    ) -> Sequence[internal.SealCheck]:
        tenant, service = call.caller.tenant, progress.service
        own = [each for each in given if each.service == service]
        if service == self.platform.kind:
            return await check_logs(self.platform, tenant, progress.checks, own)
        asked = internal.CheckSealsRequest(checks=progress.checks, heads=own)
        answer = await self._ask(service, _CHECK, asked.SerializeToString(), call)
        return internal.CheckSealsResponse.FromString(answer).checks

    async def _heads(self, service: str, call: Call) -> Sequence[AuditHead] | None:
        """A service's heads; None where it does not answer."""
        try:
            if service == self.platform.kind:
                return await heads(self.platform.db, call.caller.tenant)
            return internal.ListHeadsResponse.FromString(await self._ask(service, _HEADS, b"", call)).heads
        except Failure:
            return None

    async def _ask(self, service: str, path: str, request: bytes, call: Call) -> bytes:
        # As the gateway itself, with its right to what is internal; in the tenant that asks.
        caller = service_caller(self.platform.kind, call.caller.tenant)
        left_s = min(_PATIENCE_S, call.remaining_s() - HOP_MARGIN_S)
        return await self.platform.channels.unary(service, path, request, caller=caller, timeout_s=left_s)


# What all of it comes to where the logs stand so and so.
_WORST_FIRST: Final = (
    pb.AUDIT_STATE_TAMPERED,
    pb.AUDIT_STATE_UNVERIFIED,
    pb.AUDIT_STATE_CHECKING,
    pb.AUDIT_STATE_VERIFIED,
)


def _check_heads(given: Sequence[AuditHead]) -> None:
    for index, head in enumerate(given):
        if head.service not in KINDS:
            raise invalid(f"heads[{index}].service", f"there is no '{head.service}'; there are {', '.join(KINDS)}")


def _check_logs(given: Sequence[AuditHead], progress: internal.AuditProgress) -> None:
    """Raises Invalid for a head of a log that its service does not keep: it would be compared with nothing."""
    logs = {each.service: {check.log for check in each.checks} for each in progress.services if each.checks}
    for index, head in enumerate(given):
        if head.log not in logs.get(head.service, {head.log}):
            raise invalid(f"heads[{index}].log", f"{head.service} has no '{head.log}'")


def _is_done(progress: internal.ServiceProgress) -> bool:
    return bool(progress.missing) or (bool(progress.checks) and all(each.done for each in progress.checks))


def _told(progress: internal.ServiceProgress) -> list[pb.AuditLogCheck]:
    """What is to be said of a service's logs."""
    if not progress.checks:
        state = pb.AUDIT_STATE_UNVERIFIED if progress.missing else pb.AUDIT_STATE_CHECKING
        return [pb.AuditLogCheck(service=progress.service, state=state, missing=progress.missing)]
    return [_of_log(progress, each) for each in progress.checks]


def _of_log(progress: internal.ServiceProgress, check: internal.SealCheck) -> pb.AuditLogCheck:
    told = pb.AuditLogCheck(
        service=progress.service,
        log=check.log,
        state=_state(progress, check),
        checked_rows=check.checked_rows,
        redacted_rows=check.redacted_rows,
        expired_rows=check.expired_rows,
        unsealed_rows=check.unsealed_rows,
        head=AuditHead(
            service=progress.service,
            log=check.log,
            sequence=check.sequence,
            hash=check.hash.hex(),
            position=check.position,
        ),
        missing="" if check.done else progress.missing,
    )
    if check.HasField("oldest_unsealed_time"):
        told.oldest_unsealed_time.CopyFrom(check.oldest_unsealed_time)
    if check.HasField("seal_time"):
        told.head.seal_time.CopyFrom(check.seal_time)
    if check.HasField("problem"):
        told.problem.CopyFrom(check.problem)
    return told


def _state(progress: internal.ServiceProgress, check: internal.SealCheck) -> pb.AuditState.ValueType:
    if check.HasField("problem"):
        return pb.AUDIT_STATE_TAMPERED
    if check.done:
        return pb.AUDIT_STATE_VERIFIED
    return pb.AUDIT_STATE_UNVERIFIED if progress.missing else pb.AUDIT_STATE_CHECKING


def _bound_to(call: Call) -> bytes:
    return b"audit" + call.caller.tenant.bytes
