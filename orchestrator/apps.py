"""The Django app of the platform itself."""

from importlib import import_module

from django.apps import AppConfig


class OrchestratorConfig(AppConfig):
    name = "orchestrator"
    verbose_name = "Orchestrator"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Make the project's Celery app the current one, else ``delay()`` in a web process would use Celery's default."""
        import_module("orchestrator.celery").get_app()
