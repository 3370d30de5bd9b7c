"""The Django app that owns Flower's permission and checks. Imports no Flower: any process may load it."""

from importlib import import_module

from django.apps import AppConfig


class FlowerConfig(AppConfig):
    name = "orchestrator.flower"
    label = "orchestrator_flower"
    verbose_name = "Flower"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Register the system checks."""
        import_module("orchestrator.flower.checks")
