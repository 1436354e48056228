"""What changes, and the way of a call."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from cli import events, traces
from cli.client import Client
from cli.flags import Id, Json, Texts
from cli.settings import load

commands = App()
following = commands.command(App(name="events", help="Follow what changes."))


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


@commands.command(name="trace")
def show_trace(trace_id: Id, /, *, wait: float = 8.0, json: Json = False) -> None:
    """Show one call through every part, as a tree with timings.

    Parameters
    ----------
    wait
        Seconds to wait for parts that are still on their way.
    """
    traces.show(load(), trace_id, wait, json)
