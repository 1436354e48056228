"""What agents and others propose: looking at it, deciding about it, and taking back what an agent did."""

from __future__ import annotations

from typing import Annotated, Any
from uuid import uuid4

from cyclopts import App, Parameter

from cli.client import Client
from cli.flags import Id, Json
from cli.names import Names
from cli.problems import Problem
from cli.render import cell, moment, print_json, print_table, short_enum, stdout, table
from cli.settings import load

proposals = App(name="proposals", help="Look at what agents propose, and decide about it.")
agents = App(name="agents", help="What concerns an agent as a whole.")
_NONE = "–"


@proposals.command(name="list")
def list_proposals(*, state: str = "pending", agent: str = "", limit: int = 50, json: Json = False) -> None:
    """List proposals, the newest first.

    Parameters
    ----------
    state
        pending, accepted, applied, failed, rejected, expired, or all.
    agent
        Only those of this API key.
    limit
        How many to show.
    """
    wanted = [] if state == "all" else [f'state = "PROPOSAL_STATE_{state.upper()}"']
    wanted += [f'proposer_id = "{agent}"'] if agent else []
    with Client(load()) as client:
        found = list(client.pages("/v1/proposals", "proposals", {"filter": " AND ".join(wanted)}, limit))
        if json:
            print_json(found)
            return
        names = Names(client)
        names.read(each["proposer_id"] for each in found)
        made = table("id", "when (UTC)", "by", "what", "records", "state", "why")
        for each in found:
            made.add_row(
                each["id"], moment(each["create_time"]), cell(names.of(each["proposer_id"])), each["method"],
                cell(each["entity_ids"]), short_enum("state", each["state"]), cell(each.get("reason")),
            )  # fmt: skip
        print_table(made)


@proposals.command(name="show")
def show(proposal_id: Id, /, *, json: Json = False) -> None:
    """Show a proposal and what it changes, field by field."""
    with Client(load()) as client:
        found = client.get(f"/v1/proposals/{proposal_id}")
        if json:
            print_json(found)
        else:
            _print(client, found)


@proposals.command(name="accept")
def accept(proposal_id: Id, /, *, comment: str = "", json: Json = False) -> None:
    """Accept a proposal: its change is made. Ends with 1 where it could not be made."""
    _decide(proposal_id, "accept", comment, json)


@proposals.command(name="reject")
def reject(proposal_id: Id, /, *, comment: str = "", json: Json = False) -> None:
    """Reject a proposal."""
    _decide(proposal_id, "reject", comment, json)


def _decide(proposal_id: str, verb: str, comment: str, json: bool) -> None:
    with Client(load()) as client:
        body = {"request_id": str(uuid4())} | ({"comment": comment} if comment else {})
        found = client.post(f"/v1/proposals/{proposal_id}:{verb}", body)
        if json:
            print_json(found)
        else:
            stdout.print(f"{proposal_id}: {short_enum('state', found['state'])}", markup=False)
        if found["state"] == "PROPOSAL_STATE_FAILED":
            raise Problem(f"the change could not be made: {found['failure']}")


def _print(client: Client, proposal: dict[str, Any]) -> None:
    names = Names(client)
    names.read(proposal[each] for each in ("proposer_id", "decider_id") if each in proposal)
    stdout.print(f"{proposal['method']}, proposed by {names.of(proposal['proposer_id'])}", markup=False)
    if reason := proposal.get("reason"):
        stdout.print(f"why: {reason}", markup=False)
    stdout.print(f"state: {short_enum('state', proposal['state'])}", markup=False)
    if decider := proposal.get("decider_id"):
        stdout.print(f"decided by {names.of(decider)}: {proposal.get('decision_comment', _NONE)}", markup=False)
    if failure := proposal.get("failure"):
        stdout.print(f"failure: {failure}", markup=False)
    made = table("record", "field", "before", "", "after")
    for each in proposal["changes"]:
        record = each["entity_id"] or f"new {each['resource']}"
        made.add_row(record, each["field"], _value(each, "before"), "→", _value(each, "after"))
    if proposal["changes"]:
        print_table(made)
    else:
        stdout.print("what it changes is not yours to see")


def _value(change: dict[str, Any], name: str) -> str:
    return cell(short_enum(change["field"], change[name])) or _NONE if change.get(name) is not None else _NONE


@agents.command(name="revert")
def revert(
    agent_id: Id, /, *, since: str = "", dry_run: Annotated[bool, Parameter(negative="")] = False, json: Json = False
) -> None:
    """Take back everything that an agent did, with your rights, the latest first.

    Parameters
    ----------
    since
        Only what it did from this time on.
    dry_run
        Say what would be done, and do nothing.
    """
    body = {"validate_only": dry_run} | ({"start_time": since} if since else {})
    with Client(load()) as client:
        found = client.post(f"/v1/agents/{agent_id}:revert", body)
        reversals = list(found["reversals"])
        done = {each["entity_id"] for each in reversals if "SKIPPED" not in each["outcome"]}
        # The time of a call may be too short for all of it; each goes on where the one before stopped.
        while not found["complete"] and not dry_run and done:
            found = client.post(f"/v1/agents/{agent_id}:revert", body)
            done = {each["entity_id"] for each in found["reversals"] if "SKIPPED" not in each["outcome"]}
            reversals = [each for each in reversals if "SKIPPED" not in each["outcome"]] + found["reversals"]
    if json:
        print_json(found | {"reversals": reversals})
    else:
        _print_reversals(reversals, found, dry_run=dry_run)
    if not found["complete"]:
        raise Problem("that is not all; the same command goes on")


def _print_reversals(reversals: list[dict[str, Any]], found: dict[str, Any], *, dry_run: bool) -> None:
    made = table("record", "changes", "outcome", "")
    for each in reversals:
        outcome = each["outcome"].removeprefix("REVERSAL_OUTCOME_").lower().replace("_", " ")
        told = each["reason"] or (f"left: {', '.join(each['left_fields'])}" if each["left_fields"] else "")
        made.add_row(each["entity_id"], str(each["change_count"]), outcome, cell(told))
    if reversals:
        print_table(made)
    skipped = sum("SKIPPED" in each["outcome"] for each in reversals)
    stdout.print(
        f"{len(reversals) - skipped} {'would go' if dry_run else 'went'} back, {skipped} skipped,"
        f" {found['unchanged_count']} stood as before, {found['unseen_count']} out of your sight"
    )
