"""``python -m services.contacts``: the process."""

from pathlib import Path

from chassis.run import Application, main
from services.contacts.affiliations import Affiliations
from services.contacts.companies import Companies
from services.contacts.contacts import Contacts
from services.contacts.tables import schema

application = Application(
    name="contacts",
    schema=schema,
    services=(Contacts, Companies, Affiliations),
    migrations=Path(__file__).parent / "migrations",
)

if __name__ == "__main__":
    main(application)
