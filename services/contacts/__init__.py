"""Contacts: the people and companies a tenant knows, and who works where."""
