"""The children of a swarm as their supervisor knows them: who lives, what they do, how each of them ended."""

from __future__ import annotations

import logging
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from orchestrator.engine.swarm import heir
from orchestrator.engine.swarm.forking import LOOK_UP
from orchestrator.engine.swarm.lines import Lines, pair
from orchestrator.engine.swarm.mortality import stopped
from orchestrator.engine.swarm.slots import GO_ON, READY, RETIRE, Running, Slot, Slots
from orchestrator.transport.buffer import attempt_of

logger = logging.getLogger("orchestrator.engine")

#: Seconds to wait for a process to come to a halt; one in the middle of a disk access takes its time.
HALT = 0.05
#: A child that is ended by us so that its task runs again, elsewhere.
REQUEUE = "requeue"
#: Children that may die over settling one message before it is given up.
TRIES = 2
#: Seconds after which a child that ends by itself with an error has at least lived.
SHORT_LIFE = 2.0
#: Shortest and longest pause before a child is replaced that ended before it was ready, in seconds.
PAUSE, PAUSE_MOST = 0.5, 30.0


@dataclass
class Berth:
    """One place of a swarm, and the child that has it now."""

    number: int
    slot: Slot
    #: Ours and the children's end of the way for commands and reports.
    lines: Lines
    theirs: Lines
    pid: int = 0
    #: Whether a child is wanted or there; False once it is not to be replaced any more.
    wanted: bool = True
    #: When, on the monotonic clock, the next child is to be forked.
    fork_at: float = 0.0
    forked_at: float = 0.0
    failures: int = 0
    #: How this child's running task was ended by us: ``how`` and its details.
    verdict: dict[str, Any] = field(default_factory=dict)
    #: What the next child has to settle first, and what this one had.
    estate: dict[str, Any] | None = None
    inherited: dict[str, Any] = field(default_factory=dict)
    soft_told: int = 0
    totals: dict[str, int] = field(default_factory=dict)

    @property
    def settling(self) -> int:
        """How often it has been tried to settle what the child inherited; 0 if it is past that."""
        return int(self.inherited.get("tries", 0)) if self.slot.state != READY else 0


@dataclass(frozen=True, slots=True)
class Legacy:
    """What a dead child left at the broker."""

    owner: str
    finished: list[int]
    #: Serial of the message that its successor settles, 0 for none.
    stays: int

    def for_broker(self) -> dict[str, Any]:
        """Return it as arguments of ``Steward.reclaim``."""
        return {"owner": self.owner, "finished": self.finished, "stays": self.stays}


