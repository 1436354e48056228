"""Proposals: how they are made, shown and decided about."""

from __future__ import annotations

import datetime as dt
from typing import Any, Final

from crm.gateway.v1 import api_key_pb2
from crm.gateway.v1 import proposal_pb2 as pb
from crm.type.v1 import change_pb2

from chassis import context, masks
from chassis.context import Call, Caller, Restraint
from chassis.contract import Method, load
from chassis.db import constraint_of
from chassis.errors import Denied, Failure, NotFound, Precondition, Reason, invalid
from chassis.resource import Record
from chassis.rows import moment, timestamp
from chassis.service import IdempotencyKey, Service, idempotency_key, saga
from chassis.work import View, Work
from gateway.identity.api_keys import RESOURCE as KEYS
from gateway.proposals import budget, deciding, foresight
from gateway.proposals.methods import PROPOSE, check_may, named
from gateway.proposals.record import RESOURCE, contents_of, end, keep, schedule, shown
from gateway.transcode import Transcoder, exact

LIFE: Final = dt.timedelta(days=7)
_REQUEST_BYTES: Final = 64 * 1024
_ACCEPT: Final = "/crm.gateway.v1.ProposalService/AcceptProposal"

_codec = Transcoder()


class _Rehearsed(Exception):
    """Ends the transaction of a validate_only call without a trace."""


