"""Who the command line calls as, and what it may do and see."""

from __future__ import annotations

from cli.client import Client
from cli.render import cell, print_json, print_table, stdout, table


def show(client: Client, json: bool) -> None:
    """Prints the caller, its permissions, and what narrows them."""
    found = client.get("/v1/me")
    if json:
        print_json(found)
        return
    for name in ("principal_id", "credential_id", "tenant_id"):
        stdout.print(f"{name.removesuffix('_id')}: {found[name]}", markup=False)
    stdout.print(f"permissions: {' '.join(found['permissions']) or 'none'}", markup=False)
    seen = {each["resource"]: _word(each["visibility"], "VISIBILITY_") for each in found["visibility"]}
    if set(seen.values()) != {"all"}:
        made = table("resource", "sees")
        for resource, visibility in seen.items():
            made.add_row(resource, cell(visibility))
        print_table(made)
    for rule in found["field_rules"]:
        left = _word(rule["access"], "FIELD_ACCESS_")
        stdout.print(f"{rule['resource']}.{rule['field']}: {left}", markup=False)


def _word(value: str, prefix: str) -> str:
    return value.removeprefix(prefix).lower().replace("_", "-")
