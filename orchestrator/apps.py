"""The Django app of the platform itself."""

import sys
from importlib import import_module

from django.apps import AppConfig


class OrchestratorConfig(AppConfig):
    name = "orchestrator"
    verbose_name = "Orchestrator"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Make the project's Celery app the current one, else ``delay()`` in a web process would use Celery's default.

        Raises:
            ConfigurationError: a setting cannot work; ``manage.py check`` reports it instead.
        """
        import_module("orchestrator.monitoring.checks")
        from orchestrator.contracts.errors import ConfigurationError

        try:
            import_module("orchestrator.celery").get_app()
        except ConfigurationError:
            if sys.argv[1:2] != ["check"]:
                raise
