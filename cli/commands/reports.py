"""Reports."""

from __future__ import annotations

from cyclopts import App

from cli import reports
from cli.client import Client
from cli.flags import Json, at_least_one
from cli.settings import load

commands = App()


@commands.command(name="pipeline")
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


@commands.command(name="funnel")
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
