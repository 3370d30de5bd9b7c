from django.apps import AppConfig


class OutboxConfig(AppConfig):
    name = "orchestrator.outbox"
    label = "orchestrator_outbox"
    verbose_name = "Outbox"
    default_auto_field = "django.db.models.BigAutoField"
