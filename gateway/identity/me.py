"""Who the caller is, and what it may do and see."""

from __future__ import annotations

from crm.gateway.v1 import me_pb2 as pb
from crm.gateway.v1 import role_pb2

from chassis import context, ids
from chassis.service import Service
from chassis.work import View
from gateway.identity import rights


class MeService(Service, serves="crm.gateway.v1.MeService"):
    """Tells callers about themselves."""

    async def GetMe(self, _request: pb.GetMeRequest, _view: View) -> pb.Me:
        """The caller as the gateway took it for this call."""
        caller = context.current().caller
        seen, rules = rights.shown(caller.access)
        return pb.Me(
            principal_id=caller.principal,
            credential_id=caller.credential,
            tenant_id=ids.encode("tenant", caller.tenant),
            permissions=sorted(caller.scopes),
            visibility=[
                role_pb2.VisibilityRule(resource=prefix, visibility=role_pb2.Visibility.ValueType(each))
                for prefix, each in sorted(seen.items())
            ],
            field_rules=[
                role_pb2.FieldRule(resource=prefix, field=name, access=role_pb2.FieldAccess.ValueType(each))
                for (prefix, name), each in sorted(rules.items())
            ],
        )
