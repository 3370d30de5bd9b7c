"""Which programs make up the platform, and in which order they stop."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from orchestrator.contracts.errors import UnknownOption
from orchestrator.launch.broker import EmbeddedBroker
from orchestrator.launch.ports import LOOPBACK
from orchestrator.launch.processes import Program, command
from orchestrator.launch.watchdog import Watchdog

#: In the order in which they stop: first nothing new is sent, then running tasks finish,
#: then their letters become rows, and only then the pages go.
NAMES = ("scheduler", "worker", "relay", "flower", "web")
_BROKER_STAGE = len(NAMES)


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that the programs' command lines need.

    Attributes:
        manage: Command that stands for ``manage.py``.
        wsgi: Module and name of the WSGI application, as in ``shop.wsgi:application``.
        directory: Where the programs run.
        workers: Tasks that run at once; 0 lets the worker decide.
    """

    manage: tuple[str, ...]
    wsgi: str
    directory: Path
    host: str
    port: int
    flower_port: int
    workers: int
    loglevel: str

    def url(self, name: str) -> str:
        """Return where the pages of web or Flower are reached from this machine."""
        host = LOOPBACK if self.host in ("0.0.0.0", "::") else bracketed(self.host)  # noqa: S104 - compared, not bound
        return f"http://{host}:{self.port if name == 'web' else self.flower_port}/"


def select(names: str) -> tuple[str, ...]:
    """Read the value of ``--only``: names separated by commas, '' for all.

    Raises:
        UnknownOption: a name is not known.
    """
    wanted = [name.strip() for name in names.split(",") if name.strip()]
    for name in wanted:
        if name not in NAMES:
            raise UnknownOption.among(name, NAMES, "--only")
    return tuple(name for name in NAMES if name in wanted or not wanted)


def manage_command() -> tuple[str, ...]:
    """Return how this process was told to run Django's commands."""
    script = Path(sys.argv[0])
    if script.name == "manage.py":
        return (sys.executable, str(script.absolute()))
    return (sys.executable, "-m", "django")


def project_directory() -> Path:
    """Return where the project's packages are imported from."""
    script = Path(sys.argv[0])
    return script.absolute().parent if script.name == "manage.py" else Path.cwd()


def programs(selected: tuple[str, ...], plan: Plan, watchdog: Watchdog, env: Mapping[str, str]) -> list[Program]:
    """Return the selected programs, in start order."""
    argv = {
        "web": (
            *(sys.executable, "-m", "gunicorn", plan.wsgi),
            *("--bind", f"{bracketed(plan.host)}:{plan.port}", "--chdir", str(plan.directory)),
            # Threads: a page that waits for the database does not keep the health check waiting.
            *("--worker-class", "gthread", "--threads", "8", "--graceful-timeout", "5"),
            *("--no-control-socket", "--log-level", "warning"),
        ),
        "worker": (
            *(*plan.manage, "worker", "--skip-checks", "--quiet", "--loglevel", plan.loglevel),
            *(("--concurrency", str(plan.workers)) if plan.workers else ()),
        ),
        "scheduler": (*plan.manage, "scheduler", "--skip-checks", "--quiet", "--loglevel", plan.loglevel),
        "relay": (*plan.manage, "relay", "--skip-checks"),
        "flower": (
            *(*plan.manage, "flower", "--skip-checks"),
            *("--address", plan.host, "--port", str(plan.flower_port)),
            *(("--web-url", plan.url("web")) if "web" in selected else ()),
        ),
    }
    made = [
        Program(
            name,
            command(watchdog, argv[name], env),
            stage=NAMES.index(name),
            stop_timeout=60.0 if name == "worker" else 10.0,
            # The worker then puts its running tasks back into their queue.
            hurry=signal.SIGQUIT if name == "worker" else signal.SIGKILL,
        )
        for name in selected
    ]
    # The slowest to answer first.
    return sorted(made, key=lambda program: ("web", "flower", "worker", "scheduler", "relay").index(program.name))


def broker_program(broker: EmbeddedBroker) -> Program:
    """Return the embedded broker as a program: the last to stop, and killed only if it hangs."""

    def start() -> subprocess.Popen[bytes]:
        broker.start()
        process = broker.process
        assert process is not None  # noqa: S101
        return process

    return Program("broker", start, stage=_BROKER_STAGE, hurry=signal.SIGTERM)


def bracketed(host: str) -> str:
    """Return a host as it is written in a URL."""
    return f"[{host}]" if ":" in host else host
