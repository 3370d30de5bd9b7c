"""``chords``: a chord and a group four times as big, while workers and their processes get SIGKILL at random.

A member whose process dies is delivered again, so many run twice. The chord's body must run once all the same, with
every value in its place, and the group's results must be there once each. Then the same undisturbed, in two sizes: what
a member costs must not grow with their number.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from celery import chord, group, states
from celery.result import GroupResult
from django.db import connection
from django_celery_results.models import ChordCounter, TaskResult

from orchestrator.celery import get_app
from orchestrator.runs.models import Chord
from tests.chaos import census
from tests.chaos.catalogue import Orders, Report
from tests.chaos.load import start_together
from tests.chaos.strikes import Strikes
from tests.chaos.tasks import complete, member
from tests.support import far_side
from tests.support.wait import NeverHappened, eventually
from tests.support.worker import Relay, Worker

#: Members of the chord; the group has :data:`TIMES` as many.
TASKS, TIMES = 5_000, 4
#: One worker of each kind that has processes.
POOLS, PROCESSES = ("swarm", "prefork"), 2
PATIENCE = 300.0
#: Seconds that a member takes at most; where there are many, less, to last about as long as the trouble.
LONGEST = 0.1
#: How many times smaller what is measured first is, and how often both sizes are; the best counts.
SMALLER, ROUNDS = 4, 2
#: With fewer members the measure means nothing: it is taken once, to see that it can be.
MEANINGFUL = 1_000
#: How much more a member may cost in the bigger size.
GROWTH = 1.5
ENV: dict[str, str | None] = {
    "ORCHESTRATOR_TEST_IMPORTS": "tests.chaos.tasks",
    "ORCHESTRATOR_TEST_LEASE": "3",
    "ORCHESTRATOR_TEST_LOST_WAIT": "1",
    "ORCHESTRATOR_TEST_DELIVERIES": "1000",
}


def run(orders: Orders) -> Report:
    """Play the scenario.

    ``redelivered`` counts members whose body ran more than once, ``redelivered_after_their_end`` those of them that had
    come to their end before; ``growth`` is what a member costs in the bigger size, as multiple of the smaller.
    """
    get_app().set_default()
    with ExitStack() as stack:
        play = _Play(orders, stack)
        play.trouble()
        return play.settle()


class _Play:
    def __init__(self, orders: Orders, stack: ExitStack) -> None:
        self.orders = orders
        self.size = orders.tasks or TASKS
        self.dice = orders.dice()
        self.strikes = Strikes(self.dice)
        lasts = 0.8 * orders.seconds * PROCESSES * len(POOLS) / (self.size * (1 + TIMES))
        # All of them wait before the first worker starts, so that they run while there is trouble.
        self.body = _chord("chord", self.size, min(LONGEST, lasts))
        self.group = _group("group", self.size * TIMES, min(LONGEST, lasts))
        self.group.save()
        #: What each row has to say, by task id.
        self.expected = {result.id: str(number) for number, result in enumerate(self.body.parent)}
        self.expected |= {result.id: str(number) for number, result in enumerate(self.group)}
        self.expected[self.body.id] = str(self.size)
        self.workers = [Worker(pool=pool, concurrency=PROCESSES, env=ENV) for pool in POOLS]
        self.relay = Relay(env=ENV)
        start_together(stack, [*self.workers, self.relay])

    def trouble(self) -> None:
        """Kill workers, and their processes more often; each comes again."""
        self.strikes.go_on([self._worker, self._child, self._child], self.orders.seconds, self._ended)

    def _worker(self) -> None:
        self.strikes.process(self.dice.choice(self.workers), "workers")

    def _child(self) -> None:
        self.strikes.child(self.dice.choice(self.workers))

    def settle(self) -> Report:
        """Wait until everything has its row, count, and measure."""
        begun = time.monotonic()
        self.strikes.start_missing(self.workers)
        # If it never happens, the report says what is missing.
        with contextlib.suppress(NeverHappened):
            eventually(lambda: self._ended() and not _left(), PATIENCE)
        recovery = time.monotonic() - begun
        wrong, left = self._wrong(), _left()
        counts, bodies = far_side.counts(), far_side.effects("chord:body")
        members = [*_keys("chord", self.size), *_keys("group", self.size * TIMES)]
        rows = TaskResult.objects.count()
        growth = _growth(self.size) if not wrong and not left else {}
        return Report(
            name="chords",
            seed=self.orders.seed,
            asked=len(self.expected),
            took_effect=sum(counts[f"{key}:end"] > 0 for key in members) + any(body["right"] for body in bodies),
            lost=len(wrong) + (not any(body["right"] for body in bodies)),
            doubled=max(0, sum(not body["again"] for body in bodies) - 1) + max(0, rows - len(self.expected)),
            leaked=sum(left.values()),
            recovery_s=round(recovery, 2),
            more={
                "database": connection.vendor,
                **self.strikes.done,
                "bodies": len(bodies),
                "redelivered": sum(counts[key] > 1 for key in members),
                "redelivered_after_their_end": sum(counts[f"{key}:end"] > 1 for key in members),
                **growth,
                **({"last_words": self.strikes.last_words} if self.strikes.last_words else {}),
                **({"left": left} if left else {}),
                **({"wrong": dict(list(wrong.items())[:5])} if wrong else {}),
            },
        )

    def _ended(self) -> bool:
        """Whether as many tasks have ended as were asked for; cheap enough to be asked again and again."""
        return TaskResult.objects.filter(status__in=states.READY_STATES).count() >= len(self.expected)

    def _wrong(self) -> dict[str, Any]:
        """Return what is not right: by task id what the table says, by "group" what its result says."""
        rows = {row[0]: row[1:] for row in TaskResult.objects.values_list("task_id", "status", "result")}
        found: dict[str, Any] = {
            task_id: rows.get(task_id)
            for task_id, value in self.expected.items()
            if rows.get(task_id) != (states.SUCCESS, value)
        }
        group_result = GroupResult.restore(self.group.id, app=get_app())
        if group_result is None or not group_result.successful():
            found["group"] = "not successful"
        elif group_result.join(timeout=PATIENCE) != list(range(self.size * TIMES)):
            found["group"] = "other values"
        return found


def _chord(key: str, size: int, seconds: float = 0.0) -> Any:
    """Send a chord and return its body's result."""
    return chord(
        [member.s(key, number, seconds) for number in range(size)], complete.s(key=key, count=size)
    ).apply_async()


