"""A customer at a glance: the record, who and what belongs to it, and what happened last."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from cli import timeline
from cli.client import Client, Json
from cli.names import Names
from cli.problems import UsageProblem
from cli.records import as_table
from cli.render import cell, moment, plain, print_json, print_table, stdout, table
from cli.resources import BY_PLURAL, of_id

# By the section's name: what each of its elements holds.
_LINKS = {"companies": ("company", "domain"), "people": ("contact", "emails")}
_LISTS = ("tasks", "meetings", "deals", "touches", "campaigns")
# What says who it is, below the name.
_LINES = (
    ("job_title", "emails", "phones", "language"),
    ("domain", "industry", "employee_count", "annual_revenue", "office_location"),
    ("owner_id", "source", "tags"),
)


def show(client: Client, record_id: str, as_of: str, json: bool) -> None:
    """Prints what there is to know of a contact or company. Raises UsageProblem for another kind of record."""
    resource = of_id(record_id)
    if resource.plural not in ("contacts", "companies"):
        raise UsageProblem(f"{record_id!r}: an overview is of a contact or a company")
    found = client.get(f"{resource.path}/{record_id}:overview", {"as_of": as_of} if as_of else {})
    if json:
        print_json(found)
        return
    names = Names(client)
    _show_record(found.get(resource.prefix, {"id": record_id}), names)
    _show_touches(found)
    for name, (field, about) in _LINKS.items():
        if found.get(name):
            _head(name)
            print_table(_links(found[name], field, about))
    for name in _LISTS:
        if found.get(name):
            _head("open tasks" if name == "tasks" else "planned meetings" if name == "meetings" else name)
            print_table(as_table(BY_PLURAL[name], names.in_place_of_owners(found[name])))
    if found.get("timeline"):
        _head("timeline")
        print_table(timeline.as_table(found["timeline"], names))
    for missing in found.get("missing", []):
        stdout.print(f"[yellow]without {missing['part']}[/yellow]: {cell(missing['message'])}")


def _show_record(record: Json, names: Names) -> None:
    (record,) = names.in_place_of_owners([record])
    deleted = "  [red]deleted[/red]" if record.get("delete_time") else ""
    stdout.print(f"[bold]{cell(record.get('display_name') or record['id'])}[/bold]  [dim]{record['id']}[/dim]{deleted}")
    for line in _LINES:
        if said := _said(record, line):
            stdout.print(said)


def _said(record: Json, fields: Iterable[str]) -> str:
    shown = []
    for name in fields:
        if text := plain(record.get(name)):
            label = {"owner_id": "owner ", "source": "from ", "employee_count": "employees "}.get(name, "")
            shown.append(cell(f"{label}{text}"))
    return " · ".join(shown)


def _show_touches(found: Json) -> None:
    made = table("", "")
    made.show_header = False
    if last := found.get("last_touch"):
        made.add_row("[bold]last touch[/bold]", f"{moment(last['occur_time'])}  {last['kind']}", _name(last))
    if following := found.get("next_touch"):
        made.add_row("[bold]next touch[/bold]", moment(following["time"]), cell(following["title"]))
    if made.row_count:
        stdout.print()
        print_table(made)


def _name(entry: Json) -> str:
    return cell(entry.get("display_name") or entry["entity_id"])


def _links(links: list[Json], field: str, about: str) -> Any:
    made = table("id", field, about, "role")
    for link in links:
        record, how = link.get(field, {}), link["affiliation"]
        name = record.get("display_name", "")
        main = "  [dim]primary[/dim]" if how.get("primary") else ""
        made.add_row(how[f"{field}_id"], cell(name), cell(record.get(about)), cell(how.get("role")) + main)
    return made


def _head(name: str) -> None:
    stdout.print(f"\n[bold cyan]{name}[/bold cyan]")
