"""Messages of one ordering key leave the outbox one after the other, whoever sends them."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from django.db import Error as DatabaseFailure
from django.db import connection, connections, transaction
from django.utils import timezone

from orchestrator import bulk, task
from orchestrator.celery import get_app
from orchestrator.contracts.errors import BrokerUnavailable, InvalidOption, UnknownOption
from orchestrator.outbox import sending, services, sweep
from orchestrator.outbox.models import OutboxMessage
from tests.support.broker import Broker
from tests.support.outbox import due_now, waiting
from tests.support.zoo import add

pytestmark = [pytest.mark.database, pytest.mark.django_db(transaction=True)]


@task(ordering_key="order:{order_id}")
def ship(order_id: int, step: str) -> None:
    """A task that declares what its calls are about."""


@pytest.fixture(autouse=True)
def awake(broker: Broker) -> Iterator[None]:
    """An empty broker that answers, before and after."""
    yield
    sending.rest(0)
    if not broker.pid:
        broker.start()


def queued(broker: Broker) -> list[str]:
    """Return task ids on the queue, oldest first, each where it first stands."""
    raw = reversed(broker.client.lrange("celery", 0, -1))
    return list(dict.fromkeys(json.loads(message)["headers"]["id"] for message in raw))


def left_behind(key: str, count: int = 1) -> list[str]:
    """Publish as a process does that dies right after its commit; return the ids."""
    with transaction.atomic():
        sent = [add.apply_async((number, 1), ordering_key=key).id for number in range(count)]
        connection.run_on_commit = []
    return sent


# --- sending -----------------------------------------------------------------------------


def test_a_message_does_not_overtake_an_older_one_of_its_key(broker: Broker) -> None:
    (first,) = left_behind("a")
    with transaction.atomic():
        second = add.apply_async((1, 1), ordering_key="a").id
    with transaction.atomic():
        other = add.apply_async((1, 1), ordering_key="b").id
    outside = add.apply_async((1, 1), ordering_key="a").id
    assert queued(broker) == [other]
    assert sweep.sweep() == 0, "the grace of the first is not over, and the others are behind it"
    due_now(task_id=first)
    assert sweep.sweep() == 3
    assert queued(broker) == [other, first, second, outside]
    assert not waiting().exists()


def test_without_older_ones_it_is_sent_at_once(broker: Broker) -> None:
    with transaction.atomic():
        sent = [add.apply_async((number, 1), ordering_key="a").id for number in range(3)]
    sent.append(add.apply_async((3, 1), ordering_key="a").id)
    assert queued(broker) == sent
    assert not waiting().exists()


def test_a_bulk_waits_for_its_turn_as_well(broker: Broker) -> None:
    (first,) = left_behind("a")
    with transaction.atomic():
        sent = list(add.delay_many(((number, 1) for number in range(5)), ordering_key="a"))
    sent += list(bulk(add.s(number, 1).set(ordering_key="a") for number in range(3)))
    assert queued(broker) == []
    due_now()
    assert sweep.sweep() == 9
    assert queued(broker) == [first, *sent]
    sent = list(add.delay_many(((number, 1) for number in range(5)), ordering_key="a"))
    assert queued(broker)[-5:] == sent
    assert not waiting().exists()


def test_one_that_cannot_be_sent_holds_its_key_and_no_other(broker: Broker) -> None:
    first, second = left_behind("a", 2)
    (other,) = left_behind("b")
    kept = OutboxMessage.objects.get(task_id=first).payload
    OutboxMessage.objects.filter(task_id=first).update(payload="rot13:abc")
    due_now()
    assert sweep.sweep() == 1
    assert sweep.sweep() == 0
    assert queued(broker) == [other]
    OutboxMessage.objects.filter(task_id=first).update(payload=kept)
    due_now(task_id=first)
    assert sweep.sweep() == 2
    assert queued(broker) == [other, first, second]


def test_two_relays_do_not_share_a_key(broker: Broker) -> None:
    """Also where they looked at the same moment, so that one took what comes after the other's."""
    first, second = left_behind("a", 2)
    due_now()
    (taken,) = sweep._take("default", 1)
    assert taken.task_id == first
    assert sweep.sweep() == 0
    OutboxMessage.objects.filter(task_id=first).update(due_at=timezone.now())
    (row,) = sweep._take("default", 1)
    # What a relay sees that looked at the second row while the first was locked.
    OutboxMessage.objects.filter(task_id=second).update(claim="mine")
    assert not sweep.turns.in_turn([OutboxMessage.objects.get(task_id=second)], "default")
    assert sweep.turns.in_turn([row], "default") == [row]


