from django.apps import AppConfig


class ConsoleConfig(AppConfig):
    name = "orchestrator.console"
    label = "orchestrator_console"
    verbose_name = "Orchestrator console"
    default_auto_field = "django.db.models.BigAutoField"
