from django.apps import AppConfig


class RunsConfig(AppConfig):
    name = "orchestrator.runs"
    label = "orchestrator_runs"
    verbose_name = "Runs"
    default_auto_field = "django.db.models.BigAutoField"
