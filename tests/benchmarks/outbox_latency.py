"""``outbox_latency``: ms from a commit to the start of the task that it sends, against sending after the commit."""

from __future__ import annotations

import time
from statistics import quantiles

from django.db import connection, transaction

from orchestrator.celery import get_app
from tests.benchmarks.catalogue import Budget, Result
from tests.benchmarks.tasks import note_start
from tests.benchmarks.throughput import ours_worker
from tests.support import far_side
from tests.support.wait import eventually, pause

QUEUE = "outbox-latency"
PAUSE = 1 / 20
SAMPLES = 60


def run(budget: Budget) -> Result:
    """Measure pairs until the budget is used up; the result is the median latency."""
    get_app().set_default()
    pairs: list[tuple[float, float]] = []
    with ours_worker(queue=QUEUE):
        _sample("warm-up", kept=True)
        deadline = time.monotonic() + budget.seconds
        while len(pairs) < budget.runs and (not pairs or time.monotonic() < deadline):
            turns = [(kept, _sample(f"{len(pairs)}-{kept}", kept=kept)) for kept in (True, False)]
            pairs.append((turns[0][1], turns[1][1]))
    return Result.of_pairs("outbox_latency", pairs, "ms", samples=SAMPLES * len(pairs), database=connection.vendor)


def _sample(key: str, *, kept: bool) -> float:
    for _ in range(SAMPLES):
        if kept:
            with transaction.atomic():
                # The clock is read as late in the transaction as can be: what follows is its commit.
                note_start.apply_async((key, time.time()), queue=QUEUE)
        else:
            with transaction.atomic():
                pass
            note_start.apply_async((key, time.time()), queue=QUEUE, outbox=False)
        pause(PAUSE)
    eventually(lambda: len(far_side.effects(key)) == SAMPLES, 60)
    return quantiles([(effect["at"] - effect["sent"]) * 1000 for effect in far_side.effects(key)], n=100)[49]
