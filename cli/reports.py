"""Reports: where deals stand, and where marketing wins and loses people."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from cli.client import Client, Json
from cli.importing.directory import quoted
from cli.names import Names
from cli.problems import Problem
from cli.render import (
    bar,
    cell,
    duration,
    interval_bar,
    money,
    percent,
    print_json,
    print_table,
    stdout,
    table,
)

EMPTY = "(empty)"


class Grouping(StrEnum):
    """What a pipeline report is grouped by."""

    STAGE = "stage"
    OWNER = "owner"
    PERIOD = "period"


class Split(StrEnum):
    """What a funnel is split by."""

    SOURCE = "source"
    LANDING_PAGE = "landing_page"
    CAMPAIGN = "campaign"
    OWNER = "owner"
    PERIOD = "period"


def count(figures: Json, name: str) -> int:
    """A count; proto JSON writes them as text and leaves zeros out."""
    return int(figures.get(name, 0))


def show_pipeline(client: Client, by: Grouping, pipeline: str, time_zone: str, json: bool) -> None:
    """Prints the pipeline report: how many deals, worth how much, won how often, how fast."""
    params: dict[str, Any] = {"group_by": f"PIPELINE_GROUPING_{by.name}"}
    if pipeline:
        params["pipeline_id"] = pipeline_id(client, pipeline)
    if time_zone:
        params["time_zone"] = time_zone
    report = client.get("/v1/reports/pipeline", params)
    if json:
        print_json(report)
        return
    groups, total = report.get("groups", []), report.get("total", {})
    names = Names(client)
    names.read(group.get("owner_id", "") for group in groups)
    most = max((count(group, "deal_count") for group in groups), default=0)
    figures = ("deals", "open", "won", "lost", "win rate", "cycle", "amount", "weighted", "won amount")
    made = table(by.value, "", *figures, right=figures)
    for group in groups:
        label = group.get("stage_display_name") or names.of(group.get("owner_id", "")) or group.get("period")
        made.add_row(cell(label or EMPTY), bar(count(group, "deal_count"), most, 12), *pipeline_figures(group))
    made.add_row("[bold]all[/bold]", "", *(f"[bold]{text}[/bold]" for text in pipeline_figures(total)))
    print_table(made)
    if negative := count(total, "negative_cycle_count"):
        stdout.print(f"{negative:,} won deals closed before they opened: left out of the cycle times")


def pipeline_figures(group: Json) -> list[str]:
    """The figures of a group of deals, one text a column; amounts one line a currency."""
    amounts = group.get("amounts", [])

    def sums(name: str) -> str:
        return "\n".join(money(amount[name]) for amount in amounts if name in amount) or "–"

    return [
        *(f"{count(group, name):,}" for name in ("deal_count", "open_count", "won_count", "lost_count")),
        percent(group.get("win_rate"), 2),
        duration(group.get("median_cycle_time")),
        sums("amount"),
        sums("weighted_amount"),
        sums("won_amount"),
    ]


def pipeline_id(client: Client, word: str) -> str:
    """The id of a pipeline named by id or by name. Raises Problem where there is none."""
    if word.startswith("pipeline_"):
        return word
    found = list(client.pages("/v1/pipelines", "pipelines", {"filter": f"display_name = {quoted(word)}"}))
    if len(found) != 1:
        raise Problem(f"{len(found) or 'no'} pipelines are called {word!r}: see `rapport list pipelines`")
    return str(found[0]["id"])


def show_funnel(client: Client, by: Split | None, limit: int, time_zone: str, json: bool) -> None:
    """Prints the funnel: how many leads became customers, how fast, and which groups lose people."""
    params = {"split_by": f"FUNNEL_SPLIT_{by.name}"} if by else {}
    if time_zone:
        params["time_zone"] = time_zone
    report = client.get("/v1/reports/funnel", params)
    if json:
        print_json(report)
        return
    total, groups = report.get("total", {}), report.get("groups", [])
    names = Names(client)
    names.read(group.get("key", "") for group in groups if by in (Split.CAMPAIGN, Split.OWNER))
    if by is Split.PERIOD:
        groups = sorted(groups, key=lambda group: str(group.get("key", "")))
    print_table(steps_table(total))
    if groups and by:
        stdout.print()
        print_table(groups_table(by, groups[:limit], total, names))
        if len(groups) > limit:
            stdout.print(f"the largest {limit:,} of {len(groups):,} groups; --limit shows more")
        stdout.print()
        show_bottlenecks(report.get("bottlenecks", []), names)
    negative = [f"{step_name(step)} {count(step, 'negative_count'):,}" for step in total.get("steps", [])]
    if any(count(step, "negative_count") for step in total.get("steps", [])):
        stdout.print(f"steps that end before they begin, left out of the durations: {', '.join(negative)}")


def steps_table(total: Json) -> Any:
    """The whole funnel, step by step."""
    figures = ("entered", "passed", "rate", "95 % interval", "median", "90 % within")
    made = table("step", "", *figures, right=figures)
    for step in total.get("steps", []):
        rate = step.get("rate", 0.0)
        made.add_row(
            step_name(step),
            bar(rate, 1.0, 12),
            f"{count(step, 'entered'):,}",
            f"{count(step, 'passed'):,}",
            percent(rate, 2),
            interval(step),
            duration(step.get("median_duration")),
            duration(step.get("p90_duration")),
        )
    return made


def groups_table(by: Split, groups: list[Json], total: Json, names: Names) -> Any:
    """The groups of a funnel, each rate as a bar with its interval."""
    full = max((group.get("rate_high", 0.0) for group in groups), default=0.0)
    figures = ("leads", "won", "rate", "median", "adjusted p", "cost")
    made = table(by.value, "rate and 95 % interval", *figures, "", right=figures)
    for group in (*groups, total):
        rate, low, high = (group.get(name, 0.0) for name in ("rate", "rate_low", "rate_high"))
        label = "[bold]all[/bold]" if group is total else cell(label_of(group, names))
        made.add_row(
            label,
            interval_bar(rate, low, high, max(full, high)),
            f"{count(group, 'entered'):,}",
            f"{count(group, 'converted'):,}",
            percent(rate, 2),
            duration(whole_way(group).get("median_duration")),
            p_value(group.get("adjusted_p_value")),
            "" if group is total else f"{group.get('lost_conversions', 0.0):.1f}",
            verdict(group),
        )
    return made


def show_bottlenecks(bottlenecks: list[Json], names: Names) -> None:
    """The groups that lose people, the costliest first."""
    if not bottlenecks:
        stdout.print("no group does worse than the rest beyond chance")
        return
    stdout.print("[bold]bottlenecks[/bold], by the conversions they cost")
    for place, group in enumerate(bottlenecks, start=1):
        rate, rest = percent(group.get("rate", 0.0), 2), percent(group.get("rest_rate", 0.0), 2)
        cost, p = group.get("lost_conversions", 0.0), p_value(group.get("adjusted_p_value", 0.0))
        stdout.print(
            f"{place}. [red]{cell(label_of(group, names))}[/red] converts {rate} where the rest converts {rest}: "
            f"costs [bold]{cost:.1f}[/bold] conversions (adjusted p {p})"
        )


def label_of(group: Json, names: Names) -> str:
    """What a group has in common; `(empty)` for the one that has nothing, which is another than `unknown`."""
    key = group.get("key")
    return EMPTY if key is None else names.of(key) or '""'


def whole_way(group: Json) -> Json:
    """The step from first contact to a won deal."""
    return next((s for s in group.get("steps", []) if s.get("kind") == "FUNNEL_STEP_KIND_LEAD_TO_WON"), {})


def step_name(step: Json) -> str:
    """A step in words: `lead → won`."""
    return str(step.get("kind", "")).removeprefix("FUNNEL_STEP_KIND_").lower().replace("_to_", " → ")


def interval(figures: Json) -> str:
    """A rate's interval."""
    return f"{figures.get('rate_low', 0.0) * 100:.2f}–{percent(figures.get('rate_high', 0.0), 2)}"


def p_value(value: float | None) -> str:
    """A p value, in powers of ten where it is small; empty where nothing was tested."""
    if value is None:
        return ""
    return f"{value:.0e}".replace("e-0", "e-") if value < 0.001 else f"{value:.3f}"


def verdict(group: Json) -> str:
    """How a group does against the rest, in a word."""
    match group.get("verdict"):
        case "FUNNEL_VERDICT_WORSE":
            return "[red]worse[/red]"
        case "FUNNEL_VERDICT_BETTER":
            return "[green]better[/green]"
        case _:
            return ""
