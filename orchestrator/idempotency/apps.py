from django.apps import AppConfig


class IdempotencyConfig(AppConfig):
    name = "orchestrator.idempotency"
    label = "orchestrator_idempotency"
    verbose_name = "Idempotency"
    default_auto_field = "django.db.models.BigAutoField"
