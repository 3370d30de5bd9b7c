"""The quick way to publish and Celery's own lead to the same message, and whoever looks at messages still sees them."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from celery import signals
from django.test import override_settings
from hypothesis import given
from hypothesis import strategies as st
from kombu.entity import Exchange, Queue

from orchestrator import task
from orchestrator.celery import get_app
from orchestrator.contracts.errors import MessageTooBig, Unroutable
from orchestrator.engine import filling
from orchestrator.transport.lines import Lines
from tests.conftest import Broker
from tests.support.wait import eventually
from tests.support.zoo import add


@task(ignore_result=True, sensitive=("code",))
def guarded(number: int, code: str = "") -> None:
    """Has options, and an argument that nobody may see."""


@task(shadow_name=lambda task, args, kwargs, options: f"shadow of {args}")
def shadowed(*args: Any, **kwargs: Any) -> None:
    """Calls itself by another name."""


@task(name='odd "näme" %s')
def odd(*args: Any, **kwargs: Any) -> None:
    """Has a name that must be quoted."""


@contextmanager
def ordinary_way() -> Iterator[None]:
    """Somebody looks at messages on their way, so they go Celery's."""

    def look(**_: Any) -> None:
        """Only be there."""

    signals.before_task_publish.connect(look, weak=False)
    try:
        yield
    finally:
        signals.before_task_publish.disconnect(look)


def comparable(raw: bytes) -> dict[str, Any]:
    """Return a message without what differs between any two."""
    message: dict[str, Any] = json.loads(raw)
    assert len(message["properties"].pop("delivery_tag")) == 12
    assert message["headers"]["orchestrator"].pop("at")
    for name in ("eta", "expires"):
        if name in message["headers"]:
            message["headers"][name] = "a time"
    message["properties"].pop("expiration", None)
    return message


class Sent:
    """What lies in the broker after one publish, and what listeners heard."""

    def __init__(self, broker: Broker, publish: Any) -> None:
        client = broker.client
        client.flushall()
        with client.pubsub(ignore_subscribe_messages=True) as events:
            events.psubscribe("*celeryev/task.sent")
            eventually(lambda: client.pubsub_numpat() > 0)
            events.get_message(timeout=1)
            self.result = publish()
            heard = eventually(lambda: events.get_message(timeout=0.1))
        self.lists = {
            key: [comparable(raw) for raw in client.lrange(key, 0, -1)]
            for key in client.scan_iter()
            if client.type(key) == b"list" and b"wake" not in key
        }
        self.raw = [raw for key in self.lists for raw in client.lrange(key, 0, -1)]
        self.delayed = [
            (raw.partition(b"{")[0], comparable(b"{" + raw.partition(b"{")[2]))
            for raw in client.hvals("orchestrator:delayed:messages")
        ]
        assert client.zcard("orchestrator:delayed") == len(self.delayed)
        envelope = json.loads(heard["data"])
        self.event = json.loads(base64.b64decode(envelope.pop("body")))
        envelope["properties"].pop("delivery_tag")
        self.envelope = envelope
        for name in ("clock", "timestamp", "eta", "expires"):
            self.event.pop(name)


OPTIONS: dict[str, dict[str, Any]] = {
    "none": {},
    "queue": {"queue": "other"},
    "odd queue": {"queue": 'a "queue" ä%s'},
    "priority": {"priority": 9},
    "limits": {"time_limit": 60, "soft_time_limit": 30},
    "no result": {"ignore_result": True},
    "result": {"ignore_result": False},
    "own property": {"app_id": "shop"},
    "expires": {"expires": 600},
    "naught": {"countdown": 0, "retries": 0},
    "later": {"countdown": 3600},
    "eta": {"eta": __import__("datetime").datetime(2030, 1, 2, tzinfo=__import__("datetime").UTC), "priority": 6},
    "naive eta": {"eta": __import__("datetime").datetime(2030, 1, 2)},
    "no links": {"link": [], "link_error": None},
    "near": {"countdown": 0.5},
    "headers": {"headers": {"shop": "7"}},
    "shadow": {"shadow": "else"},
    "link": {"link": add.s(1)},
    "group": {"group_id": "g", "group_index": 3},
    "root": {"root_id": "r", "parent_id": "p"},
    "reply": {"reply_to": "me"},
    "serializer": {"serializer": "json"},
    "key": {"idempotency_key": "k-1"},
    "routing": {"exchange": "", "routing_key": "direct"},
    "retries": {"retries": 2},
    "stamps": {"stamped_headers": ["on"], "on": "me"},
}
ARGUMENTS: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "none": ((), {}),
    "scalars": ((1, 2.5, None, True, "text"), {"a": 1, "b": "two"}),
    "odd": (('quo"ted', "back\\slash", "ünï\n", "%s %d", "@orchestrator:id@"), {"k'": "v'"}),
    "nested": (([1, {"a": [2]}], {"b": None}), {"password": "secret-value", "c": [1, 2]}),
    "dates": ((__import__("datetime").date(2026, 1, 2),), {"d": __import__("decimal").Decimal("1.5")}),
}


