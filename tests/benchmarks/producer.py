"""A producer that is told how many tasks to send and answers how much CPU and time that took.

``python -m tests.benchmarks.producer MODULE QUEUE [TASK]``: for each number on standard
input, sends so many no-ops, or tasks of that name, one by one and prints the seconds of
CPU used and the seconds that passed. A number may be followed by another name, or by
``at once`` to send them in bulk, by ``later`` to send them for in an hour, or by both.
Ends at the end of its input, so it cannot outlive whoever started it.
"""

import sys
import time
from importlib import import_module


def main(module: str, queue: str, name: str = "noop") -> None:
    """Serve requests until standard input ends."""
    import django

    django.setup()
    app = import_module(module).app
    app.finalize()
    app.set_default()
    from tests.benchmarks import tasks

    for line in sys.stdin:
        number, _, how = line.strip().partition(" ")
        count, at_once, later = int(number), how.startswith("at once"), how.endswith("later")
        task = getattr(tasks, name if at_once or later else how or name)
        options = {"queue": queue, "countdown": 3600} if later else {"queue": queue}
        begun, begun_at = time.process_time(), time.perf_counter()
        if at_once:
            task.delay_many((() for _ in range(count)), **options)
        else:
            for _ in range(count):
                task.apply_async(**options)
        print(time.process_time() - begun, time.perf_counter() - begun_at, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
