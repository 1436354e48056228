"""The tables of contacts. Their columns come from the contract; see chassis/rows.py."""

from crm.contacts.v1 import affiliation_pb2, company_pb2, contact_pb2
from sqlalchemy import Index

from chassis.db import Schema

schema = Schema("contacts")

contacts = schema.record(contact_pb2.Contact)
companies = schema.record(company_pb2.Company)
affiliations = schema.record(affiliation_pb2.Affiliation)

Index(None, contacts.c.tenant_id, contacts.c.display_name)
Index(None, companies.c.tenant_id, companies.c.display_name)
Index(None, affiliations.c.tenant_id, affiliations.c.contact_id)
Index(None, affiliations.c.tenant_id, affiliations.c.company_id)
