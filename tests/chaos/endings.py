"""``endings``: the whole zoo again and again, in an order and on a pool that chance picks."""

from __future__ import annotations

import time
from collections import Counter

from django.core.management import call_command

from tests.chaos import census
from tests.chaos.catalogue import Orders, Report
from tests.support import endings, environment

POOLS = ("swarm", "prefork", "solo", "threads")
#: Endings without a letter whose task takes effect; ``ignore`` and ``expired`` leave nothing by design.
SUCCEED = ("succeed", "replace", "defer", "retry_helps", "coroutine")


def run(orders: Orders) -> Report:
    """Play rounds, one worker each, until the time is over; at least one.

    ``recovery_s`` is how long the slowest round took, start of the worker included.
    """
    dice = orders.dice()
    deadline = time.monotonic() + orders.seconds
    asked = took_effect = lost = doubled = leaked = 0
    recovery = 0.0
    rounds: list[str] = []
    wrong: list[str] = []
    while not rounds or time.monotonic() < deadline:
        pool = dice.choice(POOLS)
        if rounds:
            environment.world().broker.flush()
            call_command("flush", verbosity=0, interactive=False)
        begun = time.monotonic()
        made = endings.run(pool, order=lambda names: dice.sample(names, len(names)))
        expected = endings.expected(pool)
        counts = Counter(census.take().letters)
        left = census.leftovers()
        rounds.append(pool)
        asked += len(made.sent)
        took_effect += sum(1 for how in SUCCEED if made.effects.get(how))
        for how, task_id in made.sent.items():
            buried, status = counts[task_id], made.results[how].status if how in made.results else ""
            ended = buried or status in ("SUCCESS", "REVOKED") or how == "ignore"
            lost += not ended or (how in expected and not buried)
            doubled += buried > 1 or (how not in expected and buried > 0)
            if how in expected and buried and made.letters[how].reason != expected[how]:
                wrong.append(f"{pool}: {how} is {made.letters[how].reason}, not {expected[how]}")
        leaked += sum(left.values())
        recovery = max(recovery, time.monotonic() - begun)
    return Report(
        name="endings",
        seed=orders.seed,
        asked=asked,
        took_effect=took_effect,
        lost=lost,
        doubled=doubled,
        leaked=leaked,
        recovery_s=round(recovery, 2),
        more={"rounds": rounds, **({"wrong": wrong} if wrong else {})},
    )
