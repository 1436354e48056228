"""Teams: a tree of groups of users, by which records are seen."""

from __future__ import annotations

from typing import Final

from crm.gateway.v1 import team_pb2 as pb
from sqlalchemy import bindparam, func, select

from chassis import ids
from chassis.errors import Denied, Invalid, Precondition, Reason, invalid
from chassis.resource import Resource
from chassis.service import Service
from chassis.standard import MAX_BATCH
from chassis.work import Work
from gateway.identity import rights, standing, tables
from gateway.identity.tables import teams, users

MAX_DEPTH: Final = 10
_CHILD = (
    select(teams.c.id)
    .where(teams.c.tenant_id == bindparam("tenant"), teams.c.parent_id == bindparam("team"))
    .where(teams.c.delete_time.is_(None))
    .limit(1)
)
_MEMBER = (
    select(users.c.id)
    .where(users.c.tenant_id == bindparam("tenant"), users.c.team_ids.overlap(bindparam("teams")))
    .where(users.c.delete_time.is_(None))
    .limit(1)
)
_IN_TEAMS = select(func.count().label("n")).where(
    users.c.tenant_id == bindparam("tenant"), func.cardinality(users.c.team_ids) > 0
)
_COMBINATIONS = (
    select(users.c.team_ids)
    .distinct()
    .where(users.c.tenant_id == bindparam("tenant"), users.c.team_ids.overlap(bindparam("teams")))
    .where(func.cardinality(users.c.team_ids) > 1)
)


async def prepare(work: Work, team: pb.Team, before: pb.Team | None) -> None:
    """Checks that the teams stay a tree of ten levels, that none is too large, and that a deleted one is empty."""
    if team.HasField("delete_time"):
        await standing.lock(work)
        if await work.rows(_CHILD, {"team": ids.decode(team.id)[1]}):
            raise Precondition(Reason.REASON_IN_USE, "it has teams below it; move or delete them first")
        if await work.rows(_MEMBER, {"teams": [team.id]}):
            raise Precondition(Reason.REASON_IN_USE, "it has users; move them first")
        return
    if team.parent_id != (before.parent_id if before is not None else ""):
        check_may_regroup(work, "parent_id")
        if team.parent_id:
            await _check_under(work, team)


async def _check_under(work: Work, team: pb.Team) -> None:
    """Checks a team's new place."""
    await standing.lock(work)
    above = await chain(work, team.parent_id, "parent_id")
    if team.id in above:
        raise invalid("parent_id", "it is the team itself or one below it")
    under = await rights.below(work, [team.id])
    if len(above) + 1 + max(under.values(), default=0) > MAX_DEPTH:
        raise invalid("parent_id", f"teams are at most {MAX_DEPTH} deep")
    joining = await rights.members_below(work, [team.id])
    if await room(work, above) < len(joining):
        raise too_large("parent_id")
    for several in await combinations(work, above):
        if len({*await rights.members_below(work, several), *joining}) > rights.MAX_TEAM_USERS:
            raise too_many("parent_id")


RESOURCE = Resource(pb.Team, tables.teams, prepare=prepare)


async def chain(work: Work, team_id: str, field: str) -> list[str]:
    """A team and those above it, the highest last. Raises Invalid where the team does not exist."""
    found: list[str] = []
    while team_id and team_id not in found:
        team = (await work.get_many(RESOURCE, [team_id])).get(team_id)
        if team is None or team.HasField("delete_time"):
            raise invalid(field, f"there is no team '{team_id}'")
        found.append(team_id)
        team_id = team.parent_id
    return found


async def room(work: Work, above: list[str], joins: str = "") -> int:
    """How many further users there may be in the first of these teams, for each of them that has users of its own.

    ``joins`` is one that is to have some.
    """
    left = rights.MAX_TEAM_USERS
    for team_id in above:
        # A team without users of its own shows nobody the users below it.
        if team_id == joins or await work.rows(_MEMBER, {"teams": [team_id]}):
            left = min(left, rights.MAX_TEAM_USERS - len(await rights.members_below(work, [team_id])))
    return left


async def combinations(work: Work, joined: list[str]) -> list[list[str]]:
    """The several teams that users of one of these are in together, where it matters."""
    if (await work.rows(_IN_TEAMS))[0].n <= rights.MAX_TEAM_USERS - MAX_BATCH:
        return []
    return [list(row.team_ids) for row in await work.rows(_COMBINATIONS, {"teams": joined})]


def too_many(field: str) -> Invalid:
    """The refusal of teams that hold too many users together for one who is in all of them."""
    text = f"somebody's teams would hold more than {rights.MAX_TEAM_USERS} users together, with those below;"
    return invalid(field, f"{text} take that user out of one, or put the teams under one whose users see ALL")


def too_large(field: str) -> Invalid:
    """The refusal of users for whom there is no room."""
    text = f"a team that has users holds {rights.MAX_TEAM_USERS} at most, with those below it;"
    return invalid(field, f"{text} let its users see ALL, or take them out of it")


def check_may_regroup(work: Work, field: str) -> None:
    """Raises Denied for a caller that does not see everything: who is in which team decides who sees what."""
    if rights.restricted(rights.grantor(work)):
        text = f"{field}: teams decide who sees what, so only who sees everything may change them"
        raise Denied(Reason.REASON_PERMISSION_DENIED, text)


class Teams(Service, serves="crm.gateway.v1.TeamService"):
    """Teams by their standard methods."""

    resource = RESOURCE
