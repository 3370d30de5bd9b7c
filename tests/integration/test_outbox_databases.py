"""An outbox in several databases: a message waits for the transaction that is open."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.core.management import call_command
from django.db import connections, transaction
from django.utils import timezone

from orchestrator.contracts.errors import UnknownOption
from orchestrator.outbox import sending, services, sweep
from orchestrator.outbox.models import OutboxMessage
from tests.support.broker import Broker
from tests.support.zoo import add

pytestmark = [pytest.mark.database, pytest.mark.django_db(transaction=True, databases=["default", "other"])]


@pytest.fixture(autouse=True, scope="module")
def other(django_db_setup: None, django_db_blocker: Any, tmp_path_factory: Any) -> Iterator[None]:
    """A second database, which only these tests know."""
    path = tmp_path_factory.mktemp("other") / "other.sqlite3"
    file = {"ENGINE": "django.db.backends.sqlite3", "NAME": str(path), "OPTIONS": {}, "CONN_MAX_AGE": 0}
    django_settings.DATABASES["other"] = {**connections["default"].settings_dict, **file}
    with django_db_blocker.unblock():
        call_command("migrate", database="other", verbosity=0)
        yield
        connections["other"].close()
    del connections["other"]
    del django_settings.DATABASES["other"]


@pytest.fixture(autouse=True)
def awake(broker: Broker) -> None:
    """An empty broker that is known to answer."""
    sending.rest(0)


def use(settings: Any, where: Any) -> None:
    settings.ORCHESTRATOR = {**settings.ORCHESTRATOR, "OUTBOX": where}


def ids(broker: Broker) -> list[str]:
    return [json.loads(raw)["headers"]["id"] for raw in reversed(broker.client.lrange("celery", 0, -1))]


def test_a_message_waits_for_the_transaction_that_is_open(broker: Broker, settings: Any) -> None:
    use(settings, ["default", "other"])
    with transaction.atomic(using="other"):
        first = add.delay(1, 2)
        assert OutboxMessage.objects.using("other").get().task_id == first.id
        assert not OutboxMessage.objects.exists()
    with pytest.raises(LookupError), transaction.atomic(using="other"):
        add.delay(1, 2)
        raise LookupError
    with transaction.atomic(using="other"), transaction.atomic():
        second = add.delay(3, 4)
        third = add.apply_async((5, 6), outbox="other")
        assert OutboxMessage.objects.get().task_id == second.id
        assert OutboxMessage.objects.using("other").get(due_at__isnull=False).task_id == third.id
    assert ids(broker) == [first.id, second.id, third.id]


def test_a_transaction_of_another_database_is_none(broker: Broker, settings: Any) -> None:
    use(settings, "other")
    with pytest.raises(LookupError), transaction.atomic():
        sent = add.delay(1, 2)
        assert ids(broker) == [sent.id]
        raise LookupError


def test_relays_sweep_all_of_them(broker: Broker, settings: Any) -> None:
    use(settings, ["default", "other"])
    for alias in ("default", "other"):
        with transaction.atomic(using=alias):
            add.delay(1, 2)
            connections[alias].run_on_commit = []
        OutboxMessage.objects.using(alias).filter(due_at__isnull=False).update(due_at=timezone.now())
    assert services.lag().waiting == 2
    assert sweep.sweep() == 2
    assert services.lag().waiting == 0
    assert len(ids(broker)) == 2


def test_a_database_that_is_not_configured_is_refused(settings: Any) -> None:
    use(settings, ["default", "othr"])
    with pytest.raises(UnknownOption, match=r"'othr'.*did you mean 'other'"):
        add.delay(1, 2)
