"""A producer that is told how many tasks to send and answers how much CPU and time that took.

``python -m tests.benchmarks.producer MODULE QUEUE``: for each number on standard
input, sends so many no-ops one by one, or all at once if ``at once`` stands behind the
number, and prints the seconds of CPU used and the seconds that passed. Ends at the end of
its input, so it cannot outlive whoever started it.
"""

import sys
import time
from importlib import import_module


def main(module: str, queue: str) -> None:
    """Serve requests until standard input ends."""
    import django

    django.setup()
    app = import_module(module).app
    app.finalize()
    app.set_default()
    from tests.benchmarks.tasks import noop

    for line in sys.stdin:
        number, _, at_once = line.strip().partition(" ")
        count = int(number)
        begun, begun_at = time.process_time(), time.perf_counter()
        if at_once:
            noop.delay_many((() for _ in range(count)), queue=queue)
        else:
            for _ in range(count):
                noop.apply_async(queue=queue)
        print(time.process_time() - begun, time.perf_counter() - begun_at, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
