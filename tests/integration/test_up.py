"""``manage.py up`` as a whole: it answers, it runs tasks, it mends itself, it keeps secrets."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator

import psutil
import pytest
import redis

from tests.support.up import Up
from tests.support.visitor import Visitor
from tests.support.wait import eventually

READY_WITHIN = 15.0


#: A word on the command line of each child that runs Python.
CHILDREN = ["worker", "relay", "scheduler", "flower", "gunicorn"]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """The whole platform, once for this module; at the end nothing of it may be left."""
    made = Up(tmp_path_factory.mktemp("up") / "data", ["--workers", "1"])
    made.start(timeout=120)
    yield made
    assert made.stop(sig=signal.SIGINT) == 0
    assert made.left() == []


def test_web_and_flower_answer_soon(up: Up) -> None:
    """The banner comes when both answer. The promise is 15 s on a machine that does nothing else."""
    web, flower = Visitor(up.url("Web")), Visitor(up.url("Flower"))
    assert web.get("/").location == "/admin/"
    assert web.get("/admin/login/").status == 200
    assert web.get("/static/admin/css/base.css").status == 200
    assert web.get("/healthz/live").status == 200
    assert flower.get("/login").status == 200
    took = float(up.wait_for_log(r"Orchestrator runs, after ([\d.]+) s")[1])
    spare = os.getloadavg()[0] < (os.cpu_count() or 1)
    assert not spare or took < READY_WITHIN


def test_the_password_that_is_printed_logs_in(up: Up) -> None:
    """One superuser, one password, on the screen and nowhere else."""
    assert len(up.password) >= 12
    visitor = Visitor(up.url("Web"))
    token = re.search(r'csrfmiddlewaretoken" value="(\w+)"', visitor.get("/admin/login/").text)
    assert token is not None
    form = {"username": "admin", "password": up.password, "csrfmiddlewaretoken": token[1], "next": "/admin/"}
    answer = visitor.ask(
        "POST",
        "/admin/login/",
        "&".join(f"{key}={value}" for key, value in form.items()),
        {"Content-Type": "application/x-www-form-urlencoded"},
    )
    assert (answer.status, answer.location) == (302, "/admin/")
    kept = [path for path in up.data_dir.rglob("*") if path.is_file() and up.password.encode() in path.read_bytes()]
    assert kept == []


def test_no_secret_stands_in_the_process_list(up: Up) -> None:
    """The broker's password travels by environment and pipe, never on a command line or into the log."""
    secret = (up.data_dir / "broker_password").read_text()
    assert up.left(), "the process list was empty"
    assert not any(secret in line or up.password in line for line in up.left())
    assert secret not in up.log
    assert (up.data_dir / "broker.json").stat().st_mode & 0o077 == 0


def test_a_task_runs_and_a_second_terminal_finds_the_broker(up: Up) -> None:
    """No variable is set in the second terminal; the broker file is enough."""
    done = up.manage("shell", "-c", "from tests.support.zoo import add; print('sum', add.delay(2, 3).get(timeout=50))")
    assert "sum 5" in done.stdout, done.stderr


def test_a_second_up_refuses_and_names_the_first(up: Up) -> None:
    """It says which process, where, and what to do; the first goes on."""
    second = up.manage("up")
    assert second.returncode == 1
    assert f"process {up.pid}" in second.stderr
    assert up.url("Web") in second.stderr and up.url("Flower") in second.stderr
    assert "ORCHESTRATOR_DATA_DIR" in second.stderr
    assert "Traceback" not in second.stderr
    assert up.running


@pytest.mark.parametrize("name", CHILDREN)
def test_a_killed_child_comes_back(up: Up, name: str) -> None:
    """Each child, killed without warning, is there again, beside all the others."""
    # One that a test before this one shook may need a second start.
    eventually(lambda: all(time.time() - child.create_time() > 2 for child in psutil.Process(up.pid).children()), 60)
    before = eventually(lambda: up.child(name), 30, f"{name} runs")
    os.kill(before, signal.SIGKILL)
    eventually(lambda: up.child(name) not in (0, before), 60, f"{name} is back")
    eventually(lambda: all(up.child(other) for other in CHILDREN), 60, "all the others run")
    label = "web" if name == "gunicorn" else name
    up.wait_for_log(rf"up +\| {label} was killed by SIGKILL; it starts again in")
    # Tests come in any order: the next one may want the pages.
    for page in ("Web", "Flower"):
        eventually(lambda page=page: answers(up.url(page)), 60, f"{page} answers again")


def answers(url: str) -> bool:
    """Whether anybody listens there and says something."""
    try:
        return Visitor(url).get("/").status < 500
    except OSError:
        return False


def test_a_killed_broker_comes_back_with_its_messages(up: Up) -> None:
    """Same address, same data, and the worker finds it again."""
    before = up.broker
    redis.Redis.from_url(str(before["url"])).lpush("nobody-reads-this", "waiting")
    os.kill(int(before["pid"]), signal.SIGKILL)
    eventually(lambda: up.broker["pid"] != before["pid"], 30, "the broker is back")
    assert up.broker["url"] == before["url"]
    assert redis.Redis.from_url(str(before["url"])).lrange("nobody-reads-this", 0, -1) == [b"waiting"]
    done = up.manage("shell", "-c", "from tests.support.zoo import add; print('sum', add.delay(4, 5).get(timeout=50))")
    assert "sum 9" in done.stdout, done.stderr


def test_lines_carry_the_name_of_who_said_them(up: Up) -> None:
    """Without a terminal: no escape codes, a prefix on every line."""
    up.wait_for_log(r"^worker    \| .*ready\.$")
    assert "\x1b" not in up.log


def test_the_data_directory_is_private(up: Up) -> None:
    """Nobody else may look into the data directory."""
    assert up.data_dir.stat().st_mode & 0o077 == 0
