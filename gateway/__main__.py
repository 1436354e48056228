"""``python -m gateway``: the public door, HTTP and gRPC."""

from __future__ import annotations

from pathlib import Path

from chassis.run import Application, main
from gateway import reactions
from gateway.audit.entries import AuditEntries
from gateway.audit.seals import AuditSeals
from gateway.audit.sweep import sweep_reads
from gateway.batch import Batches
from gateway.events import Events
from gateway.identity.api_keys import ApiKeys
from gateway.identity.me import MeService
from gateway.identity.providers import IdentityProviders
from gateway.identity.roles import Roles
from gateway.identity.service_accounts import ServiceAccounts
from gateway.identity.tables import schema
from gateway.identity.teams import Teams
from gateway.identity.tenants import Tenants
from gateway.identity.tokens import Tokens
from gateway.identity.users import Users
from gateway.limits import LimitsService
from gateway.live.kept import KeptSubscriptions
from gateway.overview import Overviews
from gateway.proposals.deciding import proposals
from gateway.proposals.service import Proposals
from gateway.proposals.undoing import Agents
from gateway.search import Searches
from gateway.serving import serve
from gateway.webhooks.endpoints import WebhookEndpoints
from gateway.webhooks.sender import webhooks
from gateway.webhooks.sweep import sweep_deliveries

APPLICATION = Application(
    name="gateway",
    schema=schema,
    services=[
        Tenants,
        Users,
        ApiKeys,
        IdentityProviders,
        Roles,
        Teams,
        ServiceAccounts,
        MeService,
        Tokens,
        Events,
        Overviews,
        Batches,
        WebhookEndpoints,
        KeptSubscriptions,
        Searches,
        LimitsService,
        AuditSeals,
        AuditEntries,
        Proposals,
        Agents,
    ],
    migrations=Path(__file__).parent / "migrations",
    reactions=reactions,
    # Who sends webhooks looks for what is due twice a second: nobody waits for an event that waits for others.
    gather_s=0.1,
    timers=(webhooks, sweep_deliveries, proposals, sweep_reads),
    serve=serve,
)

if __name__ == "__main__":
    main(APPLICATION)
