"""Taking back everything that an agent did, record by record, as the ledgers tell it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import NAMESPACE_OID, uuid5

from crm.gateway.v1 import agent_pb2 as pb

from chassis.change import Change
from chassis.clients import Channels
from chassis.context import Call, Caller, fields_for
from chassis.contract import Method, ResourceType, is_output_only, load
from chassis.errors import Failure
from chassis.rows import moment
from chassis.service import Service, saga
from chassis.standard import MAX_BATCH
from chassis.work import View
from gateway.identity.api_keys import RESOURCE as KEYS
from gateway.live.ledgers import Ledgers
from gateway.proposals.deciding import passes
from gateway.proposals.methods import proposable

_PAGE: Final = 500
# What is left of the call's time when no further record is begun.
_RESERVE_S: Final = 1.5
_BOOKKEEPING: Final = frozenset({"id", "etag", "create_time", "update_time", "delete_time"})


@dataclass
class _Trail:
    """What an agent did to one record."""

    first: Change
    last: Change
    count: int = 0
    changed: set[str] = field(default_factory=set)

    @property
    def kind(self) -> ResourceType:
        return load().by_message[self.last.resource]

    @property
    def before(self) -> Any:
        """The record before the agent's first change; None where the agent made it."""
        return self.first.before

    @property
    def unbroken(self) -> bool:
        """Whether nobody else changed the record in between."""
        return self.count == self.last.revision - self.first.revision + 1

    @property
    def written(self) -> list[str]:
        """The changed fields that clients write."""
        return [name for name in sorted(self.changed - _BOOKKEEPING) if not is_output_only(self._field(name))]

    @property
    def stated(self) -> list[str]:
        """The changed fields that only verbs set."""
        return [name for name in sorted(self.changed - _BOOKKEEPING) if is_output_only(self._field(name))]

    def _field(self, name: str) -> Any:
        return self.kind.descriptor.fields_by_name[name]

    def steps(self, record: Any) -> list[str]:
        """The methods that take a record back, by their verbs."""
        if self.before is None:
            return ["Delete"]
        gone, was_gone = record.HasField("delete_time"), self.before.HasField("delete_time")
        fields = ["Revert"] if self.written else []
        if gone:
            return [] if was_gone else ["Undelete", *fields]
        return [*fields, "Delete"] if was_gone else fields

    def undone(self, record: Any) -> bool:
        """Whether the record stands as before already, as far as it can be taken back."""
        gone = record.HasField("delete_time")
        if self.before is None or self.before.HasField("delete_time"):
            return bool(gone)
        return not gone and all(_same(record, self.before, name) for name in self.written or self.stated)

    def obstacle(self, record: Any, caller: Caller) -> str:
        """Why the record is to be left as it is; empty where nothing speaks against taking it back."""
        revision = int(record.etag.strip('"'))
        if revision != self.last.revision:
            return f"others changed it since: it is at revision {revision}, the agent's last was {self.last.revision}"
        if not self.unbroken:
            return "others changed it between the agent's changes"
        steps, may = self.steps(record), fields_for(caller, self.kind.descriptor)
        if not steps:
            return (
                f"what changed has verbs of its own: {', '.join(each for each in self.stated if each in may.readable)}"
            )
        if "Revert" in steps and not may.writable.issuperset(self.written):
            return "fields were changed that you may not write"
        missing = [verb for verb in steps if _method(self.kind, verb) is None]
        return f"its kind has no method to {missing[0].lower()} it" if missing else ""


class Agents(Service, serves="crm.gateway.v1.AgentService"):
    """Agents as a whole."""

    @saga
    async def RevertAgent(self, request: pb.RevertAgentRequest, call: Call) -> pb.RevertAgentResponse:
        """Takes back what an agent did, as far as the time goes."""
        async with self.platform.db.read(call.caller.tenant) as tx:
            key = await View(tx).get(KEYS, request.id)
        start = moment(request.start_time if request.HasField("start_time") else key.create_time)
        ledgers = Ledgers(self.platform.channels)
        homes = sorted({method.home for method in proposable().values()})
        trails: dict[str, _Trail] = {}
        for found in await asyncio.gather(*(_trails(ledgers, home, request.id, start, call) for home in homes)):
            trails |= found
        return await _Undoing(self.platform.channels, request, call).undo(trails)


async def _trails(ledgers: Ledgers, home: str, agent: str, start: Any, call: Call) -> dict[str, _Trail]:
    found: dict[str, _Trail] = {}
    place, settled = start, True
    while True:
        page = await ledgers.read(home, place, tenant=call.caller.tenant, limit=_PAGE, settled=settled, actor=agent)
        for change in page.changes:
            trail = found.setdefault(change.entity_id, _Trail(change, change))
            trail.last, trail.count = change, trail.count + 1
            trail.changed.update(change.changed)
        place, settled = page.position, False
        if page.position >= page.last_position:
            return found


