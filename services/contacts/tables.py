"""The tables of contacts. Their columns come from the contract; see chassis/rows.py."""

from crm.contacts.v1 import affiliation_pb2, company_pb2, contact_pb2
from sqlalchemy import Index

from chassis.db import Schema

schema = Schema("contacts")

contacts = schema.record(contact_pb2.Contact)
companies = schema.record(company_pb2.Company)
affiliations = schema.record(affiliation_pb2.Affiliation)

# Each ends in the id, as the orders of lists do: a page is a piece of an index, whatever there is of one value.
for table in (contacts, companies):
    Index(None, table.c.tenant_id, table.c.display_name, table.c.id)
    Index(None, table.c.tenant_id, table.c.owner_id, table.c.id)
    Index(None, table.c.tenant_id, table.c.update_time, table.c.id)
Index(None, affiliations.c.tenant_id, affiliations.c.owner_id, affiliations.c.id)
Index(None, affiliations.c.tenant_id, affiliations.c.contact_id, affiliations.c.id)
Index(None, affiliations.c.tenant_id, affiliations.c.company_id, affiliations.c.id)
