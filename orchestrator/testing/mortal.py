"""Attempts in processes of their own, that can be killed at a chosen moment."""

from __future__ import annotations

import json
import os
import signal
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NoReturn

from django.db import connections

from orchestrator.contracts.outcome import Verdict
from orchestrator.testing.performing import Delivery

#: First words of statements that write.
WRITES = ("INSERT", "UPDATE", "DELETE", "MERGE", "REPLACE")


@dataclass(frozen=True)
class Attempted:
    """What a process did: the moments at which it could have been killed, and how it ended."""

    points: list[str]
    verdict: Verdict
    error: str


def attempt(run: Delivery, kill_at: int | None = None) -> Attempted:
    """Run one attempt in a forked process, which dies by SIGKILL at the numbered moment.

    Raises:
        AssertionError: the process ended in another way than its task.
    """
    # What is open now would be shared; both sides open their own.
    connections.close_all()
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # A thread that renews leases may be there; the child starts one of its own.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if not child:
        os.close(reading)
        _live(run, kill_at, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return Attempted([], Verdict.LOST, f"signal {os.WTERMSIG(status)}")
    if not told:
        raise AssertionError(f"The process that ran {run.task.name} ended with exit code {os.WEXITSTATUS(status)}.")
    report = json.loads(told)
    return Attempted(report["points"], Verdict(report["verdict"]), report["error"])


def _live(run: Delivery, kill_at: int | None, writing: int) -> NoReturn:
    points: list[str] = []

    def pass_point(point: str) -> None:
        if len(points) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        points.append(point)

    status = 1
    try:
        for alias in connections:
            _watch(connections[alias], pass_point)
        outcome = run.run()
        pass_point("after its last line, before its message was acknowledged")
        error = f"{outcome.error_type}: {outcome.error_message}\n{outcome.traceback}" if outcome.error_type else ""
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(json.dumps({"points": points, "verdict": outcome.verdict.value, "error": error}).encode())
        status = 0
    finally:
        # Not by the usual way out: the parent's test run lives in this process's memory too.
        os._exit(status)


def _watch(connection: Any, pass_point: Callable[[str], None]) -> None:
    """Name every moment around a write and a commit of a connection."""

    def execute(run: Callable[..., Any], sql: Any, params: Any, many: bool, context: Any) -> Any:
        words = str(sql).split(None, 3)
        if not words or words[0].upper() not in WRITES:
            return run(sql, params, many, context)
        write = " ".join(words[:3]).replace('"', "")
        pass_point(f"before {write}")
        result = run(sql, params, many, context)
        pass_point(f"after {write}")
        return result

    commit = connection._commit

    def watched_commit() -> Any:
        pass_point("before a commit")
        result = commit()
        pass_point("after a commit")
        return result

    connection.execute_wrappers.append(execute)
    connection._commit = watched_commit
