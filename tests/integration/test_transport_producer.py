"""A producer is told within two seconds what a broker that is away did to its message."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import uuid4

import pytest
from kombu.exceptions import OperationalError

from orchestrator.celery import get_app
from orchestrator.contracts.errors import BrokerUnavailable
from tests.conftest import Platform
from tests.support import labour
from tests.support.broker import Broker

BOUND = 2.0


@contextmanager
def frozen(broker: Broker) -> Iterator[None]:
    """Stop the server's process; it accepts connections and answers nothing."""
    os.kill(broker.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(broker.pid, signal.SIGCONT)


@contextmanager
def dead(broker: Broker) -> Iterator[None]:
    """Kill the server."""
    broker.kill()
    try:
        yield
    finally:
        broker.start()


@pytest.mark.parametrize("warm", [True, False], ids=["warm", "cold"])
@pytest.mark.parametrize("trouble", [frozen, dead])
@pytest.mark.parametrize("countdown", [0, 60])
def test_publishing_fails_in_time_and_says_what_is_known(
    platform: Platform, trouble: object, warm: bool, countdown: float
) -> None:
    """With a connection that stood, and without one; for now and for later."""
    get_app()._after_fork()  # as a process that never connected
    task_id = str(uuid4())
    if warm:
        labour.work.delay("before")
    with trouble(platform.broker):  # type: ignore[operator]
        begun = time.monotonic()
        with pytest.raises(BrokerUnavailable) as caught:
            labour.work.apply_async(("away",), countdown=countdown, task_id=task_id, outbox=False)
        assert time.monotonic() - begun < BOUND
    assert isinstance(caught.value, OperationalError), "what Celery's callers expect"
    assert caught.value.task_id == task_id
    assert f"[{task_id}]" in str(caught.value)
    # A connection that was never made certainly carried nothing.
    assert caught.value.maybe_sent == (trouble is frozen and warm)
    # And it works again, over the same pool.
    labour.work.delay("after")
    assert platform.broker.client.llen("celery") >= 1


@pytest.mark.parametrize(
    "options", [{}, {"headers": {"x": 1}}, {"countdown": 60}], ids=["quick", "ordinary", "delayed"]
)
def test_publishing_again_what_may_have_been_sent_sends_it_once(platform: Platform, options: dict[str, object]) -> None:
    """Under its id: the hung server had it in its buffer, or it never came that far; nobody can tell, nobody has to."""
    get_app()._after_fork()
    labour.work.delay("before")
    platform.broker.client.delete("celery")
    with frozen(platform.broker):
        with pytest.raises(BrokerUnavailable) as caught:
            labour.work.apply_async(("away",), outbox=False, **options)
        assert caught.value.maybe_sent
        task_id = caught.value.task_id  # type: ignore[attr-defined]
        assert "is safe" in str(caught.value)
        with pytest.raises(BrokerUnavailable) as again:
            labour.work.apply_async(("away",), task_id=task_id, outbox=False, **options)
        assert again.value.maybe_sent
    assert labour.work.apply_async(("away",), task_id=task_id, **options).id == task_id

    def everywhere() -> int:
        client = platform.broker.client
        return int(client.llen("celery")) + int(client.zcard("orchestrator:delayed"))

    assert everywhere() == 1
    # Published a third time on purpose, without a doubt, it is a message of its own.
    labour.work.apply_async(("away",), task_id=task_id, **options)
    assert everywhere() == 2
