from django.apps import AppConfig


class GuardsConfig(AppConfig):
    name = "orchestrator.guards"
    label = "orchestrator_guards"
    verbose_name = "Guards"
    default_auto_field = "django.db.models.BigAutoField"