class Crew:
    """All berths."""

    def __init__(self, count: int) -> None:
        slots = Slots(count)
        self.berths = [Berth(number, slot, *pair()) for number, slot in enumerate(slots.pages)]
        #: Tasks done by children that have ended, by name.
        self.done: dict[str, int] = {}

    def died(self, berth: Berth, status: int, *, replace: bool) -> Legacy | None:
        """Take note of a child's end; return what it left at the broker, None if it never had a name there.

        Args:
            status: as ``os.waitpid`` gives it.
            replace: whether a new child is wanted, unless the old one's task must be settled anyway.
        """
        pid = berth.pid
        slot, run = berth.slot, berth.slot.running()
        owner, finished = slot.owner, slot.finished()
        # One that gives up as soon as it has begun is no better than one that never began.
        broken = status > 255 and time.monotonic() < berth.forked_at + SHORT_LIFE
        ready = slot.state == READY and not broken
        self._count(berth)
        kept = slot.kept()
        if run is not None and run.serial in finished and not kept:
            run = None
        if run is not None:
            self._bequeath(berth, run, owner, status, kept)
        elif berth.inherited and slot.state != READY and not slot.ended:
            # It has not come to what it was to settle; that is none of the message's doing.
            berth.estate = berth.inherited
        if run is None and status and not berth.verdict:
            logger.error("Process %d ended (%s)%s", pid, _ending(status), "" if ready else " before it was ready")
        nothing_stays = run is None or kept or berth.verdict.get("how") == REQUEUE
        berth.pid = 0
        self._plan(berth, ready=ready, replace=replace)
        return Legacy(owner, finished, 0 if nothing_stays or run is None else run.serial) if owner else None

    def _bequeath(self, berth: Berth, run: Running, owner: str, status: int, kept: bytes) -> None:
        """Leave what ran to the next child, unless it is to run again.

        Args:
            kept: the message, where the broker has been told already that it is done with: that cannot run again.
        """
        how = berth.verdict or {"how": heir.LOST, "status": status}
        logger.error("Process %d ended (%s) while it ran %s[%s]", berth.pid, _ending(status), run.name, run.task_id)
        if how["how"] == REQUEUE:
            if not kept:
                return
            how = {"how": heir.LOST, "status": status}
        tries = berth.settling
        if tries >= TRIES:
            logger.error(
                "%s[%s] cannot be settled, it ends the process that tries; its lease decides", run.name, run.task_id
            )
            return
        berth.estate = {
            **(berth.inherited if tries else self._left(berth, run, owner, how)),
            "owner": owner,
            "serial": run.serial,
            "id": run.task_id,
            "name": run.name,
            "tries": tries + 1,
            **({"message": kept.decode()} if kept else {}),
        }

    @staticmethod
    def _left(berth: Berth, run: Running, owner: str, how: dict[str, Any]) -> dict[str, Any]:
        """Return what an heir has to know, also if another has to take up where it dies."""
        return {"pid": berth.pid, "started_at": run.started_at, "attempt": attempt_of(owner, run.serial), **how}

    def _plan(self, berth: Berth, *, ready: bool, replace: bool) -> None:
        berth.verdict = {}
        berth.failures = 0 if ready else berth.failures + 1
        pause = min(PAUSE_MOST, PAUSE * 2.0 ** (berth.failures - 1)) if berth.failures else 0.0
        berth.fork_at = time.monotonic() + pause
        # A worker that is told to end does not wait for one that cannot begin.
        berth.wanted = replace or (berth.estate is not None and berth.failures <= TRIES)

    def to_fork(self) -> list[Berth]:
        """Return the berths whose time for a child has come."""
        now = time.monotonic()
        return [berth for berth in self.berths if berth.wanted and not berth.pid and berth.fork_at <= now]

    def prepare(self, berth: Berth, *, consume: bool) -> dict[str, Any]:
        """Clear a berth for its next child; return that child's orders."""
        berth.slot.clear()
        berth.lines.forget()
        # What the last child has not read is not meant for the next one, which gets all that counts with its orders.
        berth.theirs.receive()
        berth.theirs.forget()
        berth.slot.orders = GO_ON if consume else RETIRE
        berth.soft_told, berth.forked_at = 0, time.monotonic()
        berth.inherited, berth.estate = berth.estate or {}, None
        return {"number": berth.number, "estate": berth.inherited}

    # --- looks ------------------------------------------------------------------------

    @property
    def living(self) -> list[Berth]:
        """Berths that have a child or want one."""
        return [berth for berth in self.berths if berth.wanted or berth.pid]

    def running(self) -> list[tuple[Berth, Running]]:
        """Return what runs, and where."""
        found = [(berth, berth.slot.running()) for berth in self.berths if berth.pid]
        return [(berth, run) for berth, run in found if run is not None]

    def ready(self) -> bool:
        """Whether every berth has a child that takes messages."""
        return all(berth.pid and berth.slot.state == READY for berth in self.berths)

    def totals(self) -> dict[str, int]:
        """Return how many tasks have begun, by name, as far as has been reported."""
        found = dict(self.done)
        for berth in self.berths:
            for name, count in berth.totals.items():
                found[name] = found.get(name, 0) + count
        return found

    def _count(self, berth: Berth) -> None:
        self.listen(berth)
        for name, count in berth.totals.items():
            self.done[name] = self.done.get(name, 0) + count
        berth.totals = {}

    @staticmethod
    def listen(berth: Berth) -> None:
        """Read what a child reports."""
        for report in berth.lines.receive():
            berth.totals = report.get("total", berth.totals)

    # --- force --------------------------------------------------------------------------

    def retire(self, berth: Berth) -> None:
        """Tell a child to end after the task that it runs."""
        berth.slot.orders = RETIRE
        berth.lines.send({})

    def nudge(self) -> None:
        """Have children that were told to end and run nothing look at their orders, wherever they wait."""
        for berth in self.berths:
            if berth.pid and berth.slot.orders == RETIRE and not berth.slot.serial:
                with suppress(ProcessLookupError):
                    os.kill(berth.pid, LOOK_UP)

    def kill(self, berth: Berth, run: Running, **verdict: Any) -> bool:
        """Kill a child because of what it runs; False if that has ended by itself just now.

        The process is halted first, so that the one that is killed is the one that was meant.
        """
        with suppress(ProcessLookupError):
            os.kill(berth.pid, signal.SIGSTOP)
            until = time.monotonic() + HALT
            while not stopped(berth.pid) and time.monotonic() < until:
                time.sleep(0.001)
            if berth.slot.serial != run.serial or run.serial in berth.slot.finished():
                os.kill(berth.pid, signal.SIGCONT)
                return False
            berth.verdict = verdict
            os.kill(berth.pid, signal.SIGKILL)
        return True

    def kill_all(self) -> None:
        """Kill every child; whatever it held goes back to its queue."""
        for berth in self.berths:
            berth.wanted = False
            if berth.pid:
                berth.verdict = {"how": REQUEUE}
                with suppress(ProcessLookupError):
                    os.kill(berth.pid, signal.SIGKILL)


def _ending(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
