"""Roles: what those who have them may do and see."""

from __future__ import annotations

from typing import Final
from uuid import UUID, uuid5

from crm.gateway.v1 import role_pb2 as pb

from chassis import contract, ids
from chassis.context import Call
from chassis.db import Database
from chassis.errors import invalid
from chassis.resource import Resource
from chassis.service import Service, saga
from chassis.work import View, Work
from gateway.identity import rights, scopes, standing, tables
from gateway.identity.own import own_work
from gateway.identity.users import Users

# What every record has, and what answers and conditions stand on.
_NO_RULES: Final = frozenset({"id", "etag", "create_time", "update_time", "delete_time"})
_RIGHTS: Final = ("permissions", "visibility", "default_visibility", "field_rules")


async def prepare(work: Work, role: pb.Role, before: pb.Role | None) -> None:
    """Checks names, that nobody gives what he does not have, and that the tenant keeps an administrator."""
    if role.HasField("delete_time"):
        await standing.check_unheld(work, role.id)
        return
    _check_names(role)
    if before is not None and all(getattr(role, name) == getattr(before, name) for name in _RIGHTS):
        return
    if before is None or rights.excess(rights.as_caller(before), [role]):
        rights.check_grant(rights.grantor(work), [role], "permissions")
    if before is not None and standing.gives_all(before) and not standing.gives_all(role):
        await standing.keep_an_administrator(work, work.pending(Users.resource), role=role)


def _check_names(role: pb.Role) -> None:
    for index, permission in enumerate(role.permissions):
        if not scopes.is_scope(permission):
            raise invalid(f"permissions[{index}]", "it is no permission; one looks like 'deals.read', 'deals.*' or '*'")
    kinds = {kind.prefix for kind in rights.owned()}
    for index, seen in enumerate(role.visibility):
        if seen.resource not in kinds:
            raise invalid(f"visibility[{index}].resource", "it is no resource that has owners, such as 'deal'")
        if seen.resource in {each.resource for each in role.visibility[:index]}:
            raise invalid(f"visibility[{index}].resource", "it stands here twice")
    for index, rule in enumerate(role.field_rules):
        _check_rule(rule, f"field_rules[{index}]")
    if len({(rule.resource, rule.field) for rule in role.field_rules}) < len(role.field_rules):
        raise invalid("field_rules", "a field stands here twice")


def _check_rule(rule: pb.FieldRule, place: str) -> None:
    resources = contract.load().resources
    if rule.resource not in resources:
        raise invalid(f"{place}.resource", "it is no resource, such as 'contact'")
    if rule.field not in resources[rule.resource].descriptor.fields_by_name:
        raise invalid(f"{place}.field", f"a {rule.resource} has no such field")
    if rule.field in _NO_RULES:
        raise invalid(f"{place}.field", "there can be no rule for it: every record is known by it")


RESOURCE = Resource(pb.Role, tables.roles, prepare=prepare)


class Roles(Service, serves="crm.gateway.v1.RoleService"):
    """Roles by their standard methods.

    A tenant has those that most want from its beginning; one from before that was so has them with its first list.
    """

    resource = RESOURCE

    @saga
    async def ListRoles(self, request: pb.ListRolesRequest, call: Call) -> bytes:
        """Lists roles, the ones made beforehand among them."""
        if await make_usual_roles(self.platform.db, call.caller.tenant):
            self.platform.wake()
        async with self.platform.db.read(call.caller.tenant) as tx:
            return await self.standard.list(request, View(tx, contract.load().methods[call.method]))


def usual_id(tenant: UUID, name: str) -> UUID:
    """The id of one of a tenant's usual roles, for example ``administrator``."""
    return uuid5(tenant, f"role {name}")


async def make_usual_roles(db: Database, tenant: UUID) -> bool:
    """Makes those of the usual roles that the tenant never had; whether there were any."""
    wanted = _usual(tenant)
    async with db.read(tenant) as tx:
        if len(await View(tx).get_bodies(RESOURCE, list(wanted))) == len(wanted):
            return False
    async with own_work(db, tenant) as work:
        await add_usual_roles(work)
    return True


async def add_usual_roles(work: Work) -> None:
    """Makes the usual roles in a unit of work, but for those that the tenant had once."""
    wanted = _usual(work.tenant)
    await standing.lock(work)
    known = await work.get_bodies(RESOURCE, list(wanted))
    for role_id, role in wanted.items():
        if role_id not in known:
            await work.create(RESOURCE, role, record_id=ids.decode(role_id)[1])


def _usual(tenant: UUID) -> dict[str, pb.Role]:
    return {RESOURCE.id_of(usual_id(tenant, name)): role for name, role in USUAL.items()}


def _both(*plurals: str) -> list[str]:
    return [f"{plural}.{verb}" for plural in plurals for verb in ("read", "write")]


def _read(*areas: str) -> list[str]:
    return [f"{area}.read" for area in areas]


_CUSTOMERS: Final = ("contacts", "companies", "affiliations")
_SALES: Final = ("leads", "deals")
_ACTIVITIES: Final = ("tasks", "notes", "calls", "meetings")
_OTHERS: Final = ("timeline", "reports", "search", "events", "users", "teams", "roles")
_OWN_BUSINESS: Final = ("lead", "deal", "task", "note", "call", "meeting")
_TOOLS: Final = [*_both("subscriptions"), "subscriptions.commit", "tokens.create"]


def _seen(visibility: pb.Visibility.ValueType) -> list[pb.VisibilityRule]:
    return [pb.VisibilityRule(resource=prefix, visibility=visibility) for prefix in _OWN_BUSINESS]


# Ordinary records once they are made: a tenant may change or delete them.
USUAL: Final = {
    "administrator": pb.Role(
        display_name="Administrator",
        description="Everything in the tenant.",
        permissions=["*"],
        default_visibility=pb.VISIBILITY_ALL,
    ),
    "sales_manager": pb.Role(
        display_name="Sales manager",
        description="Sells, and sees the leads, deals and activities of the team.",
        permissions=[
            *_both(*_CUSTOMERS, *_SALES, *_ACTIVITIES, "pipelines", "products"),
            "leads.convert",
            *_read("campaigns", "touches", *_OTHERS),
            *_TOOLS,
        ],
        visibility=_seen(pb.VISIBILITY_TEAM),
        default_visibility=pb.VISIBILITY_ALL,
    ),
    "sales_representative": pb.Role(
        display_name="Sales representative",
        description="Sells, and sees their own leads, deals and activities.",
        permissions=[
            *_both(*_CUSTOMERS, *_SALES, *_ACTIVITIES),
            "leads.convert",
            *_read("pipelines", "products", "campaigns", "touches", *_OTHERS),
            *_TOOLS,
        ],
        visibility=_seen(pb.VISIBILITY_OWN),
        default_visibility=pb.VISIBILITY_ALL,
    ),
    "marketing": pb.Role(
        display_name="Marketing",
        description="Wins leads, and sees what becomes of them.",
        permissions=[
            *_both(*_CUSTOMERS, "leads", "campaigns", "touches", *_ACTIVITIES),
            *_read("deals", "pipelines", "products", *_OTHERS),
            *_TOOLS,
        ],
        default_visibility=pb.VISIBILITY_ALL,
    ),
    "read_only": pb.Role(
        display_name="Read-only",
        description="Sees customers, sales, marketing and activities, and changes nothing.",
        permissions=_read(
            *_CUSTOMERS, *_SALES, *_ACTIVITIES, "pipelines", "products", "campaigns", "touches", *_OTHERS
        ),
        default_visibility=pb.VISIBILITY_ALL,
    ),
}
