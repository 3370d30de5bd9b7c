"""Probes and ``manage.py queue_health`` against a real broker, worker and relay."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import pytest
from django.test import Client

from orchestrator import conf
from orchestrator.launch.ports import free_port
from orchestrator.monitoring import queues, report
from orchestrator.monitoring.health import Verdict
from orchestrator.stores.redis.letters import letters_stream
from orchestrator.transport import inflight
from orchestrator.transport.setback import Memory
from tests.conftest import Platform
from tests.support.broker import Broker
from tests.support.process import MANAGE
from tests.support.wait import eventually
from tests.support.worker import platform_env

pytestmark = pytest.mark.database


def queue_health(*options: str, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Run the command as a container would and return its exit code and output."""
    import os

    merged = {**os.environ, **{k: v for k, v in platform_env(env).items() if v is not None}}
    done = subprocess.run(
        [sys.executable, MANAGE, "queue_health", *options], env=merged, capture_output=True, text=True, timeout=60
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout


def health_json(env: dict[str, str] | None = None) -> tuple[int, dict[str, Any]]:
    code, out = queue_health("--json", env=env)
    return code, json.loads(out)


def test_live_asks_nobody(client: Client) -> None:
    """Liveness answers without database and broker, so an outage restarts no web process."""
    answer = client.get("/healthz/live")
    assert (answer.status_code, answer.json()) == (200, {"status": "healthy"})
    assert "no-store" in answer["Cache-Control"]
    assert client.post("/healthz/live").status_code == 405


@pytest.mark.django_db(transaction=True)
def test_ready_names_what_it_asked(client: Client, broker: Broker) -> None:
    """All parts answer: 200, and each is named."""
    answer = client.get("/healthz/ready")
    assert answer.status_code == 200, answer.content
    assert answer.json() == {
        "status": "healthy",
        "checks": {"database": "healthy", "broker": "healthy", "letterbox": "healthy"},
    }


@pytest.mark.django_db(transaction=True)
def test_ready_is_503_without_broker_and_tells_no_address(client: Client, settings: Any, broker: Broker) -> None:
    """The broker is away: 503 names the part; address and password stay inside."""
    port = free_port()
    settings.ORCHESTRATOR = {**settings.ORCHESTRATOR, "STATE_URL": f"redis://:sesame@127.0.0.1:{port}/0"}
    answer = client.get("/healthz/ready")
    assert answer.status_code == 503
    assert answer.json()["checks"] == {"database": "healthy", "broker": "healthy", "letterbox": "unreachable"}
    assert b"sesame" not in answer.content
    assert str(port).encode() not in answer.content


def test_queue_health_says_unreachable(platform: Platform) -> None:
    """Nothing listens at the broker's address: exit code 2, and what cannot be asked is null."""
    url = f"redis://127.0.0.1:{free_port()}/0"
    code, found = health_json({"ORCHESTRATOR_BROKER_URL": url, "ORCHESTRATOR_STATE_URL": url})
    assert code == 2
    assert found["verdict"] == "unreachable"
    assert found["queues"] is None
    assert found["workers"] is None
    assert found["dead_letters"] == {
        "open": 0,
        "waiting_for_relay": None,
        "oldest_waiting_seconds": None,
        "relays": None,
    }


def test_queue_health_without_a_broker_setting_names_the_setting(platform: Platform, tmp_path: Any) -> None:
    """No broker is configured: the remark says which variable is missing."""
    code, out = queue_health(
        "--only", "broker", env={"ORCHESTRATOR_BROKER_URL": "", "ORCHESTRATOR_DATA_DIR": str(tmp_path)}
    )
    assert code == 2
    assert "ORCHESTRATOR_BROKER_URL" in out


def test_queue_health_counts_every_priority(platform: Platform) -> None:
    """Messages of all priorities count, in queues that only the broker knows too."""
    from orchestrator.celery import get_app

    for priority in (0, 3, 9, 9):
        get_app().send_task("tests.nobody", priority=priority)
    get_app().send_task("tests.nobody", queue="elsewhere")
    code, found = health_json()
    counts = {queue["name"]: (queue["ready"], queue["by_priority"]) for queue in found["queues"]}
    assert counts["celery"] == (4, {"0": 1, "3": 1, "9": 2})
    assert counts["elsewhere"] == (1, {"0": 1})
    # Neither a worker nor a relay runs.
    assert (code, found["verdict"], found["workers"], found["dead_letters"]["relays"]) == (1, "degraded", [], 0)


def test_queue_health_is_healthy_with_worker_and_relay(platform: Platform) -> None:
    """A worker answers by name and a relay drains: exit code 0."""
    from orchestrator.celery import get_app

    worker = platform.worker(pool="solo")
    platform.relay()
    get_app().send_task("tests.nobody", countdown=3600)
    queues.pause("held", 2.0)
    # The relay's first read is its sign of life.
    eventually(lambda: queues.letterbox(2.0).relays, 60)
    code, found = health_json()
    assert code == 0, found
    assert found["workers"] == [f"{worker.name}@test"]
    assert found["dead_letters"]["relays"] == 1
    assert found["in_flight"] == 0
    assert (found["delayed"], found["paused"]) == (1, ["held"])
    assert {one["status"] for one in found["checks"]} == {"healthy"}
    code, out = queue_health()
    assert code == 0
    assert out.rstrip().endswith("verdict: healthy")


@pytest.mark.django_db
def test_a_broker_that_came_back_with_an_older_state_is_seen(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """For an hour it is a reason to look; after that it is told, and no reason."""
    found = report.report(frozenset({"history"}))
    assert (found.setback, found.verdict) == (None, Verdict.HEALTHY)
    memory, keys = Memory(), queues.keys()
    inflight.recover(broker.client, keys, 30, 3, memory)
    for _ in range(20):
        # Also when all of that falls into one millisecond.
        inflight.recover(broker.client, keys, 30, 3, memory)
        broker.client.delete(keys.sweeps)
        assert inflight.recover(broker.client, keys, 30, 3, memory).forgot
    found = report.report(frozenset({"history"}))
    assert found.verdict is Verdict.DEGRADED
    assert "Messages published then are gone" in next(one.remark for one in found.results if one.name == "history")
    assert found.as_json()["setback"]["noticed"] == pytest.approx(time.time(), abs=60)
    monkeypatch.setattr(report, "SETBACK_SHOWN", -60.0)
    assert report.report(frozenset({"history"})).verdict is Verdict.HEALTHY


@pytest.mark.django_db
def test_letters_that_nobody_drains_are_seen_with_their_age(broker: Broker) -> None:
    """A letter in the stream counts, and so does the time that it has waited."""
    stream = letters_stream(conf.state_url(), conf.settings().key_prefix, 2.0)
    broker.client.xadd(stream.key, {"letter": b"{}"}, id="1000000-0")
    box = queues.letterbox(2.0)
    assert (box.waiting, box.relays) == (1, 0)
    assert box.oldest_seconds > 1_000_000
