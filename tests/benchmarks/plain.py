"""The peer: a plain Celery app with the settings that the platform sets, minus its own classes."""

import os

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.benchmarks.plain_settings")

from celery import Celery

from orchestrator.engine.defaults import DEFAULTS

app = Celery("plain")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.add_defaults(
    {
        **{name: value for name, value in DEFAULTS.items() if "orchestrator" not in str(value)},
        "result_backend": "django-db",
    }
)
