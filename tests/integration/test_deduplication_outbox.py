"""Two transactions with one key at once: the row's unique column decides, and the second waits for the first."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connections, transaction

from tests.support.broker import Broker
from tests.support.calls import finish, latest
from tests.support.outbox import waiting

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.database]


class Undone(Exception):
    """Rolls a transaction back."""


@contextmanager
def in_a_thread(work: Any) -> Iterator[list[Any]]:
    """Run ``work`` beside the block, and wait for it at the end."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(work())
        finally:
            connections.close_all()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield found
    finally:
        thread.join(30)
        assert not thread.is_alive()


@pytest.mark.parametrize("commits", [True, False])
def test_a_second_transaction_is_a_duplicate_if_the_first_commits(broker: Broker, commits: bool) -> None:
    entered, go = threading.Event(), threading.Event()

    def first() -> Any:
        try:
            with transaction.atomic():
                sent = finish.delay("a", 1)
                entered.set()
                assert go.wait(30)
                if not commits:
                    raise Undone
        except Undone:
            pass
        return sent

    with in_a_thread(first) as firsts:
        assert entered.wait(30)
        # It commits only once the second has had the time to come to the same place.
        threading.Timer(0.5, go.set).start()
        with transaction.atomic():
            second = finish.delay("a", 2)
    assert second.duplicate_of == (firsts[0].id if commits else None)
    assert broker.client.llen("celery") == 1
    assert not waiting().exists()


def test_rows_of_newest_arguments_are_no_duplicates_of_one_another(broker: Broker) -> None:
    with transaction.atomic():
        assert [latest.delay("a", number).duplicate_of for number in range(3)] == [None] * 3
        assert waiting().count() == 3
    assert broker.client.llen("celery") == 1, "sent, they are one run"


@pytest.mark.parametrize("committed", [True, False], ids=["outbox", "direct"])
def test_of_many_published_together_duplicates_have_the_id_of_the_first(broker: Broker, committed: bool) -> None:
    many = [("a", 1), ("b", 1), ("a", 2), ("c", 1), ("b", 2)]
    if committed:
        with transaction.atomic():
            ids = list(finish.delay_many(many))
    else:
        ids = list(finish.delay_many(many))
    assert ids[2] == ids[0] and ids[4] == ids[1]
    assert len(set(ids)) == 3 == broker.client.llen("celery")


def test_a_call_without_a_transaction_can_be_kept_too(broker: Broker) -> None:
    first = finish.apply_async(("a", 1), outbox=True)
    assert finish.apply_async(("a", 2), outbox=True).duplicate_of == first.id
    assert broker.client.llen("celery") == 1
