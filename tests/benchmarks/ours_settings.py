"""Our side's settings: the platform, and no task modules that the peer does not have."""

from tests.settings import *  # noqa: F403
from tests.settings import INSTALLED_APPS as _APPS

INSTALLED_APPS = [app for app in _APPS if app != "tasks"]
CELERY_IMPORTS = ["tests.benchmarks.tasks"]
