"""How ``manage.py up`` ends: whatever happens to it, nothing stays behind and nothing queued is lost."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from tests.support import inflight
from tests.support.process import Process
from tests.support.up import Up
from tests.support.wait import eventually

LONG = "from tests.support.zoo import end; end.apply_async(('soft_limit',), {'key': 'long', 'seconds': 600})"
SHORT = "from tests.support.zoo import end; end.apply_async(('succeed',), {'key': 'short'})"


@pytest.fixture
def up(tmp_path: Path, start: Callable[[Process], Process]) -> Callable[..., Up]:
    """Start ``up`` with some of its parts."""

    def begin(only: str, *options: str) -> Up:
        made = Up(tmp_path / "data", ["--only", only, "--workers", "1", *options])
        start(made)
        return made

    return begin


def effects(up: Up, key: str) -> int:
    """Count an effect in this platform's own record."""
    path = up.data_dir.parent / "far_side.jsonl"
    return path.read_text().count(f'"key": "{key}"') if path.exists() else 0


def run_long_task(up: Up) -> None:
    """Have a pool child busy for ten minutes."""
    assert up.manage("shell", "-c", LONG).returncode == 0
    eventually(lambda: effects(up, "long") == 1, 60, "the long task runs")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_leaves_nothing(up: Callable[..., Up], number: signal.Signals) -> None:
    """No process, no lock, no broker file; exit code 0; and the next start finds the queued message."""
    first = up("web,scheduler")
    queue = redis.Redis.from_url(str(first.broker["url"]))
    queue.lpush("waiting", "message")
    assert first.stop(sig=number) == 0
    assert first.left() == []
    assert {path.name for path in first.data_dir.iterdir()} <= {
        "broker",
        "broker_password",
        "db.sqlite3",
        "secret_key",
        "static",
    }
    assert "| stopped" in first.log.splitlines()[-1]
    second = up("web")
    assert second.password == "", "the first admin exists already"
    assert redis.Redis.from_url(str(second.broker["url"])).lrange("waiting", 0, -1) == [b"message"]


def test_stops_in_order(up: Callable[..., Up]) -> None:
    """Nothing new is sent, running tasks finish, their letters become rows, then the pages go, the broker last."""
    first = up("scheduler,worker,relay,web")
    eventually(lambda: "ready." in first.log, 60, "the worker is ready")
    order = {name: first.child(name) for name in ("scheduler", "worker", "relay", "gunicorn")}
    order["broker"] = int(first.broker["pid"])
    first.kill(signal.SIGTERM)
    gone: list[str] = []

    def look() -> bool:
        gone.extend(name for name, pid in order.items() if name not in gone and not alive(pid))
        return len(gone) == len(order)

    eventually(look, 60, lambda: f"all gone, so far {gone}")
    assert gone == list(order)
    assert first.wait() == 0


def test_sigkill_leaves_nothing(up: Callable[..., Up]) -> None:
    """Not even a pool child that is in the middle of a task; the next ``up`` takes over at once."""
    first = up("web,worker,scheduler,relay")
    run_long_task(first)
    assert any("worker" in line for line in first.left())
    first.kill(signal.SIGKILL)
    eventually(lambda: not first.left(), 10, lambda: f"nothing is left, but {first.left()}")
    assert not (first.data_dir / "broker.json").exists()
    first.wait()
    second = up("web")
    assert second.running


def test_a_second_interrupt_puts_running_tasks_back(up: Callable[..., Up]) -> None:
    """The first waits for the task, the second does not; the message is in its queue again."""
    first = up("worker")
    run_long_task(first)
    first.kill(signal.SIGINT)
    first.wait_for_log("waits for 1 running task")
    assert first.running
    first.kill(signal.SIGINT)
    assert first.wait(timeout=30) == 0
    assert first.left() == []
    second = up("scheduler")
    assert redis.Redis.from_url(str(second.broker["url"])).llen("celery") == 1


def test_a_stop_lets_running_tasks_finish(up: Callable[..., Up]) -> None:
    """An interrupt in the middle of a task does not cut it off."""
    first = up("worker")
    code = SHORT.replace("'succeed'", "'soft_limit'").replace("'key': 'short'", "'key': 'medium', 'seconds': 3")
    assert first.manage("shell", "-c", f"{code}; {SHORT}").returncode == 0
    eventually(lambda: effects(first, "medium") == 1, 60, "the task runs")
    assert first.stop(sig=signal.SIGINT) == 0
    assert "it is hurried" not in first.log
    second = up("scheduler")
    client = redis.Redis.from_url(str(second.broker["url"]))
    # The one that ran is gone, the other one waits, none is in between.
    assert (client.llen("celery"), inflight.count(client)) == (1, 0)
    assert effects(first, "short") == 0


def alive(pid: int) -> bool:
    """Say whether a process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
