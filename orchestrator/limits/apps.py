from django.apps import AppConfig


class LimitsConfig(AppConfig):
    name = "orchestrator.limits"
    label = "orchestrator_limits"
    verbose_name = "Limits"
    default_auto_field = "django.db.models.BigAutoField"
