"""Records: one, many, a new one, a change."""

from __future__ import annotations

from cyclopts import App

from cli import records, search
from cli.client import Client
from cli.flags import Flag, Id, Json, Texts, at_least_one
from cli.settings import load

commands = App()


@commands.command(name="get")
def get(record_id: Id, /, *, as_of: str = "", json: Json = False) -> None:
    """Show one record.

    Parameters
    ----------
    as_of
        Show it as it was known at this time, such as 2026-01-31T12:00:00Z.
    """
    with Client(load()) as client:
        records.get(client, record_id, as_of, json)


@commands.command(name="search")
def search_records(*query: str, types: Texts = None, limit: int = 20, json: Json = False) -> None:
    """Find records of every kind by name, e-mail address, telephone number, domain or foreign id.

    Parameters
    ----------
    query
        Words in any order, or the beginnings of them; a typing error or two are forgiven.
    types
        Only these kinds, such as contact or deal.
    limit
        How many at most, up to 100; 20 where left out.
    """
    with Client(load()) as client:
        search.show(client, " ".join(query), types or [], at_least_one(limit), json)


@commands.command(name="list")
def list_records(
    resource: str,
    /,
    *,
    filter: str = "",
    order_by: str = "",
    limit: int = 20,
    all: Flag = False,
    deleted: Flag = False,
    json: Json = False,
) -> None:
    """List records.

    Parameters
    ----------
    resource
        leads, deals, contacts, companies, tasks and so on.
    filter
        Which ones, such as 'source = "social" AND status = CONVERTED'.
    order_by
        By which fields, such as 'open_time desc'.
    limit
        How many at most; 20 where left out.
    all
        Every one.
    deleted
        Deleted ones too.
    """
    with Client(load()) as client:
        records.list_records(client, resource, filter, order_by, None if all else at_least_one(limit), deleted, json)


@commands.command(name="create")
def create(resource: str, /, *fields: str, json_body: str = "", occur_time: str = "", json: Json = False) -> None:
    """Make a record from field=value words.

    Parameters
    ----------
    fields
        Such as display_name='Acme Ltd' domain=acme.example.
    json_body
        The record as JSON, before the words.
    occur_time
        When it happened, where that is not now.
    """
    with Client(load()) as client:
        records.create(client, resource, fields, json_body, occur_time, json)


@commands.command(name="update")
def update(
    record_id: Id, /, *fields: str, json_body: str = "", clear: Texts = None, etag: str = "", json: Json = False
) -> None:
    """Change a record by field=value words.

    Parameters
    ----------
    fields
        Such as display_name='Acme Ltd' domain=acme.example; what is not named stays.
    json_body
        The fields as JSON, before the words.
    clear
        A field to leave without a value.
    etag
        Change it only where it still has this etag, as `rapport get` shows it.
    """
    with Client(load()) as client:
        records.update(client, record_id, fields, json_body, clear or [], etag, json)


@commands.command(name="suspend")
def suspend(record_id: Id, /, *, json: Json = False) -> None:
    """Keep a user or a service account out: within a second its keys and tokens work nowhere."""
    with Client(load()) as client:
        records.suspend(client, record_id, "suspend", json)


@commands.command(name="reactivate")
def reactivate(record_id: Id, /, *, json: Json = False) -> None:
    """Let a suspended user or service account in again."""
    with Client(load()) as client:
        records.suspend(client, record_id, "reactivate", json)
