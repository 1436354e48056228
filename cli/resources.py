"""The resources by name: which service keeps them, how their ids begin, what a table of them shows."""

from __future__ import annotations

from dataclasses import dataclass

from cli.problems import UsageProblem


@dataclass(frozen=True, slots=True)
class Resource:
    """A kind of record. `columns` are the fields a table shows, in order."""

    prefix: str
    plural: str
    service: str
    columns: tuple[str, ...]

    @property
    def path(self) -> str:
        """Where its records are."""
        return f"/v1/{self.plural}"


_NAMED = ("id", "display_name")
_TITLED = ("id", "title")
RESOURCES = (
    Resource("contact", "contacts", "contacts", (*_NAMED, "emails", "phones", "job_title", "owner_id")),
    Resource("company", "companies", "contacts", (*_NAMED, "domain", "industry", "office_location", "owner_id")),
    Resource("affiliation", "affiliations", "contacts", ("id", "contact_id", "company_id", "role", "primary")),
    Resource("lead", "leads", "sales", (*_NAMED, "status", "source", "open_time", "convert_time", "owner_id")),
    Resource("deal", "deals", "sales", (*_NAMED, "state", "amount", "open_time", "close_time", "owner_id")),
    Resource("pipeline", "pipelines", "sales", (*_NAMED, "stages", "default")),
    Resource("product", "products", "sales", (*_NAMED, "sku", "unit_price", "family", "active")),
    Resource("task", "tasks", "activities", (*_TITLED, "status", "due_time", "owner_id")),
    Resource("note", "notes", "activities", (*_TITLED, "related_ids", "create_time", "owner_id")),
    Resource("call", "calls", "activities", (*_TITLED, "direction", "start_time", "owner_id")),
    Resource("meeting", "meetings", "activities", (*_TITLED, "start_time", "end_time", "owner_id")),
    Resource("campaign", "campaigns", "marketing", (*_NAMED, "status", "start_time", "end_time", "owner_id")),
    Resource("touch", "touches", "marketing", ("id", "subject_id", "channel", "source", "touch_time")),
    Resource("user", "users", "gateway", (*_NAMED, "email", "state", "role_ids", "team_ids")),
    Resource("role", "roles", "gateway", (*_NAMED, "description")),
    Resource("team", "teams", "gateway", (*_NAMED, "parent_id")),
    Resource("service_account", "service_accounts", "gateway", (*_NAMED, "state", "role_ids", "delete_time")),
    Resource("identity_provider", "identity_providers", "gateway", (*_NAMED, "issuer", "audiences", "delete_time")),
    Resource("api_key", "api_keys", "gateway", (*_NAMED, "prefix", "scopes", "last_use_time", "delete_time")),
    Resource("webhook_endpoint", "webhook_endpoints", "gateway", ("id", "url", "state", "state_reason", "types")),
    Resource("subscription", "subscriptions", "gateway", (*_NAMED, "types", "commit_time")),
    Resource("proposal", "proposals", "gateway", ("id", "method", "entity_ids", "state", "proposer_id", "reason")),
    Resource("tenant", "tenants", "gateway", _NAMED),
)
BY_PREFIX = {resource.prefix: resource for resource in RESOURCES}
BY_PLURAL = {resource.plural: resource for resource in RESOURCES}


def named(word: str) -> Resource:
    """The resource a user names, in the plural or singular. Raises UsageProblem with the names there are."""
    wanted = word.lower().replace("-", "_")
    found = BY_PLURAL.get(wanted) or BY_PREFIX.get(wanted)
    if found is None:
        raise UsageProblem(f"no resource {word!r}; there are {', '.join(BY_PLURAL)}")
    return found


def of_id(record_id: str) -> Resource:
    """The resource an id belongs to, told by its prefix. Raises UsageProblem when it tells none."""
    prefix, separator, _ = record_id.rpartition("_")
    found = BY_PREFIX.get(prefix) if separator else None
    if found is None:
        raise UsageProblem(
            f"{record_id!r} is not an id: one begins with its kind, such as lead_ or {RESOURCES[0].prefix}_"
        )
    return found