def test_who_publishes_under_a_key_has_it_until_the_commit(broker: Broker) -> None:
    """So numbers grow in the order of the commits, and nothing older appears once a row was sent."""
    order: list[str] = []
    published, go_on = threading.Event(), threading.Event()

    def slow() -> None:
        with transaction.atomic():
            order.append(add.apply_async((1, 1), ordering_key="a").id)
            published.set()
            go_on.wait(30)
        connections.close_all()

    def quick() -> None:
        published.wait(30)
        waiting.set()
        with transaction.atomic():
            order.append(add.apply_async((2, 1), ordering_key="a").id)
        connections.close_all()

    waiting = threading.Event()
    threads = [threading.Thread(target=slow), threading.Thread(target=quick)]
    for thread in threads:
        thread.start()
    waiting.wait(30)
    if connection.vendor == "postgresql":
        # Another key is free meanwhile; SQLite has one writer.
        other = add.apply_async((3, 1), ordering_key="b").id
        assert queued(broker) == [other]
    assert len(order) == 1
    go_on.set()
    for thread in threads:
        thread.join(60)
    # The second may have seen the first one's row before that was forgotten.
    sweep.sweep()
    assert [one for one in queued(broker) if one in order] == order


def test_publishers_and_relays_at_once_with_a_broker_that_goes(broker: Broker) -> None:
    """Three that publish and two that relay; what lies in the queue is in the order of the rows, for each key."""
    numbers: dict[str, tuple[str, int]] = {}
    done = threading.Event()

    def publish(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(25):
            key = dice.choice("xyz")
            with transaction.atomic():
                sent = [add.apply_async((1, 1), ordering_key=key).id for _ in range(dice.randint(1, 2))]
                rows = dict(OutboxMessage.objects.filter(task_id__in=sent).values_list("task_id", "pk"))
                if dice.random() < 0.3:
                    # As if this process died after its commit.
                    connection.run_on_commit = []
            numbers.update({task_id: (key, pk) for task_id, pk in rows.items()})
        connections.close_all()

    def relay() -> None:
        while not done.is_set():
            with suppress(BrokerUnavailable, DatabaseFailure):
                sweep.sweep(5)
            done.wait(0.02)
        connections.close_all()

    publishers = [threading.Thread(target=publish, args=(seed,)) for seed in range(3)]
    relays = [threading.Thread(target=relay) for _ in range(2)]
    for thread in (*publishers, *relays):
        thread.start()
    while len(numbers) < 40 and any(thread.is_alive() for thread in publishers):
        done.wait(0.02)
    broker.stop()
    broker.start()
    sending.rest(0)
    for thread in publishers:
        thread.join(120)
    limit = time.monotonic() + 60
    while waiting().exists() and time.monotonic() < limit:
        due_now(claim="")
        done.wait(0.05)
    done.set()
    for thread in relays:
        thread.join(60)
    assert services.lag().waiting == 0
    found = queued(broker)
    assert set(found) == set(numbers)
    by_key = defaultdict(list)
    for task_id in found:
        key, pk = numbers[task_id]
        by_key[key].append(pk)
    assert all(pks == sorted(pks) for pks in by_key.values()), by_key


# --- the option --------------------------------------------------------------------------


def test_a_task_declares_what_its_calls_are_about(broker: Broker) -> None:
    with transaction.atomic():
        ship.delay(7, "pack")
        ship.delay(8, step="pack")
        ship.apply_async((7, "send"), ordering_key="mine")
        get_app().send_task(ship.name, (7, "send"))
        add.apply_async((1, 1), ordering_key=12)
        add.delay(1, 1)
        keys = list(OutboxMessage.objects.order_by("pk").values_list("ordering_key", flat=True))
    assert keys == ["order:7", "order:8", "mine", "order:7", "12", ""]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"ordering_key": ""}, "give a text that is not empty"),
        ({"ordering_key": True}, "gave True"),
        ({"ordering_key": "a" * 256}, "at most 255"),
        ({"ordering_key": "a", "outbox": False}, "outbox=False sends at once, which keeps no order"),
        ({"ordering_key": "a", "connection": object()}, "connection= sends at once, which keeps no order"),
    ],
)
def test_what_keeps_no_order_is_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidOption, match=says):
        add.apply_async((1, 1), **options)


def test_slips_and_projects_without_an_outbox_are_told(settings: Any) -> None:
    with pytest.raises(UnknownOption, match=r"'ordering_ky'.*did you mean 'ordering_key'"):
        add.apply_async((1, 1), ordering_ky="a")
    with pytest.raises(UnknownOption, match=r"ordering_key='\{ordr\}' of task"):
        task(ordering_key="{ordr}")(lambda order: None)
    with pytest.raises(InvalidOption, match="names no argument"):
        task(ordering_key="orders")(lambda order: None)
    settings.ORCHESTRATOR = {**settings.ORCHESTRATOR, "OUTBOX": False, "OUTBOX_FALLBACK": False}
    with pytest.raises(InvalidOption, match=r"this project has no outbox.*ORCHESTRATOR\['OUTBOX'\]"):
        ship.delay(7, "pack")
