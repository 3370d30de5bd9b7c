"""Chords of thousands: one body, whatever is delivered twice, dies or is lost, and work that grows with their size."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from celery import states
from celery.app.task import Context
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from django_celery_results.models import ChordCounter

from orchestrator.celery import get_app
from orchestrator.runs import chords, retention
from orchestrator.runs.backend import ResultBackend
from orchestrator.runs.models import Chord
from orchestrator.runs.outgoing import chord_sets
from orchestrator.testing import published
from tests.conftest import Platform
from tests.support import far_side
from tests.support.broker import Broker
from tests.support.wait import eventually
from tests.support.zoo import add, collect

pytestmark = [pytest.mark.database, pytest.mark.django_db(transaction=True)]


@pytest.fixture
def backend(broker: Broker) -> Iterator[ResultBackend]:
    """The project's backend, on an empty broker."""
    made = get_app().backend
    assert isinstance(made, ResultBackend)
    yield made
    made._cache.clear()


class Header:
    """A chord whose members are not run by a worker, but by the test."""

    def __init__(self, size: int) -> None:
        self.app = get_app()
        self.ids = [f"member-{number}" for number in range(size)]
        self.body = collect.s(key="body").set(task_id="body")
        members = [self.app.AsyncResult(task_id) for task_id in self.ids]
        self.app.backend.apply_chord(self.app.GroupResult("chord", members), self.body)

    def end(self, task_id: str, value: Any = 1, state: str = states.SUCCESS) -> None:
        """Let a member end, as its worker does."""
        request = Context(task=add.name, id=task_id, group="chord", chord=self.body, retries=0)
        self.app.backend.store_result(task_id, value, state, request=request)
        self.app.backend.on_chord_part_return(request, state, value)


def test_members_that_are_delivered_twice_start_one_body(backend: ResultBackend) -> None:
    """Celery's count would reach nought early, and never again."""
    with published() as sent:
        header = Header(4)
        for task_id in [*header.ids[:3], *header.ids[:3]]:
            header.end(task_id)
        assert not sent
        header.end(header.ids[3], 4)
        header.end(header.ids[3], 4)
        header.end(header.ids[0])
    assert [(one.task_id, one.args) for one in sent] == [("body", [[1, 1, 1, 4]])]
    assert not ChordCounter.objects.exists()
    assert not Chord.objects.exists()


def test_a_chord_whose_set_is_lost_starts_its_body(backend: ResultBackend, broker: Broker) -> None:
    """Redis lost its data half-way; what the database knows is enough."""
    with published() as sent:
        header = Header(4)
        header.end(header.ids[0])
        chord_sets().forget("chord")
        for task_id in header.ids[1:3]:
            header.end(task_id)
        assert not sent
        header.end(header.ids[3])
    assert [one.task_id for one in sent] == ["body"]


def test_a_relay_looks_where_the_last_member_could_not(backend: ResultBackend, broker: Broker) -> None:
    """Its worker died between its result and its look, or Redis was away."""
    with published() as sent:
        header = Header(2)
        for task_id in header.ids:
            backend.store_result(task_id, 1, states.SUCCESS)
        assert chords.look_again(get_app()) == 0
        Chord.objects.update(look_at=timezone.now())
        assert chords.look_again(get_app()) == 1
    assert [one.task_id for one in sent] == ["body"]


def test_a_look_too_early_starts_nothing_and_comes_again_later(backend: ResultBackend) -> None:
    """Looks at a chord that goes on for long become rare."""
    with published() as sent:
        header = Header(2)
        header.end(header.ids[0])
        Chord.objects.update(look_at=timezone.now())
        assert chords.look_again(get_app()) == 0
        again = Chord.objects.get()
        assert (again.looks, again.look_at > timezone.now() + timedelta(seconds=15)) == (1, True)
        header.end(header.ids[1])
    assert [one.task_id for one in sent] == ["body"]


def test_a_member_that_failed_fails_the_body_when_all_have_ended(backend: ResultBackend) -> None:
    """The rows stay for a redrive, relays look no more, and retention takes them in the end."""
    with published() as sent:
        header = Header(2)
        header.end(header.ids[0], ValueError("x"), states.FAILURE)
        assert backend.get_state("body") == states.PENDING
        header.end(header.ids[1])
    assert not sent
    assert backend.get_state("body") == states.FAILURE
    assert Chord.objects.get().look_at is None
    retention.prune()
    assert ChordCounter.objects.exists()
    Chord.objects.update(created_at=timezone.now() - timedelta(days=31))
    retention.prune()
    assert not ChordCounter.objects.exists()


def test_rows_of_earlier_releases_grow_old_as_well(backend: ResultBackend) -> None:
    """They have no date."""
    ChordCounter.objects.create(group_id="old", sub_tasks="[]", count=1)
    retention.prune()
    assert Chord.objects.get().group_id == "old"


def test_a_member_asks_as_often_in_a_large_chord_as_in_a_small_one(backend: ResultBackend, broker: Broker) -> None:
    """Queries and commands a member; what that takes is measured by the scenario ``chords`` of ``tests.chaos``."""

    def asked_a_member(size: int) -> float:
        with published() as sent:
            header = Header(size)
            before = broker.client.info("stats")["total_commands_processed"]
            with CaptureQueriesContext(connection) as queries:
                for task_id in header.ids:
                    header.end(task_id)
            commands = broker.client.info("stats")["total_commands_processed"] - before
        assert len(sent) == 1
        backend._cache.clear()
        return (len(queries) + commands) / size

    assert asked_a_member(1000) < 1.2 * asked_a_member(100)


def test_a_chord_on_a_real_worker(platform: Platform) -> None:
    """Three hundred members in two processes, and the body sees all values in order."""
    from celery import chord

    platform.relay()
    platform.worker(concurrency=2, env={"ORCHESTRATOR_TEST_RESULTS_WAITING": "50000"})
    body = chord([add.s(number, 0) for number in range(300)], collect.s(key="all")).delay()
    assert body.get(timeout=60) == list(range(300))
    assert len(far_side.effects("all")) == 1
    eventually(lambda: not ChordCounter.objects.exists())


def test_a_body_runs_once_whose_sender_died_before_the_chord_was_gone(platform: Platform) -> None:
    """It is on its way, the database knows nothing of that, and a relay looks at the chord again."""
    from celery import chord

    env = {"ORCHESTRATOR_TEST_IMPORTS": "tests.support.doomed_looks"}
    worker = platform.worker(pool="swarm", env=env)
    body = chord([add.s(number, 0) for number in range(3)], collect.s(key="late")).delay()
    eventually(lambda: far_side.effects("look:died"), 60, worker.tail)
    assert body.get(timeout=60) == [0, 1, 2]
    assert Chord.objects.count() == 1
    Chord.objects.update(look_at=timezone.now())
    platform.relay()
    eventually(lambda: not ChordCounter.objects.exists(), 60)
    # Whatever is published now is behind the body in the queue, if that was published again.
    assert add.delay(1, 1).get(timeout=60) == 2
    assert len(far_side.effects("late")) == 1
