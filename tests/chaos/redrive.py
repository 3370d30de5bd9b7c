"""``redrive``: many letters, each redriven by several people at once, some of whom die half-way.

Each message must run exactly once more, however often its button was pressed and
wherever a redriving process was killed.
"""

from __future__ import annotations

import contextlib
import random
import signal
import time
from collections import Counter
from contextlib import ExitStack

from tests.chaos import census
from tests.chaos.catalogue import Orders, Report
from tests.support import environment, far_side, zoo
from tests.support.process import Process
from tests.support.wait import NeverHappened, eventually
from tests.support.worker import Relay, Worker, platform_env

TASKS = 150
CLICKERS = 2
PATIENCE = 90.0
#: Seconds of clicking after which a person at the latest dies; a redrive takes some milliseconds.
LIFETIME = 0.15
#: Seconds after which the relay takes up a redrive that was cut off.
RESUME = "1.0"


def run(orders: Orders) -> Report:
    """Play the scenario."""
    dice = orders.dice()
    env = {"ORCHESTRATOR_TEST_REDRIVE_RESUME": RESUME}
    done: Counter[str] = Counter()
    with ExitStack() as stack:
        stack.enter_context(Worker(concurrency=2, env=env))
        stack.enter_context(Relay(env=env))
        keys = [f"letter-{number}" for number in range(orders.tasks or TASKS)]
        ids = {zoo.until_mended.delay(key).id: key for key in keys}
        eventually(lambda: len(census.take().letters) == len(ids), PATIENCE, "every task has its letter")
        for key in keys:
            far_side.record(f"mended:{key}")
        end = time.monotonic() + orders.seconds
        # Pairs that start together and die after a moment of clicking; the last pair is left to finish.
        while census.open_letters() and time.monotonic() < end:
            done += _click([dice.uniform(0.005, LIFETIME) for _ in range(CLICKERS)], dice)
            done["cut_off_half_way"] += census.leftovers().get("half_redriven", 0)
        done += _click([0.0] * CLICKERS, dice)
        begun = time.monotonic()
        # If it never happens, the report says what is missing.
        with contextlib.suppress(NeverHappened):
            eventually(lambda: not census.leftovers() and min(_runs(keys)) >= 2, PATIENCE)
        recovery = time.monotonic() - begun
    runs, left_over = _runs(keys), census.leftovers()
    return Report(
        name="redrive",
        seed=orders.seed,
        asked=len(keys),
        took_effect=sum(1 for count in runs if count > 1),
        lost=sum(1 for count in runs if count < 2),
        doubled=sum(1 for count in runs if count > 2),
        leaked=sum(left_over.values()) + census.open_letters(),
        recovery_s=round(recovery, 2),
        more={**done, **({"left": left_over} if left_over else {})},
    )


def _click(lifetimes: list[float], dice: random.Random) -> Counter[str]:
    """Let several people click at once, and wait for their ends."""
    clickers = [
        Process(
            ["python", "-m", "tests.chaos.clicker", str(dice.randrange(10**6)), str(lifetime)],
            name="clicker",
            directory=environment.directory() / "logs",
            env=platform_env(),
        )
        for lifetime in lifetimes
    ]
    for clicker in clickers:
        clicker.launch()
    ends = [clicker.wait(PATIENCE) for clicker in clickers]
    return Counter(clickers=len(ends), clickers_killed=sum(end == -signal.SIGALRM for end in ends))


def _runs(keys: list[str]) -> list[int]:
    """How often each body ran; the first time is the failure."""
    counts = far_side.counts()
    return [counts[key] for key in keys]
