from django.apps import AppConfig
from django.contrib import admin


class ConsoleConfig(AppConfig):
    name = "orchestrator.console"
    label = "orchestrator_console"
    verbose_name = "Orchestrator console"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Put the banner on the admin's front page, unless the project has a page of its own."""
        if admin.site.index_template is None:
            admin.site.index_template = "orchestrator_console/index.html"
