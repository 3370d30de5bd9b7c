from django.apps import AppConfig


class AuditConfig(AppConfig):
    name = "orchestrator.audit"
    label = "orchestrator_audit"
    verbose_name = "Audit"
    default_auto_field = "django.db.models.BigAutoField"
