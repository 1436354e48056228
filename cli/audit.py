"""The commands about the record of what happened."""

from __future__ import annotations

from cyclopts import App

from cli import seals

commands = App(name="audit", help="Show and check the record of what happened.")
commands.command(name="verify")(seals.verify)
commands.command(name="heads")(seals.show_heads)