class Proposals(Service, serves="crm.gateway.v1.ProposalService"):
    """Proposals. What comes of accepted ones is `gateway.proposals.deciding`'s work."""

    resource = RESOURCE

    async def GetProposal(self, request: pb.GetProposalRequest, view: View) -> pb.Proposal:
        """Reads a proposal, with its contents where they are among the fields wanted."""
        found = pb.Proposal.FromString(await self.standard.get(request, view))
        wanted = masks.wanted(request.read_mask, pb.Proposal.DESCRIPTOR)
        if wanted is not None and not wanted & set(RESOURCE.transient):
            return found
        whole = await shown(view, await view.get(RESOURCE, request.id), context.current().caller)
        for name in ("request", "changes"):
            if wanted is None or name in wanted:
                found.MergeFrom(_only(whole, name))
        return found

    @saga
    async def CreateProposal(self, request: pb.CreateProposalRequest, call: Call) -> pb.Proposal:
        """Tries a change without writing, and keeps it as a proposal; a rule of the proposer's key may accept it."""
        draft, db = request.proposal, self.platform.db
        key = idempotency_key(request, load().methods[PROPOSE], call)
        async with db.read(call.caller.tenant) as tx:
            view = View(tx)
            if key is not None and (remembered := await key.look_up(tx)) is not None:
                return await _as_it_is(view, remembered, call.caller)
            agent = await _agent(view, call.caller)
        method = named("proposal.method", draft.method)
        check_may(call.caller, method, f"proposing '{method.name}'")
        asked = _asked(draft, method)
        changes = await foresight.foresee(self.platform.channels, method, asked, call.caller)
        made = await self._make(request, call, key, (method, asked, changes), agent)
        if made.state == pb.PROPOSAL_STATE_ACCEPTED and not request.validate_only:
            made = await deciding.apply(self.platform, call.caller.tenant, RESOURCE.uuid(made.id))
        answer = pb.Proposal()
        answer.CopyFrom(made)
        foresight.show(answer, method, asked.SerializeToString(), changes, call.caller)
        return answer

    async def _make(
        self, request: pb.CreateProposalRequest, call: Call, key: IdempotencyKey | None,
        what: tuple[Method, Any, list[change_pb2.Change]], agent: api_key_pb2.AgentSettings,
    ) -> pb.Proposal:  # fmt: skip
        method, asked, changes = what
        made = pb.Proposal()
        try:
            async with self.platform.db.write(call.caller.tenant) as tx:
                work = Work(tx, load().methods[PROPOSE])
                if call.caller.restraint is not Restraint.NONE:
                    await budget.spend(work, call.caller.principal, agent.daily_budget or budget.DEFAULT)
                now = await work.now()
                draft = pb.Proposal(
                    method=method.name, proposer_id=call.caller.principal, state=pb.PROPOSAL_STATE_PENDING
                )
                if request.proposal.reason:
                    draft.reason = request.proposal.reason
                draft.entity_ids.extend(dict.fromkeys(each.entity_id for each in changes if each.entity_id))
                draft.expire_time.CopyFrom(timestamp(now + LIFE))
                made, due = await work.create(RESOURCE, draft), now + LIFE
                if _accepted_by_rule(agent, method, changes):
                    record = work.record_of(RESOURCE, made)
                    made, due = await _accept(work, record), now + deciding.LEASE
                if request.validate_only:
                    raise _Rehearsed
                await work.flush(key.request_id if key else None, key.row(made, now) if key else None)
                await keep(work, RESOURCE.uuid(made.id), asked.SerializeToString(), changes, call.caller, due)
        except _Rehearsed:
            return made
        except Exception as error:
            if key is None or not constraint_of(error):
                raise
            # Of two calls with one request id, the other was first.
            async with self.platform.db.read(call.caller.tenant) as tx:
                made.ParseFromString(await key.look_up(tx) or b"")
        self.platform.wake()
        return made

    @saga
    async def AcceptProposal(self, request: pb.AcceptProposalRequest, call: Call) -> pb.Proposal:
        """Accepts a proposal whose change the caller may make too, and makes it."""
        db, tenant = self.platform.db, call.caller.tenant
        key = idempotency_key(request, load().methods[_ACCEPT], call)
        uuid = RESOURCE.uuid(request.id)
        async with db.read(tenant) as tx:
            view = View(tx)
            known = key is not None and await key.look_up(tx) is not None
            answer, kept = await view.get(RESOURCE, request.id), await contents_of(tx, uuid)
        if not known:
            _check_pending(answer, request.id)
            failure = None
            # One that was accepted already is gone on with.
            if answer.state == pb.PROPOSAL_STATE_PENDING and kept is not None:
                failure = await self._refusal(answer, bytes(kept.request), call.caller)
            answer = await self._accepted(request, call, key, failure)
        if not request.validate_only:
            answer = await deciding.apply(self.platform, tenant, uuid)
        async with db.read(tenant) as tx:
            return await shown(tx, answer, call.caller)

    async def _refusal(self, proposal: pb.Proposal, request: bytes, caller: Caller) -> Failure | None:
        """What the change would be refused with now. Raises it where the caller may not make it."""
        method = named("method", proposal.method)
        check_may(caller, method, f"accepting '{method.name}'")
        try:
            await foresight.foresee(self.platform.channels, method, method.request.FromString(request), caller)
        except Failure as failure:
            if isinstance(failure, (Denied, NotFound)) or failure.reason == Reason.REASON_FIELD_UNKNOWN:
                raise
            if deciding.passes(failure):
                raise
            return failure
        return None

    async def _accepted(
        self, request: pb.AcceptProposalRequest, call: Call, key: IdempotencyKey | None, failure: Failure | None
    ) -> pb.Proposal:
        made = pb.Proposal()
        try:
            async with self.platform.db.write(call.caller.tenant) as tx:
                work = Work(tx, load().methods[_ACCEPT])
                record = await work.lock(RESOURCE, request.id, request.etag)
                _check_pending(record.before, request.id)
                made = record.before
                if record.before.state == pb.PROPOSAL_STATE_PENDING:
                    if moment(record.before.expire_time) <= await work.now():
                        raise Precondition(Reason.REASON_STATE_INVALID, f"{request.id} has expired")
                    made = await _accept(work, record, call.caller.principal, request.comment)
                    await schedule(tx, RESOURCE.uuid(request.id), await work.now() + deciding.LEASE)
                    if failure is not None:
                        made = await deciding.fail(work, record, failure)
                if request.validate_only:
                    raise _Rehearsed
                await work.flush(key.request_id if key else None, key.row(made, await work.now()) if key else None)
        except _Rehearsed:
            return made
        except Exception as error:
            # Of two calls with one request id, the other was first; what is left to do is the same.
            if key is None or not constraint_of(error):
                raise
        self.platform.wake()
        return made

    async def RejectProposal(self, request: pb.RejectProposalRequest, work: Work) -> pb.Proposal:
        """Rejects a proposal that waits for a decision."""
        record = await work.lock(RESOURCE, request.id, request.etag)
        if record.before.state != pb.PROPOSAL_STATE_PENDING:
            raise _decided(record.before, request.id)
        record.after.state = pb.PROPOSAL_STATE_REJECTED
        _decide(record.after, context.current().caller.principal, request.comment, await work.now())
        return await end(work, record, "rejected")