def _group(key: str, size: int, seconds: float = 0.0) -> Any:
    """Send a group and return its result."""
    return group([member.s(key, number, seconds) for number in range(size)]).apply_async()


def _keys(key: str, size: int) -> list[str]:
    return [f"{key}:{number}" for number in range(size)]


def _left() -> dict[str, int]:
    """Return what is not at its end, in Redis and in the tables of chords."""
    found = {"chords": Chord.objects.count() + ChordCounter.objects.count()}
    return {**census.leftovers_of_results(), **{kind: count for kind, count in found.items() if count}}


def _growth(size: int) -> dict[str, Any]:
    """Measure what a member costs, from sending to the body or to the last row, in microseconds."""
    ways: dict[str, tuple[Callable[[str, int], float], int]] = {
        "chord": (_time_chord, size),
        "group": (_time_group, size * TIMES),
    }
    turns = ROUNDS if size >= MEANINGFUL else 1
    found: dict[str, Any] = {}
    for name, (measure, big) in ways.items():
        sizes = (max(1, big // SMALLER), big)
        if turns > 1:
            # For nothing: workers that have just come still get ready.
            measure(f"{name}:first", sizes[0])
        rounds = [[measure(f"{name}:{turn}:{n}", n) / n for n in sizes] for turn in range(turns)]
        small, large = (min(costs) for costs in zip(*rounds, strict=True))
        found[f"{name}_sizes"] = sizes
        found[f"{name}_us_a_member"] = [round(cost * 1e6) for cost in (small, large)]
        found.setdefault("growth", {})[name] = round(large / small, 2)
    return {**found, "growth_allowed": GROWTH}


def _time_chord(key: str, size: int) -> float:
    begun = time.time()
    body = _chord(key, size)
    assert body.get(timeout=PATIENCE, interval=0.05) == size
    ended = far_side.effects(f"{key}:body")
    eventually(lambda: not _left(), PATIENCE)
    return float(ended[0]["at"] - begun)


def _time_group(key: str, size: int) -> float:
    begun = time.time()
    sent = _group(key, size)
    eventually(lambda: not _left(), PATIENCE)
    taken = time.time() - begun
    assert sent.successful()
    return taken