@pytest.mark.parametrize("chosen", OPTIONS)
def test_both_ways_lead_to_the_same_message(broker: Broker, chosen: str) -> None:
    """For every option, in the broker and in what listeners hear; byte for byte but for times, tags and clocks."""
    for which in (add, guarded, shadowed, odd):
        args, kwargs = ((1, "4242-secret"), {}) if which is guarded else ((1, 2), {})

        def publish(which: Any = which, args: Any = args, kwargs: Any = kwargs) -> Any:
            return which.apply_async(args, kwargs, task_id="the id", **OPTIONS[chosen])

        compare(broker, publish)


@pytest.mark.parametrize("given_arguments", ARGUMENTS)
def test_arguments_are_written_the_same(broker: Broker, given_arguments: str) -> None:
    """Whatever JSON and kombu can hold, and whatever has to be quoted."""
    args, kwargs = ARGUMENTS[given_arguments]
    compare(broker, lambda: odd.apply_async(args, kwargs, task_id='an "id" ä'))
    compare(broker, lambda: shadowed.apply_async(list(args), kwargs, task_id="i"))
    compare(broker, lambda: get_app().send_task("only.a.name", args, kwargs, task_id="i", queue="q"))
    compare(broker, lambda: get_app().send_task(guarded.name, args, kwargs, task_id="i"))


def compare(broker: Broker, publish: Any) -> None:
    quick = Sent(broker, publish)
    with ordinary_way():
        ordinary = Sent(broker, publish)
    assert quick.lists == ordinary.lists
    assert (quick.event, quick.envelope, quick.delayed) == (ordinary.event, ordinary.envelope, ordinary.delayed)
    assert [list(json.loads(raw)) for raw in quick.raw] == [list(json.loads(raw)) for raw in ordinary.raw]
    assert [len(raw) for raw in quick.raw] == pytest.approx([len(raw) for raw in ordinary.raw], abs=12)
    assert type(quick.result) is type(ordinary.result)
    assert (quick.result.id, quick.result.ignored) == (ordinary.result.id, ordinary.result.ignored)


class Watch:
    """Counts how often the quick way was taken."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lent = 0
        real = Lines.line

        def line(lines: Lines) -> Any:
            self.lent += 1
            return real(lines)

        monkeypatch.setattr(Lines, "line", line)

    def took(self, publish: Any) -> bool:
        """Whether a publish, of a kind that is known, took the quick way."""
        publish()
        before = self.lent
        publish()
        return self.lent > before


def test_the_quick_way_is_taken_only_where_nothing_unusual_is_asked_for(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And Celery's own as soon as somebody looks at messages, or settings say so."""
    app, watch = get_app(), Watch(monkeypatch)
    assert watch.took(lambda: add.delay(1, 2))
    assert watch.took(lambda: add.apply_async((1, 2), queue="q", priority=3))
    assert not watch.took(lambda: add.apply_async((1, 2), link=add.s(1)))
    assert not watch.took(lambda: add.apply_async((1, 2), headers={"mine": 1}))
    with ordinary_way():
        assert not watch.took(lambda: add.delay(1, 2))
    assert watch.took(lambda: add.delay(1, 2))
    with override_settings(CELERY_TASK_COMPRESSION="gzip"):
        assert not watch.took(lambda: add.delay(1, 2))
    monkeypatch.setattr(type(app).__mro__[2], "send_task", lambda *args, **kwargs: None)
    assert not watch.took(lambda: add.delay(1, 2))
    monkeypatch.undo()
    watch = Watch(monkeypatch)
    assert watch.took(lambda: add.delay(1, 2))


