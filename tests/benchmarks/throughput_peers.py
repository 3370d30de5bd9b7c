"""``throughput_peers``: no-op tasks per second of the swarm with two processes, against other task queues.

The peer is Dramatiq with two processes of eight threads, its defaults. Under ``more``
stands BullMQ on Node.js with two processes of a hundred jobs at once, where ``node`` and
``npm`` are found and its package can be installed; it is fetched into a temporary
directory. All use the same server, with the same durability; turns alternate, and workers
that are stopped while their queue fills work through every turn in the same way.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.catalogue import Budget, Result
from tests.benchmarks.throughput import PROCESSES, Side, ours
from tests.support import environment
from tests.support.process import Process

TASKS = 6000
_BULLMQ = Path(__file__).parent / "bullmq"


def dramatiq() -> Side:
    """Return Dramatiq: two processes, eight threads each."""
    from tests.benchmarks.dramatiq_app import QUEUE

    client = environment.world().broker.client
    size = ["--processes", str(PROCESSES), "--threads", "8"]
    worker = Process(
        ["python", "-m", "dramatiq", "tests.benchmarks.dramatiq_app", *size],
        name="dramatiq",
        directory=environment.directory() / "logs",
        ready="(Worker process is ready for action.*\n?[^$]*){2}",
    )
    return Side(
        [worker],
        [sys.executable, "-m", "tests.benchmarks.dramatiq_app"],
        # A message leaves this hash when it is acknowledged.
        lambda: not client.hlen(f"dramatiq:{QUEUE}.msgs"),
    )


def bullmq() -> Side | str:
    """Return BullMQ: two processes, a hundred jobs at once each; or why it cannot be measured here."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return "node and npm are not installed"
    place = environment.directory() / "bullmq"
    shutil.copytree(_BULLMQ, place, ignore=shutil.ignore_patterns("node_modules"))
    command = [npm, "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts", "--silent"]
    done = subprocess.run(command, cwd=place, capture_output=True, text=True, check=False, timeout=180)
    if done.returncode:
        return f"npm could not install it: {(done.stderr or done.stdout).strip()[:200]}"
    client = environment.world().broker.client
    script = str(place / "peer.js")
    workers = [
        Process([node, script, "worker"], name="bullmq", directory=environment.directory() / "logs", ready="ready")
        for _ in range(PROCESSES)
    ]
    return Side(
        workers,
        [node, script, "producer"],
        lambda: not client.llen("bull:noops:wait") and not client.llen("bull:noops:active"),
    )


def run(budget: Budget) -> Result:
    """Measure rounds until the budget is used up."""
    rounds: list[dict[str, float]] = []
    with ExitStack() as stack:
        made = {"ours": ours("swarm"), "dramatiq": dramatiq()}
        other = bullmq()
        if isinstance(other, Side):
            made["bullmq"] = other
        sides = {name: stack.enter_context(side) for name, side in made.items()}
        deadline = time.monotonic() + budget.seconds
        while len(rounds) < budget.runs and (not rounds or time.monotonic() < deadline):
            order = list(sides) if len(rounds) % 2 else list(reversed(sides))
            rounds.append({name: sides[name].rate(TASKS) for name in order})
    more: dict[str, Any] = {"bullmq": other}
    if isinstance(other, Side):
        more = {
            "bullmq": round(median(each["bullmq"] for each in rounds), 2),
            "bullmq_ratio": round(median(each["ours"] / each["bullmq"] for each in rounds), 4),
        }
    return Result.of_pairs(
        "throughput_peers",
        [(each["ours"], each["dramatiq"]) for each in rounds],
        "tasks/s",
        pool="swarm",
        processes=PROCESSES,
        tasks=TASKS,
        **more,
    )