async def _accept(work: Work, record: Record[pb.Proposal], decider: str = "", comment: str = "") -> pb.Proposal:
    record.after.state = pb.PROPOSAL_STATE_ACCEPTED
    _decide(record.after, decider, comment, await work.now())
    return await work.update(record, "accepted")


def _decide(proposal: pb.Proposal, decider: str, comment: str, now: dt.datetime) -> None:
    proposal.decide_time.CopyFrom(timestamp(now))
    if decider:
        proposal.decider_id = decider
    if comment:
        proposal.decision_comment = comment


def _check_pending(proposal: pb.Proposal, proposal_id: str) -> None:
    # One that was accepted already, and whose change is not made yet, may be accepted again: that goes on with it.
    if proposal.state not in (pb.PROPOSAL_STATE_PENDING, pb.PROPOSAL_STATE_ACCEPTED):
        raise _decided(proposal, proposal_id)


def _decided(proposal: pb.Proposal, proposal_id: str) -> Precondition:
    state = pb.ProposalState.Name(proposal.state).removeprefix("PROPOSAL_STATE_").lower()
    return Precondition(Reason.REASON_STATE_INVALID, f"{proposal_id} does not wait for a decision: it is {state}")


async def _agent(view: View, caller: Caller) -> api_key_pb2.AgentSettings:
    """The settings of a caller that is an agent; empty ones for another. Raises Denied for one that only reads."""
    if caller.restraint is Restraint.NONE:
        return api_key_pb2.AgentSettings()
    agent = (await view.get(KEYS, caller.credential)).agent
    if not agent.may_propose:
        raise Denied(
            Reason.REASON_PERMISSION_DENIED, "this agent's key may not propose: its `agent.may_propose` is not set"
        )
    return agent


def _asked(draft: pb.Proposal, method: Method) -> Any:
    """The proposed request as the method's own message."""
    place = "proposal.request"
    if not draft.HasField("request"):
        raise invalid(place, "it is required", Reason.REASON_FIELD_REQUIRED)
    if draft.request.ByteSize() > _REQUEST_BYTES:
        raise invalid(place, f"it is larger than {_REQUEST_BYTES} bytes")
    if not exact(draft.request):
        raise invalid(place, "an integer of more than 53 bits stands in quotes here")
    message: Any = method.request.FromString(_codec.message(method, _codec.value(draft.request)))
    for name in ("request_id", "validate_only"):
        if getattr(message, name):
            raise invalid(f"{place}.{name}", "leave it out: it is the proposal's to set")
    return message


def _accepted_by_rule(agent: api_key_pb2.AgentSettings, method: Method, changes: list[change_pb2.Change]) -> bool:
    touched = {name for each in changes for name in each.changed.paths}
    return any(rule.method == method.name and (not rule.fields or touched <= set(rule.fields)) for rule in agent.accept)


async def _as_it_is(view: View, remembered: bytes, caller: Caller) -> pb.Proposal:
    """The proposal that a repeated call made, as it is now."""
    made = pb.Proposal.FromString(remembered)
    return await shown(view, await view.get(RESOURCE, made.id), caller)


def _only(proposal: pb.Proposal, name: str) -> pb.Proposal:
    found = pb.Proposal()
    if name == "request" and proposal.HasField("request"):
        found.request.CopyFrom(proposal.request)
    if name == "changes":
        found.changes.extend(proposal.changes)
    return found
