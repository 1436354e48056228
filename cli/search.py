"""What a text finds, of every kind."""

from __future__ import annotations

from collections.abc import Sequence

from cli.client import Client
from cli.render import cell, print_json, print_table, stdout, table


def show(client: Client, query: str, types: Sequence[str], limit: int, json: bool) -> None:
    """Prints the records that a text finds, the best first, and which kinds could not be searched."""
    found = client.get("/v1/search", {"query": query, "types": list(types), "page_size": limit})
    if json:
        print_json(found)
        return
    if results := found.get("results"):
        made = table("kind", "id", "name", "matched", "facts")
        for each in results:
            matched = "" if each["snippet"] == each["title"] else f"{each['field']}: {each['snippet']}"
            facts = ", ".join(fact["value"] for fact in each.get("facts", []) if fact["value"] != each["snippet"])
            made.add_row(each["type"], each["id"], cell(each["title"]), cell(matched), cell(facts))
        print_table(made)
    else:
        stdout.print("nothing found")
    if missing := found.get("missing"):
        stdout.print(f"[yellow]not searched now[/yellow]: {', '.join(missing)}")
