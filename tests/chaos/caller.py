"""A process that publishes one task after another, each until it is taken: ``python -m tests.chaos.caller PREFIX``.

Prints one JSON object a try: the key, how long the try took, and whether the task was taken. Ends on SIGTERM, once
the task that it has begun with is taken.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from uuid import uuid4

from tests.support.wait import pause

#: Seconds between two tries.
PAUSE = 0.1


def main(prefix: str) -> None:
    """Publish until told to end."""
    import django

    django.setup()
    from orchestrator.contracts.errors import BrokerUnavailable
    from tests.support import labour

    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: ended.append(number))
    number = 0
    while not ended:
        key, task_id, taken = f"{prefix}-{number}", str(uuid4()), False
        while not taken:
            begun = time.monotonic()
            try:
                labour.work.apply_async((key, 0.02), task_id=task_id, outbox=False)
                taken = True
            except BrokerUnavailable:
                pass
            print(json.dumps({"key": key, "took": time.monotonic() - begun, "taken": taken}), flush=True)
            pause(PAUSE)
        number += 1


if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
    main(sys.argv[1])
