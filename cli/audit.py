"""The commands about the record of what happened."""

from __future__ import annotations

from cyclopts import App

from cli import audit_entries, seals

commands = App(name="audit", help="Show and check the record of what happened.")
commands.command(name="list")(audit_entries.list_entries)
commands.command(name="export")(audit_entries.export)
commands.command(name="verify")(seals.verify)
commands.command(name="heads")(seals.show_heads)
