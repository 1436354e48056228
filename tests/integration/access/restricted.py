"""A caller that sees part of a tenant, calling the services as the gateway calls them for it."""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc
from crm.internal.v1 import access_pb2 as pb
from google.protobuf import json_format

from chassis import contract, ids
from chassis.access import ACCESS_KEY, Access
from chassis.context import Caller
from chassis.contract import ResourceType
from chassis.errors import from_rpc_error
from chassis.tokens import Signer
from tests.contract.world import World
from tests.running import Running, as_json

NONE, OWN, TEAM, ALL = pb.VISIBILITY_NONE, pb.VISIBILITY_OWN, pb.VISIBILITY_TEAM, pb.VISIBILITY_ALL
HIDDEN, READ_ONLY = pb.FIELD_ACCESS_HIDDEN, pb.FIELD_ACCESS_READ_ONLY

Visibility: TypeAlias = pb.Visibility.ValueType
Rule: TypeAlias = tuple[str, str, pb.FieldAccess.ValueType]

# Every resource whose records have owners, in the order in which some need others.
OWNED = [each for each in contract.load().resources.values() if "owner_id" in each.descriptor.fields_by_name]


@dataclass
class House:
    """A tenant with a user, somebody of its team, and a stranger; and the platform it lives on."""

    platform: Running
    world: World
    me: str = field(default_factory=lambda: ids.new("user"))
    mate: str = field(default_factory=lambda: ids.new("user"))
    stranger: str = field(default_factory=lambda: ids.new("user"))

    def make(self, kind: ResourceType, owner: str = "", **fields: Any) -> Any:
        """A record of somebody's."""
        body = {**self.world.body(kind.prefix), **({"owner_id": owner} if owner else {}), **fields}
        return self.world.client.post(f"/v1/{kind.plural}", body)

    def who(self, visibility: Visibility = ALL, *rules: Rule, seen: dict[str, Visibility] | None = None) -> Restricted:
        """The user, with a visibility for every resource but those in ``seen``, and with rules for fields."""
        access = pb.Access(user_id=self.me, default_visibility=visibility)
        access.team_user_ids.extend(ids.decode(each)[1].bytes for each in (self.me, self.mate))
        for prefix, narrower in (seen or {}).items():
            access.visibility.add(resource=prefix, visibility=narrower)
        for resource, name, left in rules:
            access.fields.add(resource=resource, field=name, access=left)
        return Restricted(self, Access(access))

    def state(self, kind: ResourceType) -> str:
        """A digest of all records of a kind and of the whole ledger of its service."""
        found = self.platform.rows(
            kind.home,
            self.world.client.tenant,
            # The name is the contract's own.
            "SELECT (SELECT string_agg(md5(record) || revision, '' ORDER BY id) FROM " + kind.plural + ") AS records,"
            " (SELECT string_agg(md5(after) || revision, '' ORDER BY id) FROM ledger) AS ledger,"
            " (SELECT count(*) FROM natural_keys) AS keys",
        )
        return hashlib.sha256(json.dumps(found, default=str).encode()).hexdigest()


@dataclass
class Restricted:
    """A user that sees part of it."""

    house: House
    access: Access
    act: str = ""

    def call(
        self, path: str, request: dict[str, Any], *, home: str = "", encoded: bytes | None = None
    ) -> dict[str, Any]:
        """The answer of a method such as ``/crm.sales.v1.DealService/GetDeal``. Raises Failure.

        ``home`` is the service where the method does not say it.
        """
        method = contract.load().methods[path]
        home = home or method.home
        caller = Caller(
            self.house.world.client.tenant, self.house.me, frozenset({"*"}), "gateway", self.act, access=self.access
        )
        token = _signer(self.house.platform.state.key("gateway.pem")).token(home, caller)
        message = json_format.ParseDict(request, method.request())
        send: Any = _channel(self.house.platform.env[f"RAPPORT_{home.upper()}_ADDRESS"].split(",")[0])
        along = self.access.encoded if encoded is None else encoded
        metadata = [("authorization", f"Bearer {token}"), *([(ACCESS_KEY, along)] if along else [])]
        try:
            answer = send.unary_unary(path)(message.SerializeToString(), metadata=metadata, timeout=20)
        except grpc.RpcError as error:
            raise from_rpc_error(error) from None  # type: ignore[arg-type]
        return as_json(method.response.FromString(answer))

    def of(self, kind: ResourceType, name: str, request: dict[str, Any]) -> dict[str, Any]:
        """The answer of a method of a resource's own service, by its name."""
        return self.call(f"/{kind.full_name}Service/{name}", request)

    def standard(self, kind: ResourceType, verb: str, request: dict[str, Any]) -> dict[str, Any]:
        """The answer of ``Get``, ``BatchGet`` or the like of a resource."""
        several = verb.startswith("Batch") or verb == "List"
        name = f"{verb}{plural_of(kind)}" if several else f"{verb}{kind.descriptor.name}"
        return self.of(kind, name, request)


@functools.cache
def plural_of(kind: ResourceType) -> str:
    """The name of several records as methods have it, for example ``Companies``."""
    names = (each.name for each in contract.load().methods_of(f"{kind.full_name}Service"))
    return next(name.removeprefix("BatchGet") for name in names if name.startswith("BatchGet"))


@functools.cache
def _signer(key: Any) -> Signer:
    return Signer("gateway", key)


@functools.cache
def _channel(address: str) -> Any:
    return grpc.insecure_channel(address)
