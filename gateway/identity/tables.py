"""The gateway's tables."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from crm.gateway.v1 import (
    api_key_pb2,
    identity_provider_pb2,
    role_pb2,
    service_account_pb2,
    team_pb2,
    tenant_pb2,
    user_pb2,
)
from sqlalchemy import Column, LargeBinary, Table, Text, Uuid
from sqlalchemy.dialects.postgresql import ARRAY

from chassis.db import Schema

schema = Schema("gateway")


def caller_columns() -> list[Column[Any]]:
    """Who called and with what rights, where something is done later in that one's name (identity/later.py)."""
    return [
        Column("principal_id", Text, nullable=False),
        Column("scopes", ARRAY(Text), nullable=False),
        # What it came in with, and the rules that narrowed what it saw; empty where there were none.
        Column("credential", Text, nullable=False),
        Column("access", LargeBinary, nullable=False),
    ]


# A tenant to stand in while looking for the true one: no rows are there.
NOBODY = UUID(int=0)

tenants = schema.record(tenant_pb2.Tenant, transient=["admin_secret"])
users = schema.record(user_pb2.User)
api_keys = schema.record(api_key_pb2.ApiKey, transient=["secret"])
identity_providers = schema.record(identity_provider_pb2.IdentityProvider)
roles = schema.record(role_pb2.Role)
teams = schema.record(team_pb2.Team)
service_accounts = schema.record(service_account_pb2.ServiceAccount)

# A key must be found before its tenant is known, so this one table stands outside the tenant walls. It holds no
# more than the way from a digest to the key's own row, which is read inside the tenant.
credentials = Table(
    "credentials",
    schema.metadata,
    Column("digest", LargeBinary, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("api_key_id", Uuid, nullable=False, unique=True),
)
schema.shared["credentials"] = "an API key's digest leads to its tenant, which is not known before"
schema.shared_rights["credentials"] = "SELECT, INSERT, DELETE"

# As with keys: a token's issuer and audience lead to the tenant, which is not known before.
issuers = Table(
    "issuers",
    schema.metadata,
    Column("issuer", Text, primary_key=True),
    Column("audience", Text, primary_key=True),
    Column("tenant_id", Uuid, nullable=False),
    Column("provider_id", Uuid, nullable=False),
)
schema.shared["issuers"] = "a token's issuer and audience lead to the tenant, which is not known before"
schema.shared_rights["issuers"] = "SELECT, INSERT, DELETE"
