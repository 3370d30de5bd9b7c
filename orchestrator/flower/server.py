"""The Flower process: options, start, signals, end."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from celery import Celery
from django.db import connections
from flower.command import apply_env_options
from flower.options import options

from orchestrator.contracts.errors import InvalidOption
from orchestrator.flower.app import StockFlower, flower_class

#: Seconds that a call in a thread may take to end after a signal.
GRACE_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class Options:
    """How this Flower is run."""

    address: str = "127.0.0.1"
    #: 0 takes a free one.
    port: int = 5555
    url_prefix: str = ""
    #: Tasks that Flower remembers; it forgets the oldest. Memory grows by about 9 kB each.
    max_tasks: int = 10_000
    #: Where the Django site is, for links.
    web_url: str = "http://127.0.0.1:8000"


def build(app: Celery, wanted: Options) -> StockFlower:
    """Return a Flower that is not yet listening."""
    apply_env_options()
    options.address, options.port = wanted.address, wanted.port
    options.url_prefix = wanted.url_prefix.strip("/")
    options.max_tasks = wanted.max_tasks
    # Django's login is the only one: none of Flower's own, from the environment or not.
    options.auth, options.auth_provider, options.basic_auth = "", None, []
    return flower_class()(capp=app, options=options, web_url=wanted.web_url)


def listen(flower: StockFlower, wanted: Options) -> int:
    """Bind the port and return it.

    Raises:
        InvalidOption: it is taken, or the address is not one of this machine.
    """
    try:
        return int(flower.start_http_server())
    except OSError as error:
        place = f"{wanted.address}:{wanted.port}"
        if error.errno == errno.EADDRINUSE:
            raise InvalidOption(
                f"Flower cannot listen at {place}: the port is taken. Stop what holds it, "
                "or give another one with --port; --port 0 takes a free one."
            ) from error
        if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
            raise InvalidOption(
                f"Flower cannot listen at {place}: this machine has no such address (--address)."
            ) from error
        raise InvalidOption(f"Flower cannot listen at {place} (--address, --port): {error.strerror}.") from error


def serve(flower: StockFlower, say: Callable[[str], Any]) -> None:
    """Run until SIGTERM or SIGINT, then end within seconds."""
    # Flower's pages fetch dozens of files and poll; the guard logs what it refuses, with a name.
    logging.getLogger("tornado.access").setLevel(logging.ERROR)
    # It asks before the first worker can be there, and then warns of each question; the page shows who answers.
    logging.getLogger("flower.inspector").setLevel(logging.ERROR)
    for number in (signal.SIGTERM, signal.SIGINT):
        flower.io_loop.asyncio_loop.add_signal_handler(number, flower.stop)
    flower.start()
    say("Flower has stopped.")
    connections.close_all()
    _leave_threads_behind()


def _leave_threads_behind() -> None:
    """End now if a thread still waits for a broker or a database that does not answer.

    Python would wait for the threads of an executor, however long their calls take.
    """
    others = [t for t in threading.enumerate() if t is not threading.current_thread() and not t.daemon]
    for thread in others:
        thread.join(GRACE_SECONDS / len(others))
    if any(thread.is_alive() for thread in others):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)
