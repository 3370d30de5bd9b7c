"""A process that publishes inside transactions until it dies.

``python -m tests.chaos.publisher FIRST COUNT SEED LIFETIME``. Each number is one
transaction, which half of the time is rolled back. What was committed is told by an
audit entry of the same transaction, since a process that is killed can tell nobody.
"""

from __future__ import annotations

import os
import random
import signal
import sys
from collections.abc import Callable
from contextlib import suppress

ACTION = "chaos.commit"


class TakenBack(Exception):
    """Rolls a transaction back."""


def main(first: int, count: int, seed: int, lifetime: float) -> None:
    """Publish ``count`` numbers from ``first`` on; die after ``lifetime`` seconds, 0 for never."""
    import django

    django.setup()
    from django.db import transaction

    from orchestrator.audit.services import record

    dice = random.Random(seed)
    ways = _ways()
    if lifetime:
        # The kernel ends the process wherever it is; no handler, no cleaning up.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, lifetime)
    for number in range(first, first + count):
        key = f"outbox-{number}"
        with suppress(TakenBack), transaction.atomic():
            record(ACTION, actor="publisher", target=key)
            dice.choice(ways)(key)
            if dice.random() < 0.5:
                raise TakenBack
        print(number, flush=True)


def _ways() -> list[Callable[[str], object]]:
    """Every way to publish one task that takes effect under a key."""
    from celery import chain, group

    from orchestrator.celery import get_app
    from tests.support.zoo import add, follow

    return [
        lambda key: follow.delay(1, key),
        lambda key: follow.apply_async((1,), {"key": key}, countdown=0.2),
        lambda key: get_app().send_task("tests.support.zoo.follow", (1, key)),
        lambda key: chain(add.s(1, 2), follow.s(key))(),
        lambda key: group(add.s(1, 2), follow.s(1, key))(),
    ]


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
