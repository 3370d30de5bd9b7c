"""Brokers as production has them, and as they go wrong: TLS, sentinels, no memory, a replica, a key of a wrong type."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import redis

from orchestrator.celery import get_app, results
from orchestrator.contracts.errors import BrokerUnavailable
from orchestrator.deadletters.models import DeadLetter
from orchestrator.launch.ports import free_port
from tests.conftest import Platform
from tests.support import charges, elsewhere, far_side, inflight, labour, limited, servers, zoo
from tests.support.wait import eventually, stays

MODULES = {"ORCHESTRATOR_TEST_IMPORTS": "tests.support.labour,tests.support.limited"}
MASTER = "ours"


@contextmanager
def pointed_at(url: str, authority: str = "", **options: Any) -> Iterator[dict[str, str | None]]:
    """Let this process publish elsewhere; yield what makes a worker look there.

    Args:
        authority: file of the authority behind whose certificates broker and sentinels speak TLS.
        options: of the broker's transport.
    """
    tls = {"ssl_cert_reqs": "required", "ssl_ca_certs": authority} if authority else None
    if tls:
        options["sentinel_kwargs"] = {"ssl": True, **tls}
    with elsewhere.pointed_at(url, options, broker_use_ssl=tls):
        yield {
            **MODULES,
            "ORCHESTRATOR_BROKER_URL": url,
            "ORCHESTRATOR_BROKER_MASTER": options.get("master_name"),
            "ORCHESTRATOR_TEST_AUTHORITY": authority,
        }


def sentinel(found: servers.Watched) -> str:
    """Return a broker's URL that leads to the sentinel."""
    return "sentinel" + found.sentinel.partition("?")[0].removeprefix("rediss").removeprefix("redis")


def leads(server: redis.Redis) -> bool:
    """Whether a server is a primary; who is made one hangs up on everybody."""
    try:
        return bool(server.role()[0] == b"master")
    except redis.ConnectionError:
        return False


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


def test_a_failover_costs_nothing(platform: Platform, tmp_path: Path) -> None:
    """Workers and producers follow the primary, which has no scripts yet; what the replica had is not lost.

    The first sentinel is away all the time.
    """
    with (
        # An old primary that nobody follows any more must not take messages, which would be lost.
        servers.watched(servers.NAMES[0], tmp_path, MASTER, "--min-replicas-to-write", "1") as found,
        pointed_at(f"sentinel://127.0.0.1:{free_port()};{sentinel(found)}", master_name=MASTER) as env,
    ):
        worker = platform.worker(concurrency=2, env=env, pool="swarm")
        everything_works(platform, env, worker.tail)
        for number in range(2):
            labour.work.delay(f"long-{number}", 4)
        eventually(lambda: all(labour.starts(f"long-{number}") for number in range(2)), 20, worker.tail)
        for number in range(20):
            labour.work.delay(f"waits-{number}")
        old, new = redis.Redis.from_url(found.primary), redis.Redis.from_url(found.replica)
        assert old.wait(1, 5000) == 1, "the replica has it"
        new.script_flush()
        redis.Redis.from_url(found.sentinel).execute_command("SENTINEL", "FAILOVER", MASTER)
        eventually(lambda: leads(new), 20, "the replica took over", most=0.05)
        # What the sentinel does, too, but only ten seconds later.
        old.replicaof("127.0.0.1", new.get_connection_kwargs()["port"])
        task_id = str(uuid4())

        def published() -> bool:
            try:
                labour.work.apply_async(("meanwhile",), task_id=task_id, outbox=False)
            except BrokerUnavailable:
                return False
            return True

        eventually(published, 20, "producers find the new primary")
        keys = ["long-0", "long-1", "meanwhile", *(f"waits-{number}" for number in range(20))]
        eventually(lambda: all(labour.ends(key) for key in keys), 30, worker.tail)
        eventually(lambda: inflight.count(new) == 0, 20, worker.tail)
        assert {key: labour.starts(key) for key in keys} == dict.fromkeys(keys, 1)
        assert charges.pay.delay("A2").get(timeout=20)["receipt"] == "A2-1"
        assert worker.running


