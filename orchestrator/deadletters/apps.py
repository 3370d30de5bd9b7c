from django.apps import AppConfig


class DeadLettersConfig(AppConfig):
    name = "orchestrator.deadletters"
    label = "orchestrator_deadletters"
    verbose_name = "Dead letters"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Say that ends are known here."""
        from orchestrator.contracts.ended import bear_witness
        from orchestrator.deadletters.services import buried_among

        bear_witness(buried_among)
