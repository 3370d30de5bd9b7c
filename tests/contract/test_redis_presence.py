"""Who is there: processes show themselves and are counted."""

from __future__ import annotations

import pytest

from orchestrator.contracts.errors import StoreUnavailable
from orchestrator.launch.ports import free_port
from orchestrator.stores.redis.presence import SILENCE, Presence
from tests.support.broker import Broker


def test_those_who_showed_themselves_count_once_each(broker: Broker) -> None:
    """Showing twice counts once, and who leaves counts no more."""
    relays = Presence(broker.url, "t:", "relay", 2.0)
    assert relays.count() == 0
    for name in ("a", "b", "a"):
        relays.show(name)
    assert relays.count() == 2
    relays.leave("a")
    relays.leave("a")
    assert relays.count() == 1
    assert Presence(broker.url, "t:", "scheduler", 2.0).count() == 0


def test_who_falls_silent_counts_no_more_and_is_forgotten(broker: Broker) -> None:
    """A process that was killed cannot leave; time does it for it."""
    relays = Presence(broker.url, "t:", "relay", 2.0)
    now = float(broker.client.time()[0])
    broker.client.zadd("t:present:relay", {"dead": now - SILENCE - 1, "long dead": now - 20 * SILENCE})
    assert relays.count() == 0
    relays.show("alive")
    assert relays.count() == 1
    assert broker.client.zrange("t:present:relay", 0, -1) == [b"dead", b"alive"]


def test_without_redis_it_says_so() -> None:
    """Nothing listens: the error names the address and the setting."""
    relays = Presence(f"redis://:sesame@127.0.0.1:{free_port()}/0", "t:", "relay", 0.5)
    for act in (relays.count, lambda: relays.show("a"), lambda: relays.leave("a")):
        with pytest.raises(StoreUnavailable, match="ORCHESTRATOR_STATE_URL") as caught:
            act()
        assert "sesame" not in str(caught.value)
