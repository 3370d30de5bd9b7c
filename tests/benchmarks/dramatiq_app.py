"""A peer: Dramatiq with its defaults on the same Redis.

``python -m tests.benchmarks.dramatiq_app``: a producer, as :mod:`tests.benchmarks.producer` is one.
"""

import os
import sys
import time

import dramatiq
from dramatiq.brokers.redis import RedisBroker

QUEUE = "noops"

dramatiq.set_broker(RedisBroker(url=os.environ["ORCHESTRATOR_BROKER_URL"]))


@dramatiq.actor(queue_name=QUEUE)
def noop() -> None:
    """Return at once."""


if __name__ == "__main__":
    for line in sys.stdin:
        begun, begun_at = time.process_time(), time.perf_counter()
        for _ in range(int(line)):
            noop.send()
        print(time.process_time() - begun, time.perf_counter() - begun_at, flush=True)