def test_routes_and_the_default_queue_are_followed_when_they_change(broker: Broker) -> None:
    """A plan holds for the settings it was made under."""
    app = get_app()
    add.delay(1, 2)
    changes = dict(app.conf.changes)
    try:
        app.conf.task_default_queue = "elsewhere"
        add.delay(1, 2)
        app.conf.update(task_routes={add.name: {"queue": "routed"}})
        add.delay(1, 2)
        app.conf.update(task_routes=[lambda name, *args, **options: {"queue": "by-code"}])
        add.delay(1, 2)
    finally:
        app.conf.changes.clear()
        app.conf.changes.update(changes)
        app.amqp.flush_routes()
        app.amqp.router = app.amqp.Router()
    queues = ("celery", "elsewhere", "routed", "by-code")
    assert [broker.client.llen(queue) for queue in queues] == [1, 1, 1, 1]


def test_threads_share_a_bounded_number_of_connections(broker: Broker) -> None:
    """Sixty threads, ten lines, nothing lost; a fork would begin with none."""
    add.delay(0, 0)
    before = len(broker.client.client_list())
    threads = [threading.Thread(target=lambda: [add.delay(1, 2) for _ in range(10)]) for _ in range(60)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert broker.client.llen("celery") == 601
    assert len(broker.client.client_list()) <= before + get_app().conf.broker_pool_limit


@pytest.mark.parametrize("way", ["quick", "ordinary", "outbox"])
@pytest.mark.django_db(transaction=True)
def test_a_message_that_is_too_big_is_refused(broker: Broker, way: str) -> None:
    """With its size, the limit, the setting and the way out; nothing is sent or stored."""
    options: dict[str, Any] = {"quick": {}, "ordinary": {"headers": {"x": 1}}, "outbox": {"outbox": True}}[way]
    with pytest.raises(MessageTooBig) as caught:
        add.apply_async(("x" * 2_000_000, 1), task_id="big", **options)
    said = str(caught.value)
    assert all(part in said for part in ("[big]", "2,00", "1,048,576", "MESSAGE_LIMIT_BYTES")), said
    assert broker.client.llen("celery") == 0


@given(
    st.lists(st.one_of(st.integers(), st.floats(), st.booleans(), st.none(), st.text(max_size=70)), max_size=12),
)
def test_arguments_are_shown_as_celery_shows_them(values: list[Any]) -> None:
    """The short cut for simple values makes no difference."""
    from celery.utils.saferepr import saferepr

    for value in (tuple(values), values, {str(number): item for number, item in enumerate(values)}):
        assert filling._shown(None, value, 1024, 3) == (saferepr(value, 1024, maxlevels=3) if value else repr(value))


def test_a_message_that_no_queue_would_take_is_refused(broker: Broker) -> None:
    """Kombu drops it without a word. A bound queue takes it, and fanout, which has no queues, is left alone."""
    app = get_app()
    with pytest.raises(Unroutable, match=r"exchange 'nowhere' with routing key 'x'.*\[lost\].*not sent"):
        add.apply_async((1, 2), exchange="nowhere", routing_key="x", task_id="lost")
    shop = Exchange("shop", type="topic")
    with app.connection_for_write() as connection:
        Queue("orders", shop, routing_key="order.*")(connection.default_channel).declare()
        options: dict[str, Any] = {"exchange": shop, "connection": connection}
        add.apply_async((1, 2), routing_key="order.new", **options)
        with pytest.raises(Unroutable):
            add.apply_async((1, 2), routing_key="invoice.new", **options)
        add.apply_async((1, 2), exchange=Exchange("all", type="fanout"), routing_key="", connection=connection)
    assert broker.client.llen("orders") == 1
