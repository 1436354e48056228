"""Users: the people who work with Rapport."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID
from weakref import WeakKeyDictionary

from crm.gateway.v1 import user_pb2 as pb
from email_validator import EmailNotValidError, validate_email

from chassis.checks import check_time_zone
from chassis.errors import invalid
from chassis.keys import Key
from chassis.resource import Resource
from chassis.service import Service
from chassis.work import Work
from gateway.identity import rights, standing, tables, teams


def normalize(user: pb.User) -> None:
    """Brings the e-mail address into the form it is kept in. Raises Invalid for one that is none."""
    if user.email:
        try:
            user.email = validate_email(user.email.strip(), check_deliverability=False).normalized
        except EmailNotValidError:
            raise invalid("email", "it is no e-mail address, such as 'ana@acme.example'") from None


async def prepare(work: Work, user: pb.User, before: pb.User | None) -> None:
    """Checks what needs more than the contract's rules."""
    if user.time_zone:
        check_time_zone(user.time_zone)
    if not user.state:
        user.state = pb.USER_STATE_ACTIVE
    was = before if before is not None else pb.User()
    if user.role_ids or was.role_ids:
        await _check_roles(work, user, was)
    if new := sorted(set(user.team_ids) - set(was.team_ids)):
        await _check_teams(work, user, new)
    elif list(user.team_ids) != list(was.team_ids):
        teams.check_may_regroup(work, "team_ids")


async def _check_roles(work: Work, user: pb.User, was: pb.User) -> None:
    """Nobody gives what he does not have, nor becomes a user who may do more; an administrator stays."""
    returns = rights.is_active(user) and not rights.is_active(was)
    added = set(user.role_ids) - set(was.role_ids)
    if added or (returns and user.role_ids):
        given = await standing.roles_for(work, sorted(added))
        if returns:
            given += await rights.live_roles(work, was.role_ids)
        rights.check_grant(rights.grantor(work), given, "role_ids")
    if was.role_ids and (user.email != was.email or list(user.external_ids) != list(was.external_ids)):
        # Who comes in as the user is decided by these.
        rights.check_grant(rights.grantor(work), await rights.live_roles(work, was.role_ids), "external_ids")
    if rights.is_active(was) and any(standing.gives_all(each) for each in await rights.live_roles(work, was.role_ids)):
        left = await rights.live_roles(work, user.role_ids) if rights.is_active(user) else []
        if not any(standing.gives_all(each) for each in left):
            await standing.keep_an_administrator(work, work.pending(Users.resource), user=user)


class _Rooms:
    """How much room there is where the users of one work join: nothing changes it while the work holds the lock."""

    def __init__(self) -> None:
        # The users of this work that were looked at, some of which may have failed since, and teams that they are in
        # together.
        self.joining = 0
        self.several: set[frozenset[str]] = set()
        self.above: dict[str, list[str]] = {}
        self._left: dict[str, int] = {}
        self._inside: dict[frozenset[str], set[UUID]] = {}

    async def left(self, work: Work, team_id: str) -> int:
        """How many may join a team. Raises Invalid where it does not exist."""
        if team_id not in self._left:
            self.above[team_id] = above = await teams.chain(work, team_id, "team_ids")
            self._left[team_id] = await teams.room(work, above, team_id)
            self.several |= {frozenset(each) for each in await teams.combinations(work, above)}
        return self._left[team_id]

    async def inside(self, work: Work, several: frozenset[str]) -> set[UUID]:
        """Who is in some teams together."""
        if several not in self._inside:
            self._inside[several] = set(await rights.members_below(work, sorted(several)))
        return self._inside[several]


_rooms: WeakKeyDictionary[Work, _Rooms] = WeakKeyDictionary()


async def _check_teams(work: Work, user: pb.User, new: list[str]) -> None:
    """Checks that there is room in the teams that a user joins, and in what others see by several of them."""
    teams.check_may_regroup(work, "team_ids")
    await standing.lock(work)
    known = _rooms.setdefault(work, _Rooms())
    known.joining += 1
    if len(user.team_ids) > 1:
        known.several.add(frozenset(user.team_ids))
    # Counted exactly only where it comes close: a work may hold a thousand users.
    joining: list[pb.User] | None = None
    for team_id in new:
        left = await known.left(work, team_id)
        if left < known.joining:
            joining = joining if joining is not None else _joining(work)
            if left <= sum(not set(new).isdisjoint(other.team_ids) for other in joining):
                raise teams.too_large("team_ids")
    grown = {each for team_id in new for each in known.above[team_id]}
    for several in [each for each in known.several if not grown.isdisjoint(each)]:
        inside = await known.inside(work, several)
        if len(inside) + known.joining > rights.MAX_TEAM_USERS:
            joining = joining if joining is not None else _joining(work)
            # Whoever else this work puts into a team counts, wherever it is.
            everybody = inside.union(Users.resource.uuid(each.id) for each in (user, *joining))
            if len(everybody) > rights.MAX_TEAM_USERS:
                raise teams.too_many("team_ids")


def _joining(work: Work) -> list[pb.User]:
    """The users that a work changes and that are in teams."""
    return [other for other in work.pending(Users.resource).values() if other.team_ids]


def keys(user: pb.User) -> Iterator[Key]:
    """An e-mail address finds its user again, but two may share one."""
    if user.email:
        yield Key("e-mail", user.email.lower())


class Users(Service, serves="crm.gateway.v1.UserService"):
    """Users by their standard methods, and whether they may come in."""

    resource = Resource(pb.User, tables.users, normalize=normalize, prepare=prepare, keys=keys)

    async def SuspendUser(self, request: pb.SuspendUserRequest, work: Work) -> pb.User:
        """Keeps a user out."""
        suspended: pb.User = await standing.enter(work, self.resource, request, pb.USER_STATE_SUSPENDED, active=False)
        return suspended

    async def ReactivateUser(self, request: pb.ReactivateUserRequest, work: Work) -> pb.User:
        """Lets a user in again."""
        active: pb.User = await standing.enter(work, self.resource, request, pb.USER_STATE_ACTIVE, active=True)
        return active
