"""Counting endings: every task that was asked for has exactly one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from celery import states
from django.db import connection
from django_celery_results.models import TaskResult

from orchestrator import conf
from orchestrator.deadletters.models import DeadLetter, State
from orchestrator.outbox.models import OutboxMessage
from orchestrator.runs.outgoing import store
from tests.support import environment, inflight


@dataclass(frozen=True)
class Census:
    """Endings by task id."""

    succeeded: frozenset[str]
    letters: Counter[str]

    def lost(self, ids: Collection[str]) -> list[str]:
        """Ids without any ending."""
        return [task_id for task_id in ids if task_id not in self.succeeded and not self.letters[task_id]]

    def doubled(self, ids: Collection[str]) -> list[str]:
        """Ids with more than one ending."""
        return [task_id for task_id in ids if (task_id in self.succeeded) + self.letters[task_id] > 1]


def take() -> Census:
    """Read all endings from the database."""
    # A fresh connection: the one at hand may have died with the server.
    connection.close()
    return Census(
        frozenset(TaskResult.objects.filter(status=states.SUCCESS).values_list("task_id", flat=True)),
        Counter(DeadLetter.objects.values_list("task_id", flat=True)),
    )


def open_letters() -> int:
    """Return how many letters wait for somebody."""
    return DeadLetter.objects.filter(state=State.OPEN).count()


def leftovers() -> dict[str, int]:
    """Return what is not at its end yet, by kind; empty once everything is."""
    client = environment.world().broker.client
    prefix = conf.settings().key_prefix
    connection.close()
    found = {
        "queued": int(client.llen("celery")),
        "unacknowledged": inflight.count(client),
        "letters_not_filed": int(client.xlen(f"{prefix}letters")),
        "results_not_written": store().size(),
        "not_sent": OutboxMessage.objects.filter(due_at__isnull=False).count(),
        "half_redriven": DeadLetter.objects.filter(state=State.REDRIVING).count(),
    }
    return {kind: count for kind, count in found.items() if count}


def leftovers_of_results() -> dict[str, int]:
    """Return the same, and how many keys of results and chords lie in Redis."""
    client, prefix = environment.world().broker.client, conf.settings().key_prefix
    keys = [*client.scan_iter(f"{prefix}results:*"), *client.scan_iter(f"{prefix}chord:*")]
    return {**leftovers(), **({"keys": len(keys)} if keys else {})}
