"""What roles give: permissions, and what is seen of the records that these open."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from uuid import UUID

from crm.gateway.v1 import role_pb2 as pb
from crm.gateway.v1 import service_account_pb2, user_pb2
from crm.internal.v1 import access_pb2
from sqlalchemy import Table, bindparam, func, literal, select
from sqlalchemy.sql import Executable

from chassis import context, contract, ids
from chassis.access import Access
from chassis.context import Caller
from chassis.db import Tx
from chassis.errors import Denied, Reason
from chassis.work import Work
from gateway.identity import scopes
from gateway.identity.tables import roles, service_accounts, teams, users

# So many users a team may hold, those of the teams below among them, and so many the teams of one user together: their
# ids travel with every call of its users.
MAX_TEAM_USERS: Final = 2000
# What can travel (chassis/clients.py, MAX_METADATA_BYTES): users who had more before there was a limit get that far.
MAX_SEEN_USERS: Final = 2 * MAX_TEAM_USERS
_DEEP: Final = 20
_HIDDEN, _READ_ONLY = pb.FIELD_ACCESS_HIDDEN, pb.FIELD_ACCESS_READ_ONLY


def _records(table: Table) -> Executable:
    by_id = (table.c.tenant_id == bindparam("tenant"), table.c.id == func.any(bindparam("ids")))
    return select(table.c.record).where(*by_id, table.c.delete_time.is_(None))


_ROLES, _USERS, _ACCOUNTS = _records(roles), _records(users), _records(service_accounts)

_top = select(teams.c.id, literal(0).label("depth")).where(
    teams.c.tenant_id == bindparam("tenant"), teams.c.id == func.any(bindparam("ids")), teams.c.delete_time.is_(None)
)
_tree = _top.cte("below", recursive=True)
_tree = _tree.union(
    select(teams.c.id, _tree.c.depth + 1).where(
        teams.c.tenant_id == bindparam("tenant"),
        teams.c.parent_id == _tree.c.id,
        teams.c.delete_time.is_(None),
        _tree.c.depth < _DEEP,
    )
)
_BELOW = select(_tree.c.id, _tree.c.depth)
# Whoever is suspended or deleted still owns records.
_MEMBERS = (
    select(users.c.id)
    .where(users.c.tenant_id == bindparam("tenant"), users.c.team_ids.overlap(bindparam("teams")))
    .order_by(users.c.id)
    .limit(MAX_SEEN_USERS + 1)
)


@dataclass(frozen=True)
class Rights:
    """Permissions as scopes, and what narrows them; None where nothing does."""

    scopes: frozenset[str]
    access: Access | None


async def rights_of(tx: Tx, role_ids: Iterable[str], *, user_id: str = "", team_ids: Sequence[str] = ()) -> Rights:
    """What the roles give together to a user of these teams, or to somebody who is no user.

    Roles that are gone give nothing, and without any role nothing is permitted or seen. Raises Denied for a user whose
    teams hold more than can be told: part of them would pass for all.
    """
    held = await live_roles(tx, role_ids)
    team = await members_below(tx, team_ids) if team_ids and _shows_teams(held) else []
    if len(team) > MAX_SEEN_USERS:
        text = f"your teams hold more than {MAX_SEEN_USERS} users; leave one, or get a role that sees ALL"
        raise Denied(Reason.REASON_PERMISSION_DENIED, text)
    return combined(held, user_id, team)


async def rights_of_user(tx: Tx, user: user_pb2.User) -> Rights:
    """What a user may do and see."""
    return await rights_of(tx, user.role_ids, user_id=user.id, team_ids=user.team_ids)


def is_active(holder: user_pb2.User | service_account_pb2.ServiceAccount) -> bool:
    """Whether a user, or the keys of a service account, may come in."""
    suspended = (
        user_pb2.USER_STATE_SUSPENDED
        if isinstance(holder, user_pb2.User)
        else service_account_pb2.SERVICE_ACCOUNT_STATE_SUSPENDED
    )
    return not holder.HasField("delete_time") and holder.state != suspended


async def holder(tx: Tx, user: UUID | None, account: UUID | None) -> tuple[str, Rights | None] | None:
    """Whom an API key acts for, and what that one may do; None where it is gone or suspended.

    An empty id for a key that acts for itself, and no rights: its scopes alone count.
    """
    if user is not None:
        rows = await tx.rows(_USERS, {"ids": [user]})
        found = user_pb2.User.FromString(rows[0].record) if rows else None
        if found is None or not is_active(found):
            return None
        return found.id, await rights_of_user(tx, found)
    if account is not None:
        rows = await tx.rows(_ACCOUNTS, {"ids": [account]})
        acting = service_account_pb2.ServiceAccount.FromString(rows[0].record) if rows else None
        if acting is None or not is_active(acting):
            return None
        return acting.id, await rights_of(tx, acting.role_ids)
    return "", None


async def live_roles(tx: Tx, role_ids: Iterable[str]) -> list[pb.Role]:
    """Those of the roles that exist."""
    wanted = sorted({ids.decode(each)[1] for each in role_ids})
    rows = await tx.rows(_ROLES, {"ids": wanted}) if wanted else []
    return [pb.Role.FromString(row.record) for row in rows]


async def below(tx: Tx, team_ids: Iterable[str]) -> dict[UUID, int]:
    """These teams and all below them, each with how far below it stands."""
    rows = await tx.rows(_BELOW, {"ids": [ids.decode(each)[1] for each in team_ids]})
    return {row.id: row.depth for row in rows}


async def members_below(tx: Tx, team_ids: Iterable[str]) -> list[UUID]:
    """The users of these teams and of all below them, one more than can be seen at most."""
    names = [ids.encode("team", each) for each in await below(tx, team_ids)]
    return [row.id for row in await tx.rows(_MEMBERS, {"teams": names})] if names else []


def combined(held: Sequence[pb.Role], user_id: str = "", team: Sequence[UUID] = ()) -> Rights:
    """What several roles give together: every permission of any, the widest visibility, the mildest rule for a field.

    What a resource is seen of is asked of the roles alone that may read it.
    """
    seen, rules = visibility(held), field_rules(held)
    given = frozenset(each for role in held for each in role.permissions)
    if held and not rules and all(each == pb.VISIBILITY_ALL for each in seen.values()):
        return Rights(given, None)
    usual = Counter(seen.values()).most_common(1)[0][0]
    access = access_pb2.Access(
        user_id=user_id,
        default_visibility=access_pb2.Visibility.ValueType(usual),
        visibility=[
            access_pb2.VisibilityRule(resource=prefix, visibility=access_pb2.Visibility.ValueType(each))
            for prefix, each in sorted(seen.items())
            if each != usual
        ],
        fields=[
            access_pb2.FieldRule(resource=prefix, field=name, access=access_pb2.FieldAccess.ValueType(each))
            for (prefix, name), each in sorted(rules.items())
        ],
    )
    if pb.VISIBILITY_TEAM in seen.values():
        access.team_user_ids.extend(each.bytes for each in sorted(team))
    return Rights(given, Access(access))


def visibility(held: Sequence[pb.Role]) -> dict[str, pb.Visibility.ValueType]:
    """Which records of each resource that has owners are seen with these roles."""
    found = {}
    for kind in owned():
        said = [_said(role, kind.prefix) for role in _readers(held, kind)]
        found[kind.prefix] = max([*said, pb.VISIBILITY_NONE])
    return found


def field_rules(held: Sequence[pb.Role]) -> dict[tuple[str, str], pb.FieldAccess.ValueType]:
    """The fields about which all roles that may read the resource have a rule, and the mildest of these."""
    found = {}
    for prefix in {rule.resource for role in held for rule in role.field_rules}:
        said = [
            {rule.field: rule.access for rule in role.field_rules if rule.resource == prefix}
            for role in _readers(held, contract.load().resources[prefix])
        ]
        for name in set.intersection(*(set(each) for each in said)) if said else ():
            # READ_ONLY is more than HIDDEN.
            found[prefix, name] = max(each[name] for each in said)
    return found


def shown(access: Access | None) -> tuple[dict[str, int], dict[tuple[str, str], int]]:
    """The visibility of every resource that has owners, and the field rules, as a caller's access has them."""
    message = (
        access_pb2.Access.FromString(access.encoded)
        if access
        else access_pb2.Access(default_visibility=access_pb2.VISIBILITY_ALL)
    )
    said = {rule.resource: rule.visibility for rule in message.visibility}
    seen = {kind.prefix: int(said.get(kind.prefix, message.default_visibility)) for kind in owned()}
    return seen, {(rule.resource, rule.field): int(rule.access) for rule in message.fields}


