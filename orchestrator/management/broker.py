"""What the commands that need a broker share: the app, with its broker known or a clear refusal."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from orchestrator.celery import get_app


def app_with_broker() -> Any:
    """Return the project's Celery app.

    Raises:
        CommandError: no broker is configured, or one of no known kind.
    """
    app = get_app()
    if not app.conf.broker_url:
        raise CommandError(
            "No broker is known: ORCHESTRATOR_BROKER_URL is not set and no embedded broker runs in the data directory. "
            "Set ORCHESTRATOR_BROKER_URL (as in redis://127.0.0.1:6379/0), or run 'manage.py up', which brings one."
        )
    if problem := transport_problem(app):
        raise CommandError(f"{problem} Correct ORCHESTRATOR_BROKER_URL or REDIS_URL, whichever is set.")
    return app


def transport_problem(app: Any) -> str:
    """Return what is wrong with the kind of broker that the URL asks for, '' if nothing is."""
    try:
        app.connection_for_write()
    except (KeyError, ImportError, ValueError) as error:
        # The scheme only: the rest may hold a password.
        scheme = str(app.conf.broker_url).partition(":")[0]
        return (
            f"The broker's URL begins with {scheme!r}, which cannot be used "
            f"({type(error).__name__}: {error.args[0] if error.args else error}). "
            "A URL looks like redis://127.0.0.1:6379/0."
        )
    return ""


def broker_problem(app: Any, *, timeout: float = 3.0) -> str:
    """Try to reach the app's broker; return what is wrong, '' if nothing is.

    Args:
        timeout: Seconds for the connection.
    """
    if problem := transport_problem(app):
        return problem
    with app.connection_for_write(connect_timeout=timeout) as connection:
        options = {"socket_connect_timeout": timeout, "socket_timeout": timeout}
        if connection.transport.driver_type == "redis":
            connection.transport_options = {**connection.transport_options, **options}
        try:
            connection.connect()
        except Exception as error:  # whatever the transport's client raises, the broker is not usable
            return f"The broker {connection.as_uri()} cannot be reached: {error or type(error).__name__}"
    return ""


class BrokerCommand(BaseCommand):
    """A command that cannot do anything without a broker: says so before system checks talk about its consequences."""

    def execute(self, *args: Any, **options: Any) -> str | None:
        """Run, or refuse with a CommandError."""
        app_with_broker()
        return super().execute(*args, **options)