@pytest.mark.skipif("redis" not in servers.PROGRAMS, reason="no redis-server on PATH, and the wheel's has no TLS")
def test_a_killed_primary_costs_nothing_that_its_replica_had(platform: Platform, tmp_path: Path) -> None:
    """SIGKILL while tasks run; the sentinels notice it themselves. Everybody speaks TLS, the sentinels too."""
    with (
        servers.watched("redis", tmp_path, MASTER, tls=True) as found,
        pointed_at(sentinel(found), str(tmp_path / "ca.crt"), master_name=MASTER) as env,
    ):
        workers = [platform.worker(concurrency=1, env=env, pool=pool) for pool in ("swarm", "prefork")]

        def tail() -> str:
            return "\n".join(worker.tail() for worker in workers)

        everything_works(platform, env, tail)
        long, waits = [f"long-{number}" for number in range(2)], [f"waits-{number}" for number in range(20)]
        for key in long:
            labour.work.delay(key, 5)
        eventually(lambda: all(labour.starts(key) for key in long), 20, tail)
        for key in waits:
            labour.work.delay(key)
        for number in range(3):
            limited.brisk.delay(f"limited-{number}")
        assert redis.Redis.from_url(found.primary).wait(1, 5000) == 1, "the replica has it"
        found.kill_primary()
        new = redis.Redis.from_url(found.replica)
        eventually(lambda: leads(new), 30, "the replica took over", most=0.05)
        labour.work.delay("after")
        keys = [*long, *waits, "after"]
        eventually(lambda: all(labour.ends(key) for key in keys), 60, tail)
        eventually(lambda: all(far_side.effects(f"limited-{number}") for number in range(3)), 30, tail)
        eventually(lambda: inflight.count(new) == 0, 30, tail)
        assert {key: labour.starts(key) for key in keys} == dict.fromkeys(keys, 1)
        assert all(worker.running for worker in workers)


def test_a_full_memory_is_told_and_survived(platform: Platform) -> None:
    """Nothing is sent, the error names the memory; workers go on when there is some, with all that was taken."""
    server = platform.broker.client
    worker = platform.worker(concurrency=2, env=MODULES, pool="swarm")
    labour.work.delay("held", 3)
    eventually(lambda: labour.starts("held"), 20, worker.tail)
    paid = charges.pay.delay("A3", until="go")
    eventually(lambda: far_side.effects("pay-A3"), 20, worker.tail)
    labour.work.apply_async(("later",), countdown=2)
    server.config_set("maxmemory", "1mb")
    try:
        for options in ({}, {"headers": {"x": 1}}, {"countdown": 60}):
            with pytest.raises(BrokerUnavailable, match="raise its maxmemory") as caught:
                labour.work.apply_async(("refused",), outbox=False, **options)
            assert not caught.value.maybe_sent
        far_side.record("go")
        stays(lambda: worker.running, 4, worker.tail())
    finally:
        server.config_set("maxmemory", "0")
    labour.work.delay("after")
    assert paid.get(timeout=30)["receipt"] == "A3-1"
    keys = ("held", "later", "after")
    eventually(lambda: all(labour.ends(key) for key in keys), 30, worker.tail)
    eventually(lambda: inflight.count(server) == 0, 20, worker.tail)
    assert {key: labour.starts(key) for key in (*keys, "refused")} == {**dict.fromkeys(keys, 1), "refused": 0}
    assert worker.running


def test_a_replica_is_no_broker(platform: Platform, tmp_path: Path) -> None:
    """Both ways of publishing say so."""
    port = platform.broker.url.rpartition(":")[2].partition("/")[0]
    with (
        servers.running(servers.NAMES[0], tmp_path, "--replicaof", "127.0.0.1", port) as url,
        pointed_at(url),
    ):
        for options in ({}, {"headers": {"x": 1}}):
            with pytest.raises(BrokerUnavailable, match="leads to a replica") as caught:
                labour.work.apply_async(("refused",), outbox=False, **options)
            assert not caught.value.maybe_sent


def test_a_key_of_a_wrong_type_harms_its_queue_alone(platform: Platform) -> None:
    """Producers are told which key it is; the worker takes from the other queue, and from this one once it is free."""
    server = platform.broker.client
    server.set("stuck", "not a list")
    for options in ({}, {"headers": {"x": 1}}):
        with pytest.raises(BrokerUnavailable, match="is no list") as caught:
            labour.work.apply_async(("refused",), outbox=False, queue="stuck", **options)
        assert not caught.value.maybe_sent
    worker = platform.worker(concurrency=1, env=MODULES, pool="swarm", queues=["stuck", "celery"])
    labour.work.delay("other")
    eventually(lambda: labour.ends("other"), 10, worker.tail)
    server.delete("stuck")
    labour.work.apply_async(("freed",), queue="stuck")
    eventually(lambda: labour.ends("freed"), 20, worker.tail)
    assert worker.running
