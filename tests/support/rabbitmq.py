"""A private RabbitMQ node: ports, name, cookie, data and port mapper of its own; nothing of it outlives its owner."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import amqp

from orchestrator.launch.ports import LOOPBACK, free_port
from tests.support.process import Process
from tests.support.wait import eventually

#: Seconds; RabbitMQ itself waits 180 s.
HOP_AGAIN = 5


def program() -> str | None:
    """Return what starts a node, or None where RabbitMQ is not installed.

    Not Debian's wrapper on PATH, which becomes another user and forgets the environment.
    """
    found = sorted(Path("/usr/lib/rabbitmq/lib").glob("rabbitmq_server-*/sbin/rabbitmq-server"))
    return str(found[-1]) if found else shutil.which("rabbitmq-server")


@contextmanager
def running(directory: Path) -> Iterator[str]:
    """Run a node with an empty database; yield its URL."""
    server, mapper = program(), shutil.which("epmd")
    assert server is not None, "RabbitMQ is not installed"
    assert mapper is not None, "Erlang's port mapper, epmd, is not on PATH"
    port, links, names = (free_port() for _ in range(3))
    env = _environment(directory, port, links, names)
    with ExitStack() as stack:
        # Started by us, in the foreground: the node would start one that stays behind as a daemon.
        epmd = Process([mapper, "-port", str(names), "-address", LOOPBACK], name="epmd", directory=directory, env=env)
        node = Process([server], name="rabbitmq", directory=directory, env=env, ready="Server startup complete")
        for process in (epmd, node):
            # Killed, not asked: what it knows is thrown away, and an orderly end takes seconds.
            stack.callback(_end, process)
            process.start(timeout=120)
        eventually(lambda: _answers(port), 60, node.tail)
        yield f"amqp://guest:guest@{LOOPBACK}:{port}//"


def _environment(directory: Path, port: int, links: int, names: int) -> dict[str, str]:
    (directory / "plugins").write_text("[].\n")
    return {
        "HOME": str(directory),
        "ERL_EPMD_PORT": str(names),
        "ERL_EPMD_ADDRESS": LOOPBACK,
        "RABBITMQ_NODENAME": f"tests-{os.getpid()}@localhost",
        "RABBITMQ_NODE_IP_ADDRESS": LOOPBACK,
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(links),
        # A delayed message goes from queue to queue; a hop that nobody confirms is made again after so long.
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} +sbwt none "
        f"-rabbit dead_letter_worker_publisher_confirm_timeout {HOP_AGAIN * 1000}",
        "RABBITMQ_LOGS": "-",
        # Nothing of the machine's own RabbitMQ.
        "RABBITMQ_CONF_ENV_FILE": str(directory / "none"),
        "RABBITMQ_CONFIG_FILE": str(directory / "none"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(directory / "plugins"),
        "RABBITMQ_MNESIA_BASE": str(directory),
        "RABBITMQ_MNESIA_DIR": str(directory / "data"),
        "RABBITMQ_LOG_BASE": str(directory),
        "RABBITMQ_PID_FILE": str(directory / "pid"),
        "RABBITMQ_PLUGINS_EXPAND_DIR": str(directory / "expanded"),
    }


def _end(process: Process) -> None:
    if process.running:
        process.kill_group()
        process.wait()


def _answers(port: int) -> bool:
    try:
        connection: Any = amqp.Connection(f"{LOOPBACK}:{port}", connect_timeout=5)
        connection.connect()
    except OSError:
        return False
    connection.close()
    return True
