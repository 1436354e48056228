"""Meetings: planned, then held or called off."""

from __future__ import annotations

from crm.activities.v1 import meeting_pb2 as pb

from chassis.checks import check_time_zone
from chassis.errors import Precondition, Reason, invalid
from chassis.resource import Record, Resource
from chassis.rows import moment
from chassis.service import Service
from chassis.work import Work
from services.activities import tables


async def prepare(_work: Work, meeting: pb.Meeting, before: pb.Meeting | None) -> None:
    """A new meeting is scheduled. Raises Invalid where it ends before it begins or its time zone is none."""
    if before is None:
        meeting.status = pb.MEETING_STATUS_SCHEDULED
    if meeting.HasField("end_time") and moment(meeting.end_time) < moment(meeting.start_time):
        raise invalid("end_time", "it lies before start_time", Reason.REASON_TIME_INVALID)
    if meeting.time_zone:
        check_time_zone(meeting.time_zone)


meetings: Resource[pb.Meeting] = Resource(pb.Meeting, tables.meetings, prepare=prepare, optimistic=True)


class Meetings(Service, serves="crm.activities.v1.MeetingService"):
    """Appointments with people."""

    resource = meetings

    async def CompleteMeeting(self, request: pb.CompleteMeetingRequest, work: Work) -> pb.Meeting:
        """Says that a scheduled meeting took place."""
        meeting = await self._scheduled(request, work)
        meeting.after.status = pb.MEETING_STATUS_COMPLETED
        return await work.update(meeting, "completed", occur_time=request.occur_time)

    async def CancelMeeting(self, request: pb.CancelMeetingRequest, work: Work) -> pb.Meeting:
        """Calls a scheduled meeting off."""
        meeting = await self._scheduled(request, work)
        meeting.after.status = pb.MEETING_STATUS_CANCELLED
        return await work.update(meeting, "cancelled", occur_time=request.occur_time)

    async def _scheduled(
        self, request: pb.CompleteMeetingRequest | pb.CancelMeetingRequest, work: Work
    ) -> Record[pb.Meeting]:
        meeting = await work.lock(meetings, request.id, request.etag)
        if meeting.before.status != pb.MEETING_STATUS_SCHEDULED:
            state = pb.MeetingStatus.Name(meeting.before.status).removeprefix("MEETING_STATUS_").lower()
            raise Precondition(Reason.REASON_STATE_INVALID, f"{request.id} is {state}, not scheduled")
        return meeting