@lru_cache(maxsize=1)
def owned() -> tuple[contract.ResourceType, ...]:
    """The kinds of records that have owners."""
    return tuple(each for each in contract.load().resources.values() if "owner_id" in each.descriptor.fields_by_name)


def grantor(work: Work) -> Caller | None:
    """Who is held to what it has itself: none where the platform acts, also in a tenant that it makes."""
    call = context.current_or_none()
    if call is None or call.caller.tenant != work.tenant or call.caller.principal.startswith("service:"):
        return None
    return call.caller


def check_grant(caller: Caller | None, given: Sequence[pb.Role], place: str) -> None:
    """Raises Denied where roles give something that the caller does not have itself."""
    if caller is None or not (missing := excess(caller, given)):
        return
    text = f"{place}: nobody can give what they do not have themselves: {missing}"
    raise Denied(Reason.REASON_PERMISSION_DENIED, text)


def excess(caller: Caller, given: Sequence[pb.Role]) -> str:
    """Something that the roles give beyond what the caller has; empty where there is nothing."""
    for permission in sorted({each for role in given for each in role.permissions}):
        if not scopes.covers(caller, permission):
            return f"the permission '{permission}'"
    if caller.access is None:
        return ""
    seen, rules = shown(caller.access)
    for prefix, level in visibility(given).items():
        if level > max(seen[prefix], int(pb.VISIBILITY_NONE)):
            return f"more {contract.load().resources[prefix].plural} than are seen"
    theirs = field_rules(given)
    for (prefix, name), access in rules.items():
        kind = contract.load().resources.get(prefix)
        if kind is None or not _readers(given, kind):
            continue
        left = theirs.get((prefix, name))
        if left is None or (access != _READ_ONLY and left != _HIDDEN):
            return f"the field '{name}' of {kind.plural}"
    return ""


def restricted(caller: Caller | None) -> bool:
    """Whether a caller sees part of some resource alone."""
    return caller is not None and caller.access is not None


def as_caller(role: pb.Role) -> Caller:
    """Somebody who has this role alone."""
    given = combined([role])
    return Caller(UUID(int=0), "", given.scopes, access=given.access)


def _said(role: pb.Role, prefix: str) -> pb.Visibility.ValueType:
    return next((each.visibility for each in role.visibility if each.resource == prefix), role.default_visibility)


def _readers(held: Sequence[pb.Role], kind: contract.ResourceType) -> list[pb.Role]:
    """The roles that may read a kind; those that may do anything with it where none may."""
    permission = contract.load().read_permission(kind)
    reading = [role for role in held if _holds(role, permission)]
    return reading or [role for role in held if any(each.startswith(f"{kind.plural}.") for each in role.permissions)]


def _holds(role: pb.Role, permission: str) -> bool:
    return Caller(UUID(int=0), "", frozenset(role.permissions)).may(permission)


def _shows_teams(held: Sequence[pb.Role]) -> bool:
    return pb.VISIBILITY_TEAM in visibility(held).values()
