"""Imports: a file of rows becomes records, once, however often it is fed."""
