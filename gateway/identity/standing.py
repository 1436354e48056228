"""What must stay true of a tenant's roles, users and keys together: looked at under one lock per tenant."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final
from weakref import WeakSet

from crm.gateway.v1 import role_pb2, user_pb2
from sqlalchemy import bindparam, func, select

from chassis.errors import Precondition, Reason, invalid
from chassis.resource import Resource
from chassis.work import Work
from gateway.identity.rights import check_grant, combined, grantor, is_active, live_roles
from gateway.identity.tables import identity_providers, roles, service_accounts, users

_LOCK = select(func.pg_advisory_xact_lock(func.hashtextextended(bindparam("room"), 0)))
_ADMINISTRATOR: Final = "*"
_PERMITTING_ALL = select(roles.c.record).where(
    roles.c.tenant_id == bindparam("tenant"),
    roles.c.delete_time.is_(None),
    func.array_position(roles.c.permissions, _ADMINISTRATOR).is_not(None),
)
_HOLDERS = select(users.c.record).where(
    users.c.tenant_id == bindparam("tenant"),
    users.c.delete_time.is_(None),
    users.c.role_ids.overlap(bindparam("roles")),
)


# The works that hold the lock: it is theirs until their transactions end.
_locked: Final = WeakSet[Work]()


async def lock(work: Work) -> None:
    """Waits for other changes of who may do what in the tenant, and holds further ones until the transaction ends."""
    if work not in _locked:
        await work.rows(_LOCK, {"room": f"standing {work.tenant}"})
        _locked.add(work)


async def roles_for(work: Work, role_ids: list[str], field: str = "role_ids") -> list[role_pb2.Role]:
    """The roles that somebody is given, which cannot go meanwhile. Raises Invalid where one does not exist."""
    await lock(work)
    found = await live_roles(work, role_ids)
    if missing := sorted(set(role_ids) - {role.id for role in found}):
        raise invalid(field, f"there is no role '{missing[0]}'")
    return found


async def check_given(work: Work, now: Iterable[str], before: Iterable[str]) -> None:
    """Raises Invalid for a further role that does not exist, Denied for one that gives what the caller has not."""
    if new := sorted(set(now) - set(before)):
        check_grant(grantor(work), await roles_for(work, new), "role_ids")


async def check_unheld(work: Work, role_id: str) -> None:
    """Raises Precondition, IN_USE, where somebody has the role."""
    await lock(work)
    for table, whose in (
        (users, "a user"),
        (service_accounts, "a service account"),
        (identity_providers, "a provider"),
    ):
        held = select(table.c.id).where(
            table.c.tenant_id == bindparam("tenant"),
            table.c.delete_time.is_(None),
            table.c.role_ids.overlap(bindparam("roles")),
        )
        if await work.rows(held.limit(1), {"roles": [role_id]}):
            raise Precondition(Reason.REASON_IN_USE, f"{whose} has the role; take it away first")


async def keep_an_administrator(
    work: Work,
    pending: dict[str, user_pb2.User],
    *,
    user: user_pb2.User | None = None,
    role: role_pb2.Role | None = None,
) -> None:
    """Raises Precondition where a change leaves nobody whose role gives and shows everything.

    ``user`` or ``role`` is what changes, as it will be; ``pending`` are the users who change in the same work.
    """
    await lock(work)
    known = [role_pb2.Role.FromString(row.record) for row in await work.rows(_PERMITTING_ALL)]
    giving = {each.id for each in known if gives_all(each)}
    if role is not None:
        giving.discard(role.id)
    found = await work.rows(_HOLDERS, {"roles": sorted(giving)}) if giving else []
    left = {each.id for each in (user_pb2.User.FromString(row.record) for row in found) if is_active(each)}
    for each in [*pending.values(), *([user] if user is not None else [])]:
        stays = is_active(each) and not giving.isdisjoint(each.role_ids)
        left = left | {each.id} if stays else left - {each.id}
    if not left:
        text = "nobody would be left whose role gives and shows everything; give it to another active user first"
        raise Precondition(Reason.REASON_STATE_INVALID, text)


def gives_all(role: role_pb2.Role) -> bool:
    """Whether a role gives every permission in the tenant and hides nothing.

    Whoever sees part alone can show nobody the rest, so such users could never make an administrator again.
    """
    full = _ADMINISTRATOR in role.permissions and not role.HasField("delete_time")
    return full and combined([role]).access is None


async def enter(work: Work, resource: Resource[Any], request: Any, state: int, *, active: bool) -> Any:
    """Suspends or reactivates a user or service account. Raises Precondition where it is so already."""
    record = await work.lock(resource, request.id, request.etag)
    verb = "reactivated" if active else "suspended"
    if not record.before.HasField("delete_time") and is_active(record.before) == active:
        what = resource.kind.prefix.replace("_", " ")
        raise Precondition(Reason.REASON_STATE_INVALID, f"the {what} is {verb} already")
    record.after.state = state
    return await work.update(record, verb)
