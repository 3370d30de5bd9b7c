"""What a database needs before the platform can run on it."""

from __future__ import annotations

import os
import secrets
from typing import Any

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import DEFAULT_DB_ALIAS, DatabaseError, connection, connections
from django.db.migrations.executor import MigrationExecutor

FIRST_ADMIN = "admin"


def describe_database() -> str:
    """Say which database is configured, without user and password."""
    database = settings.DATABASES[DEFAULT_DB_ALIAS]
    if connection.vendor == "sqlite":
        return f"SQLite, {database['NAME']}"
    return f"{connection.display_name}, {database['NAME']} on {database.get('HOST') or 'this machine'}"


def prepare_database() -> int:
    """Connect and apply what migrations are missing; return their number.

    Raises:
        CommandError: the database cannot be reached or changed.
    """
    # libpq waits for minutes by default if a host swallows packets.
    os.environ.setdefault("PGCONNECT_TIMEOUT", "10")
    try:
        connection.ensure_connection()
        executor = MigrationExecutor(connection)
        missing = len(executor.migration_plan(executor.loader.graph.leaf_nodes()))
        if missing:
            call_command("migrate", verbosity=0, interactive=False)
    except DatabaseError as error:
        raise CommandError(
            f"The database cannot be used ({describe_database()}): {str(error).strip()}\n"
            "Set DATABASE_URL (as in postgres://user:password@host:5432/name), or leave it out to use SQLite."
        ) from error
    finally:
        connections.close_all()
    return missing


def first_admin() -> tuple[str, str]:
    """Create the first superuser if there is none; return name and password, or ('', '').

    The password exists nowhere but in the return value.
    """
    # Any: a project may have a user model of its own.
    users: Any = get_user_model()._default_manager
    name = get_user_model().USERNAME_FIELD
    try:
        if users.filter(is_superuser=True).exists() or users.filter(**{name: FIRST_ADMIN}).exists():
            return "", ""
        password = secrets.token_urlsafe(12)
        users.create_superuser(**{name: FIRST_ADMIN}, email="", password=password)
    finally:
        connections.close_all()
    return FIRST_ADMIN, password