class _Undoing:
    """One call that takes back."""

    def __init__(self, channels: Channels, request: pb.RevertAgentRequest, call: Call) -> None:
        self._channels = channels
        self._request = request
        self._call = call
        self._answer = pb.RevertAgentResponse(complete=True)

    async def undo(self, trails: dict[str, _Trail]) -> pb.RevertAgentResponse:
        """Takes back the latest first, so that what a record stands on goes after the record."""
        now = await self._now(trails)
        self._answer.unseen_count = len(trails.keys() - now.keys())
        for trail in sorted(trails.values(), key=lambda each: each.last.commit_time, reverse=True):
            record = now.get(trail.last.entity_id)
            if record is None:
                continue
            if self._call.remaining_s() < _RESERVE_S:
                self._answer.complete = False
                break
            await self._record(trail, record)
        return self._answer

    async def _now(self, trails: dict[str, _Trail]) -> dict[str, Any]:
        """Those of the records that the caller may see, as they are."""
        by_kind: dict[str, list[str]] = {}
        for trail in trails.values():
            by_kind.setdefault(trail.kind.full_name, []).append(trail.last.entity_id)
        found: dict[str, Any] = {}
        for name, ids in by_kind.items():
            kind = load().by_message[name]
            if not self._call.caller.may(load().read_permission(kind)):
                continue
            for at in range(0, len(ids), MAX_BATCH):
                found |= await self._read(kind, ids[at : at + MAX_BATCH])
        return found

    async def _read(self, kind: ResourceType, ids: list[str]) -> dict[str, Any]:
        method = _method(kind, "BatchGet")
        assert method is not None
        response: Any = await self._ask(method, method.request(ids=ids))
        field = next(
            each.name
            for each in response.DESCRIPTOR.fields_by_name["results"].message_type.fields
            if each.message_type is not None and each.message_type.full_name == kind.full_name
        )
        return {
            record_id: getattr(result, field)
            for record_id, result in zip(ids, response.results, strict=True)
            if result.HasField(field)
        }

    async def _record(self, trail: _Trail, record: Any) -> None:
        if trail.undone(record):
            self._answer.unchanged_count += 1
            return
        told = self._answer.reversals.add(entity_id=trail.last.entity_id, change_count=trail.count)
        told.outcome = pb.REVERSAL_OUTCOME_SKIPPED
        if reason := trail.obstacle(record, self._call.caller):
            told.reason = reason
            return
        try:
            after = await self._taken_back(trail, record)
        except Failure as failure:
            told.reason = f"{failure.reason_name}: {failure.message}"
            self._answer.complete &= not passes(failure)
            return
        told.outcome = pb.REVERSAL_OUTCOME_REVERTED
        readable = fields_for(self._call.caller, trail.kind.descriptor).readable
        if trail.before is not None:
            left = [each for each in trail.stated if each in readable and not _same(after, trail.before, each)]
            told.left_fields.extend(left)
        if told.left_fields:
            told.outcome = pb.REVERSAL_OUTCOME_PARTLY_REVERTED

    async def _taken_back(self, trail: _Trail, record: Any) -> Any:
        for verb in trail.steps(record):
            more = {"revision": trail.first.revision - 1} if verb == "Revert" else {}
            record = await self._do(trail, verb, record, **more)
            if self._request.validate_only:
                # The next step stands on this one, which was not made.
                break
        return record

    async def _do(self, trail: _Trail, verb: str, record: Any, **more: Any) -> Any:
        method = _method(trail.kind, verb)
        assert method is not None
        request: Any = method.request(id=record.id, etag=record.etag, **more)
        if self._request.validate_only:
            request.validate_only = True
        else:
            last = f"{self._request.id} {record.id} {trail.last.revision} {verb}"
            request.request_id = str(uuid5(NAMESPACE_OID, last))
        return await self._ask(method, request)

    async def _ask(self, method: Method, request: Any) -> Any:
        answer = await self._channels.unary(method.home, method.path, request.SerializeToString())
        return method.response.FromString(answer)


def _method(kind: ResourceType, verb: str) -> Method | None:
    """The method of a kind's service for records of the kind, one or many."""
    names = (f"{verb}{kind.descriptor.name}", f"{verb}{kind.plural.title().replace('_', '')}")
    found = (load().methods.get(f"/{kind.full_name}Service/{name}") for name in names)
    return next((each for each in found if each is not None), None)


def _same(one: Any, other: Any, name: str) -> bool:
    if one.DESCRIPTOR.fields_by_name[name].has_presence and one.HasField(name) != other.HasField(name):
        return False
    return bool(getattr(one, name) == getattr(other, name))
