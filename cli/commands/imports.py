"""Files that are loaded."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from cli.importing.options import DealOptions, Options
from cli.resources import BY_PLURAL

commands = App(
    name="import",
    help="Load a CSV or XLSX file. The same command again changes nothing that is in already.",
)


def import_file(plural: str, file: Path, options: Options | None, deal_options: DealOptions | None = None) -> int:
    """Runs an import; its modules are loaded only now, since they take a while."""
    from cli.importing.run import run

    return run(BY_PLURAL[plural], file, options or Options(), deal_options)


@commands.command(name="leads")
def import_leads(file: Path, /, *, options: Options | None = None) -> int:
    """Load leads: people who may become customers."""
    return import_file("leads", file, options)


@commands.command(name="contacts")
def import_contacts(file: Path, /, *, options: Options | None = None) -> int:
    """Load contacts: people."""
    return import_file("contacts", file, options)


@commands.command(name="companies")
def import_companies(file: Path, /, *, options: Options | None = None) -> int:
    """Load companies."""
    return import_file("companies", file, options)


@commands.command(name="products")
def import_products(file: Path, /, *, options: Options | None = None) -> int:
    """Load products: what is sold."""
    return import_file("products", file, options)


@commands.command(name="deals")
def import_deals(file: Path, /, *, options: Options | None = None, deal_options: DealOptions | None = None) -> int:
    """Load deals: sales that are open, won or lost."""
    return import_file("deals", file, options, deal_options)
