"""Proposals: changes that agents and others ask for, and that people or rules decide about."""
