"""A person who clicks "Redrive" on every open letter; run several, and kill some.

``python -m tests.chaos.clicker SEED LIFETIME``: goes through the open letters in an
order of its own, and is struck dead after LIFETIME seconds of it (0: never).
"""

import random
import signal
import sys


def main(seed: int, lifetime: float) -> None:
    """Redrive what is open."""
    import django

    django.setup()
    from orchestrator.contracts.errors import AlreadyClosed
    from orchestrator.deadletters import services
    from orchestrator.deadletters.models import DeadLetter

    ids = list(DeadLetter.objects.filter(state="open").values_list("pk", flat=True).order_by("pk"))
    random.Random(seed).shuffle(ids)
    # The alarm's default is to end the process on the spot, as SIGKILL would, but to the millisecond.
    signal.setitimer(signal.ITIMER_REAL, lifetime)
    mine = 0
    for letter_id in ids:
        try:
            services.redrive(letter_id, actor=f"clicker {seed}")
        except AlreadyClosed:
            continue
        mine += 1
    print(f"redrove {mine}", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
