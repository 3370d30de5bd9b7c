"""The Flower process: how it starts, what it says when it cannot, how it ends."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from django.core.checks import run_checks
from django.db import connection, transaction
from flower.urls import handlers, settings

from orchestrator.flower import contract
from orchestrator.flower.access import Right
from orchestrator.flower.app import OrchestratorFlower, StockFlower, flower_class
from orchestrator.flower.contract import HANDLERS
from orchestrator.flower.templates import amended
from orchestrator.launch.ports import free_port
from tests.support import environment
from tests.support.broker import Broker
from tests.support.letters import dead_letter
from tests.support.people import PASSWORD, person
from tests.support.process import MANAGE, Process
from tests.support.visitor import Visitor
from tests.support.wait import eventually
from tests.support.worker import Flower, platform_env

pytestmark = pytest.mark.timeout(300)
READING = (Right.VIEW, Right.LETTERS)


def refused(*options: str, **env: str | None) -> str:
    """Run ``manage.py flower``, which must fail at once, and return what it says."""
    merged = {**os.environ, **platform_env(env)}
    done = subprocess.run(
        [sys.executable, MANAGE, "flower", *options],
        env={key: value for key, value in merged.items() if value is not None},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


# --- start ----------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
class TestStart:
    def test_a_taken_port_is_named_with_the_way_out(self):
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = other.getsockname()[1]
            said = refused("--port", str(port))
        assert f"127.0.0.1:{port}: the port is taken" in said
        assert "--port 0 takes a free one" in said

    def test_a_free_port_is_taken_and_told(self):
        command = ["python", MANAGE, "flower", "--port", "0"]
        directory = environment.directory() / "logs"
        with Process(command, name="flower", directory=directory, env=platform_env(), ready="listens at") as flower:
            said = eventually(lambda: re.search(r"Flower listens at http://127\.0\.0\.1:(\d+)/", flower.log))
            assert Visitor(f"http://127.0.0.1:{said.group(1)}").get("/healthcheck").status == 200

    def test_a_foreign_address(self):
        assert "has no such address (--address)" in refused("--address", "203.0.113.7", "--port", "0")

    def test_no_broker(self):
        assert "ORCHESTRATOR_BROKER_URL is not set" in refused("--skip-checks", ORCHESTRATOR_BROKER_URL=None)

    def test_a_broker_that_does_not_answer(self):
        url = f"redis://:hidden-word@127.0.0.1:{free_port()}/0"
        said = refused(ORCHESTRATOR_BROKER_URL=url)
        assert "cannot be reached" in said
        assert "ORCHESTRATOR_BROKER_URL" in said
        assert "hidden-word" not in said

    @pytest.mark.parametrize(("option", "value"), [("--port", "70000"), ("--max-tasks", "0")])
    def test_values_that_cannot_work(self, option, value):
        assert f"{option} {value}: give" in refused(option, value)


# --- end ------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
class TestEnd:
    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_ends_it_within_seconds(self, start, number):
        flower = start(Flower())
        asked = time.monotonic()
        assert flower.stop(sig=number) == 0
        assert time.monotonic() - asked < 8
        assert "Traceback" not in flower.log

    def test_it_outlives_the_broker_and_ends_without_it(self, start, tmp_path):
        broker = Broker(tmp_path / "broker").start()
        flower = start(Flower(env={"ORCHESTRATOR_BROKER_URL": broker.url}))
        broker.kill()
        eventually(
            lambda: re.search("Failed to capture events|Broker connection error|Failed to enable events", flower.log)
        )
        assert Visitor(flower.url).get("/healthcheck").status == 200
        asked = time.monotonic()
        assert flower.stop() == 0
        assert time.monotonic() - asked < 8


# --- database -------------------------------------------------------------------------


def test_without_a_database_nobody_gets_in_and_health_stays_green(start, broker):
    gone = f"postgres://postgres@127.0.0.1:{free_port()}/nothing"
    flower = start(Flower(env={"DATABASE_URL": gone}))
    someone = Visitor(flower.url, {"sessionid": "anything"})
    for path in ("/", "/dead-letters", "/api/workers", "/metrics"):
        answer = someone.get(path)
        assert answer.status == 503, path
        assert "DATABASE_URL" in answer.text
    assert someone.get("/login").status == 503
    assert someone.get("/healthcheck").status == 200


@pytest.mark.postgresql
@pytest.mark.django_db(transaction=True)
def test_a_slow_database_does_not_stop_the_event_loop(start, broker):
    flower = start(Flower())
    person("ada", *READING)
    ada = Visitor(flower.url)
    ada.log_in("ada", PASSWORD)
    answers: list[int] = []
    waiting = threading.Thread(target=lambda: answers.append(ada.get("/dead-letters").status))
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("LOCK TABLE orchestrator_deadletters_deadletter IN ACCESS EXCLUSIVE MODE")
        waiting.start()
        eventually(lambda: _blocked(cursor), message="Flower waits for the lock")
        assert Visitor(flower.url).get("/healthcheck").status == 200
        assert Visitor(flower.url, dict(ada.cookies)).get("/workers").status == 200
        assert answers == []
    waiting.join(60)
    assert answers == [200]


def _blocked(cursor: Any) -> bool:
    # Not pg_stat_activity: inside a transaction it shows what it showed first.
    cursor.execute(
        "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = database "
        "WHERE NOT granted AND datname = current_database()"
    )
    return bool(cursor.fetchone()[0])


# --- prefix ---------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_under_a_prefix_every_link_keeps_it(start, broker):
    flower = start(Flower(options=["--url-prefix", "/ops/flower/"]))
    person("ada", *READING, Right.REDRIVE)
    letter = dead_letter("fail")
    someone = Visitor(flower.url)
    assert someone.get("/ops/flower/").location.startswith("/ops/flower/login?next=%2Fops%2Fflower%2F")
    someone.get("/ops/flower/login")
    assert someone.log_in("ada", PASSWORD, "/ops/flower/login", "").location == "/ops/flower/"
    for path in ("/", "/tasks", "/dead-letters", f"/dead-letters/{letter.pk}"):
        page = someone.get(f"/ops/flower{path}")
        assert page.status == 200
        links = re.findall(r'(?:href|src|action)="(/[^"]*)"', page.text)
        assert links
        assert [link for link in links if not link.startswith("/ops/flower/")] == []
    assert (
        someone.post(f"/ops/flower/dead-letters/{letter.pk}/redrive").location
        == f"/ops/flower/dead-letters/{letter.pk}"
    )
    assert someone.get("/dead-letters").status == 404
    assert someone.get("/ops/flower/static/css/flower.css").status == 200


# --- contract -------------------------------------------------------------------------


def test_the_installed_flower_keeps_the_contract():
    assert contract.differences(handlers, settings["template_path"]) == []
    assert flower_class() is OrchestratorFlower


@pytest.mark.parametrize("pattern", HANDLERS)
def test_a_handler_that_is_missing_is_noticed(pattern):
    others = [rule for rule in handlers if contract.pattern_and_class(rule)[0] != pattern]
    assert len(others) == len(handlers) - 1
    assert flower_class(others) is StockFlower


def test_a_handler_that_is_new_is_noticed():
    assert flower_class([*handlers, (r"/new", handlers[0].handler_class)]) is StockFlower
    assert flower_class([*handlers, object()]) is StockFlower


def test_a_template_that_is_different_is_noticed(tmp_path):
    assert len(contract.differences(handlers, str(tmp_path))) == len(contract.TEMPLATES)
    for name in contract.TEMPLATES:
        (tmp_path / name).write_text("something else", encoding="utf-8")
    assert any("task.html holds" in sentence for sentence in contract.differences(handlers, str(tmp_path)))


def test_additions_to_flowers_templates_are_additions_only():
    for name in ("navbar.html", "task.html"):
        text = Path(settings["template_path"], name).read_text(encoding="utf-8")
        added = amended(name, text)
        assert re.sub(r'\{% include "(inbox_\w+|logout_item)\.html" %\}', "", added) == text != added


#: manage.py with a Flower whose handler list is not the one that we know.
OTHER_FLOWER = """
import sys
import flower.urls, flower.views.workers
flower.urls.handlers.insert(0, (r"/brand-new", flower.views.workers.WorkersView))
sys.argv = ["manage.py", *sys.argv[1:]]
from manage import main
main()
"""


@pytest.mark.django_db(transaction=True)
def test_another_flower_runs_as_it_is_behind_the_same_door(start, broker):
    flower = Flower()
    flower.command[1:2] = ["-c", OTHER_FLOWER]
    start(flower)
    assert "a new handler WorkersView for /brand-new" in flower.log
    stranger = Visitor(flower.url)
    for path in ("/", "/brand-new", "/tasks", "/dead-letters", "/metrics"):
        assert stranger.get(path).location.startswith("/login?next="), path
    assert stranger.get("/api/workers").status == 401
    assert stranger.post("/api/task/send-task/tests.support.zoo.end", "{}").status == 403
    person("ada", *READING)
    assert stranger.log_in("ada", PASSWORD).status == 303
    assert stranger.get("/brand-new").status == 200
    assert stranger.get("/tasks").status == 200
    assert stranger.post("/brand-new", {}).status == 403
    assert stranger.get("/dead-letters").status == 404


# --- system check ---------------------------------------------------------------------


@pytest.mark.parametrize(("value", "warned"), [("true", True), ("1", True), ("false", False), ("", False)])
def test_an_open_api_is_warned_about(monkeypatch, value, warned):
    monkeypatch.setenv("FLOWER_UNAUTHENTICATED_API", value)
    found = [message.id for message in run_checks() if message.id == "orchestrator_flower.W001"]
    assert found == (["orchestrator_flower.W001"] if warned else [])
