"""The commands, their options, and how they end."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import cyclopts
from cyclopts import App, Parameter
from rich.markup import escape

from cli import audit, events, history, me, overview, proposals, records, reports, search, timeline, traces
from cli.client import Client
from cli.credentials import forget
from cli.flags import Id, Json
from cli.importing.options import DealOptions, Options
from cli.problems import Problem, UsageProblem
from cli.render import print_json, stderr
from cli.resources import BY_PLURAL
from cli.settings import load

Flag = Annotated[bool, Parameter(negative="")]
Texts = Annotated[list[str] | None, Parameter(negative="")]

app = App(
    name="rapport",
    help="Rapport from the command line: import files, read histories, see where customers are lost.",
    version="0.1.0",
    default_parameter=Parameter(show_default=False),
)
importing = app.command(
    App(
        name="import",
        help="Load a CSV or XLSX file. The same command again changes nothing that is in already.",
    )
)
following = app.command(App(name="events", help="Follow what changes."))
app.command(audit.commands)
app.command(proposals.proposals)
app.command(proposals.agents)


def import_file(plural: str, file: Path, options: Options | None, deal_options: DealOptions | None = None) -> int:
    """Runs an import; its modules are loaded only now, since they take a while."""
    from cli.importing.run import run

    return run(BY_PLURAL[plural], file, options or Options(), deal_options)


@importing.command(name="leads")
def import_leads(file: Path, /, *, options: Options | None = None) -> int:
    """Load leads: people who may become customers."""
    return import_file("leads", file, options)


@importing.command(name="contacts")
def import_contacts(file: Path, /, *, options: Options | None = None) -> int:
    """Load contacts: people."""
    return import_file("contacts", file, options)


@importing.command(name="companies")
def import_companies(file: Path, /, *, options: Options | None = None) -> int:
    """Load companies."""
    return import_file("companies", file, options)


@importing.command(name="products")
def import_products(file: Path, /, *, options: Options | None = None) -> int:
    """Load products: what is sold."""
    return import_file("products", file, options)


@importing.command(name="deals")
def import_deals(file: Path, /, *, options: Options | None = None, deal_options: DealOptions | None = None) -> int:
    """Load deals: sales that are open, won or lost."""
    return import_file("deals", file, options, deal_options)


@app.command(name="get")
def get(record_id: Id, /, *, as_of: str = "", json: Json = False) -> None:
    """Show one record.

    Parameters
    ----------
    as_of
        Show it as it was known at this time, such as 2026-01-31T12:00:00Z.
    """
    with Client(load()) as client:
        records.get(client, record_id, as_of, json)


@app.command(name="search")
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


@app.command(name="overview")
def show_overview(record_id: Id, /, *, as_of: str = "", json: Json = False) -> None:
    """Show a contact or company with all that belongs to it.

    Parameters
    ----------
    as_of
        Show it as it was known at this time, such as 2026-01-31T12:00:00Z.
    """
    with Client(load()) as client:
        overview.show(client, record_id, as_of, json)


@app.command(name="history")
def show_history(record_id: Id, /, *, limit: int = 20, json: Json = False) -> None:
    """Show a record's revisions, the last first.

    Parameters
    ----------
    limit
        How many at most; 20 where left out.
    """
    with Client(load()) as client:
        history.show(client, record_id, at_least_one(limit), json)


@app.command(name="revert")
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


@app.command(name="list")
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


@app.command(name="create")
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


@app.command(name="update")
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


@app.command(name="suspend")
def suspend(record_id: Id, /, *, json: Json = False) -> None:
    """Keep a user or a service account out: within a second its keys and tokens work nowhere."""
    with Client(load()) as client:
        records.suspend(client, record_id, "suspend", json)


@app.command(name="reactivate")
def reactivate(record_id: Id, /, *, json: Json = False) -> None:
    """Let a suspended user or service account in again."""
    with Client(load()) as client:
        records.suspend(client, record_id, "reactivate", json)


@app.command(name="timeline")
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


@app.command(name="pipeline")
def show_pipeline(
    *,
    by: reports.Grouping = reports.Grouping.STAGE,
    pipeline: str = "",
    time_zone: str = "",
    json: Json = False,
) -> None:
    """Show where deals stand: how many, worth how much, won how often and how fast.

    Parameters
    ----------
    by
        What to group by; stage where left out.
    pipeline
        Its name or id; the default one where left out.
    time_zone
        Where months begin.
    """
    with Client(load()) as client:
        reports.show_pipeline(client, by, pipeline, time_zone, json)


@app.command(name="funnel")
def show_funnel(*, by: reports.Split | None = None, limit: int = 30, time_zone: str = "", json: Json = False) -> None:
    """Show how many leads become customers, and which groups lose people beyond chance.

    Parameters
    ----------
    by
        What to split by.
    limit
        How many groups to show; 30 where left out.
    time_zone
        Where months begin.
    """
    with Client(load()) as client:
        reports.show_funnel(client, by, at_least_one(limit), time_zone, json)


@following.command(name="tail")
def tail(
    *,
    type: Texts = None,
    from_: Annotated[str, Parameter(name="--from")] = "",
    since: str = "",
    subscription: str = "",
    snapshot: bool = False,
    filter: str = "",
    limit: int | None = None,
    json: Json = False,
) -> None:
    """Print every change as it is committed.

    Parameters
    ----------
    type
        Only these, such as crm.sales.v1.Deal or crm.sales.v1.Deal.won.
    from_
        Go on after this replay id.
    since
        Begin with what was committed at this time.
    subscription
        Go on at the place that this subscription keeps, and keep the place of what was printed.
    snapshot
        Print every record there is first, then every change since.
    filter
        Only changes after which the record fits this, such as 'amount >= 100000 AND changed:stage_id'. Needs a --type.
    limit
        Stop after so many.
    """
    asked = events.Asked(type or [], from_, since, subscription, snapshot, filter)
    with Client(load(), patience_s=10.0) as client:
        events.tail(client, asked, limit, json)


@app.command(name="trace")
def show_trace(trace_id: Id, /, *, wait: float = 8.0, json: Json = False) -> None:
    """Show one call through every part, as a tree with timings.

    Parameters
    ----------
    wait
        Seconds to wait for parts that are still on their way.
    """
    traces.show(load(), trace_id, wait, json)


@app.command(name="token")
def make_token(audience: str, /, *, json: Json = False) -> None:
    """Make a short-lived token for calling one service directly over gRPC.

    Parameters
    ----------
    audience
        contacts, activities, sales or marketing.
    """
    with Client(load()) as client:
        made = client.post("/v1/tokens", {"audience": audience})
    if json:
        print_json(made)
    else:
        sys.stdout.write(f"{made['token']}\n")
        if access := made.get("access"):
            stderr.print("beside it goes the metadata rapport-access-bin, in base64 here:", access, markup=False)


@app.command(name="whoami")
def show_me(*, json: Json = False) -> None:
    """Show who you are to Rapport, and what you may do and see."""
    with Client(load()) as client:
        me.show(client, json)


@app.command(name="login")
def sign_in(
    *,
    url: str,
    issuer: str = "",
    client_id: str = "",
    scope: str = "",
    id_token: Flag = False,
    api_key: Flag = False,
) -> None:
    """Sign in, and stay signed in for later commands: in the browser, or with an API key.

    Parameters
    ----------
    url
        The platform, such as https://crm.example.
    issuer
        The identity provider that your administrator named to Rapport.
    client_id
        What the provider calls this command line; it must allow redirects to http://127.0.0.1.
    scope
        What to ask of the provider; 'openid profile email offline_access' where left out.
    id_token
        Send the provider's ID token, for a provider whose access tokens are not for Rapport.
    api_key
        Read an API key, from the terminal or from standard input.
    """
    from cli import login

    url = url.rstrip("/")
    if api_key == bool(issuer or client_id):
        raise UsageProblem("give either --issuer and --client-id, or --api-key")
    if api_key:
        login.with_key(url, login.read_key())
    elif not (issuer and client_id):
        raise UsageProblem("--issuer and --client-id belong together")
    else:
        login.with_browser(url, issuer, client_id, scope or login.SCOPE, id_token=id_token)


@app.command(name="logout")
def sign_out() -> None:
    """Forget the login."""
    stderr.print("signed out" if forget() else "nobody was signed in")


def at_least_one(limit: int) -> int:
    """A limit that shows something. Raises UsageProblem otherwise."""
    if limit < 1:
        raise UsageProblem(f"--limit {limit}: at least 1")
    return limit


def main(arguments: Sequence[str]) -> int:
    """Runs a command line. The exit code: 0 done, 1 failed, 2 used wrongly, 130 interrupted."""
    try:
        code = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except cyclopts.CycloptsError as error:
        return say(" ".join(str(error).split()), UsageProblem.exit_code)
    except Problem as problem:
        return say(str(problem), problem.exit_code)
    except BrokenPipeError:
        # Whoever read our output has enough: `rapport list … | head`. Python must not flush into it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    return code if isinstance(code, int) else 0


def say(problem: str, code: int) -> int:
    """Tells the user what is wrong, on one line."""
    stderr.print(f"[bold red]rapport:[/bold red] {escape(' '.join(problem.split()))}")
    return code
