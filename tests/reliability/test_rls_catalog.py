"""The walls between tenants, as the databases' own catalogs show them."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from chassis.settings import KINDS
from tests.reliability.conftest import Report
from tests.running import Running

# Tables without tenant, each with the reason in its service's tables.py.
SHARED = ["relay", "credentials", "issuers", "alembic_version"]

OPEN_TABLES = """
    SELECT c.relname || ' has no forced wall for both reading and writing'
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p') AND c.relname <> ALL ($1::text[])
      AND NOT (c.relrowsecurity AND c.relforcerowsecurity AND EXISTS (
          SELECT FROM pg_policy p
          WHERE p.polrelid = c.oid AND p.polname = 'tenant_wall' AND p.polcmd = '*'
            AND pg_get_expr(p.polqual, p.polrelid) LIKE '%tenant_id%'
            AND coalesce(pg_get_expr(p.polwithcheck, p.polrelid), 'tenant_id') LIKE '%tenant_id%'))
"""
OTHER_POLICIES = """
    SELECT c.relname || ' lets ' || p.polname || ' through'
    FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid
    WHERE p.polpermissive AND p.polname <> 'tenant_wall'
      AND NOT EXISTS (
          SELECT FROM unnest(p.polroles) AS r (oid) JOIN pg_roles USING (oid) WHERE rolname LIKE '%\\_worker')
"""
FOREIGN_INDEXES = """
    SELECT i.indexrelid::regclass::text || ' tells one tenant what another holds'
    FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid JOIN pg_namespace n ON n.oid = t.relnamespace
    LEFT JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = i.indkey[0]
    WHERE i.indisunique AND n.nspname = 'public' AND t.relname <> ALL ($1::text[])
      AND a.attname IS DISTINCT FROM 'tenant_id'
"""
UNTENANTED = """
    SELECT c.relname || ' has no tenant_id'
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p') AND c.relname <> ALL ($1::text[])
      AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname = 'tenant_id' AND a.attnotnull)
"""
VIEWS = """
    SELECT c.relname || ' is a view with its owner''s rights'
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = 'public' AND (c.relkind = 'm' OR c.relkind = 'v'
      AND NOT coalesce(c.reloptions @> ARRAY['security_invoker=true'], false))
"""
DEFINERS = """
    SELECT p.proname || ' runs with its owner''s rights'
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = 'public' AND p.prosecdef
"""
EVERYBODYS = """
    SELECT c.relname || ' is open to PUBLIC'
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace, aclexplode(c.relacl) AS acl
    WHERE n.nspname = 'public' AND acl.grantee = 0
"""
MIGHTY = """
    SELECT rolname || ' owns or may too much'
    FROM pg_roles r
    WHERE rolname = current_user AND (rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication
      OR has_schema_privilege('public', 'CREATE') OR EXISTS (SELECT FROM pg_class WHERE relowner = r.oid)
      OR EXISTS (SELECT FROM pg_auth_members WHERE member = r.oid))
"""
CATALOG = (OPEN_TABLES, FOREIGN_INDEXES, UNTENANTED)
RIGHTS = (OTHER_POLICIES, VIEWS, DEFINERS, EVERYBODYS, MIGHTY)


async def violations(dsn: str) -> tuple[int, list[str]]:
    """How many tables of tenants there are, and what is wrong with them."""
    connection = await asyncpg.connect(dsn)
    try:
        found: list[Any] = [row[0] for each in CATALOG for row in await connection.fetch(each, SHARED)]
        found += [row[0] for each in RIGHTS for row in await connection.fetch(each)]
        tables = await connection.fetchval("SELECT count(*) FROM pg_policy WHERE polname = 'tenant_wall'")
        return tables, found
    finally:
        await connection.close()


@pytest.mark.line(32)
def test_no_table_index_view_or_role_lets_a_tenant_past_its_wall(platform: Running, report: Report) -> None:
    tables, wrong = 0, []
    for kind in KINDS:
        for role in ("", "WORKER_"):
            walls, found = asyncio.run(violations(platform.env[f"RAPPORT_{kind.upper()}_{role}DATABASE_URL"]))
            wrong += [f"{kind}: {each}" for each in found]
            assert walls > 4
            tables += walls if not role else 0
    report(not wrong, tables=tables, violations=len(wrong), first=wrong[:5])
