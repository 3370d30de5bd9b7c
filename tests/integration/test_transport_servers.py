"""Brokers as production has them, and as they go wrong: TLS, sentinels, no memory, a replica, a key of a wrong type."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from django.test import override_settings
from kombu import pools

from orchestrator.celery import get_app, results
from orchestrator.contracts.errors import BrokerUnavailable
from orchestrator.deadletters.models import DeadLetter
from tests.conftest import Platform
from tests.support import charges, far_side, inflight, labour, limited, servers, zoo
from tests.support.wait import eventually

MODULES = {"ORCHESTRATOR_TEST_IMPORTS": "tests.support.labour,tests.support.limited"}
MASTER = "ours"


@contextmanager
def pointed_at(url: str, **options: Any) -> Iterator[dict[str, str | None]]:
    """Let this process publish elsewhere; yield what makes a worker look there."""
    app = get_app()

    def begin_anew() -> None:
        pools.reset()
        app._pool = app.amqp._producer_pool = None

    before = {name: app.conf[name] for name in ("broker_url", "broker_transport_options")}
    begin_anew()
    app.conf.broker_url, app.conf.broker_transport_options = url, {**before["broker_transport_options"], **options}
    try:
        with override_settings(CELERY_BROKER_URL=url, CELERY_BROKER_TRANSPORT_OPTIONS=options):
            yield {**MODULES, "ORCHESTRATOR_BROKER_URL": url}
    finally:
        app.conf.update(before)
        begin_anew()


def everything_works(platform: Platform, env: dict[str, str | None], tail: Callable[[], str]) -> None:
    """Publish, delay, claim, settle, bury, remember, limit."""
    platform.relay(env=env)
    done = [zoo.add.delay(number, 1) for number in range(5)]
    labour.work.apply_async(("later",), countdown=1.5)
    zoo.end.delay("fail", "failed")
    paid = [charges.pay.delay("A1") for _ in range(2)]
    for number in range(3):
        limited.brisk.delay(f"brisk-{number}")
    with get_app().connection_for_write() as connection:
        zoo.add.apply_async((20, 22), connection=connection)  # the ordinary way
    assert [result.get(timeout=20) for result in done] == [1, 2, 3, 4, 5], tail()
    eventually(lambda: all(result.state == "SUCCESS" for result in results([one.id for one in paid])), 20, tail)
    assert len(far_side.effects("pay-A1")) == 1
    eventually(lambda: DeadLetter.objects.count() == 1, 20, tail)
    eventually(lambda: all(far_side.effects(f"brisk-{number}") for number in range(3)), 20, tail)
    eventually(lambda: labour.ends("later") == 1, 20, tail)


@pytest.mark.skipif("redis" not in servers.PROGRAMS, reason="no redis-server on PATH, and the wheel's has no TLS")
def test_tls(platform: Platform, tmp_path: Path) -> None:
    """With an authority of one's own; without it, nothing is sent and the error says why."""
    with servers.encrypted(tmp_path) as url, pointed_at(url) as env:
        worker = platform.worker(concurrency=2, env=env, pool="swarm")
        everything_works(platform, env, worker.tail)
        eventually(lambda: inflight.count(redis.Redis.from_url(url)) == 0, 10, worker.tail)
        with pointed_at(url.partition("?")[0]), pytest.raises(BrokerUnavailable, match="certificate verify failed"):
            labour.work.apply_async(("unsafe",), outbox=False)


def test_sentinels(platform: Platform, tmp_path: Path) -> None:
    """A failover under load: workers follow the primary, what a replica had is not lost, scripts are sent again."""
    with (
        servers.watched(servers.NAMES[0], tmp_path, MASTER) as (_primary, _replica, sentinel),
        pointed_at(sentinel, master_name=MASTER) as env,
    ):
        env = {**env, "ORCHESTRATOR_TEST_MASTER": MASTER}
        worker = platform.worker(concurrency=2, env=env, pool="swarm")
        everything_works(platform, env, worker.tail)
