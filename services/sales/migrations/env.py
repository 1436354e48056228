"""Alembic's way in; the work is in chassis/migrate.py."""

from chassis.migrate import run_env

run_env()
