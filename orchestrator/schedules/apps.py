from django.apps import AppConfig


class SchedulesConfig(AppConfig):
    name = "orchestrator.schedules"
    label = "orchestrator_schedules"
    verbose_name = "Orchestrator schedules"
    default_auto_field = "django.db.models.BigAutoField"
