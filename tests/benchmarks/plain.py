"""The peer: a plain Celery app with the settings that the platform sets, minus its own classes.

How much is prefetched stays Celery's choice: less would slow it down, and on kombu's transport nothing is won by it.
"""

import os
import sys
from typing import Any

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.benchmarks.plain_settings")

from celery import Celery
from celery.signals import worker_ready

from orchestrator.engine.defaults import DEFAULTS

app = Celery("plain")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.add_defaults(
    {
        **{name: value for name, value in DEFAULTS.items() if "orchestrator" not in str(value)},
        "worker_prefetch_multiplier": 4,
        "result_backend": "django-db",
        # As shipped: no row before the end. It would cost the peer another read and write.
        "task_track_started": False,
    }
)


@worker_ready.connect(weak=False)
def refuse_company(**_: Any) -> None:
    """End a worker into which the platform found its way: it would be measured against itself."""
    if "orchestrator.celery" in sys.modules:
        print("The peer has loaded orchestrator.celery, so it is no plain Celery.", file=sys.stderr, flush=True)
        os._exit(1)
