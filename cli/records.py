"""Records as they are: one, many, a new one."""

from __future__ import annotations

import json as jsonlib
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from cli.client import Client, Json
from cli.names import Names
from cli.problems import UsageProblem
from cli.render import cell, plain, print_json, print_table, short_enum, stdout, table
from cli.resources import Resource, named, of_id


def get(client: Client, record_id: str, as_of: str, json: bool) -> None:
    """Prints a record, as it is or as it was at a time."""
    resource = of_id(record_id)
    record = client.get(f"{resource.path}/{record_id}", {"as_of": as_of} if as_of else {})
    if json:
        print_json(record)
    else:
        show(client, record)


def show(client: Client, record: Json) -> None:
    """Prints a record field by field."""
    (shown,) = Names(client).in_place_of_owners([record])
    fields = table("field", "value")
    fields.show_header = False
    for name, value in shown.items():
        if value in ("", [], {}, None):
            continue
        for label, text in lines(name, value):
            fields.add_row(f"[bold]{label}[/bold]", text)
    print_table(fields)


def lines(name: str, value: Any) -> list[tuple[str, str]]:
    """A field as lines of a table; a list of messages takes one line an element."""
    if isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        return [(name if index == 0 else "", element(item)) for index, item in enumerate(value)]
    return [(name, cell(short_enum(name, value)))]


def element(item: Json) -> str:
    """An element of a list: a short text where there is one, else its fields."""
    text = plain(item)
    if not text.startswith("{"):
        more = ", ".join(
            f"{k} {plain(short_enum(k, v))}" for k, v in item.items() if plain(v) != text and k != "system"
        )
        return cell(f"{text}  ({more})" if more and ":" not in text else text)
    return cell(", ".join(f"{k} {plain(short_enum(k, v))}" for k, v in item.items()))


def list_records(
    client: Client, word: str, filter: str, order_by: str, limit: int | None, deleted: bool, json: bool
) -> None:
    """Prints records of a kind as a table, or as JSON."""
    resource = named(word)
    asked = {"filter": filter, "order_by": order_by, "show_deleted": "true" if deleted else ""}
    params = {name: value for name, value in asked.items() if value}
    # One more than shown tells whether there are more.
    found = list(client.pages(resource.path, resource.plural, params, None if limit is None else limit + 1))
    more = limit is not None and len(found) > limit
    found = found[:limit]
    if json:
        print_json(found)
        return
    if not found:
        stdout.print(f"no {resource.plural}" + (" match" if filter else " yet"))
        return
    print_table(as_table(resource, Names(client).in_place_of_owners(found)))
    if more:
        stdout.print(f"the first {limit:,}; --all shows every one, --limit and --filter choose")


def as_table(resource: Resource, records: Sequence[Json]) -> Any:
    """Records as a table of the columns that say something."""
    columns = [name for name in resource.columns if name == "id" or any(name in record for record in records)]
    amounts = tuple(c.removesuffix("_id") for c in columns if c in ("amount", "unit_price"))
    made = table(*(name.removesuffix("_id") if name != "id" else name for name in columns), right=amounts)
    for record in records:
        made.add_row(*(cell(short_enum(name, record.get(name))) for name in columns))
    return made


def create(client: Client, word: str, fields: Sequence[str], body: str, occur_time: str, json: bool) -> None:
    """Makes a record from `field=value` words or a JSON object, and prints it."""
    resource = named(word)
    record = written(fields, body)
    params = {"occur_time": occur_time} if occur_time else {}
    made = client.post(resource.path, record, params)
    if json:
        print_json(made)
    else:
        show(client, made)


def update(
    client: Client, record_id: str, fields: Sequence[str], body: str, clear: Sequence[str], etag: str, json: bool
) -> None:
    """Changes fields of a record, empties those to ``clear``, and prints it; only where it has the ``etag``, if any."""
    resource = of_id(record_id)
    record = written(fields, body)
    if not record and not clear:
        raise UsageProblem("say what is to change: field=value, or --clear field")
    if both := sorted(record.keys() & set(clear)):
        raise UsageProblem(f"{both[0]}: it cannot be set and cleared at once")
    params = {"request_id": str(uuid4())}
    if clear:
        params["update_mask"] = ",".join(camel(name) for name in (*record, *clear))
    if etag:
        record["etag"] = etag if etag.startswith('"') else f'"{etag}"'
    changed = client.patch(f"{resource.path}/{record_id}", record, params)
    if json:
        print_json(changed)
    else:
        show(client, changed)


def camel(name: str) -> str:
    """A field's name as masks have it in JSON."""
    first, *more = name.split("_")
    return first + "".join(word.capitalize() for word in more)


def written(fields: Sequence[str], body: str) -> Json:
    """A record from a JSON object and `field=value` words. Raises UsageProblem for what is neither."""
    record = json_object(body) if body else {}
    for text in fields:
        path, separator, value = text.partition("=")
        if not separator or not path:
            raise UsageProblem(f"{text!r}: write field=value, such as display_name='Acme Ltd'")
        put(record, path.split("."), literal(value))
    return record


def suspend(client: Client, record_id: str, verb: str, json: bool) -> None:
    """Keeps a user or a service account out, or lets it in again, and prints it. ``verb`` is that of the path."""
    resource = of_id(record_id)
    if resource.prefix not in ("user", "service_account"):
        raise UsageProblem(f"a {resource.prefix} does not come in: it is a user or a service_account that does")
    changed = client.post(f"{resource.path}/{record_id}:{verb}", {"request_id": str(uuid4())})
    if json:
        print_json(changed)
    else:
        show(client, changed)


def json_object(text: str) -> Json:
    """A JSON object from the command line. Raises UsageProblem with the place where it breaks."""
    try:
        found = jsonlib.loads(text)
    except ValueError as error:
        raise UsageProblem(f"not JSON: {error}") from error
    if not isinstance(found, dict):
        raise UsageProblem('a JSON object is wanted, such as \'{"display_name": "Acme"}\'')
    return found


def put(record: Json, path: Sequence[str], value: Any) -> None:
    """Sets a field named by a dotted path."""
    for name in path[:-1]:
        record = record.setdefault(name, {})
        if not isinstance(record, dict):
            raise UsageProblem(f"{'.'.join(path)}: {name} has a value already")
    record[path[-1]] = value


def literal(text: str) -> Any:
    """A value as the user writes it: true, false, a number, a list or an object in JSON, else a text."""
    if text in ("true", "false") or text[:1] in ("[", "{"):
        try:
            return jsonlib.loads(text)
        except ValueError:
            return text
    return text
