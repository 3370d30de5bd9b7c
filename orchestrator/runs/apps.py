from django.apps import AppConfig


class RunsConfig(AppConfig):
    name = "orchestrator.runs"
    label = "orchestrator_runs"
    verbose_name = "Runs"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Say that ends are known here."""
        from orchestrator.contracts.ended import bear_witness
        from orchestrator.runs.services import ended_among

        bear_witness(ended_among)
