"""The one picture that ``manage.py queue_health`` shows."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from orchestrator.deadletters.models import DeadLetter
from orchestrator.monitoring import queues as counting
from orchestrator.monitoring.health import Check, Degraded, Result, Verdict, run, verdict
from orchestrator.monitoring.reach import READY
from orchestrator.outbox import services as outbox
from orchestrator.runs import services as runs
from orchestrator.transport.setback import Setback

#: Seconds that a letter may wait for a relay before somebody should look.
LETTER_PATIENCE = 30.0
#: Seconds that a committed message may wait to be sent; the process that committed sends it within milliseconds.
OUTBOX_PATIENCE = 30.0
#: Seconds that a result may wait in Redis for a relay.
RESULT_PATIENCE = 30.0
#: Seconds to wait for workers' answers; they come within milliseconds, but all are waited for.
WORKER_PATIENCE = 1.0
#: Seconds for which a broker that lost what it had been told is a reason to look.
SETBACK_SHOWN = 3600.0


@dataclass(slots=True)
class Report:
    """What was found. A part that could not be asked is None."""

    results: list[Result] = field(default_factory=list)
    queues: list[counting.QueueCount] | None = None
    in_flight: int | None = None
    delayed: int | None = None
    paused: list[str] | None = None
    #: Messages that wait for a limit, by the limit's id.
    parked: dict[str, int] | None = None
    workers: list[str] | None = None
    letterbox: counting.Letterbox | None = None
    open_letters: int | None = None
    outbox: outbox.Lag | None = None
    unwritten: runs.Lag | None = None
    #: The last time that the broker came back with an older state than it had.
    setback: Setback | None = None

    @property
    def verdict(self) -> Verdict:
        """The worst of all results."""
        return verdict(self.results)

    def as_json(self) -> dict[str, Any]:
        """Return the JSON form."""
        box = self.letterbox
        return {
            "verdict": self.verdict.word,
            "checks": [result.as_json() for result in self.results],
            "queues": None if self.queues is None else [queue.as_json() for queue in self.queues],
            "in_flight": self.in_flight,
            "delayed": self.delayed,
            "paused": self.paused,
            "parked": self.parked,
            "workers": self.workers,
            "setback": self.setback and self.setback.as_json(),
            "dead_letters": {
                "open": self.open_letters,
                "waiting_for_relay": box and box.waiting,
                "oldest_waiting_seconds": box and round(box.oldest_seconds, 1),
                "relays": box and box.relays,
            },
            "outbox": self.outbox
            and {"waiting": self.outbox.waiting, "oldest_seconds": round(self.outbox.oldest_seconds, 1)},
            "results": self.unwritten
            and {"waiting": self.unwritten.waiting, "oldest_seconds": round(self.unwritten.oldest_seconds, 1)},
        }


def report(only: frozenset[str] = frozenset()) -> Report:
    """Ask everything, or only the named checks, and return what was found.

    What stands on a part that cannot be reached is not asked.
    """
    made = Report()
    made.results = run([check for check in READY if not only or check.name in only])
    lost = {result.name for result in made.results if result.verdict is Verdict.UNREACHABLE}
    made.results += run(
        [check for needs, check in _looks(made) if needs not in lost and (not only or check.name in only)]
    )
    return made


def names() -> list[str]:
    """Return the names of all checks."""
    return [check.name for check in READY] + [check.name for _, check in _looks(Report())]


def _looks(made: Report) -> list[tuple[str, Check]]:
    """The further checks, each with the name of the one that it stands on; they fill in the report."""
    return [
        (needs, Check(name, partial(look, made), timeout=timeout, critical=False))
        for needs, name, look, timeout in (
            ("broker", "queues", _count_queues, 5.0),
            ("broker", "workers", _ask_workers, 10.0),
            ("broker", "history", _look_for_setback, 5.0),
            ("letterbox", "relay", _look_for_relay, 5.0),
            ("database", "dead letters", _count_letters, 5.0),
            ("database", "outbox", _look_at_outbox, 5.0),
            ("letterbox", "results", _look_at_results, 5.0),
        )
    ]


def _count_queues(made: Report, timeout: float) -> str:
    made.queues, made.in_flight = counting.ready(timeout), counting.in_flight(timeout)
    made.delayed = counting.waiting_for_their_time(timeout)
    made.paused = counting.paused(timeout)
    made.parked = counting.parked(timeout)
    told = [f"{sum(queue.ready for queue in made.queues)} ready"]
    if waiting := sum(made.parked.values()):
        told.append(f"{waiting} wait for limits")
    if made.paused:
        told.append(f"paused: {', '.join(made.paused)}")
    return "; ".join(told)


def _ask_workers(made: Report, _timeout: float) -> str:
    made.workers = counting.workers(WORKER_PATIENCE)
    if not made.workers:
        raise Degraded(f"no worker answered within {WORKER_PATIENCE:g} s; start one with 'manage.py worker'")
    return f"{len(made.workers)} answered"


def _look_for_setback(made: Report, timeout: float) -> str:
    found = made.setback = counting.setback(timeout)
    if found is None:
        return "nothing was lost, as far as anybody saw"
    if time.time() - found.noticed < SETBACK_SHOWN:
        raise Degraded(
            f"the broker came back with an older state: {found}; see fail-modes.md, and where it keeps its file; "
            "'manage.py outbox reconcile' sends again what the outbox knows of"
        )
    return f"has lost something before: {found}"


def _look_for_relay(made: Report, timeout: float) -> str:
    box = made.letterbox = counting.letterbox(timeout)
    if box.waiting and box.oldest_seconds > LETTER_PATIENCE:
        raise Degraded(
            f"{box.waiting} dead letters wait to become visible, the oldest for {box.oldest_seconds:.0f} s; "
            "look at the log of 'manage.py relay' and at the database"
        )
    if not box.relays:
        raise Degraded("no relay runs, so dead letters stay invisible; start one with 'manage.py relay'")
    return f"{box.relays} running, {box.waiting} letters waiting"


def _count_letters(made: Report, _timeout: float) -> str:
    made.open_letters = DeadLetter.objects.filter(state="open").count()
    return f"{made.open_letters} open"


def _look_at_outbox(made: Report, _timeout: float) -> str:
    found = made.outbox = outbox.lag()
    if found.oldest_seconds > OUTBOX_PATIENCE:
        raise Degraded(
            f"{found.waiting} committed messages wait to be sent, the oldest for {found.oldest_seconds:.0f} s; "
            "look at the outbox in the admin, at the broker and at the log of 'manage.py relay'"
        )
    return f"{found.waiting} waiting"


def _look_at_results(made: Report, _timeout: float) -> str:
    found = made.unwritten = runs.lag()
    if found.oldest_seconds > RESULT_PATIENCE:
        raise Degraded(
            f"{found.waiting} results wait to become rows, the oldest for {found.oldest_seconds:.0f} s; "
            "start a relay with 'manage.py relay', or look at its log and at the database"
        )
    return f"{found.waiting} waiting"
