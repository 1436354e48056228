"""A record's revisions, and the way back to one of them."""

from __future__ import annotations

from uuid import uuid4

from cli.client import Client, Json
from cli.names import Names
from cli.problems import UsageProblem
from cli.records import show as show_record
from cli.render import cell, moment, print_json, print_table, stdout, table
from cli.resources import of_id


def show(client: Client, record_id: str, limit: int, json: bool) -> None:
    """Prints what happened to a record, its last revision first."""
    path = f"{of_id(record_id).path}/{record_id}:listRevisions"
    # One more than shown tells whether there are more.
    found = list(client.pages(path, "revisions", {}, limit + 1))
    if json:
        print_json(found[:limit])
        return
    names = Names(client)
    names.read(str(each["revision"].get("actor", "")) for each in found[:limit])
    made = table("revision", "when (UTC)", "what", "changed", "by", right=("revision",))
    for each in found[:limit]:
        revision: Json = each["revision"]
        made.add_row(
            str(revision["revision"]),
            moment(revision["commit_time"]),
            str(revision["type"]).rpartition(".")[2],
            # All that is set, for a new record: that it is new says enough.
            "" if revision["revision"] == "1" else cell(str(revision.get("changed", "")).replace(",", ", ")),
            cell(names.of(revision.get("actor", ""))),
        )
    print_table(made)
    if len(found) > limit:
        stdout.print(f"the first {limit:,}; --limit shows more")


def revert(client: Client, record_id: str, revision: int | None, as_of: str, json: bool) -> None:
    """Takes a record back to a revision or to what it was at a time, and prints it. Raises UsageProblem for both."""
    if (revision is None) == (not as_of):
        raise UsageProblem("say which: --revision N, or --as-of TIME")
    target: Json = {"as_of": as_of} if revision is None else {"revision": revision}
    path = f"{of_id(record_id).path}/{record_id}:revert"
    reverted = client.post(path, {**target, "request_id": str(uuid4())})
    if json:
        print_json(reverted)
    else:
        show_record(client, reverted)
