#!/usr/bin/env python3
"""Django's command line for the reference project."""

import os
import sys


def main() -> None:
    """Run the command given on the command line."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "orchestrator.settings")
    try:
        from django.core.management import execute_from_command_line
    except ModuleNotFoundError:
        sys.exit(
            "Django is not installed in this Python. "
            "Use the virtual environment of the README, as in .venv/bin/python manage.py up"
        )
    from django.core.exceptions import ImproperlyConfigured

    from orchestrator.contracts.errors import ConfigurationError

    try:
        execute_from_command_line(sys.argv)
    except (ConfigurationError, ImproperlyConfigured) as error:
        # A setting is wrong: its message says all there is to say.
        if "--traceback" in sys.argv:
            raise
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
