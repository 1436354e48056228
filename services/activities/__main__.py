"""``python -m services.activities``: the process."""

from pathlib import Path

from chassis.run import Application, main
from services.activities import reactions
from services.activities.calls import Calls
from services.activities.meetings import Meetings
from services.activities.notes import Notes
from services.activities.tables import schema
from services.activities.tasks import Tasks
from services.activities.timeline import Timeline

application = Application(
    name="activities",
    schema=schema,
    services=(Tasks, Notes, Calls, Meetings, Timeline),
    migrations=Path(__file__).parent / "migrations",
    reactions=reactions,
)

if __name__ == "__main__":
    main(application)
