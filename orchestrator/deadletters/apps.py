from django.apps import AppConfig


class DeadLettersConfig(AppConfig):
    name = "orchestrator.deadletters"
    label = "orchestrator_deadletters"
    verbose_name = "Dead letters"
    default_auto_field = "django.db.models.BigAutoField"
