"""Ours and kombu's own transport on one broker, as in a fleet that moves from one to the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.conftest import Platform
from tests.support import far_side, inflight, labour
from tests.support.process import ROOT
from tests.support.wait import eventually
from tests.support.worker import platform_env

STOCK = {**labour.ENV, "ORCHESTRATOR_TRANSPORT": "stock"}

_SEND = """
import django, sys
django.setup()
from orchestrator.celery import get_app
get_app().set_default()
from tests.support.labour import work
for key, priority in (argument.split("=") for argument in sys.argv[1:]):
    work.apply_async((key,), **({"priority": int(priority)} if priority else {}))
print(type(get_app().connection_for_write().transport).__module__)
"""


def send_by_stock(**priorities: str) -> None:
    """Publish ``work`` from a process that uses kombu's own transport."""
    env = {key: value for key, value in platform_env(STOCK).items() if value is not None}
    done = subprocess.run(
        [sys.executable, "-c", _SEND, *(f"{key}={value}" for key, value in priorities.items())],
        cwd=ROOT,
        env={**os.environ, **env, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "kombu.transport.redis"


def test_messages_of_a_stock_producer_start_within_a_second(platform: Platform) -> None:
    """It leaves no marker to wake our worker, which looks every second."""
    worker = platform.worker(concurrency=1, env=labour.ENV)
    labour.work.delay("warm")
    eventually(lambda: labour.ends("warm"), 60, worker.tail)
    for _ in range(3):
        send_by_stock(stock="")
    published = [json.loads(raw) for raw in platform.broker.client.lrange("celery", 0, -1)]
    eventually(lambda: labour.ends("stock") == 3, 5, worker.tail)
    assert len(published) < 3, "the worker let them lie"


@pytest.mark.parametrize("priority", ["", "0", "2", "3", "5", "6", "8", "9", "12"])
def test_numbers_mean_the_same_keys_to_both(platform: Platform, priority: str) -> None:
    """So whoever publishes, both kinds of worker find it."""
    options = {"priority": int(priority)} if priority else {}
    labour.work.apply_async(("ours",), **options)
    ours = set(platform.broker.client.keys("celery*"))
    platform.broker.flush()
    send_by_stock(stock=priority)
    assert set(platform.broker.client.keys("celery*")) == ours


def test_higher_numbers_start_first_and_none_is_lowest(platform: Platform) -> None:
    """As on RabbitMQ, whoever published."""
    send_by_stock(none="", low="2", high="9")
    labour.work.apply_async(("middle",), priority=4)
    worker = platform.worker(concurrency=1, pool="solo", env=labour.ENV)
    eventually(lambda: len(far_side.effects()) == 8, 60, worker.tail)
    starts = [effect["key"] for effect in far_side.effects() if effect["key"].endswith(":start")]
    assert starts[:2] == ["high:start", "middle:start"]
    assert set(starts[2:]) == {"none:start", "low:start"}


def test_a_stock_worker_runs_what_ours_published_and_what_ours_left_behind(platform: Platform) -> None:
    """Also a message that came back from a dead worker of ours, which says so in itself."""
    ours = platform.worker(concurrency=1, env={**labour.ENV, "ORCHESTRATOR_TEST_LEASE": "3"})
    labour.work.delay("left", 4)
    eventually(lambda: labour.starts("left"), message=ours.tail)
    ours.kill_group()
    labour.work.delay("published")
    relay = platform.relay(env={"ORCHESTRATOR_TEST_LEASE": "3"})
    eventually(lambda: inflight.count(platform.broker.client) == 0, 30, relay.tail)
    stock = platform.worker(concurrency=1, env=STOCK)
    eventually(lambda: labour.ends("left") and labour.ends("published"), 60, stock.tail)
    assert (labour.starts("left"), labour.starts("published")) == (2, 1)
    eventually(lambda: inflight.count(platform.broker.client) == 0, 30, stock.tail)
