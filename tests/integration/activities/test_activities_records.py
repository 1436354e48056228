"""Tasks, notes, calls and meetings: what activities adds to the standard methods."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from crm.activities.v1 import call_pb2, meeting_pb2, note_pb2, task_pb2
from crm.type.v1.reason_pb2 import Reason
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from chassis import ids
from chassis.errors import Denied, Invalid, Precondition
from chassis.rows import timestamp
from tests.integration.activities.stage import START, Activities

YESTERDAY = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)


async def create_task(activities: Activities, **fields: Any) -> Any:
    task = task_pb2.Task(**{"title": "Ring back"} | fields)
    return await activities.call("TaskService/CreateTask", task_pb2.CreateTaskRequest(task=task))


async def create_note(activities: Activities, body: str, **fields: Any) -> Any:
    note = note_pb2.Note(body=body, **fields)
    return await activities.call("NoteService/CreateNote", note_pb2.CreateNoteRequest(note=note))


async def create_meeting(activities: Activities, **fields: Any) -> Any:
    meeting = meeting_pb2.Meeting(title="Demo", start_time=timestamp(START), **fields)
    return await activities.call("MeetingService/CreateMeeting", meeting_pb2.CreateMeetingRequest(meeting=meeting))


async def refusal(activities: Activities, method: str, request: Message) -> Any:
    with pytest.raises((Precondition, Invalid, Denied)) as refused:
        await activities.call(method, request)
    return refused.value


async def test_a_task_is_open_until_it_is_completed_and_again_when_reopened(activities: Activities) -> None:
    task = await create_task(activities, status=task_pb2.TASK_STATUS_COMPLETED)
    assert task.status == task_pb2.TASK_STATUS_OPEN
    assert not task.HasField("complete_time")

    request = task_pb2.CompleteTaskRequest(id=task.id, occur_time=timestamp(YESTERDAY))
    done = await activities.call("TaskService/CompleteTask", request)
    assert done.status == task_pb2.TASK_STATUS_COMPLETED
    assert done.complete_time == timestamp(YESTERDAY)

    again = await activities.call("TaskService/ReopenTask", task_pb2.ReopenTaskRequest(id=task.id))
    assert again.status == task_pb2.TASK_STATUS_OPEN
    assert not again.HasField("complete_time")
    assert await activities.call("TaskService/GetTask", task_pb2.GetTaskRequest(id=task.id)) == again


async def test_a_task_completed_without_a_time_is_completed_now(activities: Activities) -> None:
    task = await create_task(activities)
    done = await activities.call("TaskService/CompleteTask", task_pb2.CompleteTaskRequest(id=task.id))
    assert done.complete_time == done.update_time


async def test_a_task_is_completed_or_reopened_only_once(activities: Activities) -> None:
    task = await create_task(activities)
    reopen, complete = task_pb2.ReopenTaskRequest(id=task.id), task_pb2.CompleteTaskRequest(id=task.id)
    assert (await refusal(activities, "TaskService/ReopenTask", reopen)).reason == Reason.REASON_STATE_INVALID
    await activities.call("TaskService/CompleteTask", complete)
    assert (await refusal(activities, "TaskService/CompleteTask", complete)).reason == Reason.REASON_STATE_INVALID


async def test_an_update_cannot_complete_a_task(activities: Activities) -> None:
    task = await create_task(activities)
    request = task_pb2.UpdateTaskRequest(task=task_pb2.Task(id=task.id, title="Write"))
    request.task.status = task_pb2.TASK_STATUS_COMPLETED
    updated = await activities.call("TaskService/UpdateTask", request)
    assert (updated.title, updated.status) == ("Write", task_pb2.TASK_STATUS_OPEN)


async def test_a_task_is_not_completed_in_the_future(activities: Activities) -> None:
    task = await create_task(activities)
    tomorrow = timestamp(datetime.now(UTC) + timedelta(days=1))
    request = task_pb2.CompleteTaskRequest(id=task.id, occur_time=tomorrow)
    assert (await refusal(activities, "TaskService/CompleteTask", request)).reason == Reason.REASON_TIME_INVALID


@pytest.mark.parametrize(
    ("body", "title"),
    [
        ("Likes tea.", "Likes tea."),
        ("\n  Budget: 40 seats \nDecides in May.", "Budget: 40 seats"),
        ("word " * 40, "word " * 15 + "word…"),
        ("x" * 300, "x" * 79 + "…"),
    ],
)
async def test_a_note_without_a_title_is_called_by_its_beginning(activities: Activities, body: str, title: str) -> None:
    assert (await create_note(activities, body)).title == title
    assert (await create_note(activities, body, title="Kept")).title == "Kept"


async def test_a_note_was_made_when_its_writer_says(activities: Activities) -> None:
    request = note_pb2.CreateNoteRequest(note=note_pb2.Note(body="Met at the fair"), occur_time=timestamp(YESTERDAY))
    assert (await activities.call("NoteService/CreateNote", request)).note_time == timestamp(YESTERDAY)


async def test_a_call_keeps_who_called_whom_and_for_how_long(activities: Activities) -> None:
    call = call_pb2.Call(
        title="First call",
        direction=call_pb2.CALL_DIRECTION_OUTBOUND,
        outcome=call_pb2.CALL_OUTCOME_CONNECTED,
        duration=Duration(seconds=420),
        related_ids=[ids.new("contact"), ids.new("deal")],
    )
    request = call_pb2.CreateCallRequest(call=call, occur_time=timestamp(YESTERDAY))
    made = await activities.call("CallService/CreateCall", request)
    kept = await activities.call("CallService/GetCall", call_pb2.GetCallRequest(id=made.id))
    assert kept == made
    assert kept.call_time == timestamp(YESTERDAY)
    assert (kept.direction, kept.outcome, kept.duration, kept.related_ids) == (
        call.direction,
        call.outcome,
        call.duration,
        call.related_ids,
    )


async def test_a_meeting_does_not_end_before_it_begins(activities: Activities) -> None:
    early = meeting_pb2.Meeting(title="Demo", start_time=timestamp(START))
    early.end_time.CopyFrom(timestamp(START - timedelta(seconds=1)))
    request = meeting_pb2.CreateMeetingRequest(meeting=early)
    assert (await refusal(activities, "MeetingService/CreateMeeting", request)).violations[0][0] == "meeting.end_time"

    meeting = await create_meeting(activities, end_time=timestamp(START))
    later = timestamp(START + timedelta(hours=1))
    moved = meeting_pb2.UpdateMeetingRequest(meeting=meeting_pb2.Meeting(id=meeting.id, start_time=later))
    assert (await refusal(activities, "MeetingService/UpdateMeeting", moved)).violations[0][0] == "meeting.end_time"


async def test_a_meeting_has_a_time_zone_that_exists(activities: Activities) -> None:
    wrong = meeting_pb2.Meeting(title="Demo", start_time=timestamp(START), time_zone="Mars/Olympus")
    request = meeting_pb2.CreateMeetingRequest(meeting=wrong)
    assert (await refusal(activities, "MeetingService/CreateMeeting", request)).violations[0][0] == "meeting.time_zone"


@pytest.mark.parametrize(
    ("verb", "request_type", "status"),
    [
        ("Complete", meeting_pb2.CompleteMeetingRequest, meeting_pb2.MEETING_STATUS_COMPLETED),
        ("Cancel", meeting_pb2.CancelMeetingRequest, meeting_pb2.MEETING_STATUS_CANCELLED),
    ],
)
async def test_a_scheduled_meeting_takes_place_or_is_called_off_once(
    activities: Activities, verb: str, request_type: Any, status: int
) -> None:
    meeting = await create_meeting(activities)
    assert meeting.status == meeting_pb2.MEETING_STATUS_SCHEDULED
    ended = await activities.call(f"MeetingService/{verb}Meeting", request_type(id=meeting.id))
    assert ended.status == status
    for method, request in (
        ("MeetingService/CompleteMeeting", meeting_pb2.CompleteMeetingRequest(id=meeting.id)),
        ("MeetingService/CancelMeeting", meeting_pb2.CancelMeetingRequest(id=meeting.id)),
    ):
        assert (await refusal(activities, method, request)).reason == Reason.REASON_STATE_INVALID


async def test_activities_of_a_record_are_found(activities: Activities) -> None:
    deal = ids.new("deal")
    task = await create_task(activities, related_ids=[ids.new("contact"), deal])
    await create_task(activities)
    page = await activities.call("TaskService/ListTasks", task_pb2.ListTasksRequest(filter=f'related_ids:"{deal}"'))
    assert [each.id for each in page.tasks] == [task.id]


async def test_an_activity_is_about_records_that_ids_can_name(activities: Activities) -> None:
    request = task_pb2.CreateTaskRequest(task=task_pb2.Task(title="Ring", related_ids=["nobody"]))
    assert (await refusal(activities, "TaskService/CreateTask", request)).reason == Reason.REASON_ID_INVALID
