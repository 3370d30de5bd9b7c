"""The peer's settings: the same project without the platform."""

from tests.settings import *  # noqa: F403
from tests.settings import INSTALLED_APPS as _APPS

INSTALLED_APPS = [app for app in _APPS if app.split(".")[0] != "orchestrator" and app != "tasks"]
CELERY_IMPORTS = ["tests.benchmarks.tasks"]
ROOT_URLCONF = "tests.benchmarks.plain_urls"
