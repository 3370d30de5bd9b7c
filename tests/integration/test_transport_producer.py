"""A producer is told within two seconds what a broker that is away did to its message."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

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
    if warm:
        labour.work.delay("before")
    with trouble(platform.broker):  # type: ignore[operator]
        begun = time.monotonic()
        with pytest.raises(BrokerUnavailable) as caught:
            labour.work.apply_async(("away",), countdown=countdown, task_id="the-id", outbox=False)
        assert time.monotonic() - begun < BOUND
    assert isinstance(caught.value, OperationalError), "what Celery's callers expect"
    assert caught.value.task_id == "the-id"
    assert "[the-id]" in str(caught.value)
    assert caught.value.maybe_sent == (trouble is frozen)
    # And it works again, over the same pool.
    labour.work.delay("after")
    assert platform.broker.client.llen("celery") >= 1
