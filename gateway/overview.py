"""One customer in one call: every service is asked at once, and what does not come is named."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, NamedTuple, TypeVar

from google.protobuf.message import Message

from chassis.clients import Channels
from chassis.context import Call
from chassis.contract import load
from chassis.errors import Failure, Invalid, NotFound
from chassis.rows import moment
from chassis.service import Service, saga

T = TypeVar("T")

# How many records a part shows at most.
LIMIT: Final = 20
# The share of a call's time that its parts get, so that what one of them lacks can still be said.
_SHARE: Final = 0.8
_TIMELINE: Final = "/crm.activities.v1.TimelineService/ListTimeline"
_IN_TOUCH: Final = ("call.created", "meeting.completed", "touch.created")


class _Kind(NamedTuple):
    """A kind of record by the methods that read it."""

    service: str
    name: str
    plural: str

    def path(self, verb: str, name: str) -> str:
        return f"/{self.service}/{verb}{name}"


_CONTACT: Final = _Kind("crm.contacts.v1.ContactService", "Contact", "Contacts")
_COMPANY: Final = _Kind("crm.contacts.v1.CompanyService", "Company", "Companies")
_AFFILIATION: Final = _Kind("crm.contacts.v1.AffiliationService", "Affiliation", "Affiliations")
_TASK: Final = _Kind("crm.activities.v1.TaskService", "Task", "Tasks")
_MEETING: Final = _Kind("crm.activities.v1.MeetingService", "Meeting", "Meetings")
_DEAL: Final = _Kind("crm.sales.v1.DealService", "Deal", "Deals")
_TOUCH: Final = _Kind("crm.marketing.v1.TouchService", "Touch", "Touches")
_CAMPAIGN: Final = _Kind("crm.marketing.v1.CampaignService", "Campaign", "Campaigns")


class Overviews(Service, serves="crm.gateway.v1.OverviewService"):
    """Customers with all that belongs to them."""

    @saga
    async def GetContactOverview(self, request: Any, call: Call) -> Message:
        """A contact with its companies, activities, deals, campaigns and timeline."""
        return await _Overview(self.platform.channels, request, call, "ContactOverview").of(
            _CONTACT, "contact_id", "companies", (_COMPANY, "company", "company_id")
        )

    @saga
    async def GetCompanyOverview(self, request: Any, call: Call) -> Message:
        """A company with its people, activities, deals, campaigns and timeline."""
        return await _Overview(self.platform.channels, request, call, "CompanyOverview").of(
            _COMPANY, "company_id", "people", (_CONTACT, "contact", "contact_id")
        )


class _Overview:
    """One overview while its parts come in."""

    def __init__(self, channels: Channels, request: Any, call: Call, answer: str) -> None:
        self._channels = channels
        self._id: str = request.id
        self._as_of = request.as_of if request.HasField("as_of") else None
        self._end = time.monotonic() + call.remaining_s() * _SHARE
        self._failures: dict[str, Failure] = {}
        self._answer: Any = load().message(f"crm.gateway.v1.{answer}")()

    async def of(self, kind: _Kind, field: str, links: str, other: tuple[_Kind, str, str]) -> Message:
        """The overview of a record of ``kind``, which others name in ``field``; ``links`` lead to records of ``other``.

        Raises NotFound and Invalid for the record itself, and what it failed with where no part came at all.
        """
        parts = [
            asyncio.create_task(each)
            for each in (
                self._record(kind),
                self._around(field, links, other),
                self._part("tasks", self._open(_TASK, "due_time")),
                self._part("meetings", self._open(_MEETING, "start_time")),
                self._part("timeline", self._timeline()),
                self._part("last_touch", self._last_touch()),
            )
        ]
        try:
            await asyncio.gather(*parts)
        finally:
            for each in parts:
                each.cancel()
        if not self._answer.ListFields() and (failure := self._failures.get(kind.name.lower())) is not None:
            raise failure
        self._say_next_touch()
        for part, failure in self._failures.items():
            self._answer.missing.add(part=part, reason=failure.reason_name, message=failure.message)
        return self._answer  # type: ignore[no-any-return]

    # ---- parts -----------------------------------------------------------------------------------------

    async def _part(self, name: str, work: Awaitable[Iterable[Message]]) -> list[Any]:
        """Puts what comes into the field of that name; what fails is remembered as missing."""
        try:
            found = list(await work)
        except Failure as failure:
            self._failures.setdefault(name, failure)
            return []
        target = getattr(self._answer, name)
        if hasattr(target, "extend"):
            target.extend(found)
        elif found:
            target.CopyFrom(found[0])
        return found

    async def _record(self, kind: _Kind) -> None:
        name = kind.name.lower()
        try:
            found = await self._get(kind, self._id)
        except (NotFound, Invalid):
            raise
        except Failure as failure:
            self._failures[name] = failure
        else:
            getattr(self._answer, name).CopyFrom(found)

    async def _around(self, field: str, links: str, other: tuple[_Kind, str, str]) -> None:
        """Who belongs to it, its deals, and what marketing did: of all of them together."""
        linked, deals = await asyncio.gather(
            self._links(field, links, other),
            self._part("deals", self._linked(_DEAL, f'{field} = "{self._id}"', lambda it: _names(it, field, self._id))),
        )
        people = [self._id] if field == "contact_id" else [getattr(each, other[2]) for each in linked]
        subjects = _distinct([*people, *(deal.lead_id for deal in deals)])
        touches = await self._part("touches", self._touches(subjects))
        campaigns = _distinct(each.campaign_id for each in (*deals, *touches))
        await self._part("campaigns", self._campaigns(campaigns))

    async def _links(self, field: str, name: str, other: tuple[_Kind, str, str]) -> list[Any]:
        kind, other_name, other_field = other
        try:
            wanted = f'{field} = "{self._id}"'
            found = await self._linked(_AFFILIATION, wanted, lambda it: _names(it, field, self._id))
            target = getattr(self._answer, name)
            for each in found:
                target.add().affiliation.CopyFrom(each)
            records = await self._by_id(kind, _distinct(getattr(each, other_field) for each in found))
            for link in target:
                if (record := records.get(getattr(link.affiliation, other_field))) is not None:
                    getattr(link, other_name).CopyFrom(record)
        except Failure as failure:
            self._failures[name] = failure
        return [each.affiliation for each in getattr(self._answer, name)]

    async def _open(self, kind: _Kind, order: str) -> list[Any]:
        status = "TASK_STATUS_OPEN" if kind is _TASK else "MEETING_STATUS_SCHEDULED"

        def open_then(record: Any) -> bool:
            values = record.DESCRIPTOR.fields_by_name["status"].enum_type.values_by_name
            return self._id in record.related_ids and record.status == values[status].number

        found = await self._linked(
            kind, f'related_ids = "{self._id}"', open_then, now=f" AND status = {status}", order=order
        )
        return sorted(found, key=lambda it: (not it.HasField(order), moment(getattr(it, order))))

    async def _touches(self, subjects: list[str]) -> list[Any]:
        if not subjects:
            return []
        wanted = " OR ".join(f'subject_id = "{each}"' for each in subjects)
        return await self._linked(_TOUCH, f"({wanted})", lambda it: it.subject_id in subjects)

    async def _campaigns(self, ids: list[str]) -> list[Any]:
        return list((await self._by_id(_CAMPAIGN, ids[:LIMIT])).values())

    async def _timeline(self, kinds: Iterable[str] = (), limit: int = LIMIT) -> list[Any]:
        page = await self._ask(_TIMELINE, subject_id=self._id, page_size=limit, kinds=kinds, end_time=self._as_of)
        return [each for each in page.entries if self._as_of is None or _at(each.commit_time) <= _at(self._as_of)]

    async def _last_touch(self) -> list[Any]:
        return (await self._timeline(_IN_TOUCH, 1 if self._as_of is None else LIMIT))[:1]

    def _say_next_touch(self) -> None:
        now = time.time_ns() if self._as_of is None else _at(self._as_of)
        coming = [(_at(each.due_time), each.due_time, each) for each in self._answer.tasks if each.HasField("due_time")]
        coming += [(_at(each.start_time), each.start_time, each) for each in self._answer.meetings]
        if later := [each for each in coming if each[0] >= now]:
            _, when, record = min(later, key=lambda it: it[0])
            self._answer.next_touch.id, self._answer.next_touch.title = record.id, record.title
            self._answer.next_touch.time.CopyFrom(when)

    # ---- calls -----------------------------------------------------------------------------------------

    async def _linked(
        self, kind: _Kind, linked: str, keep: Callable[[Any], bool], *, now: str = "", order: str = ""
    ) -> list[Any]:
        """The records of a kind that a filter finds, and ``now`` narrows; those to ``keep`` as they were then."""
        path = kind.path("List", kind.plural)
        if self._as_of is None:
            page = await self._ask(path, filter=linked + now, order_by=order, page_size=LIMIT)
            return list(getattr(page, page.DESCRIPTOR.fields[0].name))
        known = f'{linked} AND create_time <= "{self._as_of.ToJsonString()}"'
        page = await self._ask(path, filter=known, page_size=LIMIT, show_deleted=True)
        records = await self._by_id(kind, [each.id for each in getattr(page, page.DESCRIPTOR.fields[0].name)])
        return [each for each in records.values() if keep(each) and not each.HasField("delete_time")]

    async def _by_id(self, kind: _Kind, ids: list[str]) -> dict[str, Any]:
        """Those of the records that are known, by id, in the order asked."""
        if not ids:
            return {}
        if self._as_of is None:
            reply = await self._ask(kind.path("BatchGet", kind.plural), ids=ids)
            name = next(each.name for each in reply.results[0].DESCRIPTOR.fields)
            found = [getattr(each, name) for each in reply.results if each.HasField(name)]
        else:
            found = [each for each in await asyncio.gather(*(self._known(kind, each) for each in ids)) if each]
        return {each.id: each for each in found}

    async def _known(self, kind: _Kind, record_id: str) -> Any:
        try:
            return await self._get(kind, record_id)
        except NotFound:
            return None

    async def _get(self, kind: _Kind, record_id: str) -> Any:
        return await self._ask(kind.path("Get", kind.name), id=record_id, as_of=self._as_of)

    async def _ask(self, path: str, **fields: Any) -> Any:
        method = load().methods[path]
        request = method.request(**{name: value for name, value in fields.items() if value is not None})
        left = max(0.0, self._end - time.monotonic())
        answer = await self._channels.unary(method.home, path, request.SerializeToString(), timeout_s=left)
        return method.response.FromString(answer)


def _names(record: Any, field: str, record_id: str) -> bool:
    return bool(getattr(record, field) == record_id)


def _distinct(ids: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(each for each in ids if each))


def _at(stamp: Any) -> int:
    return int(stamp.ToNanoseconds())
