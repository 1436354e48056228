"""What belongs to a record and what happened to it, and the way back."""

from __future__ import annotations

from cyclopts import App

from cli import history, overview, timeline
from cli.client import Client
from cli.flags import Flag, Id, Json, Texts, at_least_one
from cli.settings import load

commands = App()


@commands.command(name="overview")
def show_overview(record_id: Id, /, *, as_of: str = "", json: Json = False) -> None:
    """Show a contact or company with all that belongs to it.

    Parameters
    ----------
    as_of
        Show it as it was known at this time, such as 2026-01-31T12:00:00Z.
    """
    with Client(load()) as client:
        overview.show(client, record_id, as_of, json)


@commands.command(name="timeline")
def show_timeline(
    record_id: Id,
    /,
    *,
    kind: Texts = None,
    ascending: Flag = False,
    limit: int = 100,
    changes: Flag = False,
    json: Json = False,
) -> None:
    """Show everything that happened to a contact, company, lead, deal or any other record.

    Parameters
    ----------
    kind
        Only these, such as deal or deal.won.
    ascending
        The earliest first.
    limit
        How many at most; 100 where left out.
    changes
        Show what changed, field by field.
    """
    with Client(load()) as client:
        timeline.show(client, record_id, kind or [], ascending, at_least_one(limit), changes, json)


@commands.command(name="history")
def show_history(record_id: Id, /, *, limit: int = 20, json: Json = False) -> None:
    """Show a record's revisions, the last first.

    Parameters
    ----------
    limit
        How many at most; 20 where left out.
    """
    with Client(load()) as client:
        history.show(client, record_id, at_least_one(limit), json)


@commands.command(name="revert")
def revert(record_id: Id, /, *, revision: int | None = None, as_of: str = "", json: Json = False) -> None:
    """Take a record back to one of its revisions.

    Parameters
    ----------
    revision
        Its number, as `rapport history` shows it.
    as_of
        Or a time: to what was known then.
    """
    with Client(load()) as client:
        history.revert(client, record_id, revision, as_of, json)
