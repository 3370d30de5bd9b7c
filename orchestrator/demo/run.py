"""Runs the parts side by side and watches until all was seen, or cannot be any more."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.demo.part import Part
from orchestrator.demo.screen import Screen
from orchestrator.demo.stack import Stack

#: Seconds between two looks.
PAUSE = 0.15


@dataclass(frozen=True)
class Seen:
    """The outcome of a demo."""

    parts: Sequence[Part]
    #: What should have been seen and was not.
    missing: list[str]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether all was seen."""
        return not self.missing

    def as_dict(self) -> dict[str, Any]:
        """Return the object that ``--json`` prints."""
        parts = {part.key: {"ok": not part.missing(), **part.counts()} for part in self.parts}
        found = {"ok": self.ok, "parts": parts, "seconds": round(self.seconds, 1)}
        return found if self.ok else {**found, "missing": self.missing}


def demonstrate(stack: Stack, screen: Screen, timeout: float) -> Seen:
    """Start the processes, drive the parts and watch them.

    Args:
        stack: An open stack.
        timeout: Seconds from now until what has not been seen is missing.
    """
    began = time.monotonic()
    screen.say("Starting a worker, the scheduler and the relay on a broker and a database of their own …")
    # The worker needs no tables to start, so it loads while they are made.
    stack.run("worker", "--pool", "prefork", "--concurrency", "2", "--hostname", "worker@demo")
    _migrate()
    from orchestrator.demo.campaign import Campaign
    from orchestrator.demo.dead_letter import Redrive
    from orchestrator.demo.events import Watcher
    from orchestrator.demo.payments import Payments
    from orchestrator.demo.reports import Reports
    from orchestrator.demo.video import Video

    watcher = Watcher()
    redrive = Redrive(stack.media)
    payments = Payments(stack.till, stack.media)
    parts = [Campaign(stack.mailbox), Reports(stack.media), Video(stack.media, watcher), redrive, payments]
    for part in parts:
        part.prepare()
    stack.run("scheduler")
    stack.run("relay")
    watcher.start()
    try:
        for part in parts:
            part.start()
        problem = _watch(stack, screen, parts, redrive, began + timeout)
    finally:
        watcher.stop()
        screen.close()
    missing = [text for part in parts if (text := part.missing())]
    return Seen(parts, [*missing, problem] if problem else missing, time.monotonic() - began)


def _watch(stack: Stack, screen: Screen, parts: Sequence[Part], redrive: Any, deadline: float) -> str:
    """Look at the parts until they are finished; return what else went wrong."""
    while True:
        for part in parts:
            if not part.finished and not part.problem:
                part.look()
        screen.show(parts)
        if problem := stack.dead() or _unexpected_letters(redrive.task_id):
            return problem
        if all(part.finished or part.problem for part in parts):
            break
        if time.monotonic() > deadline:
            return ""
        time.sleep(PAUSE)
    for part in parts:
        # Once more: a message that came twice may have come after its part was finished.
        part.look()
    return ""


def _unexpected_letters(expected: str) -> str:
    from orchestrator.deadletters.models import DeadLetter

    letter = DeadLetter.objects.exclude(task_id=expected).first()
    return f"{letter.task} is in the inbox: {letter.error_type}: {letter.error_message}" if letter else ""


def _migrate() -> None:
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", verbosity=0, interactive=False)
