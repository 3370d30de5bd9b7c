"""Prepares the world that a test run lives in, before Django reads its settings.

One private directory, one private broker and one database a run. The variables are
inherited by every subprocess, which therefore joins the same world instead of
making its own.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from tests.support import database
from tests.support.broker import Broker

#: Set once the world stands; children find it set.
MARK = "ORCHESTRATOR_TEST_DIR"
#: Which of the processes that share out a test run made it; each has a world to itself.
OWNER = "ORCHESTRATOR_TEST_OWNER"

#: What a test run sets or takes away, so that a subprocess can be started without it.
VARIABLES = (
    MARK,
    OWNER,
    "DATABASE_URL",
    "ORCHESTRATOR_BROKER_URL",
    "ORCHESTRATOR_DATA_DIR",
    "ORCHESTRATOR_STATE_URL",
    "REDIS_URL",
    "DJANGO_SETTINGS_MODULE",
)


@dataclass
class World:
    """What :func:`prepare` made."""

    directory: Path
    broker: Broker
    postgresql: database.PostgreSQL | None = None
    database_server: str = ""
    database_name: str = ""


_world: World | None = None


def world() -> World:
    """Return the world of this test run; only in the process that made it."""
    assert _world is not None, "this process joined a test run that another process prepared"
    return _world


def directory() -> Path:
    """Return the private directory of this test run, in any of its processes."""
    return Path(os.environ[MARK])


def prepare(*, own_database: bool = False) -> None:
    """Make the world, once; in a subprocess of a test run do nothing."""
    global _world
    owner = os.environ.get("PYTEST_XDIST_WORKER", "")
    if MARK in os.environ and os.environ.get(OWNER, "") == owner:
        return
    root = Path(tempfile.mkdtemp(prefix="orchestrator-tests-"))
    made = World(root, Broker(root / "broker").start())
    _world = made
    atexit.register(_dismantle, os.getpid())
    for name in VARIABLES:
        if name != "DJANGO_SETTINGS_MODULE":
            os.environ.pop(name, None)
    os.environ[MARK] = str(root)
    os.environ[OWNER] = owner
    os.environ["ORCHESTRATOR_DATA_DIR"] = str(root / "data")
    os.environ["ORCHESTRATOR_BROKER_URL"] = made.broker.url
    if database.wanted() == "sqlite":
        os.environ["DATABASE_URL"] = f"sqlite:///{root / 'db.sqlite3'}"
    else:
        made.database_server, made.postgresql = database.postgresql_server(root, own=own_database)
        made.database_name = f"orchestrator_{uuid4().hex[:12]}"
        os.environ["DATABASE_URL"] = f"{made.database_server}/{made.database_name}"


def outside() -> dict[str, str]:
    """Return the environment as it was before the test run, for programs that make their own world."""
    return {key: value for key, value in os.environ.items() if key not in VARIABLES}


def standalone(*, own_database: bool = False) -> World:
    """Make the world for a program that is no pytest run: prepared, Django set up, database migrated.

    Args:
        own_database: with PostgreSQL, start a server of our own, that may be stopped.
    """
    # So that a program that is asked to end still takes its world down: exit handlers do not run on a bare SIGTERM.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    prepare(own_database=own_database)
    made = world()
    if made.database_name:
        database.create(made.database_server, made.database_name)
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0, interactive=False)
    return made


def _dismantle(owner: int) -> None:
    if os.getpid() != owner or _world is None:
        return
    if _world.postgresql is not None:
        _world.postgresql.stop()
    elif _world.database_name:
        database.drop(_world.database_server, _world.database_name)
    _world.broker.stop()
    shutil.rmtree(_world.directory, ignore_errors=True)
